// Ceilings: what the device can do at most, measured in seconds, so that a kernel's rate can be told as a part of it. The kernels
// are those of shaders/ceiling.comp, tried before they are believed.
#include "bench/bench.h"
#include "host/ops.h"

#include <math.h>
#include <string.h>

enum { N_SAMPLES = 5, N_LAUNCHES = 96, MOST_RUNS = 4096, TINY = 1024 }; // TINY: bytes that a dispatch of one workgroup writes

typedef struct stick {
    pm_device *dev;
    pm_cmd *cmd;
    pm_buffer *src, *dst, *upload, *readback;
    uint64_t size, window; // of src and dst; bytes that a dispatch is given of them
    bench_ceiling *now;    // what is measured
} stick;

// ---- samples ----------------------------------------------------------------------------------------------------------

static void add_sample(bench_ceiling *c, double value) {
    c->min = c->n == 0 || value < c->min ? value : c->min;
    c->max = c->n == 0 || value > c->max ? value : c->max;
    c->n++;
    double before = c->value; // https://en.wikipedia.org/wiki/Algorithms_for_calculating_variance (Welford)
    c->value += (value - before) / c->n;
    c->squares += (value - before) * (value - c->value);
    c->stddev = c->n > 1 ? sqrt(c->squares / (c->n - 1)) : 0;
}

// By the device's clock where it has one: what a submission costs is another ceiling.
static pm_status time_device(stick *s, double *ns) {
    uint64_t began = pm_now_ns();
    PM_TRY(pm_cmd_submit(s->cmd));
    PM_TRY(pm_cmd_wait(s->cmd));
    *ns = (double)(pm_now_ns() - began);
    if (app_interrupted())
        return pm_fail(PM_ERR_CANCELLED, "interrupted");
    int n;
    const pm_timing *timings = pm_cmd_timings(s->cmd, &n);
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)timings[i].ns;
    *ns = sum > 0 ? sum : *ns;
    return PM_OK;
}

// Of what was recorded: the first run is the warm-up. work: bytes or operations, told in units of `unit` a second.
static pm_status sample_rate(stick *s, double work, double unit) {
    double ns;
    PM_TRY(time_device(s, &ns));
    for (int i = 0; i < N_SAMPLES; i++) {
        PM_TRY(time_device(s, &ns));
        add_sample(s->now, work / (ns > 1 ? ns : 1) * 1e9 / unit);
    }
    return PM_OK;
}

// ---- memory -----------------------------------------------------------------------------------------------------------

// The parts of src and dst that a dispatch may bind, one after the other; all of them together are more than caches hold.
static double record_windows(stick *s, pm_ceiling_kind kind) {
    double work = 0;
    for (uint64_t at = 0; at < s->size; at += s->window) {
        pm_slice src = pm_buffer_slice(s->src, at, s->window), dst = pm_buffer_slice(s->dst, at, s->window);
        pm_ceiling op = {.kind = kind, .dst = dst, .src = src, .n = (uint32_t)(s->window / 16)};
        op.n_invocations = pm_ceiling_invocations(s->dev, kind, op.n / 64);
        pm_op_ceiling(s->cmd, &op);
        work += pm_ceiling_work(s->dev, &op);
    }
    return work;
}

// ---- arithmetic -------------------------------------------------------------------------------------------------------

static double record_chains(stick *s, pm_ceiling_kind kind, uint32_t n) {
    bool cpu = pm_device_get_info(s->dev)->type == PM_DEVICE_CPU;
    pm_ceiling op = {.kind = kind, .dst = pm_buffer_slice(s->dst, 0, s->window), .n = n};
    op.n_invocations = pm_ceiling_invocations(s->dev, kind, cpu ? 1 << 12 : 1 << 18);
    while ((uint64_t)op.n_invocations * 16 > s->window)
        op.n_invocations = pm_ceiling_invocations(s->dev, kind, op.n_invocations / 2);
    pm_op_ceiling(s->cmd, &op);
    return pm_ceiling_work(s->dev, &op);
}

// ---- one ceiling ------------------------------------------------------------------------------------------------------

static double record(stick *s, pm_ceiling_kind kind, uint32_t n) {
    return kind <= PM_COPY_BANDWIDTH ? record_windows(s, kind) : record_chains(s, kind, n);
}

