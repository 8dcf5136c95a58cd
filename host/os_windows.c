// Windows: what base.h and os.h promise, by the system's own calls, with paths in UTF-16. An error of theirs becomes an errno, so
// that messages read as elsewhere.
#define WIN32_LEAN_AND_MEAN
#define PSAPI_VERSION 2 // in kernel32, no library to link
#include "host/os.h"

#include <windows.h>
#include <errno.h>
#include <fcntl.h>
#include <io.h>
#include <process.h>
#include <psapi.h>
#include <shellapi.h>
#include <stdlib.h>
#include <string.h>

#ifndef ENABLE_VIRTUAL_TERMINAL_PROCESSING
#define ENABLE_VIRTUAL_TERMINAL_PROCESSING 4
#endif

// ---- text -----------------------------------------------------------------------------------------------------------------

static bool widen(const char *text, wchar_t *wide, int room) {
    return MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, wide, room) > 0;
}

// Of unpaired halves of a character U+FFFD is made, as UTF-8 has none.
static bool narrow(const wchar_t *wide, char *text, size_t size) {
    return WideCharToMultiByte(CP_UTF8, 0, wide, -1, text, size > INT_MAX ? INT_MAX : (int)size, NULL, NULL) > 0;
}

// A path that is too long for the old calls is made absolute, with the mark that lifts their limit.
static bool widen_path(const char *path, wchar_t wide[PM_OS_PATH_SIZE]) {
    enum { OLD_LIMIT = MAX_PATH - 12 }; // that of folders
    static const wchar_t mark[] = L"\\\\?\\";
    if (!widen(path, wide, PM_OS_PATH_SIZE)) {
        errno = ENOENT;
        return false;
    }
    if (wcslen(wide) < OLD_LIMIT || !wcsncmp(wide, mark, 2))
        return true;
    wchar_t full[PM_OS_PATH_SIZE - 4];
    DWORD n = GetFullPathNameW(wide, PM_OS_PATH_SIZE - 4, full, NULL);
    if (n == 0 || n >= PM_OS_PATH_SIZE - 4) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(wide, mark, 4 * sizeof(*wide));
    memcpy(wide + 4, full, (n + 1) * sizeof(*wide));
    return true;
}

static int errno_of(DWORD error) {
    switch (error) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
    case ERROR_INVALID_NAME:
    case ERROR_BAD_NETPATH:
        return ENOENT;
    case ERROR_ACCESS_DENIED:
    case ERROR_SHARING_VIOLATION:
    case ERROR_LOCK_VIOLATION:
    case ERROR_USER_MAPPED_FILE:
        return EACCES;
    case ERROR_DISK_FULL:
    case ERROR_HANDLE_DISK_FULL:
        return ENOSPC;
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_OUTOFMEMORY:
    case ERROR_COMMITMENT_LIMIT:
        return ENOMEM;
    default:
        return EIO;
    }
}

// ---- files ------------------------------------------------------------------------------------------------------------------

FILE *pm_os_open(const char *path, const char *mode) {
    wchar_t wide[PM_OS_PATH_SIZE], wide_mode[8];
    if (!widen_path(path, wide) || !widen(mode, wide_mode, 8))
        return NULL;
    return _wfopen(wide, wide_mode);
}

static DWORD file_attributes(const char *path) {
    wchar_t wide[PM_OS_PATH_SIZE];
    return widen_path(path, wide) ? GetFileAttributesW(wide) : INVALID_FILE_ATTRIBUTES;
}

bool pm_path_is_dir(const char *path) {
    DWORD attributes = file_attributes(path);
    return attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY);
}

bool pm_path_exists(const char *path) {
    return file_attributes(path) != INVALID_FILE_ATTRIBUTES;
}

static HANDLE open_handle(const char *path, DWORD access, DWORD flags) {
    wchar_t wide[PM_OS_PATH_SIZE];
    if (!widen_path(path, wide))
        return INVALID_HANDLE_VALUE;
    HANDLE file =
        CreateFileW(wide, access, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, OPEN_EXISTING, flags, NULL);
    if (file == INVALID_HANDLE_VALUE)
        errno = errno_of(GetLastError());
    return file;
}

