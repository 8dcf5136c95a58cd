// Tensors of a gguf file in a type that no kernel reads: their rows are made, at load, in the type that is nearest. What that adds
// to the error of the quantization itself is nothing or next to it:
//   IQ2_XXS, IQ2_XS, IQ2_S   IQ2    the same numbers, in one form for the three
//   IQ3_XXS, IQ1_M           Q6_K   the same numbers: half the table's values, and all eighths, are integers within 6 bits
//   IQ3_S, IQ1_S             Q4_K   values are odd numbers up to 15, which is 2 q - 15: the same but for the minimum, 15 times a
//   half,
//                                   which has to be rounded to one: by 15 * 2^-12 = 0.004 of the smallest value at most
//   TQ1_0, TQ2_0             Q2_K   the same numbers
//   NVFP4                    Q6_K   the same numbers, unless a scale is below an eighth of the greatest of its 256 columns: it is
//   then
//                                   rounded to 1 / 120 of that one. Where rows are not whole blocks of 256: F16, the same numbers
// (The scale of a superblock is a half, times a power of two here; it is rounded only where that makes it less than 2^-14.)
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "loader/internal.h"

static void write_u16(uint8_t *p, uint16_t value) {
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

static void write_half(uint8_t *p, float value) {
    write_u16(p, pm_f32_to_f16(value));
}

// Puts 2 bits of each of 256 values where Q2_K, Q3_K and Q6_K have them.
static void put_pair(uint8_t *p, int i, int bits) {
    p[i / 128 * 32 + i % 32] |= (uint8_t)(bits << (i % 128 / 32 * 2));
}

static void pack_iq2(const pm_grid_block *b, uint8_t *out) {
    for (int i = 0; i < 256; i++) {
        int size = b->quants[i] < 0 ? -b->quants[i] : b->quants[i];
        put_pair(out, i, (size - 8) / 17);
        out[64 + i % 32] |= (uint8_t)((b->quants[i] < 0) << (i / 32));
    }
    for (int i = 0; i < 16; i++)
        out[96 + i / 2] |= (uint8_t)((b->scales[i] - 1) / 2 << (i % 2 * 4));
    write_half(out + 104, b->scale * 8);
}

static void pack_q6_k(const pm_grid_block *b, uint8_t *out) {
    for (int i = 0; i < 256; i++) {
        int q = b->quants[i] + 32;
        out[i / 128 * 64 + i % 64] |= (uint8_t)((q & 15) << (i % 128 / 64 * 4));
        put_pair(out + 128, i, q >> 4);
    }
    memcpy(out + 192, b->scales, 16);
    write_half(out + 208, b->scale);
}

static void pack_halved_q6_k(const pm_grid_block *b, uint8_t *out) {
    pm_grid_block half = *b;
    for (int i = 0; i < 256; i++)
        half.quants[i] /= 2;
    half.scale *= 2;
    pack_q6_k(&half, out);
}

// Scale and minimum of 32 columns are one number of at most 31: the high 2 bits of those of blocks 4 to 7 stand elsewhere.
static void pack_q4_k(const pm_grid_block *b, uint8_t *out) {
    write_half(out, b->scale * 2);
    write_half(out + 2, b->scale * 15);
    for (int i = 0; i < 4; i++) {
        int first = b->scales[2 * i], second = b->scales[2 * i + 8];
        out[4 + i] = out[8 + i] = (uint8_t)(first | second >> 4 << 6);
        out[12 + i] = (uint8_t)((second & 15) * 17);
    }
    for (int i = 0; i < 256; i++)
        out[16 + i / 64 * 32 + i % 32] |= (uint8_t)((b->quants[i] + 15) / 2 << (i / 32 % 2 * 4));
}

static void pack_q2_k(const pm_grid_block *b, uint8_t *out) {
    memset(out, 0x11, 16);
    for (int i = 0; i < 256; i++)
        put_pair(out + 16, i, b->quants[i] + 1);
    write_half(out + 80, b->scale);
    write_half(out + 82, b->scale);
}

// Four blocks of NVFP4. A scale has 4 bits: as a multiple of 2^-7 of the power of two above the greatest it is at most 120.
static void pack_nvfp4(const uint8_t *src, uint8_t *out) {
    pm_grid_block b = {0};
    float scales[16], greatest = 0;
    int exponent;
    for (int i = 0; i < 16; i++) {
        scales[i] = pm_nvfp4_unpack(src + i / 4 * 36, i % 4, b.quants + 16 * i);
        greatest = scales[i] > greatest ? scales[i] : greatest;
    }
    frexpf(greatest, &exponent);
    b.scale = ldexpf(1, exponent - 7);
    for (int i = 0; i < 16; i++)
        b.scales[i] = (int8_t)lrintf(scales[i] / b.scale);
    pack_q6_k(&b, out);
}

// ---- rows ---------------------------------------------------------------------------------------------------------------

typedef struct target {
    pm_dtype dtype;
    void (*pack)(const pm_grid_block *block, uint8_t *out);
} target;

static const target targets[] = {
    [PM_IQ2_XXS - PM_DTYPE_COUNT] = {PM_IQ2, pack_iq2},
    [PM_IQ2_XS - PM_DTYPE_COUNT] = {PM_IQ2, pack_iq2},
    [PM_IQ2_S - PM_DTYPE_COUNT] = {PM_IQ2, pack_iq2},
    [PM_IQ1_M - PM_DTYPE_COUNT] = {PM_Q6_K, pack_q6_k},
    [PM_IQ3_XXS - PM_DTYPE_COUNT] = {PM_Q6_K, pack_halved_q6_k},
    [PM_IQ3_S - PM_DTYPE_COUNT] = {PM_Q4_K, pack_q4_k},
    [PM_IQ1_S - PM_DTYPE_COUNT] = {PM_Q4_K, pack_q4_k},
    [PM_TQ1_0 - PM_DTYPE_COUNT] = {PM_Q2_K, pack_q2_k},
    [PM_TQ2_0 - PM_DTYPE_COUNT] = {PM_Q2_K, pack_q2_k},
    [PM_NVFP4 - PM_DTYPE_COUNT] = {PM_Q6_K, NULL},
};

static void make_halves(pm_dtype from, const uint8_t *src, uint32_t n, uint8_t *out) {
    float values[PM_VIEW_COLS];
    pm_dequant(from, src, values, n);
    for (uint32_t i = 0; i < n; i++)
        write_half(out + 2 * i, values[i]);
}

static void make_blocks(const pm_made *made, const uint8_t *src, uint32_t n_cols, uint8_t *out) {
    pm_grid_block block;
    if (made->to == PM_F16) {
        make_halves(made->from, src, n_cols, out);
        return;
    }
    memset(out, 0, pm_dtype_get(made->to)->block_bytes);
    if (made->from == PM_NVFP4) {
        pack_nvfp4(src, out);
        return;
    }
    pm_grid_unpack(made->from, src, &block);
    targets[made->from - PM_DTYPE_COUNT].pack(&block, out);
}

static size_t bytes_of(pm_dtype dtype, uint64_t cols) {
    return (size_t)(cols / pm_dtype_get(dtype)->block_elements) * pm_dtype_get(dtype)->block_bytes;
}

static void read_repacked(const pm_made *made, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *out) {
    for (uint32_t i = 0; i < n_rows; i++, out += bytes_of(made->to, n_cols))
        make_blocks(made, made->data + (row + (size_t)i) * bytes_of(made->from, made->cols) + bytes_of(made->from, col), n_cols,
                    out);
}

pm_status pm_repack(pm_file *file, const char *path, pm_tensor_view *view) {
    pm_dtype from = view->dtype;
    uint64_t cols = view->dims[view->n_dims - 1];
    if (view->n_dims < 2)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: tensor %s: a vector of type %s", path, view->name, pm_dtype_get(from)->name);
    pm_made *made = pm_arena_alloc(&file->arena, sizeof(*made));
    if (!made)
        return pm_no_memory(path);
    view->dtype = from == PM_NVFP4 && cols % 256 ? PM_F16 : targets[from - PM_DTYPE_COUNT].dtype;
    *made = (pm_made){.read = read_repacked, .from = from, .to = view->dtype, .cols = cols, .data = view->data, .size = view->size};
    view->made = made;
    view->data = NULL;
    return PM_OK;
}

// ---- the face -------------------------------------------------------------------------------------------------------------

void pm_view_read(const pm_tensor_view *view, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *out) {
    view->made->read(view->made, row, n_rows, col, n_cols, out);
}

// Columns [col, col + n) of a row that is made, col a multiple of PM_VIEW_COLS: from the file's own blocks where it has such.
static void made_floats(const pm_tensor_view *view, uint32_t row, uint32_t col, uint32_t n, float *values) {
    const pm_made *made = view->made;
    uint8_t blocks[PM_VIEW_BYTES];
    if (made->from >= PM_DTYPE_COUNT) {
        pm_dequant(made->from, made->data + row * bytes_of(made->from, made->cols) + bytes_of(made->from, col), values, n);
        return;
    }
    made->read(made, row, 1, col, n, blocks);
    pm_dequant(view->dtype, blocks, values, n);
}

void pm_view_floats(const pm_tensor_view *view, uint64_t first, uint64_t n, float *values) {
    float strip[PM_VIEW_COLS];
    if (!view->made) {
        pm_dequant(view->dtype, view->data + bytes_of(view->dtype, first), values, (size_t)n);
        return;
    }
    for (uint64_t i = first, cols = view->made->cols; i < first + n;) {
        uint32_t col = (uint32_t)(i % cols), start = col / PM_VIEW_COLS * PM_VIEW_COLS;
        uint32_t width = cols - start < PM_VIEW_COLS ? (uint32_t)(cols - start) : PM_VIEW_COLS;
        uint64_t count = start + width - col < first + n - i ? start + width - col : first + n - i;
        made_floats(view, (uint32_t)(i / cols), start, width, strip);
        memcpy(values + (i - first), strip + (col - start), count * sizeof(*values));
        i += count;
    }
}

// "IQ2_XS as IQ2, IQ3_S as Q4_K"
void pm_repack_tell(const pm_file *file, const char *path) {
    char text[512] = "";
    size_t n = 0;
    for (int d = PM_DTYPE_COUNT; d < PM_ALL_DTYPE_COUNT; d++)
        for (size_t i = 0; i < file->n_tensors; i++) {
            const pm_made *made = file->tensors[i].made;
            if (!made || made->from != (pm_dtype)d || n >= sizeof(text))
                continue;
            n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s as %s", n ? ", " : "", pm_dtype_get(made->from)->name,
                                  pm_dtype_get(made->to)->name);
            break;
        }
    if (n)
        pm_log(PM_LOG_WARN, "%s: tensors of types that no kernel reads run repacked: %s", path, text);
}
