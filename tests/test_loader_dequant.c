// loader/dequant.c and grid.c against ggml's own decoding, bit for bit.
#include "loader/loader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

// data/quants.bin: for each type but F32, in the order of pm_dtype, its blocks, then the floats (tests/make_loader_data.py).
enum { N = 1024 };

static void values_equal_ggml(void **state) {
    (void)state;
    char *data;
    size_t size, at = 0;
    assert_int_equal(pm_file_read(PM_TEST_DATA "/quants.bin", 1 << 20, &data, &size), PM_OK);
    for (int d = PM_F16; d < PM_ALL_DTYPE_COUNT; d++) {
        const pm_dtype_info *dtype = pm_dtype_get((pm_dtype)d);
        float have[N];
        size_t packed = N / dtype->block_elements * dtype->block_bytes;
        assert_true(at + packed + sizeof(have) <= size);
        pm_dequant((pm_dtype)d, data + at, have, N);
        if (memcmp(have, data + at + packed, sizeof(have)))
            fail_msg("%s differs", dtype->name);

        char odd[1 + N * 2]; // at any alignment
        memcpy(odd + 1, data + at, packed);
        memset(have, 0, sizeof(have));
        pm_dequant((pm_dtype)d, odd + 1, have, N);
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