bool pm_os_is_replaceable(const char *path) {
    DWORD attributes = file_attributes(path);
    if (attributes == INVALID_FILE_ATTRIBUTES)
        return true;
    HANDLE file = attributes & FILE_ATTRIBUTE_DIRECTORY ? INVALID_HANDLE_VALUE : open_handle(path, 0, 0);
    bool replaceable = file != INVALID_HANDLE_VALUE && GetFileType(file) == FILE_TYPE_DISK; // NUL has attributes, too
    if (file != INVALID_HANDLE_VALUE)
        CloseHandle(file);
    return replaceable;
}

static bool file_identity(const char *path, BY_HANDLE_FILE_INFORMATION *info) {
    HANDLE file = open_handle(path, 0, FILE_FLAG_BACKUP_SEMANTICS);
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

bool pm_file_is_ours(const char *path) {
    return pm_path_exists(path); // the folder is the user's own
}

bool pm_os_is_separator(char c) {
    return c == '/' || c == '\\';
}

bool pm_os_make_dir(const char *path) {
    wchar_t wide[PM_OS_PATH_SIZE];
    return widen_path(path, wide) && (CreateDirectoryW(wide, NULL) || GetLastError() == ERROR_ALREADY_EXISTS);
}

bool pm_os_dir_writable(const char *path) {
    return pm_path_is_dir(path); // the attribute says nothing about rights; a failed write later is only a missing cache
}

// A file that somebody reads at the moment cannot be replaced here: it is tried for a while.
bool pm_os_rename(const char *from, const char *to) {
    wchar_t wide_from[PM_OS_PATH_SIZE], wide_to[PM_OS_PATH_SIZE];
    if (!widen_path(from, wide_from) || !widen_path(to, wide_to))
        return false;
    for (int tries = 0; !MoveFileExW(wide_from, wide_to, MOVEFILE_REPLACE_EXISTING); tries++) {
        errno = errno_of(GetLastError());
        if (errno != EACCES || tries == 20)
            return false;
        Sleep(10);
    }
    return true;
}

void pm_os_remove(const char *path) {
    wchar_t wide[PM_OS_PATH_SIZE];
    if (widen_path(path, wide))
        DeleteFileW(wide);
}

static pm_status map_handle(const char *path, HANDLE file, pm_map *map) {
    LARGE_INTEGER size;
    if (GetFileType(file) != FILE_TYPE_DISK)
        return pm_fail(PM_ERR_IO, "%s: not a regular file", path);
    if (!GetFileSizeEx(file, &size))
        return pm_fail(PM_ERR_IO, "%s: %s", path, strerror(errno_of(GetLastError())));
    if (size.QuadPart == 0)
        return PM_OK;
    if ((uint64_t)size.QuadPart > SIZE_MAX)
        return pm_fail(PM_ERR_IO, "%s: too large to map", path);
    map->handle = CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL);
    if (map->handle)
        map->data = MapViewOfFile(map->handle, FILE_MAP_READ, 0, 0, 0);
    if (!map->data)
        return pm_fail(PM_ERR_IO, "%s: cannot map: %s", path, strerror(errno_of(GetLastError())));
    map->size = (uint64_t)size.QuadPart;
    return PM_OK;
}

