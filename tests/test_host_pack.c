// Packing: what lies on the device is decoded here by the layout that host/pack.c states, bit by bit, and must be the file's values
// and zeros behind them; packed in place where device memory is mapped, through the staging ring where it is not.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"

// ---- decoding what was packed -----------------------------------------------------------------------------------------

// A tensor's planes as 32-bit words, and how they are cut into rows.
typedef struct planes {
    const uint32_t *data, *scales;
    uint32_t data_words, scale_words; // of a row
} planes;

static const uint32_t *read_back(pm_slice slice) {
    pm_buffer *buffer;
    uint32_t *words = check_alloc(slice.size, 1);
    check_must(pm_buffer_create(check_dev, slice.size, PM_MEM_READBACK, "readback", &buffer));
    pm_cmd_begin(check_cmd);
    pm_cmd_copy(check_cmd, pm_buffer_all(buffer), slice);
    check_must(pm_cmd_end(check_cmd));
    check_must(pm_cmd_submit(check_cmd));
    check_must(pm_cmd_wait(check_cmd));
    memcpy(words, pm_slice_map(pm_buffer_all(buffer)), slice.size);
    pm_buffer_close(&buffer);
    return words;
}

// Bits of a column in the data plane, the quant that means zero, and bytes of a block of the file in the plane of the scales.
typedef struct layout {
    uint32_t low, high;
    int zero;
    uint32_t scale_bytes;
    uint32_t shared; // blocks that have one scale, if more than one
} layout;

static const layout layouts[PM_DTYPE_COUNT] = {
    [PM_F32] = {32, 0, 0, 0},   [PM_F16] = {16, 0, 0, 0},   [PM_BF16] = {16, 0, 0, 0},  [PM_Q8_0] = {8, 0, 0, 2},
    [PM_Q4_0] = {4, 0, 0, 2},   [PM_Q4_1] = {4, 0, 0, 4},   [PM_Q5_0] = {4, 1, 16, 2},  [PM_Q5_1] = {4, 1, 0, 4},
    [PM_Q2_K] = {2, 0, 0, 20},  [PM_Q3_K] = {2, 1, 4, 14},  [PM_Q4_K] = {4, 0, 0, 16},  [PM_Q5_K] = {4, 1, 0, 16},
    [PM_Q6_K] = {4, 2, 32, 18}, [PM_IQ4_NL] = {4, 0, 0, 2}, [PM_IQ4_XS] = {4, 0, 0, 8}, [PM_MXFP4] = {4, 0, 0, 1},
    [PM_FP8] = {8, 0, 0, 4, 4}, [PM_AWQ] = {4, 0, 0, 4, 4}, [PM_IQ2] = {2, 1, 0, 10},
};

static planes read_planes(pm_tensor t) {
    const layout *l = &layouts[t.dtype];
    uint32_t blocks = (t.cols + 31) / 32, file_blocks = blocks * 32 / pm_dtype_get(t.dtype)->block_elements;
    file_blocks = l->shared ? (file_blocks + l->shared - 1) / l->shared : file_blocks;
    planes p = {.data_words = (blocks * l->low + 3) / 4 * 4 + (blocks * l->high + 3) / 4 * 4,
                .scale_words = (file_blocks * l->scale_bytes + 3) / 4};
    assert_int_equal(t.stride, blocks * 32);
    assert_int_equal(t.data.size, (uint64_t)t.rows * p.data_words * 4);
    assert_int_equal(t.scales.size, (uint64_t)t.rows * p.scale_words * 4);
    assert_int_equal(t.data.size + t.scales.size, pm_packed_bytes(t.dtype, t.rows, t.cols));
    p.data = read_back(t.data);
    p.scales = p.scale_words ? read_back(t.scales) : NULL;
    return p;
}

// n bits from bit `at` on, which never cross a word.
static uint32_t bits(const uint32_t *words, uint32_t at, uint32_t n) {
    return words[at / 32] >> at % 32 & (n == 32 ? ~0u : (1u << n) - 1);
}

