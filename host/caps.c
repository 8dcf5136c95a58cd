// What each kind of device is given to work with, and the only place for vendor and driver names and PM_* overrides.
#include "host/caps.h"
#include "host/limits.h"
#include "shaders/abi.h"
#include "volk.h"

#include <stdlib.h>
#include <string.h>

// ---- the numbers ------------------------------------------------------------------------------------------------------

// A device class and where its kernels start from. First guesses: the tuner is to replace them with measurements.
typedef struct profile {
    pm_matvec_shape matvec, matvec_batch, subgroup_batch, subgroup_batch_floats;
    bool use_tiles;
    uint32_t attend_split, max_chunk, row_workgroup;
    uint32_t trial_ms;   // a trial takes some ms; a software driver may have to share its cores with many others
    double tune_seconds; // a software driver would spend all of it compiling
} profile;

// A software driver runs the lanes of a subgroup as SIMD slots of one core: a lane a row, so that nothing is summed across.
static const profile cpu_profile = {
    // 8 rows share each load of x: 3 times the speed of 2 rows on lavapipe 22.3, 1.6 times on 26.2 (Qwen3-0.6B shapes, Q4_0)
    // 4 columns: 8 are 4 % faster and take LLVM twice as long to compile.
    .matvec = {.workgroup = 16, .lanes = 1, .rows = 8, .max_cols = 4},
    .matvec_batch = {.workgroup = 16, .lanes = 1, .rows = 8, .max_cols = 4},
    // pp64 of 8 rows by 4 columns, 8 by 8, 4 by 16, CPU ms a token: lavapipe 25 Q4_0 10.2, 8.2, 9.1, F16 14.3, 11.4, 10.6;
    // lavapipe 26 Q4_0 6.1, 4.9, 5.0, F16 8.1, 6.4, 5.5 (four layers of Qwen3-0.6B)
    .subgroup_batch = {.workgroup = 16, .lanes = 1, .rows = 8, .max_cols = 8},
    .subgroup_batch_floats = {.workgroup = 16, .lanes = 1, .rows = 4, .max_cols = 16},
    .use_tiles = false,
    .attend_split = 1024,
    .max_chunk = 64,
    .trial_ms = 60000, // lavapipe compiles when a kernel is run first
    .tune_seconds = 0,
    .row_workgroup = 128,
};

// A GPU wants neighbouring lanes on neighbouring words of one row.
static const profile gpu_profile = {
    .matvec = {.workgroup = 64, .lanes = 32, .rows = 2, .max_cols = 8},
    .matvec_batch = {.workgroup = 64, .lanes = 32, .rows = 2, .max_cols = 8},
    .subgroup_batch = {.workgroup = 64, .lanes = 32, .rows = 2, .max_cols = 8}, // only where it is asked for
    .subgroup_batch_floats = {.workgroup = 64, .lanes = 32, .rows = 2, .max_cols = 8},
    .use_tiles = true,
    .attend_split = 256,
    .max_chunk = 256,
    .trial_ms = 4000,
    .tune_seconds = 1.5,
    .row_workgroup = 512, // by reasoning: one workgroup reads all logits, and what it waits for is memory
};

// Drivers end a submission after 2 s at the least (Windows' watchdog; amdgpu on Linux 7). 32 rows of a 4B model are 233 GFLOP:
// within it for a phone or an integrated GPU that reaches 150 GFLOP/s.
enum { SLOW_GPU_CHUNK = 32, SUBMIT_MS = 150 };

// ---- overrides --------------------------------------------------------------------------------------------------------

static void bad_override(const char *name, const char *text, const char *wanted) {
    pm_log(PM_LOG_WARN, "%s=%s ignored: %s", name, text, wanted);
}

// Reads a decimal number at *text that ends at `end`, and steps behind it.
static bool read_number(const char **text, char end, uint64_t *value) {
    char *stop;
    if (**text < '0' || **text > '9')
        return false;
    *value = strtoull(*text, &stop, 10);
    if (*stop != end)
        return false;
    *text = end ? stop + 1 : stop;
    return true;
}

