// File blocks -> device layout, and the way there. Quants and scales stay what the file has, bit for bit; only their order changes.
// The layout, which shaders/weights.glsl reads: a row is ceil(cols / 32) blocks of 32 columns, zero where the row ends before its
// last block, in two planes, each column's bits above those of the column before it:
//   data    the low bits of all blocks of the row, then their high bits; both padded to whole 16-byte words
//   scales  for each block (superblock of 256 columns where the type has those) its scales, then those of the superblocks' scales
//           as halves; padded to whole 32-bit words
// A block's bytes of low bits + high bits, and its scales:
//   F32 128, F16 and BF16 64    none
//   Q8_0 32, Q4_0 16            half; Q4_0's nibbles hold q - 8, signed
//   Q5_0 16 + 4, IQ4_NL 16      half
//   Q4_1 16, Q5_1 16 + 4        half scale, half minimum
//   FP8 32                      one for four blocks, in which it is the same: a float
//   AWQ 16                      one for four blocks, in which it is the same: half scale, 16 bits of zero point
//   MXFP4 16                    a byte, the exponent
//   IQ4_XS 16                   superblock: half, 8 x the scale's high 2 bits, 8 x its low 4 bits
//   Q4_K 16, Q5_K 16 + 4        superblock: half scale of the scales, half of the minima, 8 x the low 4 bits of the scales and 8 x
//                               of the minima, 8 x the high 2 bits of the scales and 8 x of the minima
//   Q6_K 16 + 8                 superblock: 16 signed bytes, one for each half block; half
//   Q3_K 8 + 4                  superblock: 16 x the low 4 bits, 16 x the high 2 bits; half
//   IQ2 8 + 4                   superblock: 16 x 4 bits; half
//   Q2_K 8                      superblock: 16 bytes of scale and, above, minimum; half scale of the scales, half of the minima
#include <assert.h>
#include <math.h>
#include <string.h>

#include "host/host.h"
#include "host/reference.h"
#include "shaders/abi.h"

enum { STAGING_BYTES = 16 << 20, N_STAGING = 2 };

typedef struct staging {
    pm_buffer *buffer;
    pm_cmd *cmd;
} staging;

struct pm_packer {
    pm_device *dev;
    pm_slabs *slabs;
    staging ring[N_STAGING];
    int turn;
};

// A matrix on its way: where rows come from and where they go.
typedef struct job {
    const pm_pack_part *parts;
    int n_parts;
    pm_pack_order order;
    pm_dtype dtype; // on the device
    uint32_t cols, rows;
    uint32_t data_row, scale_row; // bytes of a packed row in each plane
    uint32_t first, count;        // the rows to pack now
    uint8_t *data, *scales;       // where row `first` goes
} job;

// ---- one block --------------------------------------------------------------------------------------------------------

// Where a block of a file, or a superblock, goes.
typedef struct target {
    uint8_t *low, *high, *scales, *halves;
} target;

// out = the `n_bits` bits at `shift` of each of n bytes, side by side. What is written is never read: it may be a device's memory.
static inline void gather(const uint8_t *restrict src, int n, int shift, int n_bits, uint8_t *restrict out) {
    int each = 8 / n_bits, mask = (1 << n_bits) - 1;
    for (int i = 0; i < n; i += each) {
        int byte = 0;
        for (int k = 0; k < each; k++)
            byte |= (src[i + k] >> shift & mask) << (k * n_bits);
        *out++ = (uint8_t)byte;
    }
}

// ggml's 32 nibbles: 16 bytes whose low halves are columns 0..15 and high halves columns 16..31.
static void pack_nibbles(const uint8_t *src, uint8_t *low) {
    gather(src, 16, 0, 4, low);
    gather(src, 16, 4, 4, low + 8);
}

static void pack_q8_0(const uint8_t *src, const target *to) {
    memcpy(to->scales, src, 2);
    memcpy(to->low, src + 2, 32);
}

static void pack_q4_0(const uint8_t *src, const target *to) {
    uint8_t quants[16];
    memcpy(to->scales, src, 2);
    for (int i = 0; i < 16; i++)
        quants[i] = src[2 + i] ^ 0x88;
    pack_nibbles(quants, to->low);
}