// What is not right on this driver is no ceiling: the recording fails then.
static pm_status rehearse(stick *s, pm_ceiling_kind kind) {
    pm_cmd_begin_dry(s->cmd);
    record(s, kind, 1);
    PM_TRY(pm_cmd_end(s->cmd));
    return pm_cmd_prepare(s->cmd);
}

static pm_status record_all(stick *s, pm_ceiling_kind kind, uint32_t n, double *work) {
    pm_cmd_profile(s->cmd, true);
    pm_cmd_begin(s->cmd);
    *work = record(s, kind, n);
    return pm_cmd_end(s->cmd);
}

static pm_status measure_memory(stick *s, pm_ceiling_kind kind) {
    double work;
    PM_TRY(record_all(s, kind, 0, &work));
    return sample_rate(s, work, 1e9);
}

// As many runs as take 10 ms.
static pm_status measure_chains(stick *s, pm_ceiling_kind kind) {
    double work, ns = 0;
    uint32_t n = 1;
    for (;; n *= 2) {
        PM_TRY(record_all(s, kind, n, &work));
        PM_TRY(time_device(s, &ns)); // the first time it is made ready
        PM_TRY(time_device(s, &ns));
        if (ns > 1e7 || n == MOST_RUNS)
            return sample_rate(s, work, 1e12);
    }
}

static pm_status measure_kind(stick *s, pm_ceiling_kind kind) {
    if (!pm_ceiling_has(s->dev, kind))
        return PM_OK;
    PM_TRY(rehearse(s, kind));
    return kind <= PM_COPY_BANDWIDTH ? measure_memory(s, kind) : measure_chains(s, kind);
}

static pm_status measure_copy(stick *s, pm_buffer *to, pm_buffer *from) {
    pm_cmd_profile(s->cmd, true);
    pm_cmd_begin(s->cmd);
    pm_cmd_copy(s->cmd, pm_buffer_slice(to, 0, s->window), pm_buffer_slice(from, 0, s->window));
    PM_TRY(pm_cmd_end(s->cmd));
    return sample_rate(s, (double)s->window, 1e9);
}

// ---- what each step costs ---------------------------------------------------------------------------------------------

// n dispatches that do next to nothing; apart: into places of their own, so that none waits for another.
static pm_status record_launches(stick *s, int n, bool apart) {
    pm_cmd_profile(s->cmd, false);
    pm_cmd_begin(s->cmd);
    for (int i = 0; i < n; i++) {
        pm_ceiling op = {.kind = PM_FMA_F32, .dst = pm_buffer_slice(s->dst, (uint64_t)(apart ? i : 0) * TINY, TINY)};
        op.n_invocations = pm_ceiling_invocations(s->dev, op.kind, 1);
        pm_op_ceiling(s->cmd, &op);
    }
    return pm_cmd_end(s->cmd);
}

// The least of some runs: what disturbs one makes it longer, never shorter.
static pm_status time_launches(stick *s, int n, bool apart, double *ns) {
    double one;
    PM_TRY(record_launches(s, n, apart));
    PM_TRY(time_device(s, &one));
    *ns = INFINITY;
    for (int i = 0; i < N_SAMPLES; i++) {
        PM_TRY(time_device(s, &one));
        *ns = fmin(*ns, one);
    }
    return PM_OK;
}

static pm_status measure_steps(stick *s, bench_ceiling *launch, bench_ceiling *barrier, bench_ceiling *submit) {
    for (int i = 0; i < N_SAMPLES; i++) {
        double one, many, in_order;
        PM_TRY(time_launches(s, 1, true, &one));
        PM_TRY(time_launches(s, N_LAUNCHES, true, &many));
        PM_TRY(time_launches(s, N_LAUNCHES, false, &in_order));
        add_sample(submit, one / 1e3);
        add_sample(launch, fmax(many - one, 0) / (N_LAUNCHES - 1) / 1e3);
        add_sample(barrier, fmax(in_order - many, 0) / (N_LAUNCHES - 1) / 1e3);
    }
    return PM_OK;
}

// ---- all --------------------------------------------------------------------------------------------------------------

// More than caches hold, less than a quarter of what is free.
static void choose_sizes(stick *s) {
    const pm_device_info *info = pm_device_get_info(s->dev);
    const uint64_t unit = 1 << 20, usual = (info->type == PM_DEVICE_CPU ? 256 : 512) * unit;
    uint64_t most = pm_device_free_memory(s->dev) / 4;
    most = most < usual ? most : usual;
    most = most < info->max_buffer ? most : info->max_buffer;
    s->window = most < info->max_binding ? most : info->max_binding;
    s->window = s->window < unit ? unit : s->window / unit * unit;
    s->size = most < s->window ? s->window : most / s->window * s->window;
}

