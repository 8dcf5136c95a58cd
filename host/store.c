// What is remembered of a device from run to run: small files in the user's cache folder that are named after the device, the
// version of its driver and the hash of all kernels, so that none outlives what it was found out about. Keeping is a favour to the
// next run: nothing that goes wrong here is an error, and a file that is not whole, not ours or about something else is as good as
// none.
#include "host/vk.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "shader_hash.h"

enum { TEXT_LIMIT = 4 << 20 }; // a larger file is not ours

// FNV-1a: it has to notice accidents, not attacks.
uint64_t pm_store_hash(const void *data, size_t size) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
    return hash;
}

static void uuid_text(const pm_device *dev, char text[33]) {
    for (int i = 0; i < 16; i++)
        snprintf(text + 2 * i, 3, "%02x", dev->info.device_uuid[i]);
}

bool pm_store_path(const pm_device *dev, const char *kind, const char *ending, char *path, size_t size) {
    char dir[1024], uuid[33];
    if (!pm_cache_dir(dir, sizeof(dir)))
        return false;
    uuid_text(dev, uuid);
    int n =
        snprintf(path, size, "%s/%s-%s-%08" PRIx32 "-%.16s.%s", dir, kind, uuid, dev->info.driver_version, PM_SHADER_HASH, ending);
    return n > 0 && (size_t)n < size;
}

// The lines that a file of this kind begins with: whom it is about, and the hash of what follows. What the name says is said again,
// for files get copied and renamed.
static int write_head(const pm_device *dev, const char *kind, const char *body, char *head, size_t size) {
    char uuid[33];
    uuid_text(dev, uuid);
    return snprintf(head, size, "pumice %s 1 %s %08" PRIx32 " %s\n%016" PRIx64 "\n", kind, uuid, dev->info.driver_version,
                    PM_SHADER_HASH, pm_store_hash(body, strlen(body)));
}

char *pm_store_read(const pm_device *dev, const char *kind) {
    char path[1280], head[256], *file;
    size_t size;
    if (!pm_store_path(dev, kind, "txt", path, sizeof(path)) || !pm_file_is_ours(path) ||
        pm_file_read(path, TEXT_LIMIT, &file, &size) != PM_OK)
        return NULL;
    const char *first = strchr(file, '\n'), *second = first ? strchr(first + 1, '\n') : NULL;
    size_t length = second ? (size_t)(second + 1 - file) : 0;
    int n = second ? write_head(dev, kind, second + 1, head, sizeof(head)) : -1;
    if (n < 0 || (size_t)n != length || memcmp(head, file, length) != 0) {
        pm_log(PM_LOG_DEBUG, "%s: damaged or about another device, starting afresh", path);
        pm_free(file);
        return NULL;
    }
    memmove(file, file + length, size - length + 1);
    return file;
}

void pm_store_write(const pm_device *dev, const char *kind, const char *body) {
    char path[1280], head[256];
    if (!pm_store_path(dev, kind, "txt", path, sizeof(path)))
        return;
    int n = write_head(dev, kind, body, head, sizeof(head));
    size_t length = strlen(body);
    char *file = n > 0 && (size_t)n < sizeof(head) ? pm_malloc((size_t)n + length) : NULL;
    if (!file)
        return;
    memcpy(file, head, (size_t)n);
    memcpy(file + n, body, length);
    if (pm_file_write_atomic(path, file, (size_t)n + length) != PM_OK)
        pm_log(PM_LOG_DEBUG, "not kept: %s", pm_error_text());
    pm_free(file);
}

// ---- text that grows ----------------------------------------------------------------------------------------------------

void pm_text_add(pm_text *t, const char *format, ...) {
    va_list list;
    char line[512];
    va_start(list, format);
    int n = vsnprintf(line, sizeof(line), format, list);
    va_end(list);
    if (n < 0 || (size_t)n >= sizeof(line) || t->failed)
        return;
    if (t->n + (size_t)n + 1 > t->room) {
        size_t room = 2 * t->room + sizeof(line);
        char *grown = pm_realloc(t->p, room);
        t->failed = !grown;
        if (!grown)
            return;
        t->p = grown;
        t->room = room;
    }
    memcpy(t->p + t->n, line, (size_t)n + 1);
    t->n += (size_t)n;
}
