// What an operating system offers, where it needs no telling which: files read and written whole, the cache folder, work for all
// cores. What differs is behind host/os.h. Paths are UTF-8 everywhere.
#include "host/os.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

enum { MAX_THREADS = 64 };

// ---- files --------------------------------------------------------------------------------------------------------------

// Only whole pages inside the range: a neighbour may share the first and the last one.
void pm_map_forget(const pm_map *map, uint64_t offset, uint64_t size) {
    if (!map->data || offset >= map->size)
        return;
    if (size > map->size - offset)
        size = map->size - offset;
    uint64_t page = pm_os_page_size();
    uint64_t first = pm_round_up(offset, page), end = (offset + size) / page * page;
    if (offset + size == map->size)
        end = map->size;
    if (first < end)
        pm_os_drop_pages((uint8_t *)(uintptr_t)(map->data + first), (size_t)(end - first));
}

// Doubles a buffer until the stream ends; a size asked for beforehand would be wrong for pipes and /proc.
static pm_status fill(const char *path, FILE *stream, size_t limit, char **data, size_t *size) {
    size_t used = 0, room = 0;
    for (;;) {
        if (room - used < 2) {
            room = room ? room * 2 : 16 << 10;
            char *grown = pm_realloc(*data, room);
            if (!grown)
                return pm_fail(PM_ERR_MEMORY, "%s: no memory for %zu bytes", path, room);
            *data = grown;
        }
        size_t got =
            stream == stdin ? pm_os_read_stdin(*data + used, room - used - 1) : fread(*data + used, 1, room - used - 1, stream);
        used += got;
        if (used > limit)
            return pm_fail(PM_ERR_FILE, "%s: larger than %zu bytes", path, limit);
        if (ferror(stream))
            return pm_fail(PM_ERR_IO, "%s: %s", path, strerror(errno));
        if (got == 0)
            break;
    }
    (*data)[used] = 0;
    *size = used;
    return PM_OK;
}

pm_status pm_os_read_stream(const char *path, FILE *stream, size_t limit, char **data, size_t *size) {
    pm_status status = fill(path, stream, limit, data, size);
    if (status != PM_OK) {
        pm_free(*data);
        *data = NULL;
    }
    return status;
}

pm_status pm_file_read(const char *path, size_t limit, char **data, size_t *size) {
    *data = NULL;
    *size = 0;
    FILE *stream = pm_os_open(path, "rb");
    if (!stream)
        return pm_fail(PM_ERR_IO, "%s: %s", path, strerror(errno));
    pm_status status = pm_os_read_stream(path, stream, limit, data, size);
    fclose(stream);
    return status;
}

int pm_stdin_getc(void) {
    char c;
    return pm_os_read_stdin(&c, 1) == 1 ? (unsigned char)c : EOF;
}

pm_status pm_stdin_read(size_t limit, char **data, size_t *size) {
    *data = NULL;
    *size = 0;
    return pm_os_read_stream("standard input", stdin, limit, data, size);
}

pm_status pm_file_write(const char *path, const void *data, size_t size) {
    FILE *stream = pm_os_open(path, "wb");
    if (!stream)
        return pm_fail(PM_ERR_IO, "%s: %s", path, strerror(errno));
    bool written = fwrite(data, 1, size, stream) == size;
    int error = errno;
    if (fclose(stream) != 0 && written) { // a full disk may show only now
        written = false;
        error = errno;
    }
    return written ? PM_OK : pm_fail(PM_ERR_IO, "%s: %s", path, strerror(error));
}

pm_status pm_output_open(const char *path, pm_output *out) {
    static atomic_ulong serial; // two threads may write the same file
    *out = (pm_output){.path = path};
    int n = snprintf(out->beside, sizeof(out->beside), "%s.%lu-%lu.tmp", path, pm_process_id(), atomic_fetch_add(&serial, 1));
    if (n < 0 || (size_t)n >= sizeof(out->beside))
        return pm_fail(PM_ERR_IO, "%s: the path is too long", path);
    if (!pm_os_is_replaceable(path))
        return pm_fail(PM_ERR_IO, "%s: is there and is no file that could be replaced", path);
    out->stream = pm_os_open(out->beside, "wb");
    return out->stream ? PM_OK : pm_fail(PM_ERR_IO, "%s: %s", path, strerror(errno));
}

