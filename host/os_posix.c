// Everything but Windows: what base.h and os.h promise, by POSIX, and what Linux tells beyond it.
#ifdef __linux__
#define _GNU_SOURCE // sched_getaffinity, madvise
#endif

#include "host/os.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

// ---- files --------------------------------------------------------------------------------------------------------------

FILE *pm_os_open(const char *path, const char *mode) {
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

bool pm_os_is_replaceable(const char *path) {
    struct stat info;
    return stat(path, &info) != 0 || S_ISREG(info.st_mode);
}

bool pm_path_same(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

bool pm_file_is_ours(const char *path) {
    struct stat about;
    return stat(path, &about) == 0 && S_ISREG(about.st_mode) && about.st_uid == geteuid() && !(about.st_mode & S_IWOTH);
}

bool pm_os_is_separator(char c) {
    return c == '/';
}

bool pm_os_make_dir(const char *path) {
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

bool pm_os_dir_writable(const char *path) {
    return pm_path_is_dir(path) && access(path, W_OK | X_OK) == 0;
}

bool pm_os_rename(const char *from, const char *to) {
    return rename(from, to) == 0;
}

void pm_os_remove(const char *path) {
    unlink(path);
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

size_t pm_os_page_size(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

void pm_os_drop_pages(uint8_t *p, size_t size) {
#ifdef MADV_DONTNEED
    madvise(p, size, MADV_DONTNEED); // read-only and file-backed: they come back from the page cache if read again
#endif
}

// ---- streams and the program itself -------------------------------------------------------------------------------------

void pm_program_begin(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
}

size_t pm_os_read_stdin(char *to, size_t room) {
    return fread(to, 1, room, stdin);
}

bool pm_is_terminal(int descriptor) {
    return isatty(descriptor) == 1;
}

bool pm_takes_escapes(int descriptor) {
    return pm_is_terminal(descriptor);
}

bool pm_is_broken_pipe(int error) {
    return error == EPIPE;
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

unsigned long pm_process_id(void) {
    return (unsigned long)getpid();
}

bool pm_process_lives(unsigned long id) {
    return kill((pid_t)id, 0) == 0 || errno == EPERM;
}

// ---- the cache folder ---------------------------------------------------------------------------------------------------

const char *pm_os_variable(const char *name, char *text, size_t size) {
    (void)text;
    (void)size;
    return getenv(name);
}

const pm_os_place pm_os_cache_places[] = {
    {"XDG_CACHE_HOME", "/pumice", true},
    {"HOME", "/.cache/pumice", false},
#ifdef __ANDROID__
    {NULL, "/data/local/tmp/pumice", true}, // a shell on a phone has no home
#endif
    {NULL, NULL, true},
};

// ---- clock, cores, threads ----------------------------------------------------------------------------------------------

uint64_t pm_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

double pm_cpu_seconds(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void pm_os_utc(const time_t *now, struct tm *utc) {
    gmtime_r(now, utc);
}

int pm_cpu_count(void) {
#ifdef __linux__
    cpu_set_t set; // a container or taskset may leave us fewer than there are
    if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

static void *thread_main(void *user) {
    pm_os_thread *thread = user;
    thread->work(thread->user);
    return NULL;
}

bool pm_os_thread_start(pm_os_thread *thread) {
    pthread_t handle;
    if (pthread_create(&handle, NULL, thread_main, thread) != 0)
        return false;
    thread->handle = (uintptr_t)handle;
    return true;
}

void pm_os_thread_join(pm_os_thread *thread) {
    pthread_join((pthread_t)thread->handle, NULL);
}

// ---- what the system tells ----------------------------------------------------------------------------------------------

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

uint64_t pm_free_ram(void) {
    return proc_bytes("/proc/meminfo", "MemAvailable: %llu kB");
}

uint64_t pm_peak_rss(void) {
    // Not getrusage where it can be helped: Linux hands its maximum down through exec, so a fat parent would count as ours.
    uint64_t bytes = proc_bytes("/proc/self/status", "VmHWM: %llu kB");
    if (bytes)
        return bytes;
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss * 1024 : 0;
}

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

void pm_cpu_governor(char *text, size_t size) {
    first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", text, size);
}

double pm_load_average(void) {
    char text[64];
    double load;
    first_line("/proc/loadavg", text, sizeof(text));
    return sscanf(text, "%lf", &load) == 1 ? load : -1;
}

// ---- libraries -----------------------------------------------------------------------------------------------------------

void *pm_library_open(const char *name) {
    return dlopen(name, RTLD_NOW | RTLD_LOCAL);
}

// C has no cast from an object to a function; POSIX says that the bits are the same.
void (*pm_library_find(void *library, const char *function))(void) {
    void *address = dlsym(library, function);
    void (*found)(void);
    memcpy(&found, &address, sizeof(found));
    return found;
}

void pm_library_close(void **library) {
    if (*library)
        dlclose(*library);
    *library = NULL;
}
