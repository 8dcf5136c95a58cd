// Which kernels are right on the driver at hand. A use of a kernel that is new to this device, driver and build is tried before it
// is used (trial.c), in a child process, so that a driver that crashes or never ends costs nothing; what is not right is
// quarantined, and variant.c passes it over. Verdicts are kept on disk.
//
// The child is a program that hands its arguments on to pm_device_try_kernels: `pumice` and `pumice-bench` start themselves. A
// program that only links the library may name one of them (pm_device_try_with). Otherwise, and where os.c starts no children
// (pm_program_run is unsupported), kernels are tried in the process itself, on a second device: not after a fork, since neither a
// driver nor its threads live through one. A wrong result, a kernel that never ends and a lost device are survived there too; a
// crash is not, but the mark that is left on disk before each trial keeps it from happening twice.
#include "host/ops.h"
#include "host/vk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_CHILD = 64,    // uses that a child is given: Windows' command lines have an end
    TOGETHER = 8,      // pipelines that a child makes at once
    SILENCES = 3,      // that a child may be silent, in units of caps.trial_ms
    MAX_SAID = 1 << 20 // bytes that a child says
};

struct pm_verdicts {
    pm_verdict *list;
    int n, capacity;
};

static char try_program[1024]; // "": none

void pm_device_try_with(const char *program) {
    snprintf(try_program, sizeof(try_program), "%s", program ? program : "");
}

static bool is_bad(const pm_verdict *v) {
    return v->fate >= PM_FATE_WRONG && v->fate <= PM_FATE_REFUSED;
}

static const char *what_it_does(pm_fate fate) {
    static const char *const does[PM_FATE_COUNT] = {[PM_FATE_WRONG] = "computes what is wrong",
                                                    [PM_FATE_HANGS] = "does not end",
                                                    [PM_FATE_LOST] = "loses the device",
                                                    [PM_FATE_CRASHES] = "crashes the driver",
                                                    [PM_FATE_REFUSED] = "is refused by the driver"};
    return does[fate];
}

// ---- what is known ----------------------------------------------------------------------------------------------------

static pm_verdict *find(const pm_device *dev, const pm_kernel_use *use) {
    for (int i = 0; dev->verdicts && i < dev->verdicts->n; i++)
        if (pm_kernel_same_use(&dev->verdicts->list[i].use, use))
            return &dev->verdicts->list[i];
    return NULL;
}

static pm_status remember(pm_device *dev, const pm_verdict *v) {
    struct pm_verdicts *all = dev->verdicts;
    pm_verdict *known = find(dev, &v->use);
    if (!known && all->n == all->capacity) {
        int capacity = all->capacity ? 2 * all->capacity : 64;
        pm_verdict *grown = pm_realloc(all->list, (size_t)capacity * sizeof(*grown));
        if (!grown)
            return pm_fail(PM_ERR_MEMORY, "no memory for the verdicts on kernels");
        all->list = grown;
        all->capacity = capacity;
    }
    *(known ? known : &all->list[all->n++]) = *v;
    return PM_OK;
}

bool pm_selftest_is_bad(const pm_device *dev, const pm_kernel_use *use) {
    const pm_verdict *v = find(dev, use);
    return v && is_bad(v);
}

bool pm_selftest_knows(const pm_device *dev, const pm_kernel_use *use) {
    return !dev->verdicts || find(dev, use);
}

bool pm_selftest_found_bad(const pm_device *dev) {
    for (int i = 0; dev->verdicts && i < dev->verdicts->n; i++)
        if (is_bad(&dev->verdicts->list[i]))
            return true;
    return false;
}

pm_status pm_selftest_check(const pm_device *dev, const pm_kernel_use *use) {
    char text[PM_USE_TEXT];
    const pm_verdict *v = find(dev, use);
    if (!v || !is_bad(v) || v->from_disk)
        return PM_OK;
    return pm_fail(
        PM_ERR_DEVICE,
        "no variant of the kernel %s is right on %s (%s %s): %s %s. A newer driver may help; PM_SELFTEST=0 uses it all the "
        "same",
        pm_kernel_get_info(use->id)->name, dev->info.name, dev->info.driver_name, dev->info.driver_info,
        pm_kernel_use_text(use, text), what_it_does(v->fate));
}