static void pack_q4_1(const uint8_t *src, const target *to) {
    memcpy(to->scales, src, 4);
    pack_nibbles(src + 4, to->low);
}

static void pack_q5_0(const uint8_t *src, const target *to) {
    memcpy(to->scales, src, 2);
    memcpy(to->high, src + 2, 4);
    pack_nibbles(src + 6, to->low);
}

static void pack_q5_1(const uint8_t *src, const target *to) {
    memcpy(to->scales, src, 4);
    memcpy(to->high, src + 4, 4);
    pack_nibbles(src + 8, to->low);
}

static void pack_iq4_nl(const uint8_t *src, const target *to) {
    memcpy(to->scales, src, 2);
    pack_nibbles(src + 2, to->low);
}

static void pack_mxfp4(const uint8_t *src, const target *to) {
    to->scales[0] = src[0];
    pack_nibbles(src + 1, to->low);
}

static void pack_fp8(const uint8_t *src, const target *to) {
    memcpy(to->scales, src, 4);
    memcpy(to->low, src + 4, 32);
}

static void pack_awq(const uint8_t *src, const target *to) {
    memcpy(to->scales, src, 4);
    pack_nibbles(src + 4, to->low);
}

static void pack_iq4_xs(const uint8_t *src, const target *to) {
    memcpy(to->scales, src, 8);
    for (int b = 0; b < 8; b++)
        pack_nibbles(src + 8 + 16 * b, to->low + 16 * b);
}

// Two bits of each of 256 columns: those of four blocks share 32 bytes.
static void pack_pairs(const uint8_t *src, uint8_t *out) {
    for (int b = 0; b < 8; b++)
        gather(src + b / 4 * 32, 32, b % 4 * 2, 2, out + 8 * b);
}

// A bit of each of 256 columns: those of all eight blocks share 32 bytes.
static void pack_bits(const uint8_t *src, uint8_t *out) {
    for (int b = 0; b < 8; b++)
        gather(src, 32, b, 1, out + 4 * b);
}

// 12 bytes of 8 scales and 8 minima: four of each as 6 bits, then the low 4 bits of the others, whose high 2 stand above those of
// the first four.
static void pack_six_bits(const uint8_t *src, uint8_t *out) {
    uint8_t scales[8], minima[8];
    for (int i = 0; i < 4; i++) {
        scales[i] = src[i] & 63;
        minima[i] = src[4 + i] & 63;
        scales[4 + i] = (uint8_t)((src[8 + i] & 15) | src[i] >> 6 << 4);
        minima[4 + i] = (uint8_t)(src[8 + i] >> 4 | src[4 + i] >> 6 << 4);
    }
    gather(scales, 8, 0, 4, out);
    gather(minima, 8, 0, 4, out + 4);
    gather(scales, 8, 4, 2, out + 8);
    gather(minima, 8, 4, 2, out + 10);
}

static void pack_q4_k(const uint8_t *src, const target *to) {
    memcpy(to->scales, src, 4);
    pack_six_bits(src + 4, to->scales + 4);
    for (int b = 0; b < 8; b++)
        gather(src + 16 + b / 2 * 32, 32, b % 2 * 4, 4, to->low + 16 * b);
}

static void pack_q5_k(const uint8_t *src, const target *to) {
    memcpy(to->scales, src, 4);
    pack_six_bits(src + 4, to->scales + 4);
    pack_bits(src + 16, to->high);
    for (int b = 0; b < 8; b++)
        gather(src + 48 + b / 2 * 32, 32, b % 2 * 4, 4, to->low + 16 * b);
}

static void pack_q6_k(const uint8_t *src, const target *to) {
    for (int b = 0; b < 8; b++)
        gather(src + b / 4 * 64 + b % 2 * 32, 32, b / 2 % 2 * 4, 4, to->low + 16 * b);
    pack_pairs(src + 128, to->high);
    memcpy(to->scales, src + 192, 16);
    memcpy(to->halves, src + 208, 2);
}

static void pack_q3_k(const uint8_t *src, const target *to) {
    pack_bits(src, to->high);
    pack_pairs(src + 32, to->low);
    gather(src + 96, 8, 0, 4, to->scales);
    gather(src + 96, 8, 4, 4, to->scales + 4);
    for (int i = 0; i < 4; i++) // a byte has the high bits of scales i, i + 4, i + 8, i + 12
        gather(src + 104, 4, 2 * i, 2, to->scales + 8 + i);
    memcpy(to->halves, src + 108, 2);
}