static float half_of(const uint32_t *words, uint32_t i) {
    return pm_f16_to_f32((uint16_t)bits(words, 16 * i, 16));
}

static int sign_extend(uint32_t value, uint32_t n_bits) {
    return (int)(value ^ 1u << (n_bits - 1)) - (1 << (n_bits - 1));
}

// Six bits: four of them from bit `low` on, two from bit `high` on.
static float six_bits(const uint32_t *words, uint32_t low, uint32_t high) {
    return (float)(bits(words, low, 4) | bits(words, high, 2) << 4);
}

// The scale of column c, and what is taken off, from a row of scales.
static float scale_of(pm_dtype dtype, const uint32_t *s, uint32_t supers, uint32_t c, float *minus) {
    uint32_t b = c / 32 % 8, half = c / 16 % 16, super = c / 256, at;
    float scale;
    switch (dtype) {
    case PM_Q4_1:
    case PM_Q5_1:
        *minus = -half_of(s, c / 32 * 2 + 1);
        return half_of(s, c / 32 * 2);
    case PM_FP8:
        memcpy(&scale, &s[c / 128], sizeof(scale));
        return scale;
    case PM_AWQ:
        *minus = half_of(s, c / 128 * 2) * (float)bits(s, c / 128 * 32 + 16, 16);
        return half_of(s, c / 128 * 2);
    case PM_IQ2:
        return half_of(s + supers * 2, super) / 8 * (float)(2 * bits(s, super * 64 + c / 16 % 16 * 4, 4) + 1);
    case PM_MXFP4:
        return ldexpf(1, (int)bits(s, c / 32 * 8, 8) - 128);
    case PM_IQ4_XS:
        at = super * 64;
        return half_of(s, super * 4) * (six_bits(s, at + 32 + 4 * b, at + 16 + 2 * b) - 32);
    case PM_Q4_K:
    case PM_Q5_K:
        at = super * 128;
        *minus = half_of(s, super * 8 + 1) * six_bits(s, at + 64 + 4 * b, at + 112 + 2 * b);
        return half_of(s, super * 8) * six_bits(s, at + 32 + 4 * b, at + 96 + 2 * b);
    case PM_Q6_K:
        return half_of(s + supers * 4, super) * (float)sign_extend(bits(s, c / 16 * 8, 8), 8);
    case PM_Q3_K:
        at = super * 96;
        return half_of(s + supers * 3, super) * (six_bits(s, at + 4 * half, at + 64 + 2 * half) - 32);
    case PM_Q2_K:
        *minus = half_of(s + supers * 4, super * 2 + 1) * (float)bits(s, c / 16 * 8 + 4, 4);
        return half_of(s + supers * 4, super * 2) * (float)bits(s, c / 16 * 8, 4);
    default:
        return half_of(s, c / 32);
    }
}

// What a quant of a type with 4 bits and a table means; the doubled value for MXFP4.
static float table_value(pm_dtype dtype, uint32_t quant) {
    static const float iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    static const float mxfp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, -0.0f, -1, -2, -3, -4, -6, -8, -12};
    return dtype == PM_MXFP4 ? mxfp4[quant] : iq4[quant];
}

