// pumice devices: what the Vulkan devices here are and can do, a line each or as JSON.
#include "app/json.h"
#include "app/limits.h"
#include "app/trials.h"
#include "host/host.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define GIB(bytes) ((double)(bytes) / (1 << 30))

static const char *type_name(pm_device_type type) {
    static const char *const names[] = {"discrete", "integrated", "virtual", "cpu", "other"};
    return names[type];
}

static void format_version(uint32_t version, char text[32]) {
    snprintf(text, 32, "%" PRIu32 ".%" PRIu32 ".%" PRIu32, version >> 22 & 0x7f, version >> 12 & 0x3ff, version & 0xfff);
}

// ---- a line -----------------------------------------------------------------------------------------------------------

static void print_driver(const pm_device_info *d) {
    char api[32], version[32];
    format_version(d->api_version, api);
    format_version(d->driver_version, version);
    printf(" | %s %s, Vulkan %s", d->driver_name[0] ? d->driver_name : "driver", d->driver_info[0] ? d->driver_info : version, api);
}

static void print_heaps(const pm_device_info *d) {
    printf(" |");
    for (int i = 0; i < d->n_heaps; i++) {
        const pm_heap_info *heap = &d->heaps[i];
        printf("%s %s%.1f GiB", i ? " +" : "", heap->device_local ? "" : "host ", GIB(heap->size));
        if (d->budget_known)
            printf(" (%.1f free)", GIB(heap->budget));
    }
    printf("%s%s", d->unified_memory ? ", shared with the host" : "", d->budget_known ? "" : ", budget not told");
}

static void print_subgroups(const pm_device_info *d) {
    printf(" | subgroup %" PRIu32, d->subgroup_size);
    if (d->subgroup_min != d->subgroup_max)
        printf(" (%" PRIu32 " to %" PRIu32 "%s)", d->subgroup_min, d->subgroup_max,
               d->subgroup_size_control ? "" : ", not ours to choose");
    if (!d->subgroup_arithmetic)
        printf(" without arithmetic");
}

static void print_arithmetic(const pm_device_info *d) {
    const struct {
        bool has;
        const char *name;
    } kinds[] = {
        {d->f16_arithmetic, "fp16"},  {d->f16_storage, "16-bit storage"}, {d->bf16, "bf16"},
        {d->int8_arithmetic, "int8"}, {d->int8_storage, "8-bit storage"}, {d->int_dot_accelerated, "int8 dot product"},
    };
    const char *separator = " | ";
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        if (kinds[i].has) {
            printf("%s%s", separator, kinds[i].name);
            separator = ", ";
        }
    }
    for (int i = 0; i < d->n_coopmats; i++) {
        const pm_coopmat_info *m = &d->coopmats[i];
        printf("%s%" PRIu32 "x%" PRIu32 "x%" PRIu32 " %s to %s", i ? ", " : " | matrices ", m->m, m->n, m->k, m->a, m->c);
    }
}

static void print_limits(const pm_device_info *d) {
    printf(" | binding %" PRIu64 " MiB, buffer %" PRIu64 " MiB, shared %" PRIu32 " KiB, workgroup %" PRIu32 ", groups %" PRIu32
           "%s\n",
           d->max_binding >> 20, d->max_buffer >> 20, d->max_shared >> 10, d->max_invocations, d->max_groups[0],
           d->timestamp_bits ? "" : ", no timestamps");
}

static void print_line(const pm_device_info *d) {
    printf("%d  %s | %s", d->index, d->name, type_name(d->type));
    print_driver(d);
    print_heaps(d);
    print_subgroups(d);
    print_arithmetic(d);
    print_limits(d);
}

// ---- JSON -------------------------------------------------------------------------------------------------------------

static void put_uuid(app_json *j, cJSON *object, const char *name, const uint8_t uuid[16]) {
    char text[33];
    for (int i = 0; i < 16; i++)
        snprintf(text + 2 * i, 3, "%02x", uuid[i]);
    app_json_text(j, object, name, text);
}

static void put_identity(app_json *j, cJSON *o, const pm_device_info *d) {
    char api[32], pci[40];
    format_version(d->api_version, api);
    app_json_number(j, o, "index", (uint64_t)d->index);
    app_json_text(j, o, "name", d->name);
    app_json_text(j, o, "type", type_name(d->type));
    app_json_text(j, o, "driver_name", d->driver_name);
    app_json_text(j, o, "driver_info", d->driver_info);
    app_json_number(j, o, "driver_version", d->driver_version);
    app_json_number(j, o, "driver_id", d->driver_id);
    app_json_text(j, o, "api_version", api);
    app_json_number(j, o, "vendor_id", d->vendor_id);
    app_json_number(j, o, "device_id", d->device_id);
    put_uuid(j, o, "device_uuid", d->device_uuid);
    put_uuid(j, o, "driver_uuid", d->driver_uuid);
    if (d->has_pci) {
        snprintf(pci, sizeof(pci), "%04" PRIx32 ":%02" PRIx32 ":%02" PRIx32 ".%" PRIx32, d->pci[0], d->pci[1], d->pci[2],
                 d->pci[3]);
        app_json_text(j, o, "pci", pci);
    }
}