// *value = the variable's number where it is set and within [least, most].
static void override_number(const char *name, uint64_t least, uint64_t most, uint64_t *value) {
    const char *text = getenv(name), *p = text;
    uint64_t number;
    if (!text || !*text)
        return;
    if (read_number(&p, 0, &number) && number >= least && number <= most)
        *value = number;
    else
        bad_override(name, text, "not a number in the range of this device");
}

static void override_u32(const char *name, uint32_t least, uint32_t most, uint32_t *value) {
    uint64_t wide = *value;
    override_number(name, least, most, &wide);
    *value = (uint32_t)wide;
}

static void override_seconds(const char *name, double most, double *value) {
    const char *text = getenv(name);
    char *end;
    if (!text || !*text)
        return;
    double seconds = strtod(text, &end);
    if (*end == 0 && seconds >= 0 && seconds <= most)
        *value = seconds;
    else
        bad_override(name, text, "not a number of seconds");
}

static bool is_set(const char *name) {
    const char *text = getenv(name);
    return text && *text;
}

static bool shape_fits(const uint64_t v[4], const pm_device_info *info) {
    uint64_t workgroup = v[0], lanes = v[1], rows = v[2], max_cols = v[3];
    bool lanes_fit = lanes && (lanes & (lanes - 1)) == 0 && workgroup % lanes == 0;
    return workgroup && workgroup <= info->max_invocations && lanes_fit && rows >= 2 && rows <= 64 && rows % 2 == 0 && max_cols &&
           max_cols <= 64;
}

static void override_shape(const char *name, const pm_device_info *info, pm_matvec_shape *shape) {
    const char *text = getenv(name), *p = text;
    uint64_t v[4];
    if (!text || !*text)
        return;
    for (int i = 0; i < 4; i++) {
        if (!read_number(&p, i < 3 ? ',' : 0, &v[i])) {
            bad_override(name, text, "wanted four numbers: workgroup,lanes,rows,max_cols");
            return;
        }
    }
    if (!shape_fits(v, info)) {
        bad_override(name, text,
                     "wanted a workgroup this device takes, lanes a power of two that divides it, even rows, columns up to 64");
        return;
    }
    *shape = (pm_matvec_shape){(uint32_t)v[0], (uint32_t)v[1], (uint32_t)v[2], (uint32_t)v[3]};
}

static uint32_t need_by_name(const char *name, size_t n) {
    static const struct {
        const char *name;
        uint32_t bit;
    } needs[] = {{"subgroup", PM_NEED_SUBGROUP}, {"f16", PM_NEED_F16}, {"int_dot", PM_NEED_INT_DOT}, {"coopmat", PM_NEED_COOPMAT}};
    for (size_t i = 0; i < sizeof(needs) / sizeof(*needs); i++)
        if (strlen(needs[i].name) == n && !memcmp(needs[i].name, name, n))
            return needs[i].bit;
    return 0;
}

static uint32_t without(void) {
    const char *text = getenv("PM_WITHOUT");
    uint32_t bits = 0;
    for (const char *p = text; p && *p;) {
        size_t n = strcspn(p, ",");
        uint32_t bit = need_by_name(p, n);
        if (!bit && n)
            bad_override("PM_WITHOUT", text, "known are subgroup, f16, int_dot, coopmat");
        bits |= bit;
        p += n + (p[n] == ',');
    }
    return bits;
}

// ---- filling ----------------------------------------------------------------------------------------------------------

// The matrices of halves with sums in floats: the squarest of those that divide our blocks.
static const pm_coopmat_info *find_coopmat(const pm_device_info *info) {
    const pm_coopmat_info *best = NULL;
    for (int i = 0; i < info->n_coopmats; i++) {
        const pm_coopmat_info *m = &info->coopmats[i];
        bool halves = !strcmp(m->a, "f16") && !strcmp(m->c, "f32");
        bool fits = halves && PM_BLOCK % m->k == 0 && m->m >= 4 && (m->m & (m->m - 1)) == 0;
        if (fits && (!best || (m->m == m->n && best->m != best->n)))
            best = m;
    }
    return best;
}

uint64_t pm_coopmat_shared(const pm_coopmat_shape *s) {
    uint64_t tiles = 2 * (uint64_t)s->buffers * (s->rows + s->cols) * (PM_BLOCK + 8);
    uint64_t sums = (uint64_t)s->workgroup / s->subgroup * s->m * s->n;
    return tiles + 4 * (sums + s->cols + s->cols * s->down);
}