// ---- on disk ----------------------------------------------------------------------------------------------------------

static bool read_fate(const char *text, pm_fate *fate) {
    for (int f = PM_FATE_RIGHT; f < PM_FATE_COUNT; f++)
        if (!strcmp(text, pm_fate_name((pm_fate)f))) {
            *fate = (pm_fate)f;
            return true;
        }
    return false;
}

// "USE FATE ERROR MS"
static bool read_verdict(const char *line, pm_verdict *v) {
    char use[PM_USE_TEXT], fate[16];
    *v = (pm_verdict){.from_disk = true};
    return sscanf(line, "%159s %15s %lf %lf", use, fate, &v->error, &v->ms) == 4 && pm_kernel_use_read(use, &v->use) &&
           read_fate(fate, &v->fate);
}

void pm_selftest_read(pm_device *dev, const char *text) {
    for (const char *line = text; line && *line; line += strcspn(line, "\n"), line += *line == '\n') {
        pm_verdict v;
        if (read_verdict(line, &v) && !find(dev, &v.use) && remember(dev, &v) != PM_OK)
            break;
    }
}

// What another process has found out meanwhile is kept; what this one has found out itself stands.
static void load(pm_device *dev) {
    char *text = pm_store_read(dev, "verdicts");
    pm_selftest_read(dev, text);
    pm_free(text);
}

static void save(pm_device *dev) {
    pm_text text = {.n = 0};
    char use[PM_USE_TEXT];
    load(dev);
    for (int i = 0; i < dev->verdicts->n; i++) {
        const pm_verdict *v = &dev->verdicts->list[i];
        if (v->fate != PM_FATE_UNKNOWN)
            pm_text_add(&text, "%s %s %.3g %.3f\n", pm_kernel_use_text(&v->use, use), pm_fate_name(v->fate), v->error, v->ms);
    }
    if (text.p && !text.failed)
        pm_store_write(dev, "verdicts", text.p);
    pm_free(text.p);
}

// The mark that is left while this process tries a kernel itself; NULL: it has come back.
static void mark(const pm_device *dev, const pm_kernel_use *use) {
    char line[PM_USE_TEXT + 32] = "\n", text[PM_USE_TEXT];
    if (use)
        snprintf(line, sizeof(line), "%lu %s\n", pm_process_id(), pm_kernel_use_text(use, text));
    pm_store_write(dev, "trying", line);
}

// A mark whose process is gone: the kernel took it along.
static void load_mark(pm_device *dev) {
    char *text = pm_store_read(dev, "trying"), use[PM_USE_TEXT];
    unsigned long process;
    pm_verdict v = {.fate = PM_FATE_CRASHES, .from_disk = true};
    if (text && sscanf(text, "%lu %159s", &process, use) == 2 && pm_kernel_use_read(use, &v.use) && !pm_process_lives(process) &&
        !find(dev, &v.use) && remember(dev, &v) == PM_OK) {
        mark(dev, NULL);
        save(dev);
    }
    pm_free(text);
}

void pm_selftest_open(pm_device *dev) {
    dev->verdicts = dev->caps.self_test ? pm_calloc(1, sizeof(*dev->verdicts)) : NULL;
    if (!dev->verdicts)
        return;
    load(dev);
    load_mark(dev);
}

void pm_selftest_close(pm_device *dev) {
    if (dev->verdicts)
        pm_free(dev->verdicts->list);
    pm_free(dev->verdicts);
    dev->verdicts = NULL;
}

// ---- trying, in this process ------------------------------------------------------------------------------------------

typedef struct place {
    pm_device *dev; // a second one
    pm_lab *lab;
} place;

// What hangs is left as it is: closing would wait for it.
static void leave(place *p, bool abandoned) {
    if (!abandoned) {
        pm_lab_close(&p->lab);
        pm_device_close(&p->dev);
    }
    *p = (place){0};
}