pm_status pm_map_open(const char *path, pm_map *map) {
    *map = (pm_map){0};
    HANDLE file = open_handle(path, GENERIC_READ, 0);
    if (file == INVALID_HANDLE_VALUE)
        return pm_fail(PM_ERR_IO, "%s: %s", path, strerror(errno));
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

size_t pm_os_page_size(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

void pm_os_drop_pages(uint8_t *p, size_t size) {
    VirtualUnlock(p, size); // unlocking what is not locked takes it out of the working set
}

// ---- streams and the program itself -----------------------------------------------------------------------------------------

static HANDLE standard_handle(int descriptor) {
    static const DWORD which[] = {STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE};
    return GetStdHandle(which[descriptor]);
}

// Not _isatty: that takes NUL for one.
bool pm_is_terminal(int descriptor) {
    DWORD mode;
    return GetConsoleMode(standard_handle(descriptor), &mode) != 0;
}

bool pm_takes_escapes(int descriptor) {
    DWORD mode;
    return GetConsoleMode(standard_handle(descriptor), &mode) && (mode & ENABLE_VIRTUAL_TERMINAL_PROCESSING);
}

static UINT old_code_page;
static DWORD old_mode[3];

static void console_restore(void) {
    SetConsoleOutputCP(old_code_page);
    for (int i = 1; i <= 2; i++)
        if (pm_is_terminal(i))
            SetConsoleMode(standard_handle(i), old_mode[i]);
}

// UTF-8 and escape sequences, for as long as we run: the console is the shell's, too.
static void console_begin(void) {
    old_code_page = GetConsoleOutputCP();
    if (old_code_page == 0) // there is none
        return;
    SetConsoleOutputCP(CP_UTF8);
    for (int i = 1; i <= 2; i++)
        if (GetConsoleMode(standard_handle(i), &old_mode[i]))
            SetConsoleMode(standard_handle(i), old_mode[i] | ENABLE_VIRTUAL_TERMINAL_PROCESSING);
    atexit(console_restore);
}

// The command line once more, this time as it was typed. The copies live as long as the program.
static void read_arguments(int *argc, char ***argv) {
    int n = 0;
    wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), &n);
    char **all = wide ? pm_calloc((size_t)n + 1, sizeof(*all)) : NULL;
    bool complete = all != NULL;
    for (int i = 0; complete && i < n; i++) {
        size_t size = 3 * wcslen(wide[i]) + 1;
        all[i] = pm_malloc(size);
        complete = all[i] && narrow(wide[i], all[i], size);
    }
    if (complete) {
        *argc = n;
        *argv = all;
    }
    LocalFree(wide);
}

void pm_program_begin(int *argc, char ***argv) {
    for (int i = 0; i <= 2; i++)
        _setmode(i, _O_BINARY);
    console_begin();
    read_arguments(argc, argv);
}

bool pm_is_broken_pipe(int error) {
    return error == EPIPE || error == EINVAL; // the second is what the C library makes of ERROR_NO_DATA
}

// What was typed and not asked for yet, as UTF-8.
static struct typed {
    char text[4096];
    size_t n, used;
    wchar_t half; // the first of two halves of a character, whose other has not been read
} typed;

// Reads a line, or the beginning of a long one. Ctrl-Z at its beginning is the end of input, as everywhere on this system; Ctrl-D,
// too.
static bool type_more(void) {
    enum { CTRL_D = 4, CTRL_Z = 26, ROOM = sizeof(typed.text) / 3 - 1 };
    wchar_t wide[ROOM + 1];
    DWORD n = 0, had = typed.half != 0;
    typed.n = typed.used = 0;
    wide[0] = typed.half;
    typed.half = 0;
    SetLastError(0);
    bool read = ReadConsoleW(standard_handle(0), wide + had, ROOM - had, &n, NULL) != 0;
    if (!read || n == 0) {
        errno = GetLastError() == ERROR_OPERATION_ABORTED ? EINTR : read ? 0 : EIO;
        if (errno == EINTR)
            Sleep(100); // a handler of Ctrl-C runs in a thread of its own: let it come first
        return false;
    }
    n += had;
    if (n > 1 && wide[n - 1] >= 0xd800 && wide[n - 1] < 0xdc00)
        typed.half = wide[--n];
    if (wide[0] == CTRL_Z || wide[0] == CTRL_D)
        return false;
    typed.n = (size_t)WideCharToMultiByte(CP_UTF8, 0, wide, (int)n, typed.text, sizeof(typed.text), NULL, NULL);
    return typed.n > 0;
}

size_t pm_os_read_stdin(char *to, size_t room) {
    if (!pm_is_terminal(0))
        return fread(to, 1, room, stdin);
    if (typed.used == typed.n && !type_more())
        return 0;
    size_t n = typed.n - typed.used < room ? typed.n - typed.used : room;
    memcpy(to, typed.text + typed.used, n);
    typed.used += n;
    return n;
}

