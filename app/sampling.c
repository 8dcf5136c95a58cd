// What is not said about sampling on the command line is the model's to say.
#include "app/sampling.h"

// A short seed: one can type it again.
static uint64_t any_seed(void) {
    uint64_t x = pm_now_ns() ^ (uint64_t)(uintptr_t)&any_seed; // addresses are random where systems care
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return (x ^ x >> 31) & UINT32_MAX;
}

pm_sampler app_sampling_choose(const app_sampling *given, const pm_config *c) {
    return (pm_sampler){
        .temperature = given->temperature >= 0 ? given->temperature
                       : c->do_sample          ? c->temperature
                                               : 0,
        .top_k = given->top_k != APP_NOT_GIVEN ? given->top_k
                 : c->top_k > 0                ? (uint32_t)c->top_k
                                               : 0,
        .top_p = given->top_p >= 0 ? given->top_p : c->top_p,
        .min_p = given->min_p >= 0 ? given->min_p : c->min_p,
        .seed = given->seed != UINT64_MAX ? given->seed : any_seed(),
    };
}