static void pack_q2_k(const uint8_t *src, const target *to) {
    memcpy(to->scales, src, 16);
    pack_pairs(src + 16, to->low);
    memcpy(to->halves, src + 80, 4);
}

static void pack_iq2(const uint8_t *src, const target *to) {
    pack_pairs(src, to->low);
    pack_bits(src + 64, to->high);
    memcpy(to->scales, src + 96, 8);
    memcpy(to->halves, src + 104, 2);
}

// ---- one row ----------------------------------------------------------------------------------------------------------

// Bytes on the device: of 32 columns in the data plane, of a block of the file in the plane of the scales.
typedef struct layout {
    uint8_t low, high;
    uint8_t scales, halves;
    void (*pack)(const uint8_t *src, const target *to); // NULL: copied as it is
    uint8_t shared;                                     // blocks of the file that have one scale, if more than one
} layout;

static const layout *layout_of(pm_dtype dtype) {
    static const layout layouts[PM_DTYPE_COUNT] = {
        [PM_F32] = {128, 0, 0, 0, NULL},        [PM_F16] = {64, 0, 0, 0, NULL},           [PM_BF16] = {64, 0, 0, 0, NULL},
        [PM_Q8_0] = {32, 0, 2, 0, pack_q8_0},   [PM_Q4_0] = {16, 0, 2, 0, pack_q4_0},     [PM_Q4_1] = {16, 0, 4, 0, pack_q4_1},
        [PM_Q5_0] = {16, 4, 2, 0, pack_q5_0},   [PM_Q5_1] = {16, 4, 4, 0, pack_q5_1},     [PM_Q2_K] = {8, 0, 16, 4, pack_q2_k},
        [PM_Q3_K] = {8, 4, 12, 2, pack_q3_k},   [PM_Q4_K] = {16, 0, 16, 0, pack_q4_k},    [PM_Q5_K] = {16, 4, 16, 0, pack_q5_k},
        [PM_Q6_K] = {16, 8, 16, 2, pack_q6_k},  [PM_IQ4_NL] = {16, 0, 2, 0, pack_iq4_nl}, [PM_IQ4_XS] = {16, 0, 8, 0, pack_iq4_xs},
        [PM_MXFP4] = {16, 0, 1, 0, pack_mxfp4}, [PM_FP8] = {32, 0, 4, 0, pack_fp8, 4},    [PM_AWQ] = {16, 0, 4, 0, pack_awq, 4},
        [PM_IQ2] = {8, 4, 8, 2, pack_iq2},
    };
    return &layouts[dtype];
}

static uint32_t n_blocks(uint32_t cols) {
    return (cols + PM_BLOCK - 1) / PM_BLOCK;
}

// Bytes of a row's low bits; its high bits stand behind them.
static uint32_t low_row_bytes(pm_dtype dtype, uint32_t cols) {
    return (uint32_t)pm_round_up((uint64_t)n_blocks(cols) * layout_of(dtype)->low, 16);
}

static uint32_t packed_row_bytes(pm_dtype dtype, uint32_t cols) {
    return low_row_bytes(dtype, cols) + (uint32_t)pm_round_up((uint64_t)n_blocks(cols) * layout_of(dtype)->high, 16);
}

// Entries of a row's plane of scales.
static uint32_t n_scales(pm_dtype dtype, uint32_t cols) {
    uint32_t blocks = (uint32_t)pm_round_up(cols, PM_BLOCK) / pm_dtype_get(dtype)->block_elements,
             shared = layout_of(dtype)->shared;
    return shared ? (blocks + shared - 1) / shared : blocks;
}

static uint32_t scale_row_bytes(pm_dtype dtype, uint32_t cols) {
    const layout *l = layout_of(dtype);
    return (uint32_t)pm_round_up((uint64_t)n_scales(dtype, cols) * (l->scales + l->halves), 4);
}

uint64_t pm_packed_bytes(pm_dtype dtype, uint64_t rows, uint64_t cols) {
    return rows * ((uint64_t)packed_row_bytes(dtype, (uint32_t)cols) + scale_row_bytes(dtype, (uint32_t)cols));
}

