// The part of base.h that programs see: status and its line of text, where log lines go, memory and text that is handed out.
#ifndef PM_STATUS_H
#define PM_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// What stands between these two is the public API: the only names that the library shows, with C's linkage in C++ too.
#ifdef __GNUC__
#define PM_API_SHOW _Pragma("GCC visibility push(default)")
#define PM_API_HIDE _Pragma("GCC visibility pop")
#else
#define PM_API_SHOW
#define PM_API_HIDE
#endif
#ifdef __cplusplus
#define PM_API_BEGIN PM_API_SHOW extern "C" {
#define PM_API_END \
    }              \
    PM_API_HIDE
#else
#define PM_API_BEGIN PM_API_SHOW
#define PM_API_END   PM_API_HIDE
#endif

PM_API_BEGIN

// Every function that can fail returns one; what it was to give is NULL then, unless it says otherwise.
typedef enum pm_status {
    PM_OK = 0,
    PM_ERR_USAGE = -1,         // an argument or option that makes no sense
    PM_ERR_IO = -2,            // the operating system refused: open, read, map, write
    PM_ERR_FILE = -3,          // a file is not what it says it is
    PM_ERR_UNSUPPORTED = -4,   // a well-formed file or request that we do not run
    PM_ERR_MEMORY = -5,        // no host memory
    PM_ERR_NO_DEVICE = -6,     // no Vulkan loader, driver, device or compute queue
    PM_ERR_DEVICE_MEMORY = -7, // does not fit the device
    PM_ERR_DEVICE = -8,        // a Vulkan call failed
    PM_ERR_DEVICE_LOST = -9,   // VK_ERROR_DEVICE_LOST: rebuild the session on a new device
    PM_ERR_CONTEXT = -10,      // the context is full
    PM_ERR_CANCELLED = -11,    // the caller asked to stop
} pm_status;

// Why the last function that failed on this thread did: one line that names the file, tensor or device; "" when none did. Valid
// until the next failure on this thread.
const char *pm_error_text(void);

// Returns early with the status of a call that failed.
#define PM_TRY(call)                      \
    do {                                  \
        pm_status pm_try_status = (call); \
        if (pm_try_status != PM_OK)       \
            return pm_try_status;         \
    } while (0)

typedef enum pm_log_level { PM_LOG_ERROR, PM_LOG_WARN, PM_LOG_INFO, PM_LOG_DEBUG } pm_log_level;

// Lines above the level are dropped; it is PM_LOG_WARN at the start. Any thread, at any time.
void pm_log_set_level(pm_log_level level);
// Gives lines, without a newline, to `sink` in place of stderr, from whichever thread they come; NULL: to stderr again. `user` is
// handed through. Set it before anything is opened.
void pm_log_to(void (*sink)(pm_log_level level, const char *line, void *user), void *user);

// Frees what a function said is the caller's to free. NULL is fine.
void pm_free(void *p);

// A view of bytes that somebody else owns; not 0-terminated.
typedef struct pm_str {
    const char *p;
    size_t n;
} pm_str;

PM_API_END

#endif
