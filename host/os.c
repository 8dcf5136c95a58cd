// What an operating system offers: mappings, small files, the cache folder, the clock, threads. The only file that asks which
// system this is. Paths are UTF-8 everywhere; Windows gets them as UTF-16.
#ifdef __linux__
#define _GNU_SOURCE // sched_getaffinity, madvise
#endif

#include "host/base.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#define PSAPI_VERSION 2 // in kernel32, no library to link
#include <windows.h>
#include <fcntl.h>
#include <io.h>
#include <process.h>
#include <psapi.h>
#else
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

enum { PATH_SIZE = 4096, MAX_THREADS = 64 };

// ---- files: the system's calls -----------------------------------------------------------------------------------------

#ifdef _WIN32

static bool widen_into(const char *text, wchar_t *wide, int room) {
    return MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, wide, room) > 0;
}

static bool widen(const char *path, wchar_t wide[PATH_SIZE]) {
    return widen_into(path, wide, PATH_SIZE);
}

static FILE *file_open(const char *path, const char *mode) {
    wchar_t wide[PATH_SIZE], wide_mode[8];
    if (!widen(path, wide) || !widen_into(mode, wide_mode, 8))
        return NULL;
    return _wfopen(wide, wide_mode);
}

static DWORD file_attributes(const char *path) {
    wchar_t wide[PATH_SIZE];
    return widen(path, wide) ? GetFileAttributesW(wide) : INVALID_FILE_ATTRIBUTES;
}

bool pm_path_is_dir(const char *path) {
    DWORD attributes = file_attributes(path);
    return attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY);
}

bool pm_path_exists(const char *path) {
    return file_attributes(path) != INVALID_FILE_ATTRIBUTES;
}

static bool is_replaceable(const char *path) {
    DWORD attributes = file_attributes(path);
    return attributes == INVALID_FILE_ATTRIBUTES || !(attributes & (FILE_ATTRIBUTE_DIRECTORY | FILE_ATTRIBUTE_DEVICE));
}

static bool file_identity(const char *path, BY_HANDLE_FILE_INFORMATION *info) {
    wchar_t wide[PATH_SIZE];
    if (!widen(path, wide))
        return false;
    HANDLE file = CreateFileW(wide, 0, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, OPEN_EXISTING,
                              FILE_FLAG_BACKUP_SEMANTICS, NULL);
    bool known = file != INVALID_HANDLE_VALUE && GetFileInformationByHandle(file, info);
    if (file != INVALID_HANDLE_VALUE)
        CloseHandle(file);
    return known;
}

bool pm_path_same(const char *a, const char *b) {
    BY_HANDLE_FILE_INFORMATION x, y;
    return file_identity(a, &x) && file_identity(b, &y) && x.dwVolumeSerialNumber == y.dwVolumeSerialNumber &&
           x.nFileIndexHigh == y.nFileIndexHigh && x.nFileIndexLow == y.nFileIndexLow;
}

static bool make_dir(const char *path) {
    wchar_t wide[PATH_SIZE];
    return widen(path, wide) && (CreateDirectoryW(wide, NULL) || GetLastError() == ERROR_ALREADY_EXISTS);
}

static bool dir_writable(const char *path) {
    return pm_path_is_dir(path); // the attribute says nothing about rights; a failed write later is only a missing cache
}

static bool file_rename(const char *from, const char *to) {
    wchar_t wide_from[PATH_SIZE], wide_to[PATH_SIZE];
    return widen(from, wide_from) && widen(to, wide_to) && MoveFileExW(wide_from, wide_to, MOVEFILE_REPLACE_EXISTING);
}

static void file_remove(const char *path) {
    wchar_t wide[PATH_SIZE];
    if (widen(path, wide))
        DeleteFileW(wide);
}

unsigned long pm_process_id(void) {
    return GetCurrentProcessId();
}

bool pm_process_lives(unsigned long id) {
    HANDLE process = OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, FALSE, id);
    DWORD code = 0;
    bool lives = process && GetExitCodeProcess(process, &code) && code == STILL_ACTIVE;
    if (process)
        CloseHandle(process);
    return lives;
}