static pm_status enter(const pm_device *dev, place *p) {
    char pick[16];
    snprintf(pick, sizeof(pick), "%d", dev->info.index);
    PM_TRY(pm_device_open(pick, &p->dev));
    if (memcmp(p->dev->info.device_uuid, dev->info.device_uuid, 16) != 0)
        return pm_fail(PM_ERR_DEVICE, "%s is not where it was", dev->info.name);
    return pm_lab_open(p->dev, &p->lab);
}

static void try_here(pm_device *dev, pm_verdict *todo, int n) {
    place p = {0};
    for (int i = 0; i < n; i++) {
        if (!p.lab && enter(dev, &p) != PM_OK) {
            pm_log(PM_LOG_INFO, "kernels cannot be tried: %s", pm_error_text());
            break;
        }
        mark(dev, &todo[i].use);
        pm_lab_try(p.lab, &todo[i].use, &todo[i]);
        if (todo[i].fate == PM_FATE_LOST || pm_lab_is_stuck(p.lab))
            leave(&p, pm_lab_is_stuck(p.lab));
    }
    mark(dev, NULL);
    leave(&p, false);
}

// ---- trying, in a child: the child's side -------------------------------------------------------------------------------

static void say(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    fflush(stdout);
}

// The pipelines of TOGETHER uses at a time; one that cannot be made shows again when it is tried.
static void make_pipelines(pm_device *dev, const pm_kernel_use *uses, int n) {
    for (int i = 0; i < n; i += TOGETHER) {
        say("makes %d\n", i);
        pm_kernels_prepare(dev, uses + i, n - i < TOGETHER ? n - i : TOGETHER);
    }
}

static int try_in_lab(pm_lab *lab, const pm_kernel_use *uses, int n) {
    for (int i = 0; i < n; i++) {
        pm_verdict v;
        say("tries %d\n", i);
        pm_lab_try(lab, &uses[i], &v);
        say("found %d %s %g %g\n", i, pm_fate_name(v.fate), v.error, v.ms);
        if (v.fate == PM_FATE_LOST || pm_lab_is_stuck(lab))
            _Exit(0); // without waiting for what will not come
    }
    return 0;
}

static void say_device(const pm_device *dev) {
    char uuid[33];
    for (int i = 0; i < 16; i++)
        snprintf(uuid + 2 * i, 3, "%02x", dev->info.device_uuid[i]);
    say("device %s\n", uuid);
}

int pm_device_try_kernels(int argc, char **argv) {
    pm_kernel_use uses[MAX_CHILD];
    pm_device *dev;
    pm_lab *lab;
    int n = 0;
    for (int i = 2; i < argc && n < MAX_CHILD; i++)
        if (!pm_kernel_use_read(argv[i], &uses[n++]))
            return 1;
    if (n == 0 || pm_device_open(argv[0], &dev) != PM_OK)
        return 1;
    int exit_code = 1;
    if (pm_lab_open(dev, &lab) == PM_OK) {
        say_device(dev);
        if (!strcmp(argv[1], "together"))
            make_pipelines(dev, uses, n);
        exit_code = try_in_lab(lab, uses, n);
        pm_lab_close(&lab);
    }
    pm_device_close(&dev);
    return exit_code;
}

// ---- trying, in a child: our side ---------------------------------------------------------------------------------------

typedef struct heard {
    bool ready;   // it has opened the device
    int finished; // verdicts, of the first uses
    int begun;    // uses whose trial has begun
} heard;

static heard listen(const pm_device *dev, const char *said, pm_verdict *todo, int n) {
    heard h = {.ready = false};
    char uuid[33], name[33], fate[16];
    for (int i = 0; i < 16; i++)
        snprintf(uuid + 2 * i, 3, "%02x", dev->info.device_uuid[i]);
    for (; said && *said; said += strcspn(said, "\n"), said += *said == '\n') {
        pm_verdict v = {.from_disk = false};
        int i;
        if (sscanf(said, "device %32s", name) == 1)
            h.ready = !strcmp(name, uuid);
        else if (sscanf(said, "tries %d", &i) == 1 && i == h.finished)
            h.begun = i + 1;
        else if (sscanf(said, "found %d %15s %lf %lf", &i, fate, &v.error, &v.ms) == 4 && i == h.finished && i < n) {
            v.use = todo[i].use;
            read_fate(fate, &v.fate);
            todo[h.finished++] = v;
        }
    }
    return h;
}