pm_status pm_output_write(pm_output *out, const void *data, size_t size) {
    if (size == 0 || fwrite(data, 1, size, out->stream) == size)
        return PM_OK;
    return pm_fail(PM_ERR_IO, "%s: cannot be written: %s", out->path, strerror(errno));
}

pm_status pm_output_finish(pm_output *out) {
    FILE *stream = out->stream;
    out->stream = NULL;
    pm_status status = PM_OK;
    if (fclose(stream) != 0) // a full disk may show only now
        status = pm_fail(PM_ERR_IO, "%s: cannot be written: %s", out->path, strerror(errno));
    else if (!pm_os_rename(out->beside, out->path))
        status = pm_fail(PM_ERR_IO, "%s: cannot replace: %s", out->path, strerror(errno));
    if (status != PM_OK)
        pm_os_remove(out->beside);
    return status;
}

void pm_output_close(pm_output *out) {
    if (!out->stream)
        return;
    fclose(out->stream);
    pm_os_remove(out->beside);
    out->stream = NULL;
}

pm_status pm_file_write_atomic(const char *path, const void *data, size_t size) {
    pm_output out = {0};
    PM_TRY(pm_output_open(path, &out));
    pm_status status = pm_output_write(&out, data, size);
    if (status == PM_OK)
        status = pm_output_finish(&out);
    pm_output_close(&out);
    return status;
}

// ---- the cache folder --------------------------------------------------------------------------------------------------

static bool make_dirs(char *path) {
    for (char *p = path + 1; *p; p++) {
        if (!pm_os_is_separator(*p))
            continue;
        char separator = *p;
        *p = 0;
        if (!pm_path_exists(path))
            pm_os_make_dir(path);
        *p = separator;
    }
    return (pm_path_exists(path) || pm_os_make_dir(path)) && pm_os_dir_writable(path);
}

static bool try_cache(char *path, size_t size, const char *parent, const char *rest) {
    int n = snprintf(path, size, "%s%s", parent, rest);
    return n > 0 && (size_t)n < size && make_dirs(path);
}

bool pm_cache_dir(char *path, size_t size) {
    char text[PM_OS_PATH_SIZE];
    const char *chosen = pm_os_variable("PUMICE_CACHE", text, sizeof(text));
    if (chosen)
        return chosen[0] && try_cache(path, size, chosen, "");
    for (const pm_os_place *place = pm_os_cache_places; place->rest; place++) {
        const char *parent = place->variable ? pm_os_variable(place->variable, text, sizeof(text)) : "";
        if (!parent || (place->variable && !parent[0]))
            continue;
        if (try_cache(path, size, parent, place->rest))
            return true;
        if (place->is_last)
            return false;
    }
    return false;
}

// ---- date, threads ------------------------------------------------------------------------------------------------------

void pm_utc_text(char text[PM_UTC_SIZE]) {
    time_t now = time(NULL);
    struct tm utc = {0};
    pm_os_utc(&now, &utc);
    strftime(text, PM_UTC_SIZE, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

typedef struct parallel_job {
    atomic_int next;
    int n;
    void (*work)(void *user, int i);
    void *user;
} parallel_job;

static void job_run(void *user) {
    parallel_job *job = user;
    for (;;) {
        int i = atomic_fetch_add(&job->next, 1);
        if (i >= job->n)
            return;
        job->work(job->user, i);
    }
}

// The caller works too, so that a system without a thread to spare still gets it done.
void pm_parallel_for(int n, void (*work)(void *user, int i), void *user) {
    parallel_job job = {.n = n, .work = work, .user = user};
    pm_os_thread threads[MAX_THREADS];
    int wanted = pm_cpu_count() < n ? pm_cpu_count() - 1 : n - 1, started = 0;
    for (; started < wanted && started < MAX_THREADS; started++) {
        threads[started] = (pm_os_thread){.work = job_run, .user = &job};
        if (!pm_os_thread_start(&threads[started]))
            break;
    }
    job_run(&job);
    for (int t = 0; t < started; t++)
        pm_os_thread_join(&threads[t]);
}
