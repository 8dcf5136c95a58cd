// Text to ids and back. Encoding goes: added tokens cut the raw text; what lies between is normalised (NFC), split into pieces by
// the vocabulary's regex, and each piece becomes ids by byte-pair encoding (bpe.c).
#define PCRE2_CODE_UNIT_WIDTH 8
#include "backend/tokenizer.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "backend/bpe.h"
#include "backend/unicode.h"

// Searching the added tokens takes the length of the longest for each byte of text in the worst case.
#define ADDED_MAX 4096

typedef struct added_token {
    pm_str text;
    int32_t id;
} added_token;

struct pm_tokenizer {
    const pm_vocab_data *vocab;
    uint32_t n_used;
    pm_bpe bpe;

    char *bytes;       // what every token stands for, one after the other
    size_t *bytes_end; // by id
    size_t bytes_max;  // of the longest

    added_token *added; // sorted by text, no text twice
    uint32_t n_added;
    uint32_t added_from[257]; // those that begin with byte b: [added_from[b], added_from[b + 1])

    pcre2_general_context *pcre; // routes PCRE2's memory through pm_malloc
    pcre2_code *regex;           // NULL: text is not split
};

// ---- open: the bytes of each token ------------------------------------------------------------------------------------

// Writes what the token's text stands for, at most text.n bytes. A text that is not all in the byte alphabet stands for itself, as
// in the tokenizers library.
static size_t token_bytes(const pm_vocab_token *token, char *to) {
    pm_str text = token->text;
    size_t n = 0;
    for (size_t i = 0; i < text.n && !token->added; n++) {
        uint8_t lead = (uint8_t)text.p[i];
        bool wide = lead >= 0xC2 && lead < 0xE0 && i + 1 < text.n; // the alphabet ends at U+0143, two bytes
        int byte = pm_char_to_byte(wide ? (lead & 0x1Fu) << 6 | ((uint8_t)text.p[i + 1] & 0x3Fu) : lead < 0x80 ? lead : UINT32_MAX);
        if (byte < 0)
            break;
        to[n] = (char)byte;
        i += wide ? 2 : 1;
        if (i == text.n)
            return n + 1;
    }
    memcpy(to, text.p, text.n);
    return text.n;
}

static pm_status build_bytes(pm_tokenizer *tok) {
    const pm_vocab_data *vocab = tok->vocab;
    uint64_t size = 1, n = 0;
    for (uint32_t id = 0; id < vocab->n_tokens; id++)
        PM_TRY(pm_add_size(size, vocab->tokens[id].text.n, &size));
    tok->bytes = pm_malloc((size_t)size);
    tok->bytes_end = pm_calloc((size_t)vocab->n_tokens + 1, sizeof *tok->bytes_end);
    if (tok->bytes == NULL || tok->bytes_end == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory for a vocabulary of %u tokens", (unsigned)vocab->n_tokens);
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        const pm_vocab_token *token = &vocab->tokens[id];
        size_t bytes = token->used && token->text.n > 0 ? token_bytes(token, tok->bytes + n) : 0;
        n += bytes;
        tok->bytes_end[id] = (size_t)n;
        if (bytes > tok->bytes_max)
            tok->bytes_max = bytes;
        if (token->used)
            tok->n_used = id + 1;
    }
    return PM_OK;
}

// ---- open: the added tokens -------------------------------------------------------------------------------------------