// Starts a child for up to MAX_CHILD uses.
static pm_status run_child(const pm_device *dev, bool together, pm_verdict *todo, int n, heard *h, int *exit_code) {
    char pick[16], texts[MAX_CHILD][PM_USE_TEXT], *said;
    const char *argv[MAX_CHILD + 5] = {try_program, PM_TRY_COMMAND, pick, together ? "together" : "apart"};
    size_t size;
    snprintf(pick, sizeof(pick), "%d", dev->info.index);
    for (int i = 0; i < n; i++)
        argv[4 + i] = pm_kernel_use_text(&todo[i].use, texts[i]);
    pm_program program = {.argv = argv, .quiet = true, .silence_ms = SILENCES * dev->caps.trial_ms};
    PM_TRY(pm_program_run(&program, MAX_SAID, &said, &size, exit_code));
    *h = listen(dev, said, todo, n);
    pm_free(said);
    return PM_OK;
}

// What a child did not live through is known by what it had begun. Where it died while making pipelines together, they are made
// apart.
static pm_status try_in_child(const pm_device *dev, pm_verdict *todo, int n) {
    bool together = true;
    for (int done = 0; done < n;) {
        int exit_code, count = n - done < MAX_CHILD ? n - done : MAX_CHILD;
        heard h;
        PM_TRY(run_child(dev, together, todo + done, count, &h, &exit_code));
        if (!h.ready || (h.begun == 0 && !together))
            return pm_fail(PM_ERR_DEVICE, "%s does not try kernels on %s", try_program, dev->info.name);
        if (h.begun == 0)
            together = false;
        if (h.begun > h.finished)
            todo[done + h.finished++].fate = exit_code == 137 ? PM_FATE_HANGS : PM_FATE_CRASHES;
        done += h.finished;
    }
    return PM_OK;
}

static pm_status try_uses(pm_device *dev, pm_verdict *todo, int n) {
    pm_status status = try_program[0] ? try_in_child(dev, todo, n) : PM_ERR_UNSUPPORTED;
    if (status == PM_ERR_CANCELLED)
        return status;
    for (int i = 0; i < n && status != PM_OK; i++)
        if (todo[i].fate == PM_FATE_UNKNOWN) {
            pm_log(PM_LOG_DEBUG, "kernels are tried in this process");
            try_here(dev, todo + i, n - i);
            break;
        }
    return PM_OK;
}

// ---- before use -------------------------------------------------------------------------------------------------------

// One line, however many they are: the first, and how many more.
static void tell(const pm_device *dev, const pm_verdict *first, int n_bad) {
    char text[PM_USE_TEXT], more[32] = "";
    if (n_bad > 1)
        snprintf(more, sizeof(more), ", and %d more fail", n_bad - 1);
    pm_log(PM_LOG_WARN, "%s (%s %s): the kernel %s %s%s; others are used in place", dev->info.name, dev->info.driver_name,
           dev->info.driver_info, pm_kernel_use_text(&first->use, text), what_it_does(first->fate), more);
}

static bool is_listed(const pm_verdict *todo, int n, const pm_kernel_use *use) {
    for (int i = 0; i < n; i++)
        if (pm_kernel_same_use(&todo[i].use, use))
            return true;
    return false;
}

// Those of which nothing is known, and those that only the disk speaks ill of and that are wanted all the same: there is no other
// left.
static int list_unknown(const pm_device *dev, const pm_kernel_use *uses, int n, pm_verdict *todo) {
    int n_todo = 0;
    for (int i = 0; i < n; i++) {
        const pm_verdict *v = find(dev, &uses[i]);
        if ((!v || (v->from_disk && is_bad(v))) && pm_kernel_available(dev, uses[i].id) && !is_listed(todo, n_todo, &uses[i]))
            todo[n_todo++] = (pm_verdict){.use = uses[i]};
    }
    return n_todo;
}