// Column c of row r; the last may stand behind the matrix' columns, in its last block.
static float decode(pm_dtype dtype, const planes *p, uint32_t cols, uint32_t r, uint32_t c) {
    const layout *l = &layouts[dtype];
    const uint32_t *row = p->data + (size_t)r * p->data_words;
    uint32_t blocks = (cols + 31) / 32, quant = bits(row, c * l->low, l->low);
    float f;
    if (l->high)
        quant |= bits(row + (blocks * l->low + 3) / 4 * 4, c * l->high, l->high) << l->low;
    memcpy(&f, &quant, sizeof(f));
    if (dtype == PM_F32)
        return f;
    if (dtype == PM_F16 || dtype == PM_BF16)
        return dtype == PM_F16 ? pm_f16_to_f32((uint16_t)quant) : pm_bf16_to_f32((uint16_t)quant);
    float minus = 0, scale = scale_of(dtype, p->scales + (size_t)r * p->scale_words, blocks / 8, c, &minus);
    if (dtype == PM_IQ4_NL || dtype == PM_IQ4_XS || dtype == PM_MXFP4)
        return scale * table_value(dtype, quant);
    if (dtype == PM_FP8) { // the exponent's bias is 7; of the smallest the mantissa has no leading 1
        int exponent = (int)quant >> 3 & 15, mantissa = (int)quant & 7;
        return scale * ldexpf((float)(exponent ? 8 + mantissa : mantissa), (exponent ? exponent : 1) - 10) *
               (quant & 128 ? -1.0f : 1.0f);
    }
    if (dtype == PM_IQ2) {
        static const float sizes[4] = {8, 25, 43, 60};
        return scale * sizes[quant & 3] * (quant & 4 ? -1.0f : 1.0f);
    }
    bool is_signed = dtype == PM_Q8_0 || dtype == PM_Q4_0;
    return scale * (float)(is_signed ? sign_extend(quant, l->low) : (int)quant - l->zero) - minus;
}

// What pads a row of n_bits to whole words must be zero.
static void check_padding(const uint32_t *row, uint32_t n_bits, uint32_t n_words) {
    for (uint32_t i = n_bits / 8; i < n_words * 4; i++)
        if (bits(row, i * 8, 8))
            fail_msg("%s: byte %u of a row's padding is not zero", check_what, i);
}

// Wants t to hold `values` (t.rows, t.cols), and zeros behind each row.
static void check_packed(pm_tensor t, const float *values) {
    planes p = read_planes(t);
    for (uint32_t r = 0; r < t.rows; r++) {
        for (uint32_t c = 0; c < t.stride; c++) {
            float got = decode(t.dtype, &p, t.cols, r, c), want = c < t.cols ? values[(size_t)r * t.cols + c] : 0;
            if (got != want && !(isnan(got) && isnan(want)))
                fail_msg("%s: [%u][%u] is %.9g, wanted %.9g", check_what, r, c, (double)got, (double)want);
        }
        uint32_t blocks = t.stride / 32, file_blocks = t.stride / pm_dtype_get(t.dtype)->block_elements;
        const layout *l = &layouts[t.dtype];
        file_blocks = l->shared ? (file_blocks + l->shared - 1) / l->shared : file_blocks;
        uint32_t low_words = (blocks * l->low + 3) / 4 * 4;
        check_padding(p.data + (size_t)r * p.data_words + low_words, blocks * l->high * 32, p.data_words - low_words);
        if (p.scales)
            check_padding(p.scales + (size_t)r * p.scale_words, file_blocks * l->scale_bytes * 8, p.scale_words);
    }
}

// ---- matrices ---------------------------------------------------------------------------------------------------------

static void begin_case(void) {
    check_begin();
    check_get_packer();
}

typedef struct pack_case {
    uint32_t rows, cols;
    uint32_t cut[2]; // rows of the first two parts; 0: one part
} pack_case;

