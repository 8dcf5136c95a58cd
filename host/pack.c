// File blocks -> device layout, and the way there. The layout, which shaders/weights.glsl reads: a row is ceil(cols / 32) blocks of
// 32 columns, zero where the row ends before its last block, in two planes:
//   data    F32 128 bytes a block, F16 and BF16 64, Q8_0 32 (signed bytes), Q4_0 16 (word w holds columns 8w .. 8w + 7, the lowest
//           nibble first, each q - 8 as a signed nibble); always whole 16-byte words, so that a lane loads 128 bits at a time
//   scales  Q8_0 and Q4_0: the blocks' scales as halves, a row padded to whole 32-bit words
#include <math.h>
#include <string.h>

#include "host/host.h"
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

static bool has_scales(pm_dtype dtype) {
    return dtype == PM_Q8_0 || dtype == PM_Q4_0;
}

static uint32_t packed_row_bytes(pm_dtype dtype, uint32_t cols) {
    static const uint32_t block_bytes[PM_DTYPE_COUNT] = {
        [PM_F32] = 128, [PM_F16] = 64, [PM_BF16] = 64, [PM_Q8_0] = 32, [PM_Q4_0] = 16};
    return (cols + PM_BLOCK - 1) / PM_BLOCK * block_bytes[dtype];
}

static uint32_t scale_row_bytes(pm_dtype dtype, uint32_t cols) {
    uint32_t blocks = (cols + PM_BLOCK - 1) / PM_BLOCK;
    return has_scales(dtype) ? (blocks + 1) / 2 * 4 : 0;
}

uint64_t pm_packed_bytes(pm_dtype dtype, uint64_t rows, uint64_t cols) {
    return rows * ((uint64_t)packed_row_bytes(dtype, (uint32_t)cols) + scale_row_bytes(dtype, (uint32_t)cols));
}

// ---- one row ----------------------------------------------------------------------------------------------------------

static uint16_t read_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static void pack_q8_0(const uint8_t *src, uint32_t blocks, uint8_t *data, uint8_t *scales) {
    for (uint32_t b = 0; b < blocks; b++, src += 34) {
        memcpy(scales + 2 * b, src, 2);
        memcpy(data + 32 * b, src + 2, 32);
    }
}

// ggml's block: a half, then 16 bytes whose low nibbles are columns 0..15 and high nibbles columns 16..31, as q + 8.
static void pack_q4_0(const uint8_t *src, uint32_t blocks, uint8_t *data, uint8_t *scales) {
    for (uint32_t b = 0; b < blocks; b++, src += 18, data += 16) {
        memcpy(scales + 2 * b, src, 2);
        const uint8_t *q = src + 2;
        for (int i = 0; i < 8; i++) {
            data[i] = (uint8_t)(((q[2 * i] & 15) | (q[2 * i + 1] & 15) << 4) ^ 0x88);
            data[8 + i] = (uint8_t)((q[2 * i] >> 4 | (q[2 * i + 1] & 0xf0)) ^ 0x88);
        }
    }
}

// The values of a file's row, for what must change its type.
static float element(pm_dtype dtype, const uint8_t *row, uint32_t i) {
    const uint8_t *block;
    float f;
    switch (dtype) {
    case PM_F32:
        memcpy(&f, row + (size_t)i * 4, 4);
        return f;
    case PM_F16:
        return pm_f16_to_f32(read_u16(row + (size_t)i * 2));
    case PM_BF16:
        return pm_bf16_to_f32(read_u16(row + (size_t)i * 2));
    case PM_Q8_0:
        block = row + i / 32 * 34;
        return pm_f16_to_f32(read_u16(block)) * (float)(int8_t)block[2 + i % 32];
    case PM_Q4_0:
        block = row + i / 32 * 18;
        return pm_f16_to_f32(read_u16(block)) * (float)((block[2 + i % 16] >> (i % 32 / 16 * 4) & 15) - 8);
    default:
        return 0;
    }
}

