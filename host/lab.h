// Private to the host room: the laboratory of trials. Random data, pieces of memory with guards between them, running, comparing:
// what the cases in trial_*.c, a family of kernels each, have in common. trial.c says which case a kernel has.
#ifndef PM_LAB_H
#define PM_LAB_H

#include "host/ops.h"
#include "host/reference.h"
#include "host/vk.h"

enum {
    PM_LAB_PIECES = 48, // of memory, at most
};

struct pm_lab {
    pm_device *dev;
    pm_cmd *cmd;
    pm_buffer *work, *upload, *readback;
    pm_slabs *slabs; // of weights
    pm_packer *packer;
    uint8_t *room; // host memory of the trial at hand
    size_t room_used;
    uint64_t used;
    pm_slice guards[PM_LAB_PIECES];
    int n_guards;
    bool halves; // a product multiplies them
    bool full;   // the case is larger than the lab: nothing is proved then
    uint64_t random;
    double error, ms;
    pm_status status; // the first that is not PM_OK
};

// An empty lab, with the guard before the first piece. has_case: else nothing is proved.
void pm_lab_clear(pm_lab *lab, bool has_case);
// A case that finds it false gives up, after all it needs was taken and before it runs.
bool pm_lab_ok(const pm_lab *lab);
void pm_lab_status(pm_lab *lab, pm_status status); // notes the first that is not PM_OK

// Host memory of the trial. Zeroed. Where there is no more room, some that is in use: the case is given up, and must not crash
// before it is.
void *pm_lab_room(pm_lab *lab, size_t count, size_t size);
float *pm_lab_floats(pm_lab *lab, size_t count, float low, float high); // random
double *pm_lab_doubles(pm_lab *lab, size_t count);                      // zero
uint32_t pm_lab_draw(pm_lab *lab);                                      // random bits

// Weights as a file has them, packed for the device.
typedef struct pm_lab_matrix {
    pm_tensor packed;
    const float *values; // (rows, cols)
} pm_lab_matrix;
pm_lab_matrix pm_lab_weights(pm_lab *lab, pm_dtype dtype, uint32_t rows, uint32_t cols);
pm_tensor pm_lab_vector(pm_lab *lab, const float *values, uint32_t n);
bool pm_lab_read_dtype(const char *small_name, pm_dtype *dtype);       // "q4_0"
bool pm_lab_read_cache_dtype(const char *small_name, pm_dtype *dtype); // those that a cache may have

// A piece of device memory that holds no numbers, and a guard behind it; one with these words.
pm_slice pm_lab_take(pm_lab *lab, uint64_t size);
pm_slice pm_lab_put(pm_lab *lab, const void *words, size_t count);
// An activation with the padding of its rows; values NULL: no numbers.
pm_tensor pm_lab_activation(pm_lab *lab, uint32_t rows, uint32_t cols, const float *values);
// The stream of `rows` that a verb adds to, with room for what it leaves there; x NULL: no numbers.
pm_hidden pm_lab_hidden(pm_lab *lab, uint32_t rows, uint32_t dim, const float *x);
uint32_t *pm_lab_words(const pm_lab *lab, pm_slice slice);        // of a piece before the run
const uint32_t *pm_lab_result(const pm_lab *lab, pm_slice slice); // and after it
float pm_lab_float(const uint32_t *words, uint64_t at);

void pm_lab_begin(pm_lab *lab);
// Runs what was recorded, twice from the same memory: the bits must be the same, and the guards whole. False: there is nothing to
// compare.
bool pm_lab_run(pm_lab *lab);

// Of a sum of `length` terms that make up `size` in absolute value; of products, where halves may have been multiplied.
double pm_lab_tolerance(uint32_t length, double size);
double pm_lab_product_tolerance(const pm_lab *lab, uint32_t length, double size);
void pm_lab_compare(pm_lab *lab, double got, double want, double allowed);
void pm_lab_compare_exactly(pm_lab *lab, bool same);
// got (rows, cols) against `want`, sums of `length` terms of `size` in all.
void pm_lab_compare_tensor(pm_lab *lab, pm_tensor got, const double *want, const double *size, uint32_t length);
void pm_lab_compare_products(pm_lab *lab, pm_tensor got, const double *want, const double *size, uint32_t length);
// x, normed = x * gain, and the partial sums of x^2.
void pm_lab_compare_hidden(pm_lab *lab, const pm_hidden *h, const float *gain, const double *want, const double *size,
                           uint32_t length);

// ---- cases: `type` is what follows the family's name in the kernel's, small: "q4_0" --------------------------------------

typedef void pm_lab_case(pm_lab *lab, const pm_kernel_use *use, const char *type);
pm_lab_case pm_try_matvec, pm_try_matvec_sg, pm_try_matmul, pm_try_matmul_cm;                             // trial_linear.c
pm_lab_case pm_try_quantize, pm_try_matvec_dot, pm_try_matmul_dot;                                        // trial_linear.c
pm_lab_case pm_try_embed, pm_try_gather;                                                                  // trial_point.c
pm_lab_case pm_try_rope_store, pm_try_attend, pm_try_attend_cm, pm_try_attend_merge;                      // trial_attend.c
pm_lab_case pm_try_route, pm_try_group, pm_try_experts_sum, pm_try_experts_matvec, pm_try_experts_matmul; // trial_moe.c
pm_lab_case pm_try_adjust, pm_try_sieve, pm_try_sample, pm_try_logprobs;                                  // trial_sample.c
pm_lab_case pm_try_ceiling;                                                                               // trial_ceiling.c

#endif