// 4 subgroups, 2 by 2. One of them takes 4 by 2 matrices of 16 (a tile of 128 rows by 64: 24 KiB of shared memory), of smaller ones
// 2 by 2: those are what software drivers have, which write out every product. Subgroups of 32 where the device has a choice: that
// is what AMD's and NVIDIA's matrices are made for.
static bool lay_coopmat(const pm_device_info *info, pm_coopmat_shape *shape) {
    const pm_coopmat_info *m = find_coopmat(info);
    if (!m || !info->subgroup_size_control)
        return false;
    uint32_t subgroup = info->subgroup_min > 32 ? info->subgroup_min : info->subgroup_max < 32 ? info->subgroup_max : 32;
    uint32_t workgroup = 4 * subgroup, rows = 2 * (m->m < 16 ? 2 : 4) * m->m;
    *shape = (pm_coopmat_shape){
        .workgroup = workgroup,
        .subgroup = subgroup,
        .m = m->m,
        .n = m->n,
        .k = m->k,
        .rows = rows > workgroup ? rows : workgroup,
        .cols = 2 * 2 * m->n,
        .down = 2,
        .buffers = 1,
    };
    return workgroup <= info->max_invocations && pm_coopmat_shared(shape) <= info->max_shared;
}

static uint32_t has(const pm_device_info *info) {
    uint32_t bits = 0;
    if (info->subgroup_arithmetic && info->subgroup_min >= 8) // matvec.comp says why
        bits |= PM_NEED_SUBGROUP;
    if (info->f16_arithmetic && info->f16_storage)
        bits |= PM_NEED_F16;
    if (info->int_dot &&
        (info->int_dot_accelerated || info->type == PM_DEVICE_CPU)) // other GPUs write them out, and leave registers
        bits |= PM_NEED_INT_DOT;
    if (lay_coopmat(info, &(pm_coopmat_shape){0}))
        bits |= PM_NEED_COOPMAT;
    return bits & ~without();
}

// lavapipe, measured: 22.3 (LLVM 15) is 1.3 to 1.7 times as slow by matvec_sg. 25 loads x for each lane by itself otherwise:
// prompts 1.7 to 2.2 times as fast by it, decode 1.15. 26 loads once what is the same for all: decode 0.95, prompts 1.2 to 1.45.
static void choose_subgroups(const pm_device_info *info, pm_caps *caps) {
    const char *version = info->driver_info + strcspn(info->driver_info, "0123456789"); // "Mesa 25.0.7"; the number of it is 1
    unsigned long major = strtoul(version, NULL, 10);
    bool lavapipe = info->driver_id == VK_DRIVER_ID_MESA_LLVMPIPE && caps->has & PM_NEED_SUBGROUP;
    caps->use_subgroups = lavapipe && major == 25;
    caps->use_subgroup_batch = lavapipe && major >= 25;
}

// Lanes that add up by shuffles are of one subgroup.
static void fit_lanes(const pm_device_info *info, pm_caps *caps) {
    pm_matvec_shape *shapes[] = {&caps->matvec, &caps->subgroup_batch, &caps->subgroup_batch_floats};
    for (int i = caps->use_subgroups ? 0 : 1; i < (caps->use_subgroup_batch ? 3 : 1); i++)
        if (shapes[i]->lanes > info->subgroup_min)
            shapes[i]->lanes = info->subgroup_min;
}

