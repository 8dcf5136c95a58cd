// The vocabulary every room may use: status, log, memory, checked sizes, data types, and what an operating system offers.
// Of ours it includes only status.h, its public part. base.c is portable, so is os.c but for what os_*.c and program_*.c answer.
#ifndef PM_BASE_H
#define PM_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__MINGW32__) // with __USE_MINGW_ANSI_STDIO: C's printf, not the system's, which has no %zu
#define PM_PRINTF(text, first) __attribute__((format(gnu_printf, text, first)))
#elif defined(__GNUC__) || defined(__clang__)
#define PM_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define PM_PRINTF(text, first)
#endif

// ---- status -----------------------------------------------------------------------------------------------------------

// Keeps one line of text for this thread and returns `status`, so that a failing function ends `return pm_fail(...)`.
// The line says what was wrong and where (file, tensor, device); no newline.
pm_status pm_fail(pm_status status, const char *format, ...) PM_PRINTF(2, 3);

// ---- log --------------------------------------------------------------------------------------------------------------

// One line to where pm_log_to and pm_log_set_level say; no newline.
void pm_log(pm_log_level level, const char *format, ...) PM_PRINTF(2, 3);

// ---- memory -----------------------------------------------------------------------------------------------------------

// Every allocation of ours goes through these, so that a test can make the n-th one fail. NULL on failure, no message:
// the caller ends with pm_fail(PM_ERR_MEMORY, ...). pm_calloc checks count * size for overflow. pm_free(NULL) is fine.
void *pm_malloc(size_t size);
void *pm_calloc(size_t count, size_t size);
void *pm_realloc(void *old, size_t size);

// For tests: the n-th allocation from now (1 = the next) and all after it fail; 0 switches it off. Thread-safe.
void pm_alloc_fail_after(long n);
// Allocations made since the last pm_alloc_fail_after.
long pm_alloc_count(void);

// Many small things that live and die together. Zero-initialise; close frees all of it.
typedef struct pm_arena {
    struct pm_arena_block *blocks;
} pm_arena;
void *pm_arena_alloc(pm_arena *arena, size_t size); // zeroed, 16-byte aligned; NULL on failure
void pm_arena_close(pm_arena *arena);

// *out = a * b or a + b; PM_ERR_FILE when it does not fit 64 bits (sizes come from files).
pm_status pm_mul_size(uint64_t a, uint64_t b, uint64_t *out);
pm_status pm_add_size(uint64_t a, uint64_t b, uint64_t *out);

