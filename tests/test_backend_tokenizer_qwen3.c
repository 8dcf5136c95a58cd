// The real Qwen3 vocabulary (11 MB, so not in the repository): PM_QWEN3_TOKENIZER names its tokenizer.json, which
// tests/fetch-tokenizer.sh fetches. 189 texts by the tokenizers library, and how long a megabyte takes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "tests/text_data.h"

#if defined(__SANITIZE_ADDRESS__)
#define SLOWNESS 10.0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLOWNESS 10.0
#endif
#endif
#ifndef SLOWNESS
#define SLOWNESS 1.0
#endif

enum { MEGABYTE = 1000000 };

static pm_tokenizer *tok;

// cJSON's strings end at a 0, so the file writes U+E000 for U+0000. Puts it back and returns the size.
static size_t put_zeros_back(char *text) {
    size_t size = strlen(text);
    for (char *p; (p = strstr(text, "\xEE\x80\x80")) != NULL; text = p + 1, size -= 2) {
        memmove(p + 1, p + 3, strlen(p + 3) + 1);
        *p = 0;
    }
    return size;
}

static void agrees_with_189_texts(void **state) {
    (void)state;
    cJSON *root = read_json(PM_TEST_DATA "/qwen3-tokens.json");
    int bad = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, root) {
        char *text = member(item, "text")->valuestring, *decoded = member(item, "decoded")->valuestring;
        size_t text_size = put_zeros_back(text), decoded_size = put_zeros_back(decoded), n_expected, n, size;
        int32_t *expected = ids_of(item, "ids", &n_expected), *ids;
        char *back;
        MUST(pm_tokenizer_encode(tok, text, text_size, PM_ENCODE_SPECIAL, &ids, &n));
        MUST(pm_tokenizer_decode(tok, expected, n_expected, 0, &back, &size));
        if (n != n_expected || (n > 0 && memcmp(ids, expected, n * sizeof *ids) != 0) || size != decoded_size ||
            memcmp(back, decoded, size) != 0) {
            printf("differs: %s\n", text);
            bad++;
        }
        pm_free(ids);
        pm_free(back);
        free(expected);
    }
    assert_int_equal(cJSON_GetArraySize(root), 189);
    assert_int_equal(bad, 0);
    cJSON_Delete(root);
}

static void knows_the_vocabulary(void **state) {
    (void)state;
    assert_int_equal(pm_tokenizer_n_used(tok), 151669);
    assert_true(pm_str_is(pm_tokenizer_bytes(tok, 151645), "<|im_end|>"));
    for (int32_t id = 151643; id < 151669; id++)
        assert_int_equal(pm_tokenizer_is_special(tok, id), id <= 151656);
}

// Processor time, because the machine may be busy.
static double seconds_to_encode(const char *text) {
    int32_t *ids;
    size_t n;
    clock_t begin = clock();
    MUST(pm_tokenizer_encode(tok, text, MEGABYTE, PM_ENCODE_SPECIAL, &ids, &n));
    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    pm_free(ids);
    return seconds;
}

static void encodes_a_megabyte_in_a_second(void **state) {
    (void)state;
    static const struct {
        const char *name, *unit; // the text is the unit over and over
    } cases[] = {
        {"prose", "The quick brown fox can't jump over 12 lazy dogs; it wouldn't anyway.\n"},
        {"code", "    for (int i = 0; i < n; i++) {\n        sum += values[i];\n    }\n"},
        {"one letter", "a"},
        {"letters", "thequickbrownfoxjumpsoverthelazydog"},
        {"blanks", " "},
        {"lines", "\n"},
        {"signs", "<"},
        {"begun added tokens", "<|im_star"},
        {"chinese", "\xE4\xBB\x8A\xE5\xA4\xA9\xE5\xA4\xA9\xE6\xB0\x94\xE6\x80\x8E\xE4\xB9\x88\xE6\xA0\xB7"},
        {"marks", "\xCC\x81\xCC\xA3"},
    };
    char *text = malloc(MEGABYTE);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t unit = strlen(cases[i].unit);
        for (size_t at = 0; at < MEGABYTE; at += unit) // a rest that does not fit is left as blanks: it may be half a character
            if (at + unit <= MEGABYTE)
                memcpy(text + at, cases[i].unit, unit);
            else
                memset(text + at, ' ', MEGABYTE - at);
        double seconds = seconds_to_encode(text);
        print_message("1 MB of %s: %.3f s\n", cases[i].name, seconds);
        assert_true(seconds < SLOWNESS);
    }
    free(text);
}

int main(void) {
    const char *path = getenv("PM_QWEN3_TOKENIZER");
    if (path == NULL || !pm_path_exists(path)) {
        puts("PM_QWEN3_TOKENIZER does not name Qwen3's tokenizer.json (tests/fetch-tokenizer.sh fetches it)");
        return 77;
    }
    pm_file *file;
    MUST(pm_file_open_tokenizer(path, &file));
    clock_t begin = clock();
    MUST(pm_tokenizer_open(pm_file_vocab(file), &tok));
    print_message("opened in %.3f s\n", (double)(clock() - begin) / CLOCKS_PER_SEC);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_189_texts),
        cmocka_unit_test(knows_the_vocabulary),
        cmocka_unit_test(encodes_a_megabyte_in_a_second),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pm_tokenizer_close(&tok);
    pm_file_close(&file);
    return failed;
}
