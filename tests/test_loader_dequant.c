// loader/dequant.c against ggml's own decoding, bit for bit.
#include "loader/loader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

// data/quants.bin: for each type its blocks, then the floats (tests/make_loader_data.py).
enum { N = 1024 };

static void values_equal_ggml(void **state) {
    (void)state;
    static const pm_dtype order[] = {PM_F16, PM_BF16, PM_Q8_0, PM_Q4_0};
    char *data;
    size_t size, at = 0;
    assert_int_equal(pm_file_read(PM_TEST_DATA "/quants.bin", 1 << 20, &data, &size), PM_OK);
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        const pm_dtype_info *dtype = pm_dtype_get(order[i]);
        float have[N];
        size_t packed = N / dtype->block_elements * dtype->block_bytes;
        assert_true(at + packed + sizeof(have) <= size);
        pm_dequant(order[i], data + at, have, N);
        assert_memory_equal(have, data + at + packed, sizeof(have));

        char odd[1 + N * 2]; // at any alignment
        memcpy(odd + 1, data + at, packed);
        memset(have, 0, sizeof(have));
        pm_dequant(order[i], odd + 1, have, N);
        assert_memory_equal(have, data + at + packed, sizeof(have));
        at += packed + sizeof(have);
    }
    assert_int_equal(at, size);
    pm_free(data);
}

static void floats_stay_as_they_are(void **state) {
    (void)state;
    const float values[] = {0, -0.0f, 1.5f, -3e38f, 1e-42f};
    float have[5];
    pm_dequant(PM_F32, values, have, 5);
    assert_memory_equal(have, values, sizeof(values));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_equal_ggml),
        cmocka_unit_test(floats_stay_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
