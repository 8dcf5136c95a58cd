// pm_op_ceiling: what the measuring sticks of pumice-bench compute is known exactly, so that no driver leaves the work out.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "host/vk.h"

static void run(const pm_ceiling *op, const pm_ref_ceiling_args *args, uint32_t written) {
    uint32_t words[4];
    check_allow(op->dst, 0, (uint64_t)written * 4);
    check_record();
    pm_op_ceiling(check_cmd, op);
    check_run();
    for (uint32_t i = 0; i < written; i++) {
        pm_ref_ceiling(args, i, words);
        assert_memory_equal(check_got(op->dst) + (size_t)i * 4, words, sizeof(words));
    }
}

static void memory(void **state) {
    static const uint32_t sizes[][2] = {{1, 64}, {63, 64}, {1000, 64}, {1000, 2048}, {70001, 320}};
    static const uint32_t modes[] = {PM_CEILING_READ, PM_CEILING_WRITE, PM_CEILING_COPY};
    (void)state;
    for (uint32_t m = 0; m < CHECK_COUNT(modes); m++)
        for (size_t i = 0; i < CHECK_COUNT(sizes); i++) {
            uint32_t n = sizes[i][0];
            pm_ceiling op = {.kind = (pm_ceiling_kind)(PM_READ_BANDWIDTH + m), .n = n};
            op.n_invocations = pm_ceiling_invocations(check_dev, op.kind, sizes[i][1]);
            uint32_t written = modes[m] == PM_CEILING_READ ? op.n_invocations : n;
            check_case("mode %u, %u elements, %u invocations", m, n, op.n_invocations);
            check_begin();
            uint32_t *src = check_alloc((size_t)n * 4, sizeof(*src));
            for (uint32_t w = 0; w < 4 * n; w++)
                src[w] = check_random();
            op.src = check_in(src, (size_t)n * 4);
            op.dst = check_take((uint64_t)written * 16);
            run(&op, &(pm_ref_ceiling_args){"memory", modes[m], n, op.n_invocations, src, 0}, written);
        }
}

static void chains(void **state) {
    static const char *const types[] = {
        [PM_FMA_F32] = "f32", [PM_FMA_F16] = "f16", [PM_INT8_DOT] = "int_dot", [PM_COOPMAT_F16] = "coopmat"};
    static const uint32_t ns[] = {1, 3, 17};
    (void)state;
    for (int kind = PM_FMA_F32; kind < PM_CEILING_COUNT; kind++)
        for (size_t i = 0; i < CHECK_COUNT(ns) && pm_ceiling_has(check_dev, (pm_ceiling_kind)kind); i++) {
            pm_ceiling op = {.kind = (pm_ceiling_kind)kind, .n = ns[i]};
            op.n_invocations = pm_ceiling_invocations(check_dev, op.kind, 256);
            check_case("%s, %u times", types[kind], ns[i]);
            check_begin();
            op.dst = check_take((uint64_t)op.n_invocations * 16);
            run(&op, &(pm_ref_ceiling_args){.type = types[kind], .n = ns[i], .k = check_dev->caps.coopmat.k}, op.n_invocations);
        }
}

static int open_device(void **state) {
    (void)state;
    check_open(28);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory),
        cmocka_unit_test(chains),
    };
    return cmocka_run_group_tests_name("ceiling", tests, open_device, check_close) != 0;
}