// Where a row goes.
typedef struct packed_row {
    uint8_t *data, *scales;
} packed_row;

// Columns [col, col + n) of a row, whole blocks of the type that the matrix has.
static void pack_blocks(const job *j, const uint8_t *src, uint32_t col, uint32_t n, packed_row row) {
    const layout *l = layout_of(j->dtype);
    const pm_dtype_info *info = pm_dtype_get(j->dtype);
    uint32_t first = col / info->block_elements, units = info->block_elements / PM_BLOCK; // of 32 columns in a block
    uint32_t shared = l->shared ? l->shared : 1;
    for (uint32_t b = first; b < first + n / info->block_elements; b++, src += info->block_bytes) {
        target to = {
            .low = row.data + (size_t)b * units * l->low,
            .high = row.data + low_row_bytes(j->dtype, j->cols) + (size_t)b * units * l->high,
            .scales = row.scales + (size_t)(b / shared) * l->scales,
            .halves = row.scales + (size_t)n_scales(j->dtype, j->cols) * l->scales + (size_t)b * l->halves,
        };
        l->pack(src, &to);
    }
}

enum { STRIP = 256 }; // columns: whole blocks of every type, and all blocks that share a scale

// Blocks of a file as floats or halves: for what must change its type.
static void convert(pm_dtype from, const uint8_t *src, pm_dtype to, uint32_t cols, uint8_t *data) {
    float values[STRIP];
    const pm_dtype_info *info = pm_dtype_get(from);
    for (uint32_t i = 0; i < cols; i += STRIP) {
        uint32_t n = cols - i < STRIP ? cols - i : STRIP;
        pm_ref_decode(from, src + (size_t)(i / info->block_elements) * info->block_bytes, n, values);
        for (uint32_t k = 0; k < n; k++) {
            uint16_t h = pm_f32_to_f16(values[k]);
            if (to == PM_F32)
                memcpy(data + (size_t)(i + k) * 4, &values[k], 4);
            else
                memcpy(data + (size_t)(i + k) * 2, &h, 2);
        }
    }
}

static size_t file_row_bytes(pm_dtype dtype, uint32_t cols) {
    const pm_dtype_info *info = pm_dtype_get(dtype);
    return (size_t)(cols / info->block_elements) * info->block_bytes;
}

// Columns [col, col + n) of a row, of which `src` has whole blocks of type `from`.
static void pack_columns(const job *j, pm_dtype from, const uint8_t *src, uint32_t col, uint32_t n, packed_row row) {
    size_t element = pm_dtype_get(j->dtype)->block_bytes;
    if (layout_of(j->dtype)->pack)
        pack_blocks(j, src, col, n, row);
    else if (from == j->dtype)
        memcpy(row.data + col * element, src, n * element);
    else
        convert(from, src, j->dtype, n, row.data + col * element);
}

// What stands behind the last column is zero.
static void finish_row(const job *j, packed_row row) {
    const layout *l = layout_of(j->dtype);
    const pm_dtype_info *info = pm_dtype_get(j->dtype);
    uint32_t blocks = j->cols / info->block_elements;
    size_t used = (size_t)j->cols * info->block_bytes; // in a plane without scales
    if (l->pack)
        used = low_row_bytes(j->dtype, j->cols) + (size_t)blocks * (info->block_elements / PM_BLOCK) * l->high;
    memset(row.data + used, 0, j->data_row - used);
    used = (size_t)n_scales(j->dtype, j->cols) * l->scales + (size_t)blocks * l->halves;
    if (row.scales)
        memset(row.scales + used, 0, j->scale_row - used);
}

// ---- many rows --------------------------------------------------------------------------------------------------------

enum { ROWS_A_TASK = 256, ROWS_A_TILE = 32, STRIP_BYTES = STRIP * 4 };

// Row `row` of the matrix, which is one of those to pack now.
static packed_row target_row(const job *j, uint32_t row) {
    size_t i = row - j->first;
    return (packed_row){j->data + i * j->data_row, j->scales ? j->scales + i * j->scale_row : NULL};
}