static pm_status settle(pm_device *dev, const pm_verdict *todo, int n, bool *found_bad) {
    const pm_verdict *first = NULL;
    int n_bad = 0;
    for (int i = 0; i < n; i++) {
        PM_TRY(remember(dev, &todo[i]));
        first = is_bad(&todo[i]) && !first ? &todo[i] : first;
        n_bad += is_bad(&todo[i]);
    }
    *found_bad = n_bad > 0;
    if (first)
        tell(dev, first, n_bad);
    save(dev);
    return PM_OK;
}

pm_status pm_selftest_uses(pm_device *dev, const pm_kernel_use *uses, int n, bool *found_bad) {
    *found_bad = false;
    if (!dev->verdicts || n == 0)
        return PM_OK;
    pm_verdict *todo = pm_calloc((size_t)n, sizeof(*todo));
    if (!todo)
        return pm_fail(PM_ERR_MEMORY, "no memory to try kernels");
    int n_todo = list_unknown(dev, uses, n, todo);
    pm_status status = n_todo ? try_uses(dev, todo, n_todo) : PM_OK;
    if (status == PM_OK && n_todo)
        status = settle(dev, todo, n_todo, found_bad);
    pm_free(todo);
    return status;
}

void pm_device_verdicts(const pm_device *dev, int *n_right, int *n) {
    *n_right = *n = 0;
    for (int i = 0; dev->verdicts && i < dev->verdicts->n; i++) {
        *n_right += dev->verdicts->list[i].fate == PM_FATE_RIGHT;
        *n += dev->verdicts->list[i].fate == PM_FATE_RIGHT || is_bad(&dev->verdicts->list[i]);
    }
}

// ---- all of them ------------------------------------------------------------------------------------------------------

// Uses that no variant stands for: of kernels whose numbers are the model's. A name, or what it begins with up to a '_'.
static const struct fixed_use {
    const char *name;
    int n_spec;
    uint32_t spec[4];
} fixed_uses[] = {
    {"embed_", 1, {32}},
    {"gather", 1, {64}},
    {"rope_store_", 4, {32, 128, 1, 0}},
    {"rope_store_", 4, {16, 64, 0, 1}},
    {"attend_merge", 2, {64, 128}},
    {"attend_f16", 4, {64, 128, 4, 1}},
    {"attend_f32", 4, {64, 128, 4, 1}},
    {"attend_q8_0", 4, {64, 128, 4, 1}},
    {"attend_f16", 4, {32, 64, 7, 1}},
    {"attend_f16", 4, {64, 128, 4, 2}},
    {"attend_f32", 4, {64, 128, 4, 2}},
    {"attend_q8_0", 4, {64, 128, 4, 2}},
    {"rope_store_plain_", 4, {32, 128, 1, 0}},
    {"rope_store_plain_", 4, {16, 64, 0, 1}},
    {"attend_plain_", 3, {64, 128, 4}},
    {"attend_plain_", 3, {32, 64, 7}},
    {"route", 1, {64}},
    {"group", 1, {128}},
    {"experts_sum", 1, {64}},
    {"adjust", 1, {128}},
    {"sieve", 1, {128}},
    {"sample", 1, {128}},
    {"logprobs", 1, {128}},
};

typedef struct use_list {
    pm_verdict *list;
    int n, capacity;
} use_list;

static pm_status add_use(use_list *l, const pm_kernel_use *use) {
    if (is_listed(l->list, l->n, use))
        return PM_OK;
    if (l->n == l->capacity) {
        int capacity = l->capacity ? 2 * l->capacity : 64;
        pm_verdict *grown = pm_realloc(l->list, (size_t)capacity * sizeof(*grown));
        if (!grown)
            return pm_fail(PM_ERR_MEMORY, "no memory to try kernels");
        l->list = grown;
        l->capacity = capacity;
    }
    l->list[l->n++] = (pm_verdict){.use = *use};
    return PM_OK;
}