bool pm_program_path(const char *called, char *path, size_t size) {
    wchar_t wide[PM_OS_PATH_SIZE];
    DWORD n = GetModuleFileNameW(NULL, wide, PM_OS_PATH_SIZE);
    (void)called;
    return n > 0 && n < PM_OS_PATH_SIZE && narrow(wide, path, size);
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

// ---- the cache folder -------------------------------------------------------------------------------------------------------

const char *pm_os_variable(const char *name, char *text, size_t size) {
    wchar_t wide_name[64], value[PM_OS_PATH_SIZE];
    SetLastError(0);
    if (!widen(name, wide_name, 64))
        return NULL;
    DWORD n = GetEnvironmentVariableW(wide_name, value, PM_OS_PATH_SIZE);
    bool is_set = n > 0 ? n < PM_OS_PATH_SIZE : GetLastError() == 0;
    if (n == 0)
        value[0] = 0;
    return is_set && narrow(value, text, size) ? text : NULL;
}

const pm_os_place pm_os_cache_places[] = {
    {"LOCALAPPDATA", "\\pumice", true},
    {NULL, NULL, true},
};

// ---- clock, cores, threads --------------------------------------------------------------------------------------------------

uint64_t pm_now_ns(void) {
    LARGE_INTEGER now, frequency;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&frequency);
    uint64_t ticks = (uint64_t)now.QuadPart, per_second = (uint64_t)frequency.QuadPart;
    return ticks / per_second * 1000000000u + ticks % per_second * 1000000000u / per_second;
}

double pm_cpu_seconds(void) {
    FILETIME created, ended, kernel, user;
    if (!GetProcessTimes(GetCurrentProcess(), &created, &ended, &kernel, &user))
        return 0;
    uint64_t high = (uint64_t)kernel.dwHighDateTime + user.dwHighDateTime;
    return (double)((high << 32) + kernel.dwLowDateTime + user.dwLowDateTime) / 1e7;
}

void pm_os_utc(const time_t *now, struct tm *utc) {
    gmtime_s(utc, now);
}

int pm_cpu_count(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwNumberOfProcessors > 0 ? (int)info.dwNumberOfProcessors : 1;
}

static unsigned __stdcall thread_main(void *user) {
    pm_os_thread *thread = user;
    thread->work(thread->user);
    return 0;
}

bool pm_os_thread_start(pm_os_thread *thread) {
    thread->handle = _beginthreadex(NULL, 0, thread_main, thread, 0, NULL);
    return thread->handle != 0;
}

void pm_os_thread_join(pm_os_thread *thread) {
    WaitForSingleObject((HANDLE)thread->handle, INFINITE);
    CloseHandle((HANDLE)thread->handle);
}

// ---- what the system tells --------------------------------------------------------------------------------------------------

uint64_t pm_free_ram(void) {
    MEMORYSTATUSEX memory = {.dwLength = sizeof(memory)};
    return GlobalMemoryStatusEx(&memory) ? memory.ullAvailPhys : 0;
}

uint64_t pm_peak_rss(void) {
    PROCESS_MEMORY_COUNTERS counters;
    return GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof(counters)) ? counters.PeakWorkingSetSize : 0;
}

void pm_cpu_governor(char *text, size_t size) {
    if (size)
        text[0] = 0;
}

double pm_load_average(void) {
    return -1;
}

// ---- libraries -----------------------------------------------------------------------------------------------------------

void *pm_library_open(const char *name) {
    wchar_t wide[PM_OS_PATH_SIZE];
    return widen_path(name, wide) ? (void *)LoadLibraryExW(wide, NULL, LOAD_LIBRARY_SEARCH_DEFAULT_DIRS) : NULL;
}

void (*pm_library_find(void *library, const char *function))(void) {
    return (void (*)(void))GetProcAddress((HMODULE)library, function);
}

void pm_library_close(void **library) {
    if (*library)
        FreeLibrary((HMODULE)*library);
    *library = NULL;
}
