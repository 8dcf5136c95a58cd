// loader/quant.c: what is encoded and decoded again is as near to what it was as ggml's own quantization of the same weights comes,
// whose errors data/quants-rmse.txt tells (tests/make_rmse_data.py).
#include "loader/quant.h"
#include "loader/loader.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_RANDOM = 256 * 256 };

static float as_half(float f) {
    return pm_f16_to_f32(pm_f32_to_f16(f));
}

// The numbers of make_rmse_data.py.
static float *random_values(size_t *n) {
    float *x = malloc(N_RANDOM * sizeof(*x));
    assert_non_null(x);
    uint32_t state = 1;
    for (int i = 0; i < N_RANDOM; i++) {
        int32_t total = 0;
        for (int k = 0; k < 4; k++) {
            state = state * 1664525u + 1013904223u;
            total += (int32_t)(state >> 16);
        }
        x[i] = as_half((float)(total - 131072) / 1048576);
    }
    *n = N_RANDOM;
    return x;
}

static float *weights_of(const pm_file *file, const char *name, size_t *n) {
    if (strcmp(name, "random") == 0)
        return random_values(n);
    const pm_tensor_view *t = pm_file_find(file, name);
    assert_non_null(t);
    *n = (size_t)(t->dims[0] * t->dims[1]);
    float *x = malloc(*n * sizeof(*x));
    assert_non_null(x);
    pm_dequant(t->dtype, t->data, x, *n);
    for (size_t i = 0; i < *n; i++)
        x[i] = as_half(x[i]);
    return x;
}

static pm_dtype dtype_of(const char *name) {
    for (int i = 0; i < PM_GGUF_DTYPE_COUNT; i++)
        if (strcmp(pm_dtype_get((pm_dtype)i)->name, name) == 0)
            return (pm_dtype)i;
    fail_msg("no type %s", name);
    return PM_F32;
}

// There and back; the caller frees.
static float *round_trip(pm_dtype dtype, const float *x, size_t n) {
    const pm_dtype_info *info = pm_dtype_get(dtype);
    size_t size = n / info->block_elements * info->block_bytes;
    uint8_t *packed = malloc(size);
    float *back = malloc(n * sizeof(*back));
    assert_true(packed && back);
    memset(packed, 0xa5, size); // every bit must be written
    pm_quant(dtype, x, packed, n);
    pm_dequant(dtype, packed, back, n);
    free(packed);
    return back;
}

static double rmse(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sqrt(sum / (double)n);
}

static void errors_are_no_larger_than_the_peers(void **state) {
    (void)state;
    pm_file *file;
    assert_int_equal(pm_file_open(PM_TEST_DATA "/tiny-qwen3", &file), PM_OK);
    FILE *table = fopen(PM_TEST_DATA "/quants-rmse.txt", "r");
    assert_non_null(table);
    char type[16], name[64];
    double theirs;
    int n_lines = 0;
    for (; fscanf(table, "%15s %63s %lf", type, name, &theirs) == 3; n_lines++) {
        size_t n;
        float *x = weights_of(file, name, &n), *back = round_trip(dtype_of(type), x, n);
        double ours = rmse(x, back, n);
        if (!(ours <= 1.02 * theirs))
            fail_msg("%s of %s: an error of %g, llama-quantize's is %g", type, name, ours, theirs);
        free(x);
        free(back);
    }
    assert_int_equal(n_lines, 13 * 4);
    fclose(table);
    pm_file_close(&file);
}

// Zeros stay zeros, one value stays alone, huge and tiny ones become something finite.
static void odd_blocks_decode_to_something_near(void **state) {
    (void)state;
    static const float fills[] = {0, 1, -1, 65504, -65504, 1e-8f, 1e-42f};
    float x[256];
    for (size_t f = 0; f < sizeof(fills) / sizeof(fills[0]); f++)
        for (int kind = 0; kind < 3; kind++)
            for (int d = 0; d < PM_GGUF_DTYPE_COUNT; d++) {
                for (int i = 0; i < 256; i++)
                    x[i] = kind == 0 ? fills[f] : kind == 1 ? (i == 77 ? fills[f] : 0) : fills[f] * (float)(i % 3 - 1);
                float *back = round_trip((pm_dtype)d, x, 256);
                for (int i = 0; i < 256; i++)
                    if (!(fabsf(back[i] - x[i]) <= 0.26f * fabsf(fills[f]) + 1e-7f))
                        fail_msg("%s of %g, kind %d, element %d: %g became %g", pm_dtype_get((pm_dtype)d)->name, fills[f], kind, i,
                                 x[i], back[i]);
                free(back);
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_no_larger_than_the_peers),
        cmocka_unit_test(odd_blocks_decode_to_something_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