static void stacked_as_in_the_file(void **state) {
    static const pack_case cases[] = {
        {1, 32, {0}},     {331, 96, {0}}, {6, 64, {1, 2}}, {5, 160, {2, 2}}, {1280, 288, {256, 512}},
        {3, 100, {1, 1}}, {2, 1, {0}},    {9, 33, {0}},
    };
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(cases) * check_n_dtypes; i++) {
        const pack_case *c = &cases[i / check_n_dtypes];
        pm_dtype dtype = check_dtypes[i % check_n_dtypes];
        uint32_t cols = check_cols(dtype, c->cols);
        begin_case();
        check_case("%s (%u, %u)", pm_dtype_get(dtype)->name, c->rows, cols);
        check_matrix m = check_weights(dtype, c->rows, cols, 1);
        size_t row_bytes = check_matrix_bytes(dtype, cols);
        pm_pack_part parts[] = {{m.blocks, dtype, c->cut[0] ? c->cut[0] : c->rows},
                                {m.blocks + c->cut[0] * row_bytes, dtype, c->cut[1]},
                                {m.blocks + (c->cut[0] + c->cut[1]) * row_bytes, dtype, c->rows - c->cut[0] - c->cut[1]}};
        pm_tensor t = check_pack(parts, c->cut[0] ? 3 : 1, cols, PM_PACK_STACKED);
        assert_int_equal(t.dtype, dtype);
        assert_int_equal(t.rows, c->rows);
        assert_int_equal(t.cols, cols);
        check_packed(t, m.values);
    }
}

// 2 * rows of two matrices -> one whose row 2 i + j is row i of the j-th
static void interleave(const check_matrix *m, float *values) {
    size_t cols = m->cols;
    for (uint32_t i = 0; i < m->rows; i++)
        for (uint32_t j = 0; j < 2; j++)
            memcpy(values + ((size_t)i * 2 + j) * cols, m[j].values + i * cols, cols * sizeof(float));
}

static void interleaved_row_by_row(void **state) {
    (void)state;
    for (size_t i = 0; i < check_n_dtypes; i++)
        for (uint32_t n = 2; n <= 6; n += 4) {
            begin_case();
            check_case("%u of %s interleaved", n, pm_dtype_get(check_dtypes[i])->name);
            uint32_t cols = check_cols(check_dtypes[i], 96);
            float *values = check_alloc((size_t)n * 259 * cols, sizeof(float)), *to = values;
            pm_pack_part parts[6];
            for (uint32_t j = 0; j < n; j += 2) { // pairs of unequal heights
                uint32_t rows = j == 2 ? 33 : 259;
                check_matrix m[] = {check_weights(check_dtypes[i], rows, cols, 1), check_weights(check_dtypes[i], rows, cols, 1)};
                parts[j] = (pm_pack_part){m[0].blocks, check_dtypes[i], rows};
                parts[j + 1] = (pm_pack_part){m[1].blocks, check_dtypes[i], rows};
                interleave(m, to);
                to += (size_t)2 * rows * cols;
            }
            check_packed(check_pack(parts, (int)n, cols, PM_PACK_INTERLEAVED), values);
        }
}

// A part that makes its rows: what it would have had in memory.
static void make_rows(const void *data, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *out) {
    const check_matrix *m = data;
    const pm_dtype_info *info = pm_dtype_get(m->dtype);
    assert_true(row >= 5 && row + n_rows <= m->rows && col % 256 == 0 && n_cols > 0 && n_cols <= 256 && col + n_cols <= m->cols);
    size_t bytes = check_matrix_bytes(m->dtype, n_cols);
    for (uint32_t r = 0; r < n_rows; r++, out += bytes)
        memcpy(out, m->blocks + (((size_t)row + r) * m->cols + col) / info->block_elements * info->block_bytes, bytes);
}

static void run_made(pm_dtype dtype, pm_dtype other, uint32_t rows, pm_pack_order order) {
    uint32_t cols = check_cols(dtype, check_cols(other, 321));
    check_matrix taller = check_weights(dtype, rows + 5, cols, 1); // of which the first part is the last rows
    check_matrix m[] = {{dtype, rows, cols, NULL, taller.values + 5 * (size_t)cols}, check_weights(other, rows, cols, 1)};
    pm_pack_part parts[] = {{&taller, dtype, rows, make_rows, 5}, {m[1].blocks, other, rows}};
    float *values = check_alloc((size_t)2 * rows * cols, sizeof(float));
    memcpy(values, m[0].values, (size_t)rows * cols * sizeof(float));
    memcpy(values + (size_t)rows * cols, m[1].values, (size_t)rows * cols * sizeof(float));
    if (order == PM_PACK_INTERLEAVED)
        interleave(m, values);
    pm_tensor t = check_pack(parts, 2, cols, order);
    float *rounded = check_alloc((size_t)2 * rows * cols, sizeof(float));
    for (size_t i = 0; i < (size_t)2 * rows * cols; i++)
        rounded[i] = dtype == other ? values[i] : pm_f16_to_f32(pm_f32_to_f16(values[i]));
    assert_int_equal(t.dtype, dtype == other ? dtype : PM_F16);
    check_packed(t, rounded);
}

