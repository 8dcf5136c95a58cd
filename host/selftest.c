// Which kernels are right on the driver at hand. A use of a kernel that is new to this device, driver and build is tried before it
// is used (selftest_try.c, trial.c); what is not right is quarantined, and variant.c passes it over. Verdicts are kept on disk.
#include "host/selftest.h"

#include <stdio.h>
#include <string.h>

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

pm_verdict *pm_verdicts_find(const pm_verdicts *all, const pm_kernel_use *use) {
    for (int i = 0; all && i < all->n; i++)
        if (pm_kernel_same_use(&all->list[i].use, use))
            return &all->list[i];
    return NULL;
}

pm_status pm_verdicts_add(pm_verdicts *all, const pm_verdict *v) {
    pm_verdict *known = pm_verdicts_find(all, &v->use);
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

static pm_verdict *find(const pm_device *dev, const pm_kernel_use *use) {
    return pm_verdicts_find(dev->verdicts, use);
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

// "USE FATE ERROR MS"
static bool read_verdict(const char *line, pm_verdict *v) {
    char use[PM_USE_TEXT], fate[16];
    *v = (pm_verdict){.from_disk = true};
    return sscanf(line, "%159s %15s %lf %lf", use, fate, &v->error, &v->ms) == 4 && pm_kernel_use_read(use, &v->use) &&
           pm_fate_read(fate, &v->fate);
}

void pm_selftest_read(pm_device *dev, const char *text) {
    for (const char *line = text; line && *line; line += strcspn(line, "\n"), line += *line == '\n') {
        pm_verdict v;
        if (read_verdict(line, &v) && !find(dev, &v.use) && pm_verdicts_add(dev->verdicts, &v) != PM_OK)
            break;
    }
}

// What another process has found out meanwhile is kept; what this one has found out itself stands.
static void load(pm_device *dev) {
    char *text = pm_store_read(dev, "verdicts");
    pm_selftest_read(dev, text);
    pm_free(text);
}

void pm_selftest_save(pm_device *dev) {
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

void pm_selftest_mark(const pm_device *dev, const pm_kernel_use *use) {
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
        !find(dev, &v.use) && pm_verdicts_add(dev->verdicts, &v) == PM_OK) {
        pm_selftest_mark(dev, NULL);
        pm_selftest_save(dev);
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

// ---- before use -------------------------------------------------------------------------------------------------------

// One line, however many they are: the first, and how many more.
static void tell(const pm_device *dev, const pm_verdict *first, int n_bad) {
    char text[PM_USE_TEXT], more[32] = "";
    if (n_bad > 1)
        snprintf(more, sizeof(more), ", and %d more fail", n_bad - 1);
    pm_log(PM_LOG_WARN, "%s (%s %s): the kernel %s %s%s; others are used in place", dev->info.name, dev->info.driver_name,
           dev->info.driver_info, pm_kernel_use_text(&first->use, text), what_it_does(first->fate), more);
}

// Those of which nothing is known, and those that only the disk speaks ill of and that are wanted all the same: there is no other
// left.
static pm_status list_unknown(const pm_device *dev, const pm_kernel_use *uses, int n, pm_verdicts *todo) {
    for (int i = 0; i < n; i++) {
        const pm_verdict *v = find(dev, &uses[i]);
        if ((!v || (v->from_disk && is_bad(v))) && pm_kernel_available(dev, uses[i].id))
            PM_TRY(pm_verdicts_add(todo, &(pm_verdict){.use = uses[i]}));
    }
    return PM_OK;
}

static pm_status settle(pm_device *dev, const pm_verdicts *todo, bool *found_bad) {
    const pm_verdict *first = NULL;
    int n_bad = 0;
    for (int i = 0; i < todo->n; i++) {
        PM_TRY(pm_verdicts_add(dev->verdicts, &todo->list[i]));
        first = is_bad(&todo->list[i]) && !first ? &todo->list[i] : first;
        n_bad += is_bad(&todo->list[i]);
    }
    *found_bad = n_bad > 0;
    if (first)
        tell(dev, first, n_bad);
    pm_selftest_save(dev);
    return PM_OK;
}

pm_status pm_selftest_uses(pm_device *dev, const pm_kernel_use *uses, int n, bool *found_bad) {
    *found_bad = false;
    if (!dev->verdicts || n == 0)
        return PM_OK;
    pm_verdicts todo = {.n = 0};
    pm_status status = list_unknown(dev, uses, n, &todo);
    if (status == PM_OK && todo.n)
        status = pm_selftest_try(dev, todo.list, todo.n);
    if (status == PM_OK && todo.n)
        status = settle(dev, &todo, found_bad);
    pm_free(todo.list);
    return status;
}

void pm_device_verdicts(const pm_device *dev, int *n_right, int *n) {
    *n_right = *n = 0;
    for (int i = 0; dev->verdicts && i < dev->verdicts->n; i++) {
        *n_right += dev->verdicts->list[i].fate == PM_FATE_RIGHT;
        *n += dev->verdicts->list[i].fate == PM_FATE_RIGHT || is_bad(&dev->verdicts->list[i]);
    }
}
