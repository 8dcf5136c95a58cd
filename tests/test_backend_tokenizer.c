// The tokenizer with the bundled model's vocabulary, against ids by the tokenizers library, and with hand-made vocabularies,
// against the definition of byte-pair encoding. test_backend_tokenizer_qwen3.c is the same for the real Qwen3 vocabulary.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>
#include <utf8proc.h>

#include "tests/text_data.h"

#define MODEL PM_TEST_DATA "/tiny-qwen3/"
enum { IM_START = 1255, IM_END = 1256, THINK = 1278, N_TOKENS = 1280 };

static pm_file *file;
static pm_tokenizer *tok;

typedef struct ids {
    int32_t *p;
    size_t n;
} ids;

static ids encode_with(const pm_tokenizer *t, const char *text, size_t size, unsigned flags) {
    ids out;
    MUST(pm_tokenizer_encode(t, text, size, flags, &out.p, &out.n));
    return out;
}

static void assert_ids(const pm_tokenizer *t, const char *text, unsigned flags, const int32_t *expected, size_t n) {
    ids got = encode_with(t, text, strlen(text), flags);
    assert_int_equal(got.n, n);
    assert_true(n == 0 || memcmp(got.p, expected, n * sizeof *expected) == 0);
    pm_free(got.p);
}
#define ASSERT_IDS(t, text, flags, ...) \
    assert_ids(t, text, flags, (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

// Decodes in one go and token by token, which must agree; the caller frees.
static char *decode_both(const pm_tokenizer *t, const int32_t *p, size_t n, unsigned flags, size_t *size) {
    char *whole, *piece = malloc(pm_tokenizer_text_max(t));
    MUST(pm_tokenizer_decode(t, p, n, flags, &whole, size));
    pm_utf8_stream stream = {0};
    size_t at = 0;
    for (size_t i = 0; i <= n; i++) {
        size_t m = i < n ? pm_tokenizer_decode_next(t, &stream, p[i], flags, piece) : pm_tokenizer_decode_end(&stream, piece);
        assert_true(m <= *size - at && memcmp(whole + at, piece, m) == 0);
        assert_true(m <= pm_tokenizer_text_max(t));
        at += m;
    }
    assert_int_equal(at, *size);
    assert_int_equal(whole[at], 0);
    free(piece);
    return whole;
}

static void assert_text(const pm_tokenizer *t, const int32_t *p, size_t n, unsigned flags, const char *expected) {
    size_t size;
    char *text = decode_both(t, p, n, flags, &size);
    assert_string_equal(text, expected);
    assert_int_equal(size, strlen(expected));
    pm_free(text);
}

// ---- the bundled model ------------------------------------------------------------------------------------------------

static void agrees_with_the_goldens(void **state) {
    (void)state;
    cJSON *root = read_json(MODEL "golden.json");
    const cJSON *item;
    cJSON_ArrayForEach(item, member(root, "cases")) {
        size_t n_prompt, n_greedy;
        int32_t *prompt = ids_of(item, "ids", &n_prompt), *greedy = ids_of(item, "greedy", &n_greedy);
        assert_ids(tok, text_of(item, "prompt"), PM_ENCODE_SPECIAL, prompt, n_prompt);
        assert_text(tok, prompt, n_prompt, 0, text_of(item, "prompt"));
        assert_text(tok, greedy, n_greedy, 0, text_of(item, "text"));
        free(prompt);
        free(greedy);
    }
    assert_int_equal(cJSON_GetArraySize(member(root, "cases")), 31);
    cJSON_Delete(root);
}

static void knows_its_tokens(void **state) {
    (void)state;
    assert_true(pm_str_is(pm_tokenizer_bytes(tok, IM_START), "<|im_start|>"));
    assert_true(pm_str_is(pm_tokenizer_bytes(tok, 220), " "));
    assert_true(pm_tokenizer_is_special(tok, IM_END));
    assert_false(pm_tokenizer_is_special(tok, THINK));
    assert_false(pm_tokenizer_is_special(tok, 0));
    assert_int_equal(pm_tokenizer_n_used(tok), N_TOKENS);
    const int32_t outside[] = {-1, INT32_MIN, N_TOKENS, INT32_MAX};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pm_tokenizer_bytes(tok, outside[i]).n, 0);
        assert_false(pm_tokenizer_is_used(tok, outside[i]));
        assert_false(pm_tokenizer_is_special(tok, outside[i]));
    }
    assert_text(tok, outside, 4, 0, "");
    assert_text(tok, (const int32_t[]){IM_START, THINK, IM_END}, 3, PM_DECODE_SKIP_SPECIAL, "<think>");
}