static void rows_that_are_made(void **state) {
    (void)state;
    for (size_t i = 0; i < check_n_dtypes; i++)
        for (int k = 0; k < 4; k++) {
            pm_dtype other = k % 2 ? check_dtypes[i] : PM_Q8_0;
            begin_case();
            check_case("made rows of %s with %s", pm_dtype_get(check_dtypes[i])->name, pm_dtype_get(other)->name);
            run_made(check_dtypes[i], other, k % 2 ? 299 : 33, k < 2 ? PM_PACK_STACKED : PM_PACK_INTERLEAVED);
        }
}

// More than both staging buffers hold, in steps that end within the parts.
static void more_than_the_ring_holds(void **state) {
    static const pack_case cases[] = {{20001, 480, {7000, 6001}}, {70003, 33, {0}}, {4099, 4096, {0}}};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(cases); i++) {
        pm_dtype dtype = i == 2 ? PM_Q8_0 : PM_F32;
        const pack_case *c = &cases[i];
        begin_case();
        check_case("%s (%u, %u)", pm_dtype_get(dtype)->name, c->rows, c->cols);
        check_matrix m = check_weights(dtype, c->rows, c->cols, 1);
        pm_pack_part parts[] = {{m.blocks, dtype, c->rows - c->cut[0]},
                                {m.blocks + (c->rows - c->cut[0]) * check_matrix_bytes(dtype, c->cols), dtype, c->cut[0]}};
        check_packed(check_pack(parts, c->cut[0] ? 2 : 1, c->cols, PM_PACK_STACKED), m.values);
    }
}

// ---- mixed types ------------------------------------------------------------------------------------------------------

static void run_mixed(const check_matrix m[2], pm_pack_order order, pm_dtype want) {
    pm_pack_part parts[] = {{m[0].blocks, m[0].dtype, m[0].rows}, {m[1].blocks, m[1].dtype, m[1].rows}};
    size_t first = (size_t)m[0].rows * m[0].cols, second = (size_t)m[1].rows * m[1].cols;
    float *values = check_alloc(first + second, sizeof(float));
    memcpy(values, m[0].values, first * sizeof(float));
    memcpy(values + first, m[1].values, second * sizeof(float));
    if (order == PM_PACK_INTERLEAVED)
        interleave(m, values);
    for (size_t i = 0; i < first + second && want == PM_F16; i++)
        values[i] = pm_f16_to_f32(pm_f32_to_f16(values[i]));
    pm_tensor t = check_pack(parts, 2, m[0].cols, order);
    assert_int_equal(t.dtype, want);
    check_packed(t, values);
}

static void mixed_types_become_halves(void **state) {
    (void)state;
    for (size_t i = 0; i < check_n_dtypes * check_n_dtypes; i++) {
        pm_dtype a = check_dtypes[i / check_n_dtypes], b = check_dtypes[i % check_n_dtypes];
        begin_case();
        check_case("%s with %s", pm_dtype_get(a)->name, pm_dtype_get(b)->name);
        pm_pack_order order = i % 2 ? PM_PACK_STACKED : PM_PACK_INTERLEAVED;
        uint32_t cols = check_cols(a, check_cols(b, 96));
        check_matrix m[] = {check_weights(a, 7, cols, 1), check_weights(b, 7, cols, 1)};
        run_mixed(m, order, a == b ? a : PM_F16);
    }
}