static void apply_overrides(const pm_device_info *info, pm_caps *caps) {
    uint32_t tiles = caps->use_coopmat ? 2 : caps->use_tiles, staging = 0, self_test = !info->limited, submit_ms = SUBMIT_MS,
             subgroups = 2; // 2: as was chosen
    uint32_t dots = caps->use_dots;
    override_shape("PM_MATVEC", info, &caps->matvec);
    override_shape("PM_MATVEC_BATCH", info, &caps->matvec_batch);
    override_u32("PM_TILES", 0, caps->has & PM_NEED_COOPMAT ? 2 : 1, &tiles);
    override_u32("PM_SUBGROUPS", 0, caps->has & PM_NEED_SUBGROUP, &subgroups);
    override_u32("PM_DOTS", 0, (caps->has & PM_NEED_INT_DOT) != 0, &dots);
    override_u32("PM_ATTEND_SPLIT", 32, 1u << 20, &caps->attend_split);
    override_u32("PM_MAX_CHUNK", 1, 1u << 16, &caps->max_chunk);
    override_u32("PM_SUBMIT_MS", 1, 1u << 20, &submit_ms);
    override_number("PM_MAX_BINDING_BYTES", 1u << 12, info->max_binding, &caps->max_binding);
    override_u32("PM_STAGING", 0, 1, &staging);
    override_u32("PM_SELFTEST", 0, 1, &self_test);
    override_u32("PM_TRIAL_MS", 1, 1u << 22, &caps->trial_ms);
    override_seconds("PM_TUNE", 1e6, &caps->tune_seconds);
    caps->use_subgroups = subgroups == 2 ? caps->use_subgroups && !is_set("PM_MATVEC") : subgroups;
    caps->use_subgroup_batch = subgroups == 2 ? caps->use_subgroup_batch && !is_set("PM_MATVEC_BATCH") : subgroups;
    caps->chosen =
        info->limited || is_set("PM_MATVEC") || is_set("PM_MATVEC_BATCH") || is_set("PM_TILES") || is_set("PM_ATTEND_SPLIT");
    caps->submit_ns = submit_ms * UINT64_C(1000000);
    caps->self_test = self_test;
    caps->use_dots = dots;
    caps->use_tiles = tiles > 0;
    caps->use_coopmat = tiles == 2;
    caps->map_device = caps->map_device && !staging;
}

void pm_caps_fill(const pm_device_info *info, pm_caps *caps) {
    const profile *p = info->type == PM_DEVICE_CPU ? &cpu_profile : &gpu_profile;
    *caps = (pm_caps){
        .device_class = p == &cpu_profile ? PM_CLASS_CPU : PM_CLASS_GPU,
        .trial_ms = p->trial_ms,
        .tune_seconds = p->tune_seconds,
        .has = has(info),
        .matvec = p->matvec,
        .matvec_batch = p->matvec_batch,
        .subgroup_batch = p->subgroup_batch,
        .subgroup_batch_floats = p->subgroup_batch_floats,
        .use_tiles = p->use_tiles,
        .max_binding = info->max_binding,
        .max_groups = info->max_groups[0],
        .attend_split = p->attend_split,
        .row_workgroup = info->max_invocations >= p->row_workgroup ? p->row_workgroup : 128, // all devices have that
        .max_chunk = p == &gpu_profile && info->type != PM_DEVICE_DISCRETE ? SLOW_GPU_CHUNK : p->max_chunk,
        .map_device = info->unified_memory,
    };
    caps->use_coopmat = p->use_tiles && caps->has & PM_NEED_COOPMAT;
    caps->use_dots = info->int_dot_accelerated && caps->has & PM_NEED_INT_DOT;
    lay_coopmat(info, &caps->coopmat);
    choose_subgroups(info, caps);
    apply_overrides(info, caps);
    fit_lanes(info, caps);
}

void pm_caps_limit(pm_device_info *info) {
    const char *name = getenv("PM_LIMITS");
    const pm_limits *named = name && *name ? pm_limits_find(name) : NULL;
    if (name && *name && !named)
        bad_override("PM_LIMITS", name, "no device of this name is known");
    if (named)
        pm_limits_apply(named, info);
    pm_limits_apply(pm_limits_get(), info);
}

bool pm_caps_wants_graphics_queue(void) {
    const char *text = getenv("PM_QUEUE");
    if (text && *text && strcmp(text, "graphics") && strcmp(text, "compute"))
        bad_override("PM_QUEUE", text, "wanted graphics or compute");
    return text && !strcmp(text, "graphics");
}

#ifdef PM_BREAKABLE

// Is `text` the number and what stands behind it?
static bool takes_number(const char **text, uint32_t number) {
    char *end;
    bool same = strtoul(*text + 1, &end, 10) == number;
    *text = end;
    return same;
}

// "NAME", "NAME*", either with ":1,2" behind it, up to the '='.
static bool is_meant(const char *text, const char *kernel, const uint32_t *spec, int n_spec) {
    size_t n = strcspn(text, ":=*");
    if (strncmp(text, kernel, n) != 0 || (text[n] != '*' && kernel[n]))
        return false;
    text += n + (text[n] == '*');
    for (int i = 0; *text == ':' || *text == ','; i++)
        if (i >= n_spec || !takes_number(&text, spec[i]))
            return false;
    return *text == '=';
}