static bool is_typed(const struct fixed_use *f) {
    return f->name[strlen(f->name) - 1] == '_';
}

// Where any workgroup will do, all of the table's; of a kernel that each type of weights has, the usual one.
static pm_status add_fixed(use_list *l, pm_kernel_id id) {
    const char *name = pm_kernel_get_info(id)->name;
    for (size_t i = 0; i < sizeof(fixed_uses) / sizeof(*fixed_uses); i++) {
        const struct fixed_use *f = &fixed_uses[i];
        size_t n = strlen(f->name);
        if (strncmp(f->name, name, n) != 0 || (name[n] && !is_typed(f)))
            continue;
        pm_kernel_use use = {.id = id, .n_spec = f->n_spec};
        memcpy(use.spec, f->spec, sizeof(f->spec));
        PM_TRY(add_use(l, &use));
        for (int w = 0; f->n_spec == 1 && !is_typed(f) && (use.spec[0] = pm_variant_workgroup_at(w)) > 0; w++)
            PM_TRY(add_use(l, &use));
    }
    return PM_OK;
}

static pm_status add_variant(use_list *l, const pm_device *dev, const pm_linear_shape *shape, const pm_variant *v) {
    pm_kernel_use uses[2];
    int n_uses = pm_linear_uses(&dev->caps, shape, v, uses);
    for (int u = 0; u < n_uses; u++)
        if (pm_kernel_available(dev, uses[u].id))
            PM_TRY(add_use(l, &uses[u]));
    return PM_OK;
}

// A product's every variant for a type: for one row of x with one epilogue, for many with another; all four of halves.
static pm_status add_products(use_list *l, const pm_device *dev, pm_dtype dtype) {
    static const uint32_t epilogues[] = {PM_LINEAR_NORM | PM_LINEAR_GLU, PM_LINEAR_ADD, PM_LINEAR_NORM,
                                         PM_LINEAR_NORM | PM_LINEAR_BIAS};
    pm_variant v;
    for (uint32_t e = 0; e < (dtype == PM_F16 ? 4 : 2); e++) {
        pm_linear_shape shape = {.dtype = dtype, .epilogue = epilogues[e], .n = e % 2 ? 64 : 1};
        for (int i = 0; pm_variant_at(dev, &shape, i, &v); i++)
            PM_TRY(add_variant(l, dev, &shape, &v));
    }
    return PM_OK;
}

// The same with experts, one by one and grouped. Of other types than halves each variant has one epilogue, in turns.
static pm_status add_experts(use_list *l, const pm_device *dev, pm_dtype dtype) {
    static const uint32_t epilogues[] = {PM_LINEAR_NORM | PM_LINEAR_GLU, PM_LINEAR_NORM | PM_LINEAR_GLU | PM_LINEAR_GROUPED,
                                         PM_LINEAR_ADD, PM_LINEAR_GROUPED};
    enum { N_EPILOGUES = sizeof(epilogues) / sizeof(*epilogues) };
    const pm_routes many = {.n = 64, .n_experts = 8, .n_used = 2};
    uint32_t tile = pm_experts_tile(dev, &many);
    pm_variant v;
    for (uint32_t e = 0; e < N_EPILOGUES; e++) {
        bool grouped = (epilogues[e] & PM_LINEAR_GROUPED) != 0;
        pm_linear_shape shape = {.dtype = dtype,
                                 .epilogue = epilogues[e],
                                 .n = grouped ? 64 : 1,
                                 .n_experts = 8,
                                 .n_used = 2,
                                 .tile = grouped ? tile : 1};
        for (int i = 0; pm_variant_at(dev, &shape, i, &v); i++)
            if (dtype == PM_F16 || v.by != PM_BY_MATVEC || ((uint32_t)i + e + (uint32_t)dtype) % N_EPILOGUES == 0)
                PM_TRY(add_variant(l, dev, &shape, &v));
    }
    return PM_OK;
}

