// What tests use of POSIX, on Windows too: there as far as mingw-w64 lacks it.
#ifndef PM_TEST_POSIX_H
#define PM_TEST_POSIX_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#undef near // of 16-bit times
#undef far
#include <direct.h>
#include <wchar.h>
#include <winioctl.h>

enum { IS_WINDOWS = true };
#define NULL_DEVICE "NUL"

// UTF-8. An empty value is one, as it is on POSIX: the C library alone would take the variable away.
static inline int setenv(const char *name, const char *value, int overwrite) {
    wchar_t wide_name[64], wide[1024];
    (void)overwrite;
    return MultiByteToWideChar(CP_UTF8, 0, name, -1, wide_name, 64) && MultiByteToWideChar(CP_UTF8, 0, value, -1, wide, 1024) &&
                   _wputenv_s(wide_name, wide) == 0 && SetEnvironmentVariableW(wide_name, wide)
               ? 0
               : -1;
}

static inline int unsetenv(const char *name) {
    return _putenv_s(name, "");
}

static inline bool make_folder(const char *path) {
    return _mkdir(path) == 0;
}

static inline bool make_link(const char *to, const char *path) {
    return CreateHardLinkA(path, to, NULL);
}

static inline bool make_sparse(const char *path, uint64_t size, const char *end) {
    DWORD n;
    LARGE_INTEGER at = {.QuadPart = (LONGLONG)size};
    HANDLE file = CreateFileA(path, GENERIC_WRITE, 0, NULL, CREATE_ALWAYS, 0, NULL);
    DeviceIoControl(file, FSCTL_SET_SPARSE, NULL, 0, NULL, 0, &n, NULL);
    bool made = SetFilePointerEx(file, at, NULL, FILE_BEGIN) && WriteFile(file, end, (DWORD)strlen(end), &n, NULL);
    CloseHandle(file);
    return made;
}

static inline void end_interrupted(void) {
    ExitProcess(STATUS_CONTROL_C_EXIT);
}

static inline void raise_bad_address(void) {
    RaiseException(EXCEPTION_ACCESS_VIOLATION, EXCEPTION_NONCONTINUABLE, 0, NULL);
}

static inline bool make_temporary(char *path, size_t size) {
    static int serial;
    const char *parent = getenv("TEMP");
    snprintf(path, size, "%s\\pumice-test-%lu-%d", parent ? parent : ".", GetCurrentProcessId(), serial++);
    return make_folder(path);
}

static inline bool remove_wide(const wchar_t *folder) {
    wchar_t path[1024];
    WIN32_FIND_DATAW found;
    swprintf(path, 1024, L"%ls\\*", folder);
    HANDLE search = FindFirstFileW(path, &found);
    if (search == INVALID_HANDLE_VALUE)
        return false;
    do {
        bool is_self = !wcscmp(found.cFileName, L".") || !wcscmp(found.cFileName, L"..");
        swprintf(path, 1024, L"%ls\\%ls", folder, found.cFileName);
        if (!is_self && !(found.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY))
            DeleteFileW(path);
        else if (!is_self)
            remove_wide(path);
    } while (FindNextFileW(search, &found));
    FindClose(search);
    return RemoveDirectoryW(folder);
}

// Not by "rmdir /s": where a path is too long for it, Wine's takes the current folder for it.
static inline bool remove_folder(const char *path) {
    wchar_t folder[300];
    if (!strstr(path, ":\\") || !strstr(path, "\\pumice-test-") || strlen(path) > 256)
        return false;
    swprintf(folder, 300, L"\\\\?\\%hs", path);
    return remove_wide(folder);
}
#else

enum { IS_WINDOWS = false };
#define NULL_DEVICE "/dev/null"

static inline bool make_folder(const char *path) {
    return mkdir(path, 0700) == 0;
}

// A second name of a file.
static inline bool make_link(const char *to, const char *path) {
    return link(to, path) == 0;
}

// A file of `size` zeros, which take no room on the disk, and then `end`.
static inline bool make_sparse(const char *path, uint64_t size, const char *end) {
    FILE *file = fopen(path, "wb");
    bool made = file && fseeko(file, (off_t)size, SEEK_SET) == 0 && fputs(end, file) >= 0;
    return file && fclose(file) == 0 && made;
}

static inline void end_interrupted(void) {
    raise(SIGINT);
}

static inline void raise_bad_address(void) {
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
}

// Makes a folder for this test alone, and says where.
static inline bool make_temporary(char *path, size_t size) {
    snprintf(path, size, "/tmp/pumice-test-XXXXXX");
    return mkdtemp(path) != NULL;
}

// With all that is in it.
static inline bool remove_folder(const char *path) {
    char command[600];
    snprintf(command, sizeof(command), "rm -rf '%s'", path);
    return system(command) == 0;
}
#endif

#endif
