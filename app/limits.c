// --limits: by name, or from a report of vulkan.gpuinfo.org as its viewer saves it. What a report has no word for stays as it is; a
// feature that it does not list at all is one that the device lacks.
#include "app/limits.h"
#include "host/limits.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- values -----------------------------------------------------------------------------------------------------------

// Numbers come as such or as text, "0x7fffffff" too; truth also as text.
static uint64_t number_of(const cJSON *item) {
    if (cJSON_IsString(item))
        return !strcmp(item->valuestring, "true") ? 1 : strtoull(item->valuestring, NULL, 0);
    if (cJSON_IsBool(item))
        return cJSON_IsTrue(item);
    bool sane = cJSON_IsNumber(item) && item->valuedouble >= 0;
    if (sane && item->valuedouble >= 18446744073709551615.0)
        return UINT64_MAX;
    return sane ? (uint64_t)item->valuedouble : 0;
}

static uint32_t number32_of(const cJSON *item) {
    uint64_t wide = number_of(item);
    return wide < UINT32_MAX ? (uint32_t)wide : UINT32_MAX;
}

static const cJSON *member(const cJSON *object, const char *name) {
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

// An item of the lists under "extended": {"name": .., value_name: ..}.
static const cJSON *find_listed(const cJSON *list, const char *name, const char *value_name) {
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        const cJSON *n = member(item, "name");
        if (cJSON_IsString(n) && !strcmp(n->valuestring, name))
            return member(item, value_name);
    }
    return NULL;
}

// What extensions told, and what the versions of Vulkan took in of them.
static const cJSON *find(const cJSON *root, const char *kind, const char *name) {
    static const char *const cores[] = {"core11", "core12", "core13", "core14"};
    const cJSON *extended = member(root, "extended"), *found = NULL;
    bool features = !strcmp(kind, "features");
    found =
        find_listed(member(extended, features ? "devicefeatures2" : "deviceproperties2"), name, features ? "supported" : "value");
    for (size_t i = 0; !found && i < sizeof(cores) / sizeof(*cores); i++)
        found = member(member(member(root, cores[i]), kind), name);
    return found;
}

// ---- the parts of a report --------------------------------------------------------------------------------------------

static void read_features(const cJSON *root, pm_limits *limits) {
    static const struct {
        uint32_t bit;
        const char *kind, *name;
    } needed[] = {
        {PM_LACKS_SUBGROUP_SIZE_CONTROL, "features", "subgroupSizeControl"},
        {PM_LACKS_SUBGROUP_SIZE_CONTROL, "features", "computeFullSubgroups"},
        {PM_LACKS_F16_ARITHMETIC, "features", "shaderFloat16"},
        {PM_LACKS_F16_STORAGE, "features", "storageBuffer16BitAccess"},
        {PM_LACKS_INT8_ARITHMETIC, "features", "shaderInt8"},
        {PM_LACKS_INT8_STORAGE, "features", "storageBuffer8BitAccess"},
        {PM_LACKS_INT_DOT, "features", "shaderIntegerDotProduct"},
        {PM_LACKS_INT_DOT, "properties", "integerDotProduct4x8BitPackedSignedAccelerated"},
        {PM_LACKS_BF16, "features", "shaderBFloat16Type"},
        {PM_LACKS_COOPMAT, "features", "cooperativeMatrix"},
    };
    for (size_t i = 0; i < sizeof(needed) / sizeof(*needed); i++)
        if (!number_of(find(root, needed[i].kind, needed[i].name)))
            limits->lacks |= needed[i].bit;
}

static void read_subgroups(const cJSON *root, pm_limits *limits) {
    const uint64_t basic_and_arithmetic = 1 | 4; // VkSubgroupFeatureFlagBits
    const cJSON *operations = find(root, "properties", "subgroupSupportedOperations");
    if (!operations)
        operations = member(member(member(root, "properties"), "subgroupProperties"), "supportedOperations");
    if (cJSON_IsNumber(operations) && (number_of(operations) & basic_and_arithmetic) != basic_and_arithmetic)
        limits->lacks |= PM_LACKS_SUBGROUP_ARITHMETIC;
}