static pm_status map_handle(const char *path, HANDLE file, pm_map *map) {
    LARGE_INTEGER size;
    if (!GetFileSizeEx(file, &size))
        return pm_fail(PM_ERR_IO, "%s: cannot read the size (error %lu)", path, GetLastError());
    map->size = (uint64_t)size.QuadPart;
    if (map->size == 0)
        return PM_OK;
    if (map->size > SIZE_MAX)
        return pm_fail(PM_ERR_IO, "%s: too large to map", path);
    map->handle = CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL);
    if (map->handle)
        map->data = MapViewOfFile(map->handle, FILE_MAP_READ, 0, 0, 0);
    if (!map->data)
        return pm_fail(PM_ERR_IO, "%s: cannot map (error %lu)", path, GetLastError());
    return PM_OK;
}

pm_status pm_map_open(const char *path, pm_map *map) {
    *map = (pm_map){0};
    wchar_t wide[PATH_SIZE];
    if (!widen(path, wide))
        return pm_fail(PM_ERR_IO, "%s: not a path", path);
    HANDLE file = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, OPEN_EXISTING, 0, NULL);
    if (file == INVALID_HANDLE_VALUE)
        return pm_fail(PM_ERR_IO, "%s: cannot open (error %lu)", path, GetLastError());
    pm_status status = map_handle(path, file, map);
    CloseHandle(file); // the mapping keeps the file
    if (status != PM_OK)
        pm_map_close(map);
    return status;
}

void pm_map_close(pm_map *map) {
    if (map->data)
        UnmapViewOfFile(map->data);
    if (map->handle)
        CloseHandle(map->handle);
    *map = (pm_map){0};
}