// Rows [first, first + n) of part number p, of which row r is row r * step + row0 of the matrix.
typedef struct run {
    const pm_pack_part *part;
    uint32_t first, n, row0, step;
} run;

// Those of part number p among the rows [begin, end) of the matrix; `before`: rows of the parts before it.
static run find_run(const job *j, int p, uint32_t before, uint32_t begin, uint32_t end) {
    const pm_pack_part *part = &j->parts[p];
    if (j->order == PM_PACK_INTERLEAVED) {
        uint32_t row0 = p % 2 ? before - part->rows + 1 : before; // a pair has equal parts
        uint32_t from = begin > row0 ? (begin - row0 + 1) / 2 : 0, to = end > row0 ? (end - row0 + 1) / 2 : 0;
        to = to < part->rows ? to : part->rows;
        return (run){part, from, to > from ? to - from : 0, row0, 2};
    }
    uint32_t last = before + part->rows < end ? before + part->rows : end;
    uint32_t first = before > begin ? before : begin;
    return (run){part, first - before, last > first ? last - first : 0, before, 1};
}

static void pack_run(const job *j, const run *r) {
    size_t row_bytes = file_row_bytes(r->part->dtype, j->cols);
    for (uint32_t i = r->first; i < r->first + r->n; i++) {
        packed_row row = target_row(j, i * r->step + r->row0);
        pack_columns(j, r->part->dtype, (const uint8_t *)r->part->data + i * row_bytes, 0, j->cols, row);
        finish_row(j, row);
    }
}

// The same where the part makes its rows: some rows at a time, some columns of them.
static void pack_made_run(const job *j, const run *r) {
    uint8_t tile[ROWS_A_TILE * STRIP_BYTES];
    for (uint32_t i = 0; i < r->n; i += ROWS_A_TILE) {
        uint32_t n = r->n - i < ROWS_A_TILE ? r->n - i : ROWS_A_TILE;
        for (uint32_t col = 0; col < j->cols; col += STRIP) {
            uint32_t n_cols = j->cols - col < STRIP ? j->cols - col : STRIP;
            r->part->read(r->part->data, r->part->row0 + r->first + i, n, col, n_cols, tile);
            for (uint32_t k = 0; k < n; k++)
                pack_columns(j, r->part->dtype, tile + k * file_row_bytes(r->part->dtype, n_cols), col, n_cols,
                             target_row(j, (r->first + i + k) * r->step + r->row0));
        }
        for (uint32_t k = 0; k < n; k++)
            finish_row(j, target_row(j, (r->first + i + k) * r->step + r->row0));
    }
}

static void pack_task(void *user, int task) {
    const job *j = user;
    uint32_t begin = (uint32_t)task * ROWS_A_TASK, before = 0;
    uint32_t end = begin + ROWS_A_TASK < j->count ? begin + ROWS_A_TASK : j->count;
    for (int p = 0; p < j->n_parts; before += j->parts[p++].rows) {
        run r = find_run(j, p, before, j->first + begin, j->first + end);
        if (r.part->read)
            pack_made_run(j, &r);
        else
            pack_run(j, &r);
    }
}

static void pack_rows(job *j, uint32_t first, uint32_t count, void *data, void *scales) {
    j->first = first;
    j->count = count;
    j->data = data;
    j->scales = scales;
    pm_parallel_for((int)((count + ROWS_A_TASK - 1) / ROWS_A_TASK), pack_task, j);
}

static pm_slice part_of(pm_slice slice, uint64_t offset, uint64_t size) {
    return (pm_slice){slice.buffer, slice.offset + offset, size};
}