static void read_identity(const cJSON *properties, pm_limits *limits) {
    static const pm_device_type types[] = {PM_DEVICE_OTHER, PM_DEVICE_INTEGRATED, PM_DEVICE_DISCRETE, PM_DEVICE_VIRTUAL,
                                           PM_DEVICE_CPU}; // as VkPhysicalDeviceType counts
    const cJSON *name = member(properties, "deviceName"), *type = member(properties, "deviceType");
    snprintf(limits->name, sizeof(limits->name), "%.100s", cJSON_IsString(name) ? name->valuestring : "a report");
    limits->has_type = cJSON_IsNumber(type) && number_of(type) < sizeof(types) / sizeof(*types);
    if (limits->has_type)
        limits->type = types[number_of(type)];
}

// A device shares the host's memory where the host sees every heap of its own: bits 1 and 2 of a type of memory.
static bool shares_memory(const cJSON *memory) {
    const cJSON *heap, *type;
    uint64_t i = 0;
    cJSON_ArrayForEach(heap, member(memory, "memoryHeaps")) {
        bool seen = !(number_of(member(heap, "flags")) & 1);
        cJSON_ArrayForEach(type, member(memory, "memoryTypes")) seen |=
            number_of(member(type, "heapIndex")) == i && (number_of(member(type, "propertyFlags")) & 3) == 3;
        if (!seen)
            return false;
        i++;
    }
    return true;
}

static void read_numbers(const cJSON *root, const cJSON *numbers, pm_limits *limits) {
    uint64_t allocation = number_of(find(root, "properties", "maxMemoryAllocationSize"));
    uint64_t buffer = number_of(find(root, "properties", "maxBufferSize"));
    uint64_t least = buffer && (!allocation || buffer < allocation) ? buffer : allocation;
    limits->max_buffer = least / 256 * 256;
    limits->max_binding = number_of(member(numbers, "maxStorageBufferRange"));
    limits->max_shared = number32_of(member(numbers, "maxComputeSharedMemorySize"));
    limits->max_invocations = number32_of(member(numbers, "maxComputeWorkGroupInvocations"));
    limits->slice_align = number32_of(member(numbers, "minStorageBufferOffsetAlignment"));
    for (int i = 0; i < 3; i++)
        limits->max_groups[i] = number32_of(cJSON_GetArrayItem(member(numbers, "maxComputeWorkGroupCount"), i));
}

static pm_status read_report(const char *path, const cJSON *root, pm_limits *limits) {
    const cJSON *properties = member(root, "properties"), *numbers = member(properties, "limits");
    if (!cJSON_IsObject(numbers))
        return pm_fail(PM_ERR_FILE, "%s: no report of vulkan.gpuinfo.org: it has no properties.limits", path);
    read_identity(properties, limits);
    read_numbers(root, numbers, limits);
    read_subgroups(root, limits);
    if (member(root, "extended") || member(root, "core12"))
        read_features(root, limits);
    bool discrete = limits->has_type && limits->type == PM_DEVICE_DISCRETE;
    if (discrete || !shares_memory(member(root, "memory")))
        limits->lacks |= PM_LACKS_UNIFIED_MEMORY;
    return PM_OK;
}

pm_status app_limits_parse(const char *path, const char *text, size_t n, pm_limits *limits) {
    cJSON_Hooks hooks = {.malloc_fn = pm_malloc, .free_fn = pm_free};
    cJSON_InitHooks(&hooks);
    *limits = (pm_limits){.lacks = 0};
    cJSON *root = cJSON_ParseWithLength(text, n);
    if (!root)
        return pm_fail(PM_ERR_FILE, "%s: not valid JSON", path);
    pm_status status = read_report(path, root, limits);
    cJSON_Delete(root);
    return status;
}

// ---- the option -------------------------------------------------------------------------------------------------------

static pm_status fail_name(const char *text) {
    char known[256] = "";
    size_t n = 0;
    for (int i = 0; pm_limits_at(i) && n < sizeof(known); i++)
        n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", pm_limits_at(i)->name);
    return pm_fail(PM_ERR_USAGE, "--limits %s: no such file, and none of %s", text, known);
}

pm_status app_limits_read(const app_option *option, const char *text, void *value) {
    enum { LIMIT = 64 << 20 };
    (void)option, (void)value;
    const pm_limits *named = pm_limits_find(text);
    pm_limits read;
    char *data;
    size_t size;
    if (named)
        return pm_limits_set(named);
    if (!pm_path_exists(text))
        return fail_name(text);
    PM_TRY(pm_file_read(text, LIMIT, &data, &size));
    pm_status status = app_limits_parse(text, data, size, &read);
    pm_free(data);
    return status == PM_OK ? pm_limits_set(&read) : status;
}