static void reads_added_tokens_only_when_asked(void **state) {
    (void)state;
    ASSERT_IDS(tok, "<|im_start|><think>", PM_ENCODE_SPECIAL, IM_START, THINK);
    ASSERT_IDS(tok, "<<|im_end|>>", PM_ENCODE_SPECIAL, 27, IM_END, 29);
    ids plain = encode_with(tok, "<|im_start|>", 12, 0);
    assert_true(plain.n > 1);
    for (size_t i = 0; i < plain.n; i++)
        assert_true(plain.p[i] < 1254);
    assert_text(tok, plain.p, plain.n, 0, "<|im_start|>");
    pm_free(plain.p);
    assert_ids(tok, "", PM_ENCODE_SPECIAL, NULL, 0);
}

static void names_the_invalid_byte(void **state) {
    (void)state;
    // The first bad byte of: a lone lead, overlong, surrogate, past U+10FFFF, a lone continuation, an unfinished end.
    const struct {
        const char *text;
        size_t at;
    } cases[] = {{"ab\xC3(", 2},          {"\xC0\x80", 0},         {"x\xED\xA0\x80", 1},
                 {"\xF4\x90\x80\x80", 0}, {"\xE2\x82\xAC\x80", 3}, {"abc\xE2\x82", 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ids out;
        char at[32];
        assert_int_equal(pm_tokenizer_encode(tok, cases[i].text, strlen(cases[i].text), 0, &out.p, &out.n), PM_ERR_USAGE);
        snprintf(at, sizeof at, "at offset %zu", cases[i].at);
        assert_non_null(strstr(pm_error_text(), at));
        assert_null(out.p);
    }
}

// Expected texts are Python's: b"...".decode("utf-8", "replace").
static void repairs_as_python_does(void **state) {
    (void)state;
#define R "\xEF\xBF\xBD"
    const struct {
        const char *text, *expected;
    } cases[] = {
        {"ab\xC3(", "ab" R "("},
        {"\xC0\x80", R R},
        {"x\xED\xA0\x80y", "x" R R R "y"},
        {"\xF4\x90\x80\x80", R R R R},
        {"\xF0\x9F\x98", R},
        {"\xF0\x9F\x98\xF0\x9F\x98\x80", R "\xF0\x9F\x98\x80"},
        {"\xE2\x82\xE2\x82\xAC", R "\xE2\x82\xAC"},
        {"\x80\xBF", R R},
        {"\xF8\x88\x80\x80\x80", R R R R R},
        {"\xE0\x9F\xBF\xFF", R R R R},
        {"\xF1\x80\x80\x41\xC2", R "A" R},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ids out = encode_with(tok, cases[i].text, strlen(cases[i].text), PM_ENCODE_REPAIR);
        assert_text(tok, out.p, out.n, 0, cases[i].expected);
        pm_free(out.p);
        // The same bytes as tokens of one byte each (their ids follow the byte alphabet), decoded whole and streaming.
        int32_t bytes[16];
        size_t n = strlen(cases[i].text);
        for (size_t k = 0; k < n; k++)
            for (int32_t id = 0; id < 256; id++)
                if (*pm_tokenizer_bytes(tok, id).p == cases[i].text[k])
                    bytes[k] = id;
        assert_text(tok, bytes, n, 0, cases[i].expected);
    }
#undef R
}

// ---- random text ------------------------------------------------------------------------------------------------------

static uint32_t seed;

static uint32_t random_below(uint32_t n) {
    seed = seed * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)(seed >> 8) * n) >> 24);
}