// Rows go through the two staging buffers in turn: one is packed while the other is copied.
static pm_status stream_rows(pm_packer *packer, job *j, pm_slice data, pm_slice scales) {
    uint32_t row_bytes = j->data_row + j->scale_row;
    uint32_t step = STAGING_BYTES / row_bytes / 4 * 4; // 4 rows of scales are whole 16-byte words, as each row of data is
    if (step == 0)
        return pm_fail(PM_ERR_UNSUPPORTED, "a weight row of %u bytes does not fit the staging buffer", row_bytes);
    for (uint32_t first = 0; first < j->rows; first += step) {
        uint32_t count = j->rows - first < step ? j->rows - first : step;
        staging *s = &packer->ring[packer->turn++ % N_STAGING];
        PM_TRY(pm_cmd_wait(s->cmd));
        uint64_t data_bytes = (uint64_t)count * j->data_row, scale_bytes = (uint64_t)count * j->scale_row;
        uint8_t *mapped = pm_slice_map(pm_buffer_all(s->buffer));
        pack_rows(j, first, count, mapped, j->scale_row ? mapped + data_bytes : NULL);

        pm_cmd_begin(s->cmd);
        pm_cmd_copy(s->cmd, part_of(data, (uint64_t)first * j->data_row, data_bytes), pm_buffer_slice(s->buffer, 0, data_bytes));
        if (scale_bytes)
            pm_cmd_copy(s->cmd, part_of(scales, (uint64_t)first * j->scale_row, scale_bytes),
                        pm_buffer_slice(s->buffer, data_bytes, scale_bytes));
        PM_TRY(pm_cmd_end(s->cmd));
        PM_TRY(pm_cmd_submit(s->cmd));
    }
    return PM_OK;
}

static pm_status upload(pm_packer *packer, job *j, pm_tensor *out) {
    PM_TRY(pm_slabs_alloc(packer->slabs, (uint64_t)j->rows * j->data_row, &out->data));
    if (j->scale_row)
        PM_TRY(pm_slabs_alloc(packer->slabs, (uint64_t)j->rows * j->scale_row, &out->scales));
    void *data = pm_slice_map(out->data);
    if (!data)
        return stream_rows(packer, j, out->data, out->scales);
    pack_rows(j, 0, j->rows, data, j->scale_row ? pm_slice_map(out->scales) : NULL);
    return PM_OK;
}

// ---- types ------------------------------------------------------------------------------------------------------------

static bool row_fits_f16(const pm_pack_part *part, uint32_t row, uint32_t cols) {
    const uint8_t *src = (const uint8_t *)part->data + row * file_row_bytes(part->dtype, cols);
    uint8_t made[STRIP_BYTES];
    float values[STRIP];
    for (uint32_t col = 0; col < cols; col += STRIP) {
        uint32_t n = cols - col < STRIP ? cols - col : STRIP;
        if (part->read)
            part->read(part->data, part->row0 + row, 1, col, n, made);
        pm_ref_decode(part->dtype, part->read ? made : src + file_row_bytes(part->dtype, col), n, values);
        for (uint32_t k = 0; k < n; k++)
            if (!(fabsf(values[k]) <= 65504.0f))
                return false;
    }
    return true;
}

static bool fits_f16(const pm_pack_part *part, uint32_t cols) {
    for (uint32_t row = 0; row < part->rows; row++)
        if (!row_fits_f16(part, row, cols))
            return false;
    return true;
}

static pm_dtype common_dtype(const pm_pack_part *parts, int n_parts, uint32_t cols) {
    bool same = true, fits = true;
    for (int i = 1; i < n_parts; i++)
        same = same && parts[i].dtype == parts[0].dtype;
    if (same)
        return parts[0].dtype;
    for (int i = 0; i < n_parts; i++)
        fits = fits && fits_f16(&parts[i], cols);
    return fits ? PM_F16 : PM_F32;
}

pm_status pm_pack_matrix(pm_packer *packer, const pm_pack_part *parts, int n_parts, uint32_t cols, pm_pack_order order,
                         pm_tensor *out) {
    uint32_t rows = 0;
    assert(order != PM_PACK_INTERLEAVED || n_parts % 2 == 0);
    for (int i = 0; i < n_parts; i++) {
        if (cols % pm_dtype_get(parts[i].dtype)->block_elements != 0)
            return pm_fail(PM_ERR_FILE, "a row of %u columns is not whole blocks of %s", cols, pm_dtype_get(parts[i].dtype)->name);
        if (order == PM_PACK_INTERLEAVED && i % 2 && parts[i].rows != parts[i - 1].rows)
            return pm_fail(PM_ERR_FILE, "matrices of %u and %u rows cannot be interleaved", parts[i - 1].rows, parts[i].rows);
        rows += parts[i].rows;
    }
    pm_dtype dtype = common_dtype(parts, n_parts, cols);
    job j = {.parts = parts, .n_parts = n_parts, .order = order, .dtype = dtype, .cols = cols, .rows = rows};
    j.data_row = packed_row_bytes(dtype, cols);
    j.scale_row = scale_row_bytes(dtype, cols);
    *out = (pm_tensor){.dtype = dtype, .rows = rows, .cols = cols, .stride = (uint32_t)pm_round_up(cols, PM_BLOCK)};
    return upload(packer, &j, out);
}

