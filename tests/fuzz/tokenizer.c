// Text through the tokenizer. The first byte says how; the rest is text for the bundled model's vocabulary, or, with bit 2, a line
// of merges and added tokens that make a vocabulary, and text for that one.
#include <stdlib.h>
#include <string.h>

#include "backend/tokenizer.h"
#include "backend/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool held) {
    if (!held)
        abort();
}

// ---- a text and one tokenizer -------------------------------------------------------------------------------------------

// Streaming must give the same bytes as decoding at once.
static void stream(const pm_tokenizer *tok, const int32_t *ids, size_t n, unsigned flags) {
    char *whole, *piece = malloc(pm_tokenizer_text_max(tok));
    size_t size, at = 0;
    demand(pm_tokenizer_decode(tok, ids, n, flags, &whole, &size) == PM_OK);
    demand(pm_utf8_check(whole, size) == size);
    pm_utf8_stream held = {0};
    for (size_t i = 0; i <= n; i++) {
        size_t m = i < n ? pm_tokenizer_decode_next(tok, &held, ids[i], flags, piece) : pm_tokenizer_decode_end(&held, piece);
        demand(m <= size - at && memcmp(whole + at, piece, m) == 0);
        at += m;
    }
    demand(at == size);
    free(piece);
    pm_free(whole);
}

// Without added tokens, what is decoded is the NFC of the repaired text.
static void compare(const pm_tokenizer *tok, const char *text, size_t size, const int32_t *ids, size_t n) {
    char *repaired = malloc(3 * size + 1), *nfc, *back;
    size_t repaired_n = pm_utf8_repair(text, size, repaired, NULL), nfc_n, back_n;
    demand(pm_nfc(repaired, repaired_n, &nfc, &nfc_n) == PM_OK);
    demand(pm_tokenizer_decode(tok, ids, n, 0, &back, &back_n) == PM_OK);
    demand(back_n == (nfc != NULL ? nfc_n : repaired_n) && memcmp(back, nfc != NULL ? nfc : repaired, back_n) == 0);
    pm_free(back);
    pm_free(nfc);
    free(repaired);
}

static void use(const pm_tokenizer *tok, unsigned flags, const char *text, size_t size, bool nfc) {
    int32_t *ids;
    size_t n;
    if (pm_tokenizer_encode(tok, text, size, flags, &ids, &n) != PM_OK) {
        demand(ids == NULL && n == 0 && !(flags & PM_ENCODE_REPAIR) && pm_utf8_check(text, size) < size);
        return;
    }
    for (size_t i = 0; i < n; i++)
        demand(pm_tokenizer_is_used(tok, ids[i]));
    stream(tok, ids, n, flags & PM_ENCODE_SPECIAL ? PM_DECODE_SKIP_SPECIAL : 0);
    if (nfc && !(flags & PM_ENCODE_SPECIAL))
        compare(tok, text, size, ids, n);
    pm_free(ids);
}

// ---- a vocabulary out of the input --------------------------------------------------------------------------------------

enum { BYTES = 256, EXTRA = 128 };

typedef struct made {
    pm_vocab_token tokens[BYTES + EXTRA];
    pm_vocab_merge merges[EXTRA];
    char bytes[BYTES][2];
    pm_vocab_data vocab;
} made;

static void make_bytes(made *m) {
    memset(m, 0, sizeof *m);
    for (int b = 0; b < BYTES; b++) {
        uint32_t c = pm_byte_to_char((uint8_t)b);
        char *text = m->bytes[b];
        text[0] = (char)(c < 0x80 ? c : 0xC0 | c >> 6);
        text[1] = (char)(0x80 | (c & 63));
        m->tokens[b] = (pm_vocab_token){.text = {text, c < 0x80 ? 1 : 2}, .used = true};
    }
    m->vocab = (pm_vocab_data){.n_tokens = BYTES, .tokens = m->tokens, .merges = m->merges};
}

// A word of the line: "+abc" is an added token; "k:abcdef" a token, joined from its first k bytes and the rest.
static void make_word(made *m, const char *word, size_t n) {
    pm_vocab_data *v = &m->vocab;
    if (n < 2 || v->n_tokens == BYTES + EXTRA)
        return;
    if (word[0] == '+') {
        m->tokens[v->n_tokens++] = (pm_vocab_token){{word + 1, n - 1}, true, n % 2 == 0, true};
    } else if (n > 2) {
        size_t left = (uint8_t)word[0] % 8;
        left = left < n - 2 ? left : n - 2;
        m->merges[v->n_merges++] = (pm_vocab_merge){{word + 2, left}, {word + 2 + left, n - 2 - left}};
        m->tokens[v->n_tokens++] = (pm_vocab_token){.text = {word + 2, n - 2}, .used = true};
    }
}

static void make_and_use(unsigned how, const char *text, size_t size) {
    static made m;
    static const char *const regexes[] = {"", "\\s+(?!\\S)|\\s+|\\S+", "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+", "a?"};
    make_bytes(&m);
    size_t at = 0, begin = 0;
    for (; at < size && text[at] != '\n'; at++)
        if (text[at] == ' ') {
            make_word(&m, text + begin, at - begin);
            begin = at + 1;
        }
    m.vocab.nfc = how & 8;
    m.vocab.regex = (pm_str){regexes[how >> 4 & 3], strlen(regexes[how >> 4 & 3])};
    pm_tokenizer *tok;
    if (pm_tokenizer_open(&m.vocab, &tok) == PM_OK)
        use(tok, how & 3, text + at, size - at, false);
    else
        demand(tok == NULL);
    pm_tokenizer_close(&tok);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static pm_file *file;
    static pm_tokenizer *tok;
    if (file == NULL) {
        demand(pm_file_open_tokenizer(PM_TEST_DATA "/tiny-qwen3/tokenizer.json", &file) == PM_OK);
        demand(pm_tokenizer_open(pm_file_vocab(file), &tok) == PM_OK);
    }
    if (size == 0)
        return 0;
    const char *text = (const char *)data + 1;
    if (data[0] & 4)
        make_and_use(data[0], text, size - 1);
    else
        use(tok, data[0] & 3, text, size - 1, true);
    return 0;
}
