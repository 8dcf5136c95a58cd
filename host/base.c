// The portable half of the vocabulary: status, log, memory with injected failure, arena, checked sizes, data types.
#include "host/base.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_SIZE = 1024 };

// Names from hostile files end up in messages: no control character may reach the terminal, and a line is one line.
static void format_line(char *line, const char *format, va_list args) {
    if (vsnprintf(line, LINE_SIZE, format, args) < 0)
        line[0] = 0;
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

// ---- status -----------------------------------------------------------------------------------------------------------

static _Thread_local char error_line[LINE_SIZE];

pm_status pm_fail(pm_status status, const char *format, ...) {
    char line[LINE_SIZE]; // an argument may be pm_error_text() itself
    va_list args;
    va_start(args, format);
    format_line(line, format, args);
    va_end(args);
    memcpy(error_line, line, sizeof(line));
    return status;
}

const char *pm_error_text(void) {
    return error_line;
}

// ---- log --------------------------------------------------------------------------------------------------------------

static atomic_int log_level = PM_LOG_WARN;
static void (*log_sink)(pm_log_level level, const char *line, void *user);
static void *log_user;

void pm_log(pm_log_level level, const char *format, ...) {
    static const char *const prefix[] = {"error: ", "warning: ", "", "debug: "};
    if ((int)level > atomic_load(&log_level))
        return;

    char line[LINE_SIZE];
    va_list args;
    va_start(args, format);
    format_line(line, format, args);
    va_end(args);
    if (log_sink)
        log_sink(level, line, log_user);
    else
        fprintf(stderr, "%s%s\n", prefix[level], line);
}

void pm_log_set_level(pm_log_level level) {
    atomic_store(&log_level, (int)level);
}

void pm_log_to(void (*sink)(pm_log_level level, const char *line, void *user), void *user) {
    log_sink = sink;
    log_user = user;
}

// ---- memory -----------------------------------------------------------------------------------------------------------

static atomic_long alloc_count;
static atomic_long alloc_fail_from; // 0: never

static bool alloc_allowed(void) {
    long n = atomic_fetch_add(&alloc_count, 1) + 1;
    long from = atomic_load(&alloc_fail_from);
    return from <= 0 || n < from;
}

void pm_alloc_fail_after(long n) {
    atomic_store(&alloc_count, 0);
    atomic_store(&alloc_fail_from, n);
}

long pm_alloc_count(void) {
    return atomic_load(&alloc_count);
}

// NULL means failure and nothing else, so no size may give NULL by right.
void *pm_malloc(size_t size) {
    return alloc_allowed() ? malloc(size ? size : 1) : NULL;
}

void *pm_calloc(size_t count, size_t size) {
    if (size && count > SIZE_MAX / size)
        return NULL;
    if (!alloc_allowed())
        return NULL;
    return count && size ? calloc(count, size) : calloc(1, 1);
}

void *pm_realloc(void *old, size_t size) {
    return alloc_allowed() ? realloc(old, size ? size : 1) : NULL;
}

void pm_free(void *p) {
    free(p);
}

// The block's bytes follow its header, from the next multiple of 16.
struct pm_arena_block {
    struct pm_arena_block *next;
    uint8_t *data;
    size_t used, size;
};

enum { ARENA_BLOCK = 64 << 10, ARENA_ALIGN = 16 };

static struct pm_arena_block *arena_block_open(size_t size) {
    struct pm_arena_block *block;
    if (size > SIZE_MAX - sizeof(*block) - ARENA_ALIGN)
        return NULL;
    block = pm_calloc(1, sizeof(*block) + ARENA_ALIGN + size);
    if (!block)
        return NULL;
    uint8_t *after = (uint8_t *)(block + 1);
    block->data = after + (ARENA_ALIGN - (uintptr_t)after % ARENA_ALIGN) % ARENA_ALIGN;
    block->size = size;
    return block;
}

// Large pieces get a block of their own behind the current one, whose room stays in use.
static void arena_block_link(pm_arena *arena, struct pm_arena_block *block) {
    if (arena->blocks && block->size > ARENA_BLOCK) {
        block->next = arena->blocks->next;
        arena->blocks->next = block;
    } else {
        block->next = arena->blocks;
        arena->blocks = block;
    }
}

void *pm_arena_alloc(pm_arena *arena, size_t size) {
    if (size > SIZE_MAX - ARENA_ALIGN)
        return NULL;
    size = size ? (size + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN : ARENA_ALIGN; // no two pieces at one address

    struct pm_arena_block *block = arena->blocks;
    if (!block || block->size - block->used < size) {
        block = arena_block_open(size > ARENA_BLOCK ? size : ARENA_BLOCK);
        if (!block)
            return NULL;
        arena_block_link(arena, block);
    }
    void *p = block->data + block->used;
    block->used += size;
    return p;
}

void pm_arena_close(pm_arena *arena) {
    struct pm_arena_block *block = arena->blocks;
    while (block) {
        struct pm_arena_block *next = block->next;
        pm_free(block);
        block = next;
    }
    arena->blocks = NULL;
}

pm_status pm_mul_size(uint64_t a, uint64_t b, uint64_t *out) {
    if (b && a > UINT64_MAX / b)
        return pm_fail(PM_ERR_FILE, "size %llu * %llu is too large", (unsigned long long)a, (unsigned long long)b);
    *out = a * b;
    return PM_OK;
}

pm_status pm_add_size(uint64_t a, uint64_t b, uint64_t *out) {
    if (a > UINT64_MAX - b)
        return pm_fail(PM_ERR_FILE, "size %llu + %llu is too large", (unsigned long long)a, (unsigned long long)b);
    *out = a + b;
    return PM_OK;
}

bool pm_str_is(pm_str s, const char *text) {
    return s.n == strlen(text) && (s.n == 0 || memcmp(s.p, text, s.n) == 0);
}

// ---- data types -------------------------------------------------------------------------------------------------------

const pm_dtype_info *pm_dtype_get(pm_dtype dtype) {
    static const pm_dtype_info table[] = {
#define X(id, small, ggml, elements, bytes) {#id, ggml, elements, bytes},
        PM_DTYPES(X) PM_FILE_DTYPES(X)
#undef X
    };
    return &table[dtype];
}

static uint32_t float_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

static float bits_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

float pm_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
    if (exponent == 31)
        return bits_float(sign | 0x7f800000 | mantissa << 13);
    if (exponent == 0) // exact: ten bits times a power of two
        return bits_float(sign | float_bits((float)mantissa * 0x1p-24f));
    return bits_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

// Shifts right and rounds to nearest, ties to even.
static uint32_t round_shift(uint32_t value, uint32_t shift) {
    uint32_t half = 1u << (shift - 1);
    return (value + half - 1 + ((value >> shift) & 1)) >> shift;
}

uint16_t pm_f32_to_f16(float f) {
    uint32_t bits = float_bits(f), magnitude = bits & 0x7fffffff;
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);
    if (magnitude > 0x7f800000) // NaN stays one, quiet
        return (uint16_t)(sign | 0x7e00 | ((magnitude >> 13) & 0x1ff));
    if (magnitude >= 0x477ff000) // 65520 and above rounds past the largest half, 65504
        return sign | 0x7c00;
    if (magnitude >= 0x38800000) // 2^-14: normal
        return (uint16_t)(sign | round_shift(magnitude - 0x38000000, 13));

    uint32_t exponent = magnitude >> 23; // subnormal: count units of 2^-24
    if (exponent < 102)
        return sign;
    return (uint16_t)(sign | round_shift((magnitude & 0x7fffff) | 0x800000, 126 - exponent));
}

float pm_bf16_to_f32(uint16_t b) {
    return bits_float((uint32_t)b << 16);
}

uint16_t pm_f32_to_bf16(float f) {
    uint32_t bits = float_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