// The parts as columns of one row of floats: packed as a job whose only part is that row.
pm_status pm_pack_vector(pm_packer *packer, const pm_pack_part *parts, int n_parts, pm_tensor *out) {
    uint32_t n = 0;
    for (int i = 0; i < n_parts; i++)
        n += parts[i].rows;
    float *values = pm_calloc(n, sizeof *values);
    if (!values)
        return pm_fail(PM_ERR_MEMORY, "no memory for a vector of %u values", n);
    float *to = values;
    for (int i = 0; i < n_parts; to += parts[i++].rows)
        pm_ref_decode(parts[i].dtype, parts[i].data, parts[i].rows, to);
    pm_pack_part row = {.data = values, .dtype = PM_F32, .rows = 1};
    pm_status status = pm_pack_matrix(packer, &row, 1, n, PM_PACK_STACKED, out);
    pm_free(values);
    return status;
}

// ---- the packer -------------------------------------------------------------------------------------------------------

pm_status pm_packer_open(pm_device *dev, pm_slabs *slabs, pm_packer **packer) {
    pm_packer *p = pm_calloc(1, sizeof *p);
    *packer = p;
    if (!p)
        return pm_fail(PM_ERR_MEMORY, "no memory for the packer");
    p->dev = dev;
    p->slabs = slabs;
    pm_status status = PM_OK;
    for (int i = 0; i < N_STAGING && status == PM_OK; i++) {
        status = pm_buffer_create(dev, STAGING_BYTES, PM_MEM_UPLOAD, "staging", &p->ring[i].buffer);
        if (status == PM_OK)
            status = pm_cmd_open(dev, "upload", &p->ring[i].cmd);
    }
    if (status != PM_OK)
        pm_packer_close(packer);
    return status;
}

pm_status pm_packer_finish(pm_packer *packer) {
    for (int i = 0; i < N_STAGING; i++)
        PM_TRY(pm_cmd_wait(packer->ring[i].cmd));
    return PM_OK;
}

void pm_packer_close(pm_packer **packer) {
    pm_packer *p = *packer;
    if (!p)
        return;
    for (int i = 0; i < N_STAGING; i++) {
        pm_cmd_close(&p->ring[i].cmd);
        pm_buffer_close(&p->ring[i].buffer);
    }
    pm_free(p);
    *packer = NULL;
}

// ---- plain bytes ------------------------------------------------------------------------------------------------------

static pm_status write_through(pm_slice slice, const uint8_t *data, uint64_t size, pm_buffer *buffer, pm_cmd *cmd) {
    for (uint64_t at = 0; at < size; at += STAGING_BYTES) {
        uint64_t count = size - at < STAGING_BYTES ? size - at : STAGING_BYTES;
        memcpy(pm_slice_map(pm_buffer_all(buffer)), data + at, count);
        pm_cmd_begin(cmd);
        pm_cmd_copy(cmd, part_of(slice, at, count), pm_buffer_slice(buffer, 0, count));
        PM_TRY(pm_cmd_run(cmd));
    }
    return PM_OK;
}

pm_status pm_slice_write(pm_device *dev, pm_slice slice, const void *data, uint64_t size) {
    if (pm_slice_map(slice)) {
        memcpy(pm_slice_map(slice), data, size);
        return PM_OK;
    }
    pm_buffer *buffer = NULL;
    pm_cmd *cmd = NULL;
    pm_status status = pm_buffer_create(dev, size < STAGING_BYTES ? size : STAGING_BYTES, PM_MEM_UPLOAD, "write", &buffer);
    if (status == PM_OK)
        status = pm_cmd_open(dev, "write", &cmd);
    if (status == PM_OK)
        status = write_through(slice, data, size, buffer, cmd);
    pm_cmd_close(&cmd);
    pm_buffer_close(&buffer);
    return status;
}