static int compare_added(const void *a, const void *b) {
    const added_token *x = a, *y = b;
    int order = memcmp(x->text.p, y->text.p, x->text.n < y->text.n ? x->text.n : y->text.n);
    if (order != 0)
        return order;
    if (x->text.n != y->text.n)
        return x->text.n < y->text.n ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

// One that is not UTF-8 is in no valid text; looked for, it would cut characters in two.
static bool is_added(const pm_vocab_token *token) {
    return token->used && token->added && token->text.n > 0 && pm_utf8_check(token->text.p, token->text.n) == token->text.n;
}

static pm_status collect_added(pm_tokenizer *tok) {
    const pm_vocab_data *vocab = tok->vocab;
    size_t n = 0;
    for (uint32_t id = 0; id < vocab->n_tokens; id++)
        n += is_added(&vocab->tokens[id]);
    tok->added = pm_calloc(n + 1, sizeof *tok->added);
    if (tok->added == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory for %zu added tokens", n);
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        pm_str text = vocab->tokens[id].text;
        if (!is_added(&vocab->tokens[id]))
            continue;
        if (text.n > ADDED_MAX)
            return pm_fail(PM_ERR_UNSUPPORTED, "tokenizer: added token %u is %zu bytes long; at most %d are read", (unsigned)id,
                           text.n, ADDED_MAX);
        tok->added[tok->n_added++] = (added_token){text, (int32_t)id};
    }
    return PM_OK;
}

static pm_status build_added(pm_tokenizer *tok) {
    PM_TRY(collect_added(tok));
    qsort(tok->added, tok->n_added, sizeof *tok->added, compare_added);
    uint32_t n = 0;
    for (uint32_t i = 0; i < tok->n_added; i++) {
        pm_str text = tok->added[i].text;
        bool again = n > 0 && tok->added[n - 1].text.n == text.n && memcmp(tok->added[n - 1].text.p, text.p, text.n) == 0;
        if (again)
            continue;
        tok->added[n++] = tok->added[i];
        tok->added_from[(uint8_t)text.p[0] + 1]++;
    }
    tok->n_added = n;
    for (int b = 0; b < 256; b++)
        tok->added_from[b + 1] += tok->added_from[b];
    return PM_OK;
}

// ---- open: the regex --------------------------------------------------------------------------------------------------

static void *pcre_malloc(size_t size, void *unused) {
    (void)unused;
    return pm_malloc(size);
}

static void pcre_free(void *p, void *unused) {
    (void)unused;
    pm_free(p);
}

// Oniguruma, for which these patterns are written, takes \s as the Unicode property White_Space; PCRE2's \s has U+180E as well.
// *out is the pattern with the property spelled out.
static pm_status to_pcre(pm_str regex, pm_str *out) {
    static const char space[] = "\\p{White_Space}", other[] = "\\P{White_Space}";
    uint64_t room;
    PM_TRY(pm_mul_size(regex.n, sizeof space, &room));
    char *p = pm_malloc((size_t)room + 1);
    if (p == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory for the tokenizer's regex");
    *out = (pm_str){p, 0};
    for (size_t i = 0; i < regex.n; i++) {
        bool escape = regex.p[i] == '\\' && i + 1 < regex.n;
        pm_str piece = {regex.p + i, escape ? 2 : 1};
        if (escape && regex.p[i + 1] == 's')
            piece = PM_STR(space);
        if (escape && regex.p[i + 1] == 'S')
            piece = PM_STR(other);
        memcpy(p + out->n, piece.p, piece.n);
        out->n += piece.n;
        i += escape;
    }
    return PM_OK;
}

static pm_status compile_regex(pm_tokenizer *tok, pm_str pattern) {
    pcre2_compile_context *options = pcre2_compile_context_create(tok->pcre);
    if (options == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory for the tokenizer's regex");
    int code;
    PCRE2_SIZE at;
    uint32_t flags = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_DOLLAR_ENDONLY;
    tok->regex = pcre2_compile((PCRE2_SPTR)pattern.p, pattern.n, flags, &code, &at, options);
    pcre2_compile_context_free(options);
    if (tok->regex == NULL && (code == PCRE2_ERROR_NOMEMORY || code == 121)) // 121: compile's own number for no memory
        return pm_fail(PM_ERR_MEMORY, "no memory for the tokenizer's regex");
    if (tok->regex == NULL) {
        char why[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return pm_fail(PM_ERR_UNSUPPORTED, "tokenizer: PCRE2 refuses the split pattern '%.*s' at %zu: %s",
                       (int)(pattern.n < 200 ? pattern.n : 200), pattern.p, (size_t)at, why);
    }
    pcre2_jit_compile(tok->regex, PCRE2_JIT_COMPLETE); // where there is no JIT, matching works without
    return PM_OK;
}

static pm_status build_regex(pm_tokenizer *tok) {
    if (tok->vocab->regex.n == 0)
        return PM_OK;
    tok->pcre = pcre2_general_context_create(pcre_malloc, pcre_free, NULL);
    if (tok->pcre == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory for the tokenizer's regex");
    pm_str pattern = {0};
    PM_TRY(to_pcre(tok->vocab->regex, &pattern));
    pm_status status = compile_regex(tok, pattern);
    pm_free((char *)pattern.p);
    return status;
}

// ---- open and close ---------------------------------------------------------------------------------------------------

static pm_status build(pm_tokenizer *tok) {
    PM_TRY(pm_bpe_open(tok->vocab, &tok->bpe));
    PM_TRY(build_bytes(tok));
    PM_TRY(build_added(tok));
    return build_regex(tok);
}

pm_status pm_tokenizer_open(const pm_vocab_data *vocab, pm_tokenizer **tok) {
    *tok = NULL;
    if (vocab == NULL || vocab->n_tokens == 0)
        return pm_fail(PM_ERR_UNSUPPORTED, "the model comes without a tokenizer; give token ids instead of text (--ids)");
    pm_tokenizer *t = pm_calloc(1, sizeof *t);
    if (t == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory for a tokenizer");
    t->vocab = vocab;
    pm_status status = build(t);
    if (status != PM_OK)
        pm_tokenizer_close(&t);
    *tok = t;
    return status;
}

void pm_tokenizer_close(pm_tokenizer **tok) {
    pm_tokenizer *t = *tok;
    *tok = NULL;
    if (t == NULL)
        return;
    pm_bpe_close(&t->bpe);
    pm_free(t->bytes);
    pm_free(t->bytes_end);
    pm_free(t->added);
    pcre2_code_free(t->regex);
    pcre2_general_context_free(t->pcre);
    pm_free(t);
}

// ---- encode -----------------------------------------------------------------------------------------------------------

typedef struct encoder {
    const pm_tokenizer *tok;
    pm_bpe_work work;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    int32_t *ids;
    size_t n, room;
} encoder;

static pm_status reserve_ids(encoder *e, size_t more) {
    if (more <= e->room - e->n)
        return PM_OK;
    size_t room = (e->n + more) + (e->n + more) / 2 + 16;
    int32_t *ids = pm_realloc(e->ids, room * sizeof *ids);
    if (ids == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory for %zu token ids", room);
    e->ids = ids;
    e->room = room;
    return PM_OK;
}

static pm_status encode_piece(encoder *e, const char *p, size_t n) {
    size_t added = 0;
    if (n == 0)
        return PM_OK;
    PM_TRY(reserve_ids(e, n));
    PM_TRY(pm_bpe_encode(&e->tok->bpe, &e->work, (const uint8_t *)p, n, e->ids + e->n, &added));
    e->n += added;
    return PM_OK;
}

// Finds the next match that is not empty, from `at` on. No match: both ends are n.
static pm_status next_match(encoder *e, const char *text, size_t n, size_t at, size_t *begin, size_t *end) {
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    int code = pcre2_match(e->tok->regex, subject, n, at, options, e->match, e->limits);
    if (code == PCRE2_ERROR_JIT_STACKLIMIT)
        code = pcre2_match(e->tok->regex, subject, n, at, options | PCRE2_NO_JIT, e->match, e->limits);
    *begin = *end = n;
    if (code == PCRE2_ERROR_NOMATCH)
        return PM_OK;
    if (code == PCRE2_ERROR_NOMEMORY)
        return pm_fail(PM_ERR_MEMORY, "no memory to split %zu bytes of text", n);
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(e->match);
    if (code < 0 || ends[0] < at || ends[1] <= ends[0] || ends[1] > n)
        return pm_fail(PM_ERR_UNSUPPORTED, "tokenizer: the split pattern cannot be matched at byte %zu of a text (PCRE2 says %d)",
                       at, code);
    *begin = ends[0];
    *end = ends[1];
    return PM_OK;
}

// Every match of the regex is a piece, and so is what lies between two matches.
static pm_status encode_split(encoder *e, const char *text, size_t n) {
    if (e->tok->regex == NULL)
        return encode_piece(e, text, n);
    // A long run of blanks takes a step of backtracking for each byte; the default of ten million would end at ten megabytes.
    pcre2_set_match_limit(e->limits, 10000000u + (uint32_t)n);
    for (size_t at = 0, begin, end; at < n; at = end) {
        PM_TRY(next_match(e, text, n, at, &begin, &end));
        PM_TRY(encode_piece(e, text + at, begin - at));
        PM_TRY(encode_piece(e, text + begin, end - begin));
    }
    return PM_OK;
}

static pm_status encode_plain(encoder *e, const char *text, size_t n) {
    char *nfc = NULL;
    size_t nfc_n = 0;
    if (e->tok->vocab->nfc)
        PM_TRY(pm_nfc(text, n, &nfc, &nfc_n));
    pm_status status = nfc == NULL ? encode_split(e, text, n) : encode_split(e, nfc, nfc_n);
    pm_free(nfc);
    return status;
}

// The first of the sorted [low, high) whose byte d is at least c. They share d bytes, and all are longer.
static uint32_t lower_bound(const pm_tokenizer *tok, uint32_t low, uint32_t high, size_t d, int c) {
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if ((uint8_t)tok->added[middle].text.p[d] < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// The size of the longest added token that begins the n bytes at p; 0: none.
static size_t match_added(const pm_tokenizer *tok, const char *p, size_t n, int32_t *id) {
    uint8_t c = (uint8_t)p[0];
    uint32_t low = tok->added_from[c], high = tok->added_from[c + 1];
    size_t longest = 0;
    for (size_t d = 1; low < high; d++) {
        if (tok->added[low].text.n == d) {
            *id = tok->added[low++].id;
            longest = d;
        }
        if (d == n)
            break;
        c = (uint8_t)p[d];
        low = lower_bound(tok, low, high, d, c);
        high = lower_bound(tok, low, high, d, c + 1);
    }
    return longest;
}

static pm_status encode_special(encoder *e, const char *text, size_t n) {
    size_t begin = 0;
    for (size_t i = 0, size; i < n; i += size) {
        int32_t id = -1;
        size = match_added(e->tok, text + i, n - i, &id);
        if (size == 0) {
            size = 1;
            continue;
        }
        PM_TRY(encode_plain(e, text + begin, i - begin));
        PM_TRY(reserve_ids(e, 1));
        e->ids[e->n++] = id;
        begin = i + size;
    }
    return encode_plain(e, text + begin, n - begin);
}

static pm_status encode(encoder *e, const char *text, size_t n, unsigned flags) {
    if (e->tok->regex != NULL) {
        e->match = pcre2_match_data_create(1, e->tok->pcre); // pieces are whole matches: groups are not asked for
        e->limits = pcre2_match_context_create(e->tok->pcre);
        if (e->match == NULL || e->limits == NULL)
            return pm_fail(PM_ERR_MEMORY, "no memory to split text");
    }
    return flags & PM_ENCODE_SPECIAL ? encode_special(e, text, n) : encode_plain(e, text, n);
}

// *repaired is NULL when the text is UTF-8 as it is.
static pm_status repair(const char *text, size_t size, unsigned flags, char **repaired, size_t *repaired_n) {
    size_t valid = pm_utf8_check(text, size);
    *repaired = NULL;
    if (valid == size)
        return PM_OK;
    if (!(flags & PM_ENCODE_REPAIR))
        return pm_fail(PM_ERR_USAGE, "the text is not UTF-8: invalid byte 0x%02X at offset %zu", (unsigned)(uint8_t)text[valid],
                       valid);
    *repaired = pm_malloc(size * 3);
    if (*repaired == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory to repair %zu bytes of text", size);
    *repaired_n = pm_utf8_repair(text, size, *repaired, NULL);
    return PM_OK;
}

pm_status pm_tokenizer_encode(const pm_tokenizer *tok, const char *text, size_t size, unsigned flags, int32_t **ids, size_t *n) {
    *ids = NULL;
    *n = 0;
    if (size == 0)
        return PM_OK;
    if (size > INT32_MAX / 4) // positions are 32 bits, also after repair and NFC have made the text longer
        return pm_fail(PM_ERR_USAGE, "a text of %zu bytes; at most %d can be encoded at once", size, INT32_MAX / 4);
    char *repaired;
    size_t repaired_n = 0;
    PM_TRY(repair(text, size, flags, &repaired, &repaired_n));
    encoder e = {.tok = tok};
    pm_status status = repaired == NULL ? encode(&e, text, size, flags) : encode(&e, repaired, repaired_n, flags);
    pm_free(repaired);
    pm_bpe_work_close(&e.work);
    pcre2_match_data_free(e.match);
    pcre2_match_context_free(e.limits);
    if (status != PM_OK || e.n == 0) {
        pm_free(e.ids);
        return status;
    }
    *ids = e.ids;
    *n = e.n;
    return PM_OK;
}

// ---- tokens and decode ------------------------------------------------------------------------------------------------

static const pm_vocab_token *get(const pm_tokenizer *tok, int32_t id) {
    return id >= 0 && (uint32_t)id < tok->vocab->n_tokens ? &tok->vocab->tokens[id] : NULL;
}

pm_str pm_tokenizer_bytes(const pm_tokenizer *tok, int32_t id) {
    if (get(tok, id) == NULL)
        return PM_STR("");
    size_t begin = id == 0 ? 0 : tok->bytes_end[id - 1];
    return (pm_str){tok->bytes + begin, tok->bytes_end[id] - begin};
}

bool pm_tokenizer_is_special(const pm_tokenizer *tok, int32_t id) {
    return pm_tokenizer_is_used(tok, id) && get(tok, id)->special;
}

bool pm_tokenizer_is_used(const pm_tokenizer *tok, int32_t id) {
    return get(tok, id) != NULL && get(tok, id)->used;
}

uint32_t pm_tokenizer_n_used(const pm_tokenizer *tok) {
    return tok->n_used;
}

static pm_str shown_bytes(const pm_tokenizer *tok, int32_t id, unsigned flags) {
    bool skip = flags & PM_DECODE_SKIP_SPECIAL && pm_tokenizer_is_special(tok, id);
    return skip ? PM_STR("") : pm_tokenizer_bytes(tok, id);
}

pm_status pm_tokenizer_decode(const pm_tokenizer *tok, const int32_t *ids, size_t n, unsigned flags, char **text, size_t *size) {
    uint64_t bytes = 0, room;
    *text = NULL;
    *size = 0;
    for (size_t i = 0; i < n; i++)
        PM_TRY(pm_add_size(bytes, shown_bytes(tok, ids[i], flags).n, &bytes));
    PM_TRY(pm_mul_size(bytes + 1, 4, &room)); // the text, at most three times as long as the bytes; then the bytes
    char *joined = pm_malloc((size_t)room);
    if (joined == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory to decode %zu tokens", n);
    char *raw = joined + 3 * (size_t)bytes + 1;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        pm_str piece = shown_bytes(tok, ids[i], flags);
        memcpy(raw + at, piece.p, piece.n);
        at += piece.n;
    }
    *size = pm_utf8_repair(raw, at, joined, NULL);
    joined[*size] = 0;
    *text = joined;
    return PM_OK;
}

size_t pm_tokenizer_text_max(const pm_tokenizer *tok) {
    return 4 * (tok->bytes_max + sizeof((pm_utf8_stream *)NULL)->held);
}

size_t pm_tokenizer_decode_next(const pm_tokenizer *tok, pm_utf8_stream *stream, int32_t id, unsigned flags, char *text) {
    pm_str piece = shown_bytes(tok, id, flags);
    size_t begin = (size_t)stream->n, n = begin + piece.n, held;
    char *raw = text + 3 * n; // behind the text, as above
    memcpy(raw, stream->held, begin);
    memcpy(raw + begin, piece.p, piece.n);
    size_t size = pm_utf8_repair(raw, n, text, &held);
    memcpy(stream->held, raw + n - held, held);
    stream->n = (int)held;
    return size;
}

size_t pm_tokenizer_decode_end(pm_utf8_stream *stream, char *text) {
    size_t size = pm_utf8_repair((const char *)stream->held, (size_t)stream->n, text, NULL);
    stream->n = 0;
    return size;
}
