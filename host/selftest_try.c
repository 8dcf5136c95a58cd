// Trying kernels where a driver that crashes or never ends costs nothing: in child processes. A child is a program that hands its
// arguments on to pm_device_try_kernels: `pumice` and `pumice-bench` start themselves. A program that only links the library may
// name one of them (pm_device_try_with). Otherwise, and where os.c starts no children (pm_program_run is unsupported), kernels are
// tried in the process itself, on a second device: not after a fork, since neither a driver nor its threads live through one. A
// wrong result, a kernel that never ends and a lost device are survived there too; a crash is not, but the mark that is left on
// disk before each trial keeps it from happening twice.
#include "host/selftest.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_CHILD = 64,     // uses that a child is given: Windows' command lines have an end; and that one device gets to see
    MOST_CHILDREN = 8,  // at once
    LEAST_CHILD = 4,    // uses that are worth another child
    TOGETHER = 8,       // pipelines that a child makes at once
    SILENCES = 3,       // that a child may be silent, in units of caps.trial_ms
    MAX_SAID = 1 << 20, // bytes that a child says
    INTERRUPTED = 130   // exit code of a child that Ctrl-C has ended
};

static char try_program[1024]; // "": none

void pm_device_try_with(const char *program) {
    snprintf(try_program, sizeof(try_program), "%s", program ? program : "");
}

// ---- in this process ---------------------------------------------------------------------------------------------------

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

// Those that are unknown. Pipelines go with their device: of hundreds of uses they would take more than a GB on lavapipe.
static void try_here(const pm_device *dev, pm_verdict *todo, int n) {
    place p = {0};
    for (int i = 0, n_tried = 0; i < n; i++) {
        if (todo[i].fate != PM_FATE_UNKNOWN)
            continue;
        if (!p.lab && enter(dev, &p) != PM_OK) {
            pm_log(PM_LOG_INFO, "kernels cannot be tried: %s", pm_error_text());
            break;
        }
        pm_selftest_mark(dev, &todo[i].use);
        pm_lab_try(p.lab, &todo[i].use, &todo[i]);
        if (todo[i].fate == PM_FATE_LOST || pm_lab_is_stuck(p.lab) || ++n_tried % MAX_CHILD == 0)
            leave(&p, pm_lab_is_stuck(p.lab));
    }
    pm_selftest_mark(dev, NULL);
    leave(&p, false);
}

// ---- in a child: the child's side -------------------------------------------------------------------------------------

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

// ---- in a child: our side ---------------------------------------------------------------------------------------------

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
            pm_fate_read(fate, &v.fate);
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
    return *exit_code == INTERRUPTED ? PM_ERR_CANCELLED : PM_OK;
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

// Batches of uses, which children take one after the other.
typedef struct batches {
    const pm_device *dev;
    pm_verdict *todo;
    int n, size;       // uses, in all and of a batch
    atomic_int next;   // use that nobody has taken
    atomic_int status; // not PM_OK: nobody takes more
} batches;

static void take_batches(void *user, int child) {
    batches *b = user;
    int first;
    (void)child;
    while (atomic_load(&b->status) == PM_OK && (first = atomic_fetch_add(&b->next, b->size)) < b->n) {
        pm_status status = try_in_child(b->dev, b->todo + first, b->n - first < b->size ? b->n - first : b->size);
        if (status == PM_ERR_CANCELLED || (status != PM_OK && atomic_load(&b->status) == PM_OK))
            atomic_store(&b->status, status);
    }
}

// A software driver compiles on one core what it runs first, so that each core gets a child. A GPU gets one child at a time: where
// it has to be reset it takes all who use it along, and innocent kernels would be condemned.
static int count_children(const pm_device *dev, int n) {
    int cores = pm_cpu_count() < MOST_CHILDREN ? pm_cpu_count() : MOST_CHILDREN, wanted = n / LEAST_CHILD;
    if (dev->caps.device_class != PM_CLASS_CPU || wanted < 2)
        return 1;
    return wanted < cores ? wanted : cores;
}

// So many batches that all children end at about the same time.
static pm_status try_in_children(const pm_device *dev, pm_verdict *todo, int n) {
    int n_children = count_children(dev, n), size = n_children > 1 ? (n - 1) / (4 * n_children) + 1 : MAX_CHILD;
    batches b = {.dev = dev, .todo = todo, .n = n, .size = size < MAX_CHILD ? size : MAX_CHILD};
    pm_parallel_for(n_children, take_batches, &b);
    return (pm_status)atomic_load(&b.status);
}

pm_status pm_selftest_try(const pm_device *dev, pm_verdict *todo, int n) {
    pm_status status = try_program[0] ? try_in_children(dev, todo, n) : PM_ERR_UNSUPPORTED;
    if (status == PM_ERR_CANCELLED) // told by the thread that saw it
        return pm_fail(PM_ERR_CANCELLED, "interrupted while kernels were tried");
    if (status != PM_OK) {
        pm_log(PM_LOG_DEBUG, "kernels are tried in this process");
        try_here(dev, todo, n);
    }
    return PM_OK;
}