pm_breakage pm_caps_broken(const char *kernel, const uint32_t *spec, int n_spec) {
    static const char *const names[] = {"", "wrong", "hang", "lost", "crash", "compile", "stall"};
    for (const char *text = getenv("PM_BREAK"); text && *text; text += strcspn(text, ";"), text += *text == ';') {
        const char *how = text + strcspn(text, "=;");
        size_t n = *how == '=' ? strcspn(how + 1, ";") : 0;
        for (int b = PM_BREAK_WRONG; b <= PM_BREAK_STALL; b++)
            if (n == strlen(names[b]) && !strncmp(how + 1, names[b], n) && is_meant(text, kernel, spec, n_spec))
                return (pm_breakage)b;
    }
    return PM_BREAK_NOT;
}

#endif

// ---- ranking ----------------------------------------------------------------------------------------------------------

static bool is_layered(const pm_device_info *info) {
    return info->driver_id == VK_DRIVER_ID_MESA_DOZEN; // Vulkan on top of Direct3D 12
}

// Of several drivers for one GPU: smaller is better. AMD's order is ggml's; anything layered comes last.
static int driver_order(const pm_device_info *info) {
    static const uint32_t amd[] = {VK_DRIVER_ID_MESA_RADV, VK_DRIVER_ID_AMD_OPEN_SOURCE, VK_DRIVER_ID_AMD_PROPRIETARY};
    if (is_layered(info))
        return 100;
    for (int i = 0; i < 3; i++)
        if (info->driver_id == amd[i])
            return i;
    return 0;
}

static uint64_t device_local_bytes(const pm_device_info *info) {
    uint64_t bytes = 0;
    for (int i = 0; i < info->n_heaps; i++)
        bytes += info->heaps[i].device_local ? info->heaps[i].size : 0;
    return bytes;
}

// Discrete before integrated and so on, a native driver before a layered one, much memory before little; else the loader's order.
static int compare_devices(const void *left, const void *right) {
    const pm_device_info *a = left, *b = right;
    if (a->type != b->type)
        return a->type < b->type ? -1 : 1;
    if (is_layered(a) != is_layered(b))
        return is_layered(a) ? 1 : -1;
    uint64_t a_bytes = device_local_bytes(a), b_bytes = device_local_bytes(b);
    if (a_bytes != b_bytes)
        return a_bytes > b_bytes ? -1 : 1;
    return a->index - b->index;
}

// A driver's UUID of the device is the same across drivers where they follow the specification; the PCI address tells where one
// does not; a layered driver knows neither, only which model it is.
static bool same_gpu(const pm_device_info *a, const pm_device_info *b) {
    static const uint8_t no_uuid[16];
    if (memcmp(a->device_uuid, no_uuid, 16) && !memcmp(a->device_uuid, b->device_uuid, 16))
        return true;
    if (a->has_pci && b->has_pci)
        return !memcmp(a->pci, b->pci, sizeof(a->pci));
    return is_layered(a) != is_layered(b) && a->vendor_id == b->vendor_id && a->device_id == b->device_id;
}

// Of the entries of one GPU the first is to be kept, whatever type and memory each driver reports.
static int compare_drivers(const void *left, const void *right) {
    const pm_device_info *a = left, *b = right;
    int order = driver_order(a) - driver_order(b);
    return order ? order : a->index - b->index;
}

static bool is_twin(const pm_device_info *info, const pm_device_info *kept, int n_kept) {
    for (int i = 0; i < n_kept; i++)
        if (same_gpu(info, &kept[i]))
            return true;
    return false;
}

int pm_caps_rank(pm_device_info *infos, int n) {
    int n_kept = 0;
    qsort(infos, (size_t)n, sizeof(*infos), compare_drivers);
    for (int i = 0; i < n; i++)
        if (!is_twin(&infos[i], infos, n_kept))
            infos[n_kept++] = infos[i];
    qsort(infos, (size_t)n_kept, sizeof(*infos), compare_devices);
    return n_kept;
}