static void what_no_half_holds_becomes_floats(void **state) {
    static const float values[] = {65536, -1e30f, INFINITY, NAN};
    (void)state;
    for (size_t i = 0; i < 2 * CHECK_COUNT(values); i++) {
        begin_case();
        check_case("%g with Q8_0", (double)values[i / 2]);
        check_matrix m[] = {check_weights(PM_Q8_0, 2, 64, 1), check_weights(i % 2 ? PM_BF16 : PM_F32, 3, 64, 1)};
        float last = values[i / 2];
        if (m[1].dtype == PM_F32)
            memcpy(m[1].blocks + (3 * 64 - 1) * 4, &last, 4);
        else
            check_put_u16(m[1].blocks + (3 * 64 - 1) * 2, pm_f32_to_bf16(last));
        pm_ref_decode(m[1].dtype, m[1].blocks, 3 * 64, m[1].values);
        run_mixed(m, PM_PACK_STACKED, PM_F32);
    }
}

// ---- vectors, plain bytes ---------------------------------------------------------------------------------------------

static void vectors_are_floats(void **state) {
    (void)state;
    begin_case();
    check_case("a vector of three parts");
    check_matrix m[] = {check_weights(PM_BF16, 5, 1, 1), check_weights(PM_F32, 70, 1, 1), check_weights(PM_F16, 1, 1, 1)};
    pm_pack_part parts[3];
    float values[76], *to = values;
    for (int i = 0; i < 3; i++) {
        parts[i] = (pm_pack_part){m[i].blocks, m[i].dtype, m[i].rows};
        memcpy(to, m[i].values, m[i].rows * sizeof(float));
        to += m[i].rows;
    }
    pm_tensor t;
    check_must(pm_pack_vector(check_packer, parts, 3, &t));
    check_must(pm_packer_finish(check_packer));
    assert_int_equal(t.dtype, PM_F32);
    assert_int_equal(t.rows, 1);
    assert_int_equal(t.cols, 76);
    check_packed(t, values);
}

static void slices_are_written_whole(void **state) {
    static const uint64_t sizes[] = {4, 100, (16 << 20) + 4, 40 << 20};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(sizes); i++) {
        begin_case();
        check_case("%d bytes written", (int)sizes[i]);
        uint32_t *words = check_alloc(sizes[i], 1);
        for (uint64_t w = 0; w < sizes[i] / 4; w++)
            words[w] = check_random();
        pm_slice slice;
        check_must(pm_slabs_alloc(check_slabs, sizes[i], &slice));
        check_must(pm_slice_write(check_dev, slice, words, sizes[i]));
        assert_memory_equal(read_back(slice), words, sizes[i]);
    }
}

// ---- what cannot be packed --------------------------------------------------------------------------------------------

static void cut_blocks_are_refused(void **state) {
    (void)state;
    begin_case();
    check_matrix m = check_weights(PM_Q4_0, 2, 64, 1);
    pm_tensor t;
    pm_pack_part part = {m.blocks, PM_Q4_0, 2}, mixed[] = {{m.blocks, PM_F16, 1}, {m.blocks, PM_Q8_0, 1}};
    assert_int_equal(pm_pack_matrix(check_packer, &part, 1, 48, PM_PACK_STACKED, &t), PM_ERR_FILE);
    assert_non_null(strstr(pm_error_text(), "48"));
    assert_int_equal(pm_pack_matrix(check_packer, mixed, 2, 33, PM_PACK_STACKED, &t), PM_ERR_FILE);
    assert_int_equal(pm_pack_matrix(check_packer, &part, 1, 64, PM_PACK_STACKED, &t), PM_OK); // and it still packs
    check_must(pm_packer_finish(check_packer));
    check_packed(t, m.values);
}