// Attention by matrices, of which a device says how large they are: of halves the first way to go through many rows, of Q8_0 the
// last. Heads are small: LLVM takes ten seconds for those of 128.
static pm_status add_matrix_attention(use_list *l, const pm_device *dev) {
    static const pm_attend_shape shapes[] = {
        {.dtype = PM_F16, .n = 64, .n_heads = 8, .n_kv_heads = 2, .head_dim = 64, .length = 64},
        {.dtype = PM_Q8_0, .n = 64, .n_heads = 7, .n_kv_heads = 1, .head_dim = 64, .length = 64}};
    for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++) {
        pm_kernel_use uses[2], matrices = {.n_spec = 0};
        pm_attend_way way;
        for (int i = 0; pm_attend_way_at(dev, &shapes[s], i, &way); i++)
            if (way.subgroups && (s > 0 || matrices.n_spec == 0)) {
                pm_attend_uses(dev, &shapes[s], &way, uses);
                matrices = uses[0];
            }
        if (matrices.n_spec > 0)
            PM_TRY(add_use(l, &matrices));
    }
    return PM_OK;
}

static pm_status add_ceilings(use_list *l, const pm_device *dev) {
    pm_kernel_use uses[PM_CEILING_COUNT];
    int kinds[PM_CEILING_COUNT];
    int n = pm_ceiling_uses(dev, uses, kinds);
    for (int i = 0; i < n; i++)
        PM_TRY(add_use(l, &uses[i]));
    return PM_OK;
}

// Every use that the table of kernels and that of variants have for this device.
static pm_status add_all(use_list *l, const pm_device *dev) {
    for (int id = 0; id < PM_KERNEL_COUNT; id++)
        if (pm_kernel_available(dev, (pm_kernel_id)id))
            PM_TRY(add_fixed(l, (pm_kernel_id)id));
    for (int d = 0; d < PM_DTYPE_COUNT; d++) {
        PM_TRY(add_products(l, dev, (pm_dtype)d));
        PM_TRY(add_experts(l, dev, (pm_dtype)d));
    }
    PM_TRY(add_matrix_attention(l, dev));
    return add_ceilings(l, dev);
}

pm_status pm_selftest_list(const pm_device *dev, pm_verdict **list, int *n) {
    use_list l = {.n = 0};
    pm_status status = add_all(&l, dev);
    *list = l.list;
    *n = l.n;
    return status;
}

static pm_status give_out(const use_list *l, pm_trial_row **rows, int *n) {
    *rows = pm_calloc((size_t)l->n, sizeof(**rows));
    if (!*rows)
        return pm_fail(PM_ERR_MEMORY, "no memory to try kernels");
    *n = l->n;
    for (int i = 0; i < l->n; i++) {
        const pm_verdict *v = &l->list[i];
        pm_trial_row *row = &(*rows)[i];
        char text[PM_USE_TEXT];
        *row = (pm_trial_row){.kernel = pm_kernel_get_info(v->use.id)->name,
                              .verdict = pm_fate_name(v->fate),
                              .right = v->fate == PM_FATE_RIGHT,
                              .error = v->error,
                              .ms = v->ms};
        snprintf(row->numbers, sizeof(row->numbers), "%s", strchr(pm_kernel_use_text(&v->use, text), ':') + 1);
    }
    return PM_OK;
}

static pm_status try_list(pm_device *dev, const use_list *l, pm_trial_row **rows, int *n) {
    PM_TRY(try_uses(dev, l->list, l->n));
    for (int i = 0; dev->verdicts && i < l->n; i++)
        PM_TRY(remember(dev, &l->list[i]));
    if (dev->verdicts)
        save(dev);
    return give_out(l, rows, n);
}

pm_status pm_device_test(pm_device *dev, pm_trial_row **rows, int *n) {
    use_list l = {.n = 0};
    *rows = NULL;
    *n = 0;
    pm_status status = pm_selftest_list(dev, &l.list, &l.n);
    if (status == PM_OK)
        status = try_list(dev, &l, rows, n);
    pm_free(l.list);
    return status;
}