static inline uint64_t pm_round_up(uint64_t value, uint64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

#define PM_STR(literal) ((pm_str){(literal), sizeof(literal) - 1})
bool pm_str_is(pm_str s, const char *text);

// ---- data types -------------------------------------------------------------------------------------------------------

// A type of weights that kernels read: its name, the same in small letters, ggml's number for it (gguf files), elements a block,
// bytes a block. Blocks are described where they are decoded: loader/dequant.c.
#define PM_GGUF_DTYPES(X)           \
    X(F32, f32, 0, 1, 4)            \
    X(F16, f16, 1, 1, 2)            \
    X(BF16, bf16, 30, 1, 2)         \
    X(Q8_0, q8_0, 8, 32, 34)        \
    X(Q4_0, q4_0, 2, 32, 18)        \
    X(Q4_1, q4_1, 3, 32, 20)        \
    X(Q5_0, q5_0, 6, 32, 22)        \
    X(Q5_1, q5_1, 7, 32, 24)        \
    X(Q2_K, q2_k, 10, 256, 84)      \
    X(Q3_K, q3_k, 11, 256, 110)     \
    X(Q4_K, q4_k, 12, 256, 144)     \
    X(Q5_K, q5_k, 13, 256, 176)     \
    X(Q6_K, q6_k, 14, 256, 210)     \
    X(IQ4_NL, iq4_nl, 20, 32, 18)   \
    X(IQ4_XS, iq4_xs, 23, 256, 136) \
    X(MXFP4, mxfp4, 39, 32, 17)
// Those that no gguf file has: the loader makes their blocks from what safetensors have, and from ggml's IQ2 types.
#define PM_OTHER_DTYPES(X)              \
    X(FP8, fp8, PM_NOT_IN_GGUF, 32, 36) \
    X(AWQ, awq, PM_NOT_IN_GGUF, 32, 20) \
    X(IQ2, iq2, PM_NOT_IN_GGUF, 256, 106)
#define PM_NOT_IN_GGUF UINT32_MAX
#define PM_DTYPES(X)  \
    PM_GGUF_DTYPES(X) \
    PM_OTHER_DTYPES(X)
// Those of gguf files that no kernel reads: the loader hands their rows out in a type above (loader/repack.c).
#define PM_FILE_DTYPES(X)            \
    X(IQ2_XXS, iq2_xxs, 16, 256, 66) \
    X(IQ2_XS, iq2_xs, 17, 256, 74)   \
    X(IQ2_S, iq2_s, 22, 256, 82)     \
    X(IQ3_XXS, iq3_xxs, 18, 256, 98) \
    X(IQ3_S, iq3_s, 21, 256, 110)    \
    X(IQ1_S, iq1_s, 19, 256, 50)     \
    X(IQ1_M, iq1_m, 29, 256, 56)     \
    X(TQ1_0, tq1_0, 34, 256, 54)     \
    X(TQ2_0, tq2_0, 35, 256, 66)     \
    X(NVFP4, nvfp4, 40, 64, 36)

typedef enum pm_dtype {
#define X(id, small, ggml, elements, bytes) PM_##id,
    PM_DTYPES(X) PM_DTYPE_COUNT, // of those that kernels read; the loader knows more
    PM_BEFORE_FILE_DTYPES = PM_DTYPE_COUNT - 1,
    PM_FILE_DTYPES(X)
#undef X
        PM_ALL_DTYPE_COUNT
} pm_dtype;
enum { PM_GGUF_DTYPE_COUNT = PM_FP8 };

typedef struct pm_dtype_info {
    const char *name;
    uint32_t ggml; // the type's number in a gguf file
    uint32_t block_elements;
    uint32_t block_bytes;
} pm_dtype_info;
const pm_dtype_info *pm_dtype_get(pm_dtype dtype);

// IEEE half and bfloat16 to float and back (round to nearest even; overflow becomes infinity).
float pm_f16_to_f32(uint16_t h);
uint16_t pm_f32_to_f16(float f);
float pm_bf16_to_f32(uint16_t b);
uint16_t pm_f32_to_bf16(float f);

// ---- operating system (os*.c, program_*.c) ------------------------------------------------------------------------------

// A read-only mapping of a whole file. Zero-initialise; close takes half-built ones. An empty file maps to size 0, data NULL.
// path "fd:5" is the file behind an open descriptor, which stays the caller's and may be closed at once; not on Windows.
typedef struct pm_map {
    const uint8_t *data;
    uint64_t size;
    void *handle;
} pm_map;
pm_status pm_map_open(const char *path, pm_map *map);
void pm_map_close(pm_map *map);
// The bytes [offset, offset + size) will not be read again soon: the system may drop them from this process.
void pm_map_forget(const pm_map *map, uint64_t offset, uint64_t size);

bool pm_path_is_dir(const char *path);
bool pm_path_exists(const char *path);
// Do both names lead to one file that is there?
bool pm_path_same(const char *a, const char *b);

// The per-user folder for caches ($XDG_CACHE_HOME/pumice, ~/.cache/pumice, %LOCALAPPDATA%\pumice), made if missing; false
// where there is none to be had (a read-only home). PUMICE_CACHE overrides it; empty there means none.
bool pm_cache_dir(char *path, size_t size);

// Reads a whole small file (at most `limit` bytes) into pm_malloc'ed memory with a 0 after it; the caller frees.
pm_status pm_file_read(const char *path, size_t limit, char **data, size_t *size);
// Writes to a temporary name beside `path`, then renames: a reader sees the old file or the new one, never half.
pm_status pm_file_write_atomic(const char *path, const void *data, size_t size);
// The same for a file too large to have at once. Zero-initialise; close takes half-built ones and removes what was not finished.
typedef struct pm_output {
    const char *path;  // the caller's
    char beside[4096]; // where it grows
    void *stream;
} pm_output;
pm_status pm_output_open(const char *path, pm_output *out); // PM_ERR_IO also where something stands that is no file
pm_status pm_output_write(pm_output *out, const void *data, size_t size);
pm_status pm_output_finish(pm_output *out); // the file is there now, under its name
void pm_output_close(pm_output *out);
// Writes into the file itself, which may be a device or a pipe.
pm_status pm_file_write(const char *path, const void *data, size_t size);

// What main calls first: from here on arguments are UTF-8, and the standard streams carry bytes as they are, to a console too.
void pm_program_begin(int *argc, char ***argv);
// Reads standard input to its end, like pm_file_read.
pm_status pm_stdin_read(size_t limit, char **data, size_t *size);
// Like getc(stdin), UTF-8 where a person types. EOF with EINTR in errno: Ctrl-C ended the line.
int pm_stdin_getc(void);
// Does a person sit behind the descriptor 0, 1 or 2 of this process?
bool pm_is_terminal(int descriptor);
// Is it one that takes escape sequences?
bool pm_takes_escapes(int descriptor);
// Does this errno of a write say that the reader has gone?
bool pm_is_broken_pipe(int error);

// A regular file of this user's own that not everybody may write to.
bool pm_file_is_ours(const char *path);

// Monotonic nanoseconds.
uint64_t pm_now_ns(void);
// Seconds that all threads of this process, a driver's too, have kept a core busy; 0 where unknown.
double pm_cpu_seconds(void);
// The date and time of day: "2026-11-24T00:14:12Z".
enum { PM_UTC_SIZE = 24 };
void pm_utc_text(char text[PM_UTC_SIZE]);

// Another program to run: looked for in PATH where argv[0] has no slash.
typedef struct pm_program {
    const char *const *argv; // ended by NULL
    const char *const *env;  // "NAME=value" to change in the environment, ended by NULL; may be NULL
    bool quiet;              // what it writes to stderr is dropped
    uint32_t silence_ms; // it is killed (*exit_code 137) where it writes nothing for so long, or more than `limit`; what it wrote
                         // is given out all the same. 0: it may take its time
} pm_program;
// Runs it to its end and collects what it writes to stdout, like pm_file_read. *exit_code is 128 and the signal's number where one
// ended it, on Windows that of the signal which tells the same elsewhere. A signal handler of ours that runs meanwhile ends it:
// PM_ERR_CANCELLED.
pm_status pm_program_run(const pm_program *program, size_t limit, char **out, size_t *size, int *exit_code);

unsigned long pm_process_id(void);
bool pm_process_lives(unsigned long id);

// The file that this process runs; `called` is its argv[0], for systems that do not tell.
bool pm_program_path(const char *called, char *path, size_t size);

// Cores that threads of ours can use; at least 1.
int pm_cpu_count(void);

// Runs work(user, i) for i in [0, n) on up to pm_cpu_count() threads and returns when all are done.
void pm_parallel_for(int n, void (*work)(void *user, int i), void *user);

// Memory that programs may still take without swapping, 0 where unknown.
uint64_t pm_free_ram(void);

// Peak resident bytes of this process, 0 where unknown.
uint64_t pm_peak_rss(void);

// Who governs the clock of the first processor, "powersave"; empty where the system does not say.
void pm_cpu_governor(char *text, size_t size);
// Processes that ran or wanted to in the last minute; below 0 where the system does not say.
double pm_load_average(void);

// A library that may or may not be there, by its system's name for it: "libx.so.1". NULL where it is not. A function of it, NULL
// where it has none; the caller knows its type.
void *pm_library_open(const char *name);
void (*pm_library_find(void *library, const char *function))(void);
void pm_library_close(void **library);

#ifdef __cplusplus
}
#endif
#endif