static void convert_row(pm_dtype from, const uint8_t *src, pm_dtype to, uint32_t cols, uint8_t *data) {
    for (uint32_t i = 0; i < cols; i++) {
        float f = element(from, src, i);
        uint16_t h = pm_f32_to_f16(f);
        if (to == PM_F32)
            memcpy(data + (size_t)i * 4, &f, 4);
        else
            memcpy(data + (size_t)i * 2, &h, 2);
    }
}

static size_t file_row_bytes(pm_dtype dtype, uint32_t cols) {
    const pm_dtype_info *info = pm_dtype_get(dtype);
    return (size_t)(cols / info->block_elements) * info->block_bytes;
}

static void pack_row(const job *j, uint32_t row, uint8_t *data, uint8_t *scales) {
    const pm_pack_part *part = j->parts;
    if (j->order == PM_PACK_INTERLEAVED) {
        part += row % (uint32_t)j->n_parts;
        row /= (uint32_t)j->n_parts;
    } else {
        while (row >= part->rows)
            row -= part++->rows;
    }
    size_t file_row = file_row_bytes(part->dtype, j->cols);
    const uint8_t *src = (const uint8_t *)part->data + (size_t)row * file_row;
    uint32_t blocks = j->cols / PM_BLOCK, used = part->dtype == j->dtype ? (uint32_t)file_row : j->data_row;

    if (part->dtype != j->dtype) {
        memset(data, 0, j->data_row);
        convert_row(part->dtype, src, j->dtype, j->cols, data);
    } else if (j->dtype == PM_Q8_0) {
        pack_q8_0(src, blocks, data, scales);
    } else if (j->dtype == PM_Q4_0) {
        pack_q4_0(src, blocks, data, scales);
    } else {
        memcpy(data, src, used);
        memset(data + used, 0, j->data_row - used);
    }
    if (j->scale_row > blocks * 2)
        memset(scales + blocks * 2, 0, j->scale_row - blocks * 2);
}

// ---- many rows --------------------------------------------------------------------------------------------------------

enum { ROWS_A_TASK = 256 };

static void pack_task(void *user, int task) {
    const job *j = user;
    uint32_t begin = (uint32_t)task * ROWS_A_TASK;
    uint32_t end = begin + ROWS_A_TASK < j->count ? begin + ROWS_A_TASK : j->count;
    for (uint32_t i = begin; i < end; i++)
        pack_row(j, j->first + i, j->data + (size_t)i * j->data_row, j->scales ? j->scales + (size_t)i * j->scale_row : NULL);
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
    uint32_t step = STAGING_BYTES / row_bytes / 4 * 4; // 4 rows: both planes stay multiples of 16 bytes
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

static bool fits_f16(const pm_pack_part *part, uint32_t cols) {
    if (part->dtype != PM_F32 && part->dtype != PM_BF16)
        return true;
    size_t file_row = file_row_bytes(part->dtype, cols);
    for (uint32_t r = 0; r < part->rows; r++)
        for (uint32_t c = 0; c < cols; c++)
            if (!(fabsf(element(part->dtype, (const uint8_t *)part->data + r * file_row, c)) <= 65504.0f))
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
    for (int i = 0; i < n_parts; i++) {
        if (cols % pm_dtype_get(parts[i].dtype)->block_elements != 0)
            return pm_fail(PM_ERR_FILE, "a row of %u columns is not whole blocks of %s", cols, pm_dtype_get(parts[i].dtype)->name);
        if (order == PM_PACK_INTERLEAVED && parts[i].rows != parts[0].rows)
            return pm_fail(PM_ERR_FILE, "matrices of %u and %u rows cannot be interleaved", parts[0].rows, parts[i].rows);
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
    for (int i = 0; i < n_parts; i++)
        for (uint32_t k = 0; k < parts[i].rows; k++)
            *to++ = element(parts[i].dtype, parts[i].data, k);
    pm_pack_part row = {values, PM_F32, 1};
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
        PM_TRY(pm_cmd_end(cmd));
        PM_TRY(pm_cmd_submit(cmd));
        PM_TRY(pm_cmd_wait(cmd));
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