static void unequal_parts_are_not_interleaved(void **state) {
    (void)state;
    begin_case();
    check_matrix m = check_weights(PM_F16, 5, 32, 1);
    pm_tensor t;
    pm_pack_part parts[] = {{m.blocks, PM_F16, 3}, {m.blocks, PM_F16, 2}};
    assert_int_equal(pm_pack_matrix(check_packer, parts, 2, 32, PM_PACK_INTERLEAVED, &t), PM_ERR_FILE);
}

static void rows_longer_than_the_ring_are_refused(void **state) {
    enum { COLS = 5 << 20 };
    (void)state;
    begin_case();
    float *values = check_alloc(COLS, sizeof(float));
    pm_tensor t;
    assert_int_equal(pm_pack_matrix(check_packer, &(pm_pack_part){values, PM_F32, 1}, 1, COLS, PM_PACK_STACKED, &t),
                     PM_ERR_UNSUPPORTED);
}

// Every allocation fails once, with all after it.
static pm_status pack_something(pm_slabs *slabs, const check_matrix *m) {
    pm_packer *packer;
    pm_tensor t;
    pm_pack_part part = {m->blocks, m->dtype, m->rows}, vector = {m->values, PM_F32, m->cols};
    pm_status status = pm_packer_open(check_dev, slabs, &packer);
    if (status != PM_OK) {
        assert_null(packer);
        return status;
    }
    status = pm_pack_matrix(packer, &part, 1, m->cols, PM_PACK_STACKED, &t);
    if (status == PM_OK)
        status = pm_pack_vector(packer, &vector, 1, &t);
    if (status == PM_OK)
        status = pm_packer_finish(packer);
    pm_packer_close(&packer);
    assert_null(packer);
    return status;
}

static void without_memory(void **state) {
    (void)state;
    check_begin();
    check_matrix m = check_weights(PM_Q8_0, 600, 64, 1);
    long n = 0;
    pm_status status;
    do {
        pm_slabs *slabs;
        check_must(pm_slabs_create(check_dev, 0, "weights", &slabs));
        pm_alloc_fail_after(++n);
        status = pack_something(slabs, &m);
        pm_alloc_fail_after(0);
        assert_true(status == PM_OK || status == PM_ERR_MEMORY);
        pm_slabs_close(&slabs);
    } while (status != PM_OK && n < 1000);
    assert_in_range(n, 5, 999);
}

// ---- groups -----------------------------------------------------------------------------------------------------------

static int open_default(void **state) {
    (void)state;
    check_open(1);
    return 0;
}

static int open_staged(void **state) {
    setenv("PM_STAGING", "1", 1);
    return open_default(state);
}

static int close_staged(void **state) {
    unsetenv("PM_STAGING");
    return check_close(state);
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(stacked_as_in_the_file),
        cmocka_unit_test(interleaved_row_by_row),
        cmocka_unit_test(rows_that_are_made),
        cmocka_unit_test(more_than_the_ring_holds),
        cmocka_unit_test(mixed_types_become_halves),
        cmocka_unit_test(vectors_are_floats),
        cmocka_unit_test(what_no_half_holds_becomes_floats),
        cmocka_unit_test(slices_are_written_whole),
        cmocka_unit_test(cut_blocks_are_refused),
        cmocka_unit_test(unequal_parts_are_not_interleaved),
        cmocka_unit_test(without_memory),
    };
    const struct CMUnitTest staged[] = {
        cmocka_unit_test(stacked_as_in_the_file),   cmocka_unit_test(interleaved_row_by_row),
        cmocka_unit_test(more_than_the_ring_holds), cmocka_unit_test(mixed_types_become_halves),
        cmocka_unit_test(vectors_are_floats),       cmocka_unit_test(rows_longer_than_the_ring_are_refused),
        cmocka_unit_test(slices_are_written_whole), cmocka_unit_test(without_memory),
    };
    int failed = cmocka_run_group_tests_name("pack", all, open_default, check_close);
    failed += cmocka_run_group_tests_name("pack, staged", staged, open_staged, close_staged);
    return failed != 0;
}
