// What host/os.c asks of a system: os_posix.c or os_windows.c answers. Private to these and to program_*.c; all else includes
// base.h.
#ifndef PM_OS_H
#define PM_OS_H

#include "host/base.h"

#include <stdio.h>
#include <time.h>

enum { PM_OS_PATH_SIZE = 4096 };

// ---- files --------------------------------------------------------------------------------------------------------------

// Like fopen; errno tells why not.
FILE *pm_os_open(const char *path, const char *mode);
// Takes the place of a file that is there; errno tells why not.
bool pm_os_rename(const char *from, const char *to);
void pm_os_remove(const char *path);
// True also where it is there already.
bool pm_os_make_dir(const char *path);
bool pm_os_dir_writable(const char *path);
// Nothing is there, or a regular file.
bool pm_os_is_replaceable(const char *path);
bool pm_os_is_separator(char c);

// Like fread of stdin; line ends are as they come.
size_t pm_os_read_stdin(char *to, size_t room);
// os.c's: reads it to its end, like pm_file_read.
pm_status pm_os_read_stream(const char *path, FILE *stream, size_t limit, char **data, size_t *size);

size_t pm_os_page_size(void);
// Pages of a read-only mapping leave this process; they come back from the file if read again.
void pm_os_drop_pages(uint8_t *p, size_t size);

// ---- the cache folder ---------------------------------------------------------------------------------------------------

// A variable of the environment as UTF-8, perhaps in `text`; NULL where it is not set or too long.
const char *pm_os_variable(const char *name, char *text, size_t size);

// Where the caches of all programs may be, best first, ended by an empty one.
typedef struct pm_os_place {
    const char *variable; // names the folder; a place whose variable is not set is passed over. NULL: `rest` is all
    const char *rest;     // our folder in it
    bool is_last;         // where the variable is set, no other place will do
} pm_os_place;
extern const pm_os_place pm_os_cache_places[];

// ---- date, threads ------------------------------------------------------------------------------------------------------

void pm_os_utc(const time_t *now, struct tm *utc);

// A thread that runs work(user). It must not move until it is joined.
typedef struct pm_os_thread {
    uintptr_t handle;
    void (*work)(void *user);
    void *user;
} pm_os_thread;
bool pm_os_thread_start(pm_os_thread *thread);
void pm_os_thread_join(pm_os_thread *thread);

#endif