static void put_memory(app_json *j, cJSON *o, const pm_device_info *d) {
    cJSON *heaps = app_json_array(j, o, "heaps");
    for (int i = 0; i < d->n_heaps; i++) {
        cJSON *heap = app_json_object(j, heaps, NULL);
        app_json_number(j, heap, "size", d->heaps[i].size);
        app_json_number(j, heap, "free", d->heaps[i].budget);
        app_json_bool(j, heap, "device_local", d->heaps[i].device_local);
    }
    app_json_bool(j, o, "budget_known", d->budget_known);
    app_json_bool(j, o, "unified_memory", d->unified_memory);
}

static void put_arithmetic(app_json *j, cJSON *o, const pm_device_info *d) {
    app_json_number(j, o, "subgroup_size", d->subgroup_size);
    app_json_number(j, o, "subgroup_min", d->subgroup_min);
    app_json_number(j, o, "subgroup_max", d->subgroup_max);
    app_json_bool(j, o, "subgroup_arithmetic", d->subgroup_arithmetic);
    app_json_bool(j, o, "subgroup_size_control", d->subgroup_size_control);
    app_json_bool(j, o, "f16_arithmetic", d->f16_arithmetic);
    app_json_bool(j, o, "f16_storage", d->f16_storage);
    app_json_bool(j, o, "bf16", d->bf16);
    app_json_bool(j, o, "int8_arithmetic", d->int8_arithmetic);
    app_json_bool(j, o, "int8_storage", d->int8_storage);
    app_json_bool(j, o, "int_dot", d->int_dot);
    app_json_bool(j, o, "int_dot_accelerated", d->int_dot_accelerated);
    cJSON *matrices = app_json_array(j, o, "matrices");
    for (int i = 0; i < d->n_coopmats; i++) {
        cJSON *matrix = app_json_object(j, matrices, NULL);
        app_json_number(j, matrix, "m", d->coopmats[i].m);
        app_json_number(j, matrix, "n", d->coopmats[i].n);
        app_json_number(j, matrix, "k", d->coopmats[i].k);
        app_json_text(j, matrix, "a", d->coopmats[i].a);
        app_json_text(j, matrix, "c", d->coopmats[i].c);
    }
}

static void put_limits(app_json *j, cJSON *o, const pm_device_info *d) {
    app_json_number(j, o, "max_buffer", d->max_buffer);
    app_json_number(j, o, "max_binding", d->max_binding);
    app_json_number(j, o, "slice_align", d->slice_align);
    app_json_number(j, o, "max_shared", d->max_shared);
    app_json_number(j, o, "max_invocations", d->max_invocations);
    cJSON *groups = app_json_array(j, o, "max_groups");
    for (int i = 0; i < 3; i++)
        app_json_number(j, groups, NULL, d->max_groups[i]);
    app_json_number(j, o, "timestamp_bits", d->timestamp_bits);
    app_json_real(j, o, "timestamp_ns", (double)d->timestamp_ns);
}

static pm_status print_json(const pm_device_info *infos, int n) {
    app_json j = app_json_begin();
    cJSON *devices = app_json_array(&j, j.root, "devices");
    for (int i = 0; i < n; i++) {
        cJSON *device = app_json_object(&j, devices, NULL);
        put_identity(&j, device, &infos[i]);
        put_memory(&j, device, &infos[i]);
        put_arithmetic(&j, device, &infos[i]);
        put_limits(&j, device, &infos[i]);
    }
    return app_json_print(&j);
}

// ---- the command ------------------------------------------------------------------------------------------------------

typedef struct values {
    bool json, test;
} values;

static const app_option options[] = {
    {.name = "--json", .help = "all that is known of each device, as JSON", .kind = APP_FLAG, .offset = offsetof(values, json)},
    {.name = "--test", .help = "try every kernel: is it right on this driver?", .kind = APP_FLAG, .offset = offsetof(values, test)},
    APP_LIMITS_OPTION,
};

static pm_status print_lines(const pm_device_info *infos, int n, bool test) {
    pm_status status = PM_OK;
    for (int i = 0; i < n; i++) {
        print_line(&infos[i]);
        pm_status one = test ? app_try_kernels(i) : PM_OK;
        status = status == PM_OK ? one : status;
    }
    return status;
}

static int run(int argc, char **argv) {
    values v = {.json = false};
    pm_device_info *infos;
    int n, exit_code;
    if (!app_parse(&app_devices, argc, argv, &v, &exit_code))
        return exit_code;
    pm_status status = pm_device_list(&infos, &n);
    if (status == PM_OK)
        status = v.json ? print_json(infos, n) : print_lines(infos, n, v.test);
    pm_free(infos);
    return app_exit(status);
}

const app_command app_devices = {
    .name = "devices",
    .summary = "lists the Vulkan devices, best first; the number is what --device takes",
    .options = options,
    .n_options = sizeof(options) / sizeof(*options),
    .run = run,
};