static utf8proc_int32_t random_char(void) {
    static const utf8proc_int32_t low[] = {0, 32, 0x300, 0x80, 0x590, 0x900, 0x1100, 0xAC00, 0x1F100, 0x10000, 0x1D15E, 0x1E00};
    static const utf8proc_int32_t high[] = {127,    126,    0x36F,   0x250,    0x700,   0xD7F,
                                            0x1200, 0xD7A3, 0x1F6FF, 0x10FFFF, 0x1D164, 0x2030};
    uint32_t i = random_below(sizeof low / sizeof *low);
    return low[i] + (utf8proc_int32_t)random_below((uint32_t)(high[i] - low[i]) + 1);
}

// decode(encode(x)) is the NFC of x, as utf8proc computes it by its own route.
static void gives_back_the_nfc_of_any_text(void **state) {
    (void)state;
    seed = 20240607;
    print_message("seed %u\n", (unsigned)seed);
    for (int i = 0; i < 4000; i++) {
        utf8proc_uint8_t text[257];
        size_t n = 0;
        for (uint32_t k = random_below(64); k > 0; k--)
            n += (size_t)utf8proc_encode_char(random_char(), text + n);
        text[n] = 0;
        utf8proc_uint8_t *nfc;
        utf8proc_ssize_t nfc_n =
            utf8proc_map(text, (utf8proc_ssize_t)n, &nfc, (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
        assert_true(nfc_n >= 0);
        ids out = encode_with(tok, (const char *)text, n, 0);
        size_t size;
        char *back = decode_both(tok, out.p, out.n, 0, &size);
        assert_int_equal(size, nfc_n);
        assert_memory_equal(back, nfc, size);
        pm_free(back);
        pm_free(out.p);
        free(nfc);
    }
}

// utf8proc orders marks by swapping neighbours: half a million in the wrong order would take it minutes.
static void orders_many_marks(void **state) {
    (void)state;
    enum { MARKS = 200000 };
    char *text = malloc(1 + 2 * MARKS);
    text[0] = 'x';
    for (size_t i = 0; i < MARKS; i++) // acute accent (class 230) and dot below (220) in turn
        memcpy(text + 1 + 2 * i, i % 2 == 0 ? "\xCC\x81" : "\xCC\xA3", 2);
    ids out = encode_with(tok, text, 1 + 2 * MARKS, 0);
    size_t size;
    char *back = decode_both(tok, out.p, out.n, 0, &size);
    assert_int_equal(size, 1 + 2 * MARKS);
    for (size_t i = 0; i < MARKS; i++)
        assert_memory_equal(back + 1 + 2 * i, i < MARKS / 2 ? "\xCC\xA3" : "\xCC\x81", 2);
    pm_free(back);
    pm_free(out.p);
    free(text);
}

// ---- hand-made vocabularies ---------------------------------------------------------------------------------------------

enum { BYTES = 256, MADE = 64 };

// Token b of the first 256 is the byte b; then come joined tokens.
typedef struct made {
    pm_vocab_token tokens[BYTES + MADE];
    pm_vocab_merge merges[MADE];
    char text[BYTES][2];
    char joined[MADE][64];
    pm_vocab_data vocab;
} made;

static void make_bytes(made *m) {
    *m = (made){.vocab = {.n_tokens = BYTES}};
    m->vocab.tokens = m->tokens;
    m->vocab.merges = m->merges;
    int extra = 256;
    for (int b = 0; b < BYTES; b++) {
        bool printable = (b > 32 && b < 127) || (b > 160 && b != 173);
        int c = printable ? b : extra++;
        size_t n = (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)m->text[b]);
        m->tokens[b] = (pm_vocab_token){.text = {m->text[b], n}, .used = true};
    }
}

static void make_token(made *m, const char *text, bool added) {
    m->tokens[m->vocab.n_tokens++] = (pm_vocab_token){{text, strlen(text)}, added, added, true};
}

static void make_merge(made *m, pm_str left, pm_str right) {
    char *text = m->joined[m->vocab.n_merges];
    memcpy(text, left.p, left.n);
    memcpy(text + left.n, right.p, right.n);
    m->merges[m->vocab.n_merges++] = (pm_vocab_merge){left, right};
    m->tokens[m->vocab.n_tokens++] = (pm_vocab_token){.text = {text, left.n + right.n}, .used = true};
}

static pm_tokenizer *open_made(const made *m) {
    pm_tokenizer *t;
    MUST(pm_tokenizer_open(&m->vocab, &t));
    return t;
}

static bool same_text(pm_str a, pm_str b) {
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

// The definition: join the leftmost pair of the lowest rank until there is none.
static size_t encode_by_definition(const made *m, const char *text, size_t n, pm_str *parts) {
    for (size_t i = 0; i < n; i++)
        parts[i] = (pm_str){text + i, 1};
    for (;;) {
        uint32_t best = m->vocab.n_merges;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (uint32_t r = 0; r < best; r++)
                if (same_text(parts[i], m->merges[r].left) && same_text(parts[i + 1], m->merges[r].right))
                    best = r, at = i;
        if (best == m->vocab.n_merges)
            return n;
        parts[at].n += parts[at + 1].n;
        memmove(parts + at + 1, parts + at + 2, (n - at - 2) * sizeof *parts);
        n--;
    }
}

static void joins_by_the_definition(void **state) {
    (void)state;
    static made m;
    seed = 77;
    print_message("seed %u\n", (unsigned)seed);
    for (int round = 0; round < 200; round++) {
        make_bytes(&m);
        while (m.vocab.n_merges < 40) { // of tokens there are: a, b, c and those already made
            uint32_t i = random_below(3 + m.vocab.n_merges), k = random_below(3 + m.vocab.n_merges);
            pm_str left = m.tokens[i < 3 ? 'a' + i : BYTES + i - 3].text, right = m.tokens[k < 3 ? 'a' + k : BYTES + k - 3].text;
            bool known = left.n + right.n > 60;
            for (uint32_t t = BYTES; t < m.vocab.n_tokens; t++)
                known = known || (m.tokens[t].text.n == left.n + right.n && memcmp(m.tokens[t].text.p, left.p, left.n) == 0 &&
                                  memcmp(m.tokens[t].text.p + left.n, right.p, right.n) == 0);
            if (!known)
                make_merge(&m, left, right);
        }
        pm_tokenizer *t = open_made(&m);
        for (int k = 0; k < 10; k++) {
            char text[80];
            pm_str parts[80];
            size_t n = 1 + random_below(79);
            for (size_t i = 0; i < n; i++)
                text[i] = (char)('a' + random_below(3));
            ids out = encode_with(t, text, n, 0);
            size_t n_parts = encode_by_definition(&m, text, n, parts);
            assert_int_equal(out.n, n_parts);
            for (size_t i = 0; i < n_parts; i++)
                assert_true(same_text(pm_tokenizer_bytes(t, out.p[i]), parts[i]));
            pm_free(out.p);
        }
        pm_tokenizer_close(&t);
    }
}

static void takes_the_longest_added_token(void **state) {
    (void)state;
    static made m;
    make_bytes(&m);
    const char *const added[] = {"<a", "<ab>", "<abc", "<abcdef>", "b>c", "\xC3\xA9 \xC3\xA9", "<a", "\xA9"};
    for (int i = 0; i < 8; i++)
        make_token(&m, added[i], true);
    pm_tokenizer *t = open_made(&m);
    ASSERT_IDS(t, "<ab>", PM_ENCODE_SPECIAL, 257);
    ASSERT_IDS(t, "<ab>c", PM_ENCODE_SPECIAL, 257, 'c'); // leftmost first: "b>c" begins later
    ASSERT_IDS(t, "<abcde", PM_ENCODE_SPECIAL, 258, 'd', 'e');
    ASSERT_IDS(t, "<abcdef><a", PM_ENCODE_SPECIAL, 259, 256);
    ASSERT_IDS(t, "<<ab", PM_ENCODE_SPECIAL, '<', 256, 'b');
    ASSERT_IDS(t, "\xC3\xA9 \xC3\xA9", PM_ENCODE_SPECIAL, 261);
    ASSERT_IDS(t, "<a", 0, '<', 'a');
    ASSERT_IDS(t, "\xC3\xA9", PM_ENCODE_SPECIAL, 0xC3, 0xA9); // half a character is no token
    assert_text(t, (const int32_t[]){261}, 1, 0, "\xC3\xA9 \xC3\xA9");
    pm_tokenizer_close(&t);
}

// Added tokens are cut out before normalising: the accent after one does not combine with a letter before it.
static void normalises_between_added_tokens(void **state) {
    (void)state;
    static made m;
    make_bytes(&m);
    make_token(&m, "e<", true);
    m.vocab.nfc = true;
    pm_tokenizer *t = open_made(&m);
    ASSERT_IDS(t, "e\xCC\x81", 0, 0xC3, 0xA9);
    ASSERT_IDS(t, "ee<\xCC\x81", PM_ENCODE_SPECIAL, 'e', 256, 0xCC, 0x81);
    pm_tokenizer_close(&t);
    m.vocab.nfc = false;
    t = open_made(&m);
    ASSERT_IDS(t, "e\xCC\x81", 0, 'e', 0xCC, 0x81);
    pm_tokenizer_close(&t);
}

static void leaves_holes_out(void **state) {
    (void)state;
    static made m;
    make_bytes(&m);
    m.vocab.n_tokens += 2; // padding rows
    m.tokens[7].used = false;
    pm_tokenizer *t = open_made(&m);
    assert_int_equal(pm_tokenizer_n_used(t), BYTES);
    assert_false(pm_tokenizer_is_used(t, 7));
    assert_false(pm_tokenizer_is_used(t, BYTES + 1));
    assert_int_equal(pm_tokenizer_bytes(t, 7).n, 0);
    ids out;
    assert_int_equal(pm_tokenizer_encode(t, "\x07", 1, 0, &out.p, &out.n), PM_ERR_UNSUPPORTED);
    assert_non_null(strstr(pm_error_text(), "0x07"));
    pm_tokenizer_close(&t);
}

static void keeps_what_the_regex_leaves(void **state) {
    (void)state;
    static made m;
    make_bytes(&m);
    make_merge(&m, PM_STR("a"), PM_STR("b"));
    make_merge(&m, PM_STR("x"), PM_STR("y"));
    m.vocab.regex = PM_STR("b+|z*");
    pm_tokenizer *t = open_made(&m);
    ASSERT_IDS(t, "abxybxy", 0, 'a', 'b', 257, 'b', 257);
    pm_tokenizer_close(&t);
    make_merge(&m, PM_STR("a"), PM_STR("\xC3\xA1"));
    m.vocab.regex = PM_STR("\\s|\\\\s");
    t = open_made(&m);
    ASSERT_IDS(t, "a\xE1\xA0\x8E", 0, 258, 0xA0, 0x8E); // U+180E is no white space, although PCRE2's \s has it
    ASSERT_IDS(t, "a\xC2\xA0", 0, 'a', 0xC2, 0xA0);
    ASSERT_IDS(t, "a\\sb", 0, 'a', '\\', 's', 'b');
    pm_tokenizer_close(&t);
    m.vocab.regex = (pm_str){NULL, 0};
    t = open_made(&m);
    ASSERT_IDS(t, "abxy", 0, 256, 257);
    pm_tokenizer_close(&t);
}

static void refuses_bad_vocabularies(void **state) {
    (void)state;
    static made m;
    pm_tokenizer *t;
    assert_int_equal(pm_tokenizer_open(NULL, &t), PM_ERR_UNSUPPORTED);
    assert_null(t);
    const pm_vocab_data none = {0};
    assert_int_equal(pm_tokenizer_open(&none, &t), PM_ERR_UNSUPPORTED);

    const pm_vocab_merge bad[] = {
        {PM_STR("a"), PM_STR("b")}, {PM_STR("zz"), PM_STR("a")}, {PM_STR(""), PM_STR("a")}, {{NULL, 0}, {NULL, 0}}};
    for (int i = 0; i < 4; i++) {
        make_bytes(&m);
        m.merges[m.vocab.n_merges++] = bad[i];
        assert_int_equal(pm_tokenizer_open(&m.vocab, &t), PM_ERR_FILE);
        assert_null(t);
    }
    const char *const regexes[] = {"(", "\\", "a{99999}", "\xFF", "\\C", "[[:what:]]"};
    for (int i = 0; i < 6; i++) {
        make_bytes(&m);
        m.vocab.regex = (pm_str){regexes[i], strlen(regexes[i])};
        assert_int_equal(pm_tokenizer_open(&m.vocab, &t), PM_ERR_UNSUPPORTED);
        assert_null(t);
    }
}

// A pattern that would take for ever ends with a status.
static void stops_a_runaway_regex(void **state) {
    (void)state;
    static made m;
    make_bytes(&m);
    m.vocab.regex = PM_STR("(?:a|aa)+c?$");
    pm_tokenizer *t = open_made(&m);
    char text[64];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = 'b';
    ids out;
    assert_int_equal(pm_tokenizer_encode(t, text, sizeof text, 0, &out.p, &out.n), PM_ERR_UNSUPPORTED);
    assert_null(out.p);
    pm_tokenizer_close(&t);
}

// ---- allocation failure -------------------------------------------------------------------------------------------------

static pm_status open_and_use(void) {
    // Marks to sort, a piece to repair, added tokens, enough ids to grow.
    static const char text[] =
        "<|im_start|>user\na\xCC\x81\xCC\xA3 caf\xC3\xA9 \xFF number 123456789012345678901234567890<|im_end|>";
    pm_tokenizer *t;
    PM_TRY(pm_tokenizer_open(pm_file_vocab(file), &t));
    int32_t *p;
    size_t n, size;
    char *back = NULL;
    pm_status status = pm_tokenizer_encode(t, text, sizeof text - 1, PM_ENCODE_SPECIAL | PM_ENCODE_REPAIR, &p, &n);
    if (status == PM_OK)
        status = pm_tokenizer_decode(t, p, n, 0, &back, &size);
    pm_free(p);
    pm_free(back);
    pm_tokenizer_close(&t);
    return status;
}

static void survives_failing_allocations(void **state) {
    (void)state;
    long n = 0;
    pm_status status = PM_ERR_MEMORY;
    while (status != PM_OK) {
        pm_alloc_fail_after(++n);
        status = open_and_use();
        pm_alloc_fail_after(0);
        assert_true(status == PM_OK || status == PM_ERR_MEMORY);
    }
    assert_true(n > 15);
}

int main(void) {
    MUST(pm_file_open_tokenizer(MODEL "tokenizer.json", &file));
    MUST(pm_tokenizer_open(pm_file_vocab(file), &tok));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_goldens),
        cmocka_unit_test(knows_its_tokens),
        cmocka_unit_test(reads_added_tokens_only_when_asked),
        cmocka_unit_test(names_the_invalid_byte),
        cmocka_unit_test(repairs_as_python_does),
        cmocka_unit_test(gives_back_the_nfc_of_any_text),
        cmocka_unit_test(orders_many_marks),
        cmocka_unit_test(joins_by_the_definition),
        cmocka_unit_test(takes_the_longest_added_token),
        cmocka_unit_test(normalises_between_added_tokens),
        cmocka_unit_test(leaves_holes_out),
        cmocka_unit_test(keeps_what_the_regex_leaves),
        cmocka_unit_test(refuses_bad_vocabularies),
        cmocka_unit_test(stops_a_runaway_regex),
        cmocka_unit_test(survives_failing_allocations),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pm_tokenizer_close(&tok);
    pm_file_close(&file);
    return failed;
}