static size_t page_size(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

static void drop_pages(uint8_t *p, size_t size) {
    VirtualUnlock(p, size); // unlocking what is not locked takes it out of the working set
}

static void keep_line_ends(FILE *stream) {
    _setmode(_fileno(stream), _O_BINARY);
}

bool pm_is_terminal(int descriptor) {
    return _isatty(descriptor) != 0;
}

#else

static FILE *file_open(const char *path, const char *mode) {
    return fopen(path, mode);
}

bool pm_path_is_dir(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool pm_path_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

static bool is_replaceable(const char *path) {
    struct stat info;
    return stat(path, &info) != 0 || S_ISREG(info.st_mode);
}

bool pm_path_same(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static bool make_dir(const char *path) {
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

static bool dir_writable(const char *path) {
    return pm_path_is_dir(path) && access(path, W_OK | X_OK) == 0;
}

static bool file_rename(const char *from, const char *to) {
    return rename(from, to) == 0;
}

static void file_remove(const char *path) {
    unlink(path);
}

unsigned long pm_process_id(void) {
    return (unsigned long)getpid();
}

bool pm_process_lives(unsigned long id) {
    return kill((pid_t)id, 0) == 0 || errno == EPERM;
}

static pm_status map_descriptor(const char *path, int fd, pm_map *map) {
    struct stat info;
    if (fstat(fd, &info) != 0)
        return pm_fail(PM_ERR_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return pm_fail(PM_ERR_IO, "%s: not a regular file", path);
    if (info.st_size == 0)
        return PM_OK;
    if ((uint64_t)info.st_size > SIZE_MAX)
        return pm_fail(PM_ERR_IO, "%s: too large to map", path);
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return pm_fail(PM_ERR_IO, "%s: cannot map: %s", path, strerror(errno));
    map->data = data;
    map->size = (uint64_t)info.st_size;
    return PM_OK;
}

// "fd:5" is a descriptor that somebody opened for us, as Android hands out files that a path does not lead to. Ours is a copy.
static int copy_descriptor(const char *path) {
    char *end = NULL;
    unsigned long fd = path[3] >= '0' && path[3] <= '9' ? strtoul(path + 3, &end, 10) : ULONG_MAX;
    if (fd <= INT_MAX && *end == 0)
        return fcntl((int)fd, F_DUPFD_CLOEXEC, 0);
    errno = EBADF;
    return -1;
}

static int open_path(const char *path) {
    if (!strncmp(path, "fd:", 3))
        return copy_descriptor(path);
    return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // not blocking: a FIFO must not hang us
}

pm_status pm_map_open(const char *path, pm_map *map) {
    *map = (pm_map){0};
    int fd = open_path(path);
    if (fd < 0)
        return pm_fail(PM_ERR_IO, "%s: %s", path, strerror(errno));
    pm_status status = map_descriptor(path, fd, map);
    close(fd); // the mapping keeps the file
    return status;
}

void pm_map_close(pm_map *map) {
    if (map->data)
        munmap((void *)(uintptr_t)map->data, (size_t)map->size);
    *map = (pm_map){0};
}

static size_t page_size(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void drop_pages(uint8_t *p, size_t size) {
#ifdef MADV_DONTNEED
    madvise(p, size, MADV_DONTNEED); // read-only and file-backed: they come back from the page cache if read again
#endif
}

static void keep_line_ends(FILE *stream) {
    (void)stream;
}

bool pm_is_terminal(int descriptor) {
    return isatty(descriptor) == 1;
}

#endif

// ---- files: the portable part ------------------------------------------------------------------------------------------

// Only whole pages inside the range: a neighbour may share the first and the last one.
void pm_map_forget(const pm_map *map, uint64_t offset, uint64_t size) {
    if (!map->data || offset >= map->size)
        return;
    if (size > map->size - offset)
        size = map->size - offset;
    uint64_t page = page_size();
    uint64_t first = pm_round_up(offset, page), end = (offset + size) / page * page;
    if (offset + size == map->size)
        end = map->size;
    if (first < end)
        drop_pages((uint8_t *)(uintptr_t)(map->data + first), (size_t)(end - first));
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
        size_t got = fread(*data + used, 1, room - used - 1, stream);
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

static pm_status read_stream(const char *path, FILE *stream, size_t limit, char **data, size_t *size) {
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
    FILE *stream = file_open(path, "rb");
    if (!stream)
        return pm_fail(PM_ERR_IO, "%s: %s", path, strerror(errno));
    pm_status status = read_stream(path, stream, limit, data, size);
    fclose(stream);
    return status;
}

pm_status pm_stdin_read(size_t limit, char **data, size_t *size) {
    *data = NULL;
    *size = 0;
    keep_line_ends(stdin);
    return read_stream("standard input", stdin, limit, data, size);
}

pm_status pm_file_write(const char *path, const void *data, size_t size) {
    FILE *stream = file_open(path, "wb");
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
    if (!is_replaceable(path))
        return pm_fail(PM_ERR_IO, "%s: is there and is no file that could be replaced", path);
    out->stream = file_open(out->beside, "wb");
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
    else if (!file_rename(out->beside, out->path))
        status = pm_fail(PM_ERR_IO, "%s: cannot replace: %s", out->path, strerror(errno));
    if (status != PM_OK)
        file_remove(out->beside);
    return status;
}

void pm_output_close(pm_output *out) {
    if (!out->stream)
        return;
    fclose(out->stream);
    file_remove(out->beside);
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

static const char *environment(const char *name) {
    const char *value = getenv(name);
    return value && value[0] ? value : NULL;
}

static bool is_separator(char c) {
#ifdef _WIN32
    return c == '/' || c == '\\';
#else
    return c == '/';
#endif
}

static bool make_dirs(char *path) {
    for (char *p = path + 1; *p; p++) {
        if (!is_separator(*p))
            continue;
        char separator = *p;
        *p = 0;
        if (!pm_path_exists(path))
            make_dir(path);
        *p = separator;
    }
    return (pm_path_exists(path) || make_dir(path)) && dir_writable(path);
}

static bool try_cache(char *path, size_t size, const char *parent, const char *rest) {
    if (!parent)
        return false;
    int n = snprintf(path, size, "%s%s", parent, rest);
    return n > 0 && (size_t)n < size && make_dirs(path);
}

bool pm_cache_dir(char *path, size_t size) {
    const char *chosen = getenv("PUMICE_CACHE");
    if (chosen)
        return chosen[0] && try_cache(path, size, chosen, "");
#ifdef _WIN32
    return try_cache(path, size, environment("LOCALAPPDATA"), "\\pumice");
#else
    if (environment("XDG_CACHE_HOME"))
        return try_cache(path, size, environment("XDG_CACHE_HOME"), "/pumice");
    if (try_cache(path, size, environment("HOME"), "/.cache/pumice"))
        return true;
#ifdef __ANDROID__
    return try_cache(path, size, "/data/local/tmp", "/pumice"); // a shell on a phone has no home
#else
    return false;
#endif
#endif
}

bool pm_program_path(const char *called, char *path, size_t size) {
#ifdef __linux__
    ssize_t n = readlink("/proc/self/exe", path, size - 1);
    if (n > 0 && (size_t)n < size - 1) {
        path[n] = 0;
        return true;
    }
#endif
    int length = called ? snprintf(path, size, "%s", called) : -1;
    return length > 0 && (size_t)length < size;
}

bool pm_file_is_ours(const char *path) {
#ifdef _WIN32
    return pm_path_exists(path); // the folder is the user's own
#else
    struct stat about;
    return stat(path, &about) == 0 && S_ISREG(about.st_mode) && about.st_uid == geteuid() && !(about.st_mode & S_IWOTH);
#endif
}

// ---- clock, cores, threads ---------------------------------------------------------------------------------------------

uint64_t pm_now_ns(void) {
#ifdef _WIN32
    LARGE_INTEGER now, frequency;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&frequency);
    uint64_t ticks = (uint64_t)now.QuadPart, per_second = (uint64_t)frequency.QuadPart;
    return ticks / per_second * 1000000000u + ticks % per_second * 1000000000u / per_second;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

double pm_cpu_seconds(void) {
#ifdef _WIN32
    FILETIME created, ended, kernel, user;
    if (!GetProcessTimes(GetCurrentProcess(), &created, &ended, &kernel, &user))
        return 0;
    uint64_t high = (uint64_t)kernel.dwHighDateTime + user.dwHighDateTime;
    return (double)((high << 32) + kernel.dwLowDateTime + user.dwLowDateTime) / 1e7;
#else
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
#endif
}

void pm_utc_text(char text[PM_UTC_SIZE]) {
    time_t now = time(NULL);
    struct tm utc = {0};
#ifdef _WIN32
    gmtime_s(&utc, &now);
#else
    gmtime_r(&now, &utc);
#endif
    strftime(text, PM_UTC_SIZE, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

int pm_cpu_count(void) {
#ifdef _WIN32
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwNumberOfProcessors > 0 ? (int)info.dwNumberOfProcessors : 1;
#else
#ifdef __linux__
    cpu_set_t set; // a container or taskset may leave us fewer than there are
    if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
#endif
}

typedef struct parallel_job {
    atomic_int next;
    int n;
    void (*work)(void *user, int i);
    void *user;
} parallel_job;

static void job_run(parallel_job *job) {
    for (;;) {
        int i = atomic_fetch_add(&job->next, 1);
        if (i >= job->n)
            return;
        job->work(job->user, i);
    }
}

#ifdef _WIN32
typedef HANDLE thread_handle;

static unsigned __stdcall job_thread(void *job) {
    job_run(job);
    return 0;
}

static bool thread_start(thread_handle *thread, parallel_job *job) {
    *thread = (HANDLE)_beginthreadex(NULL, 0, job_thread, job, 0, NULL);
    return *thread != NULL;
}

static void thread_join(thread_handle thread) {
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}
#else
typedef pthread_t thread_handle;

static void *job_thread(void *job) {
    job_run(job);
    return NULL;
}

static bool thread_start(thread_handle *thread, parallel_job *job) {
    return pthread_create(thread, NULL, job_thread, job) == 0;
}

static void thread_join(thread_handle thread) {
    pthread_join(thread, NULL);
}
#endif

// The caller works too, so that a system without a thread to spare still gets it done.
void pm_parallel_for(int n, void (*work)(void *user, int i), void *user) {
    parallel_job job = {.n = n, .work = work, .user = user};
    thread_handle threads[MAX_THREADS];
    int wanted = pm_cpu_count() < n ? pm_cpu_count() - 1 : n - 1, started = 0;
    while (started < wanted && started < MAX_THREADS && thread_start(&threads[started], &job))
        started++;
    job_run(&job);
    for (int t = 0; t < started; t++)
        thread_join(threads[t]);
}

#ifndef _WIN32
// The number of a line of a file of /proc, in bytes: "VmHWM: %llu kB". 0 where there is none.
static uint64_t proc_bytes(const char *path, const char *format) {
    unsigned long long kib = 0;
    char line[256];
    FILE *stream = fopen(path, "r");
    while (stream && fgets(line, sizeof(line), stream))
        if (sscanf(line, format, &kib) == 1)
            break;
    if (stream)
        fclose(stream);
    return kib * 1024;
}
#endif

uint64_t pm_free_ram(void) {
#ifdef _WIN32
    MEMORYSTATUSEX memory = {.dwLength = sizeof(memory)};
    return GlobalMemoryStatusEx(&memory) ? memory.ullAvailPhys : 0;
#else
    return proc_bytes("/proc/meminfo", "MemAvailable: %llu kB");
#endif
}

uint64_t pm_peak_rss(void) {
#ifdef _WIN32
    PROCESS_MEMORY_COUNTERS counters;
    return GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof(counters)) ? counters.PeakWorkingSetSize : 0;
#else
    // Not getrusage where it can be helped: Linux hands its maximum down through exec, so a fat parent would count as ours.
    uint64_t bytes = proc_bytes("/proc/self/status", "VmHWM: %llu kB");
    if (bytes)
        return bytes;
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss * 1024 : 0;
#endif
}

#ifndef _WIN32
// The first line of a file of the system, without its end; empty where there is none.
static void first_line(const char *path, char *text, size_t size) {
    FILE *stream = fopen(path, "r");
    text[0] = 0;
    if (stream && !fgets(text, (int)size, stream))
        text[0] = 0;
    if (stream)
        fclose(stream);
    text[strcspn(text, "\n")] = 0;
}
#endif

void pm_cpu_governor(char *text, size_t size) {
#ifdef _WIN32
    if (size)
        text[0] = 0;
#else
    first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", text, size);
#endif
}

double pm_load_average(void) {
#ifdef _WIN32
    return -1;
#else
    char text[64];
    double load;
    first_line("/proc/loadavg", text, sizeof(text));
    return sscanf(text, "%lf", &load) == 1 ? load : -1;
#endif
}

// ---- other programs ----------------------------------------------------------------------------------------------------

#ifdef _WIN32

pm_status pm_program_run(const pm_program *program, size_t limit, char **out, size_t *size, int *exit_code) {
    (void)limit;
    *out = NULL;
    *size = 0;
    *exit_code = -1;
    return pm_fail(PM_ERR_UNSUPPORTED, "%s: other programs are not run on Windows", program->argv[0]);
}

#else

extern char **environ;

static bool same_variable(const char *a, const char *b) {
    size_t n = strcspn(a, "=");
    return n == strcspn(b, "=") && !strncmp(a, b, n);
}

static bool is_changed(const char *variable, const char *const *changes) {
    for (; changes && *changes; changes++)
        if (same_variable(*changes, variable))
            return true;
    return false;
}

// Ours with the changes; the strings are borrowed. NULL: no memory.
static char **make_environment(const char *const *changes) {
    size_t n_ours = 0, n_changes = 0, n = 0;
    while (environ[n_ours])
        n_ours++;
    while (changes && changes[n_changes])
        n_changes++;
    char **all = pm_calloc(n_ours + n_changes + 1, sizeof(*all));
    if (!all)
        return NULL;
    for (size_t i = 0; i < n_ours; i++)
        if (!is_changed(environ[i], changes))
            all[n++] = environ[i];
    for (size_t i = 0; i < n_changes; i++)
        all[n++] = (char *)(uintptr_t)changes[i];
    return all;
}

// Starts it with its stdout at `out`; returns an error number.
static int spawn(const pm_program *program, char **environment_of_it, int out, pid_t *pid) {
    posix_spawn_file_actions_t actions;
    int error = posix_spawn_file_actions_init(&actions);
    if (error)
        return error;
    error = posix_spawn_file_actions_adddup2(&actions, out, 1);
    if (!error)
        error = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    if (!error && program->quiet)
        error = posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    if (!error)
        error = posix_spawnp(pid, program->argv[0], &actions, NULL, (char **)(uintptr_t)program->argv, environment_of_it);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

static pm_status start_program(const pm_program *program, int out, pid_t *pid) {
    char **all = make_environment(program->env);
    if (!all)
        return pm_fail(PM_ERR_MEMORY, "%s: no memory for its environment", program->argv[0]);
    int error = spawn(program, all, out, pid);
    pm_free(all);
    return error ? pm_fail(PM_ERR_IO, "%s: cannot be run: %s", program->argv[0], strerror(error)) : PM_OK;
}

static int wait_program(pid_t pid) {
    int state = 0;
    while (waitpid(pid, &state, 0) < 0 && errno == EINTR)
        continue;
    return WIFSIGNALED(state) ? 128 + WTERMSIG(state) : WEXITSTATUS(state);
}

// One read of what has come, or PM_ERR_CANCELLED where a signal handler of ours ran; *got is 0 at the end. *silent: nothing came
// for so long.
static pm_status read_some(const pm_program *program, int in, char *to, size_t room, size_t *got, bool *silent) {
    struct pollfd waiting = {.fd = in, .events = POLLIN};
    int ready = poll(&waiting, 1, (int)program->silence_ms);
    *got = 0;
    *silent = ready == 0;
    ssize_t n = ready > 0 ? read(in, to, room) : ready;
    if (n < 0)
        return errno == EINTR ? pm_fail(PM_ERR_CANCELLED, "%s: interrupted", program->argv[0])
                              : pm_fail(PM_ERR_IO, "%s: %s", program->argv[0], strerror(errno));
    *got = (size_t)n;
    return PM_OK;
}

// Reads until it closes its stdout or says nothing for program->silence_ms, which ends it. What was said before is given out.
static pm_status read_until_silent(const pm_program *program, int in, pid_t pid, size_t limit, char **out, size_t *size) {
    pm_status status = PM_OK;
    size_t got;
    bool silent = false;
    *out = pm_malloc(limit + 1);
    if (!*out)
        status = pm_fail(PM_ERR_MEMORY, "%s: no memory to read what it says", program->argv[0]);
    while (status == PM_OK && *size < limit) {
        status = read_some(program, in, *out + *size, limit - *size, &got, &silent);
        *size += got;
        if (got == 0)
            break;
    }
    close(in);
    if (status != PM_OK || silent || *size == limit)
        kill(pid, SIGKILL);
    if (*out)
        (*out)[*size] = 0;
    return status;
}

// Reads until it closes its stdout. What cannot be read to the end ends the program.
static pm_status read_program(const pm_program *program, int in, pid_t pid, size_t limit, char **out, size_t *size) {
    FILE *stream = fdopen(in, "rb");
    if (!stream) {
        close(in);
        kill(pid, SIGTERM);
        return pm_fail(PM_ERR_MEMORY, "%s: no memory to read what it says", program->argv[0]);
    }
    errno = 0;
    pm_status status = read_stream(program->argv[0], stream, limit, out, size);
    bool cancelled = status == PM_ERR_IO && errno == EINTR;
    fclose(stream);
    if (status != PM_OK)
        kill(pid, SIGTERM);
    return cancelled ? pm_fail(PM_ERR_CANCELLED, "%s: interrupted", program->argv[0]) : status;
}

pm_status pm_program_run(const pm_program *program, size_t limit, char **out, size_t *size, int *exit_code) {
    *out = NULL;
    *size = 0;
    *exit_code = -1;
    int ends[2];
    if (pipe(ends) != 0)
        return pm_fail(PM_ERR_IO, "%s: no pipe: %s", program->argv[0], strerror(errno));
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    pid_t pid;
    pm_status status = start_program(program, ends[1], &pid);
    close(ends[1]);
    if (status != PM_OK) {
        close(ends[0]);
        return status;
    }
    if (program->silence_ms > 0)
        status = read_until_silent(program, ends[0], pid, limit, out, size);
    else
        status = read_program(program, ends[0], pid, limit, out, size);
    *exit_code = wait_program(pid);
    if (status != PM_OK && program->silence_ms > 0) {
        pm_free(*out);
        *out = NULL;
    }
    return status;
}

#endif