static pm_status open_stick(stick *s) {
    choose_sizes(s);
    PM_TRY(pm_cmd_open(s->dev, "ceilings", &s->cmd));
    PM_TRY(pm_buffer_create(s->dev, s->size, PM_MEM_DEVICE, "ceiling src", &s->src));
    PM_TRY(pm_buffer_create(s->dev, s->size, PM_MEM_DEVICE, "ceiling dst", &s->dst));
    PM_TRY(pm_buffer_create(s->dev, s->window, PM_MEM_UPLOAD, "ceiling upload", &s->upload));
    return pm_buffer_create(s->dev, s->window, PM_MEM_READBACK, "ceiling readback", &s->readback);
}

static void close_stick(stick *s) {
    pm_cmd_close(&s->cmd);
    pm_buffer_close(&s->src);
    pm_buffer_close(&s->dst);
    pm_buffer_close(&s->upload);
    pm_buffer_close(&s->readback);
}

// One that cannot be measured is told and left unknown.
static pm_status go_on(stick *s, pm_status status) {
    if (status == PM_OK || status == PM_ERR_CANCELLED || status == PM_ERR_DEVICE_LOST)
        return status;
    pm_log(PM_LOG_WARN, "%s: %s", s->now->name, pm_error_text());
    s->now->n = 0;
    return PM_OK;
}

static pm_status measure_all(stick *s, bench_ceiling *list) {
    static const pm_ceiling_kind kinds[] = {
        [BENCH_READ_BANDWIDTH] = PM_READ_BANDWIDTH,
        [BENCH_WRITE_BANDWIDTH] = PM_WRITE_BANDWIDTH,
        [BENCH_COPY_BANDWIDTH] = PM_COPY_BANDWIDTH,
        [BENCH_FMA_F32] = PM_FMA_F32,
        [BENCH_FMA_F16] = PM_FMA_F16,
        [BENCH_INT8_DOT] = PM_INT8_DOT,
        [BENCH_COOPMAT_F16] = PM_COOPMAT_F16,
    };
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        s->now = &list[i];
        PM_TRY(go_on(s, measure_kind(s, kinds[i])));
    }
    s->now = &list[BENCH_HOST_TO_DEVICE];
    PM_TRY(go_on(s, measure_copy(s, s->dst, s->upload)));
    s->now = &list[BENCH_DEVICE_TO_HOST];
    PM_TRY(go_on(s, measure_copy(s, s->readback, s->src)));
    s->now = &list[BENCH_LAUNCH];
    return go_on(s, measure_steps(s, &list[BENCH_LAUNCH], &list[BENCH_BARRIER], &list[BENCH_SUBMIT]));
}

pm_status bench_ceilings(pm_device *dev, bench_ceiling list[BENCH_N_CEILINGS]) {
    static const bench_ceiling names[BENCH_N_CEILINGS] = {
        [BENCH_READ_BANDWIDTH] = {"read_bandwidth", "GB/s"},
        [BENCH_WRITE_BANDWIDTH] = {"write_bandwidth", "GB/s"},
        [BENCH_COPY_BANDWIDTH] = {"copy_bandwidth", "GB/s"},
        [BENCH_FMA_F32] = {"fma_f32", "TFLOP/s"},
        [BENCH_FMA_F16] = {"fma_f16", "TFLOP/s"},
        [BENCH_INT8_DOT] = {"int8_dot", "TOP/s"},
        [BENCH_COOPMAT_F16] = {"coopmat_f16", "TFLOP/s"},
        [BENCH_HOST_TO_DEVICE] = {"host_to_device", "GB/s"},
        [BENCH_DEVICE_TO_HOST] = {"device_to_host", "GB/s"},
        [BENCH_LAUNCH] = {"launch", "us"},
        [BENCH_BARRIER] = {"barrier", "us"},
        [BENCH_SUBMIT] = {"submit", "us"},
    };
    stick s = {.dev = dev, .now = list};
    memcpy(list, names, sizeof(names));
    pm_status status = open_stick(&s);
    if (status == PM_OK)
        status = measure_all(&s, list);
    close_stick(&s);
    return status;
}
