// Running other programs, by Windows: see pm_program in base.h.
#define WIN32_LEAN_AND_MEAN
#include "host/os.h"

#include <windows.h>
#include <stdlib.h>
#include <string.h>

// ---- what it is given -------------------------------------------------------------------------------------------------------

// UTF-16 that grows; of no use once `failed`.
typedef struct wide_text {
    wchar_t *p;
    size_t n, room;
    bool failed;
} wide_text;

static void add(wide_text *t, const wchar_t *text, size_t n) {
    if (!t->failed && t->n + n > t->room) {
        size_t room = 2 * (t->n + n) + 64;
        wchar_t *p = pm_realloc(t->p, room * sizeof(*p));
        t->failed = !p;
        t->p = p ? p : t->p;
        t->room = p ? room : t->room;
    }
    if (t->failed)
        return;
    memcpy(t->p + t->n, text, n * sizeof(*text));
    t->n += n;
}

static void add_times(wide_text *t, wchar_t c, size_t times) {
    while (times--)
        add(t, &c, 1);
}

static void add_utf8(wide_text *t, const char *text) {
    wchar_t wide[PM_OS_PATH_SIZE];
    int n = MultiByteToWideChar(CP_UTF8, 0, text, -1, wide, PM_OS_PATH_SIZE);
    t->failed = t->failed || n <= 0;
    add(t, wide, n > 0 ? (size_t)n - 1 : 0);
}

// As programs read their command line: quoted, each \ doubled that stands before a ".
static void add_argument(wide_text *t, const char *argument) {
    wide_text wide = {.p = NULL};
    add_utf8(&wide, argument);
    add(&wide, L"", 1);
    t->failed = t->failed || wide.failed;
    add(t, L"\"", 1);
    for (const wchar_t *p = wide.p; !t->failed && *p;) {
        size_t slashes = wcsspn(p, L"\\"), plain = wcscspn(p + slashes, L"\\\"");
        p += slashes;
        add_times(t, '\\', *p == '"' || *p == 0 ? 2 * slashes : slashes);
        if (*p == '"') {
            add(t, L"\\\"", 2);
            p++;
        }
        add(t, p, plain);
        p += plain;
    }
    add(t, L"\" ", 2);
    pm_free(wide.p);
}

static void make_command_line(wide_text *t, const char *const *argv) {
    for (; *argv; argv++)
        add_argument(t, *argv);
    add(t, L"", 1);
}

static bool same_variable(const wchar_t *a, const wchar_t *b) {
    size_t n = wcscspn(a, L"=");
    return n == wcscspn(b, L"=") && !_wcsnicmp(a, b, n);
}

// Does a later one of `all`, which ends with an empty one, set the same?
static bool is_changed(const wchar_t *variable, const wchar_t *changes) {
    for (; *changes; changes += wcslen(changes) + 1)
        if (same_variable(variable, changes))
            return true;
    return false;
}

// Ours with the changes.
static void make_environment(wide_text *t, const char *const *changes) {
    wide_text changed = {.p = NULL};
    for (; changes && *changes; changes++) {
        add_utf8(&changed, *changes);
        add(&changed, L"", 1);
    }
    add(&changed, L"", 1);
    wchar_t *ours = GetEnvironmentStringsW();
    t->failed = t->failed || changed.failed || !ours;
    for (const wchar_t *v = ours; !t->failed && *v; v += wcslen(v) + 1)
        if (*v == '=' || !is_changed(v, changed.p)) // "=C:" is where the shell stands on that drive
            add(t, v, wcslen(v) + 1);
    if (!t->failed)
        add(t, changed.p, changed.n);
    if (ours)
        FreeEnvironmentStringsW(ours);
    pm_free(changed.p);
}

// ---- its life ---------------------------------------------------------------------------------------------------------------

// Its three streams; `read` is our end of its stdout.
typedef struct streams {
    HANDLE read, out, nothing;
} streams;

static void close_handle(HANDLE *handle) {
    if (*handle && *handle != INVALID_HANDLE_VALUE)
        CloseHandle(*handle);
    *handle = NULL;
}

static void streams_close(streams *s) {
    close_handle(&s->read);
    close_handle(&s->out);
    close_handle(&s->nothing);
}

static pm_status streams_open(const char *name, streams *s) {
    SECURITY_ATTRIBUTES inherited = {.nLength = sizeof(inherited), .bInheritHandle = TRUE};
    *s = (streams){0};
    s->nothing =
        CreateFileW(L"NUL", GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, &inherited, OPEN_EXISTING, 0, NULL);
    if (s->nothing != INVALID_HANDLE_VALUE && CreatePipe(&s->read, &s->out, &inherited, 0) &&
        SetHandleInformation(s->read, HANDLE_FLAG_INHERIT, 0))
        return PM_OK;
    streams_close(s);
    return pm_fail(PM_ERR_IO, "%s: no pipe (error %lu)", name, GetLastError());
}

static bool create(const pm_program *program, wchar_t *line, wchar_t *environment, const streams *s, HANDLE *process) {
    PROCESS_INFORMATION made;
    STARTUPINFOW how = {.cb = sizeof(how), .dwFlags = STARTF_USESTDHANDLES, .hStdInput = s->nothing, .hStdOutput = s->out};
    how.hStdError = program->quiet ? s->nothing : GetStdHandle(STD_ERROR_HANDLE);
    // Where it crashes no window may wait for a person: it has that from us.
    UINT mode = SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
    bool started = CreateProcessW(NULL, line, NULL, NULL, TRUE, CREATE_UNICODE_ENVIRONMENT, environment, NULL, &how, &made) != 0;
    SetErrorMode(mode);
    if (!started)
        return false;
    CloseHandle(made.hThread);
    *process = made.hProcess;
    return true;
}

static pm_status start_program(const pm_program *program, streams *s, HANDLE *process) {
    wide_text line = {.p = NULL}, environment = {.p = NULL};
    make_command_line(&line, program->argv);
    make_environment(&environment, program->env);
    pm_status status = PM_OK;
    if (line.failed || environment.failed)
        status = pm_fail(PM_ERR_MEMORY, "%s: no memory for its arguments, or they are too long", program->argv[0]);
    else if (!create(program, line.p, environment.p, s, process))
        status = pm_fail(PM_ERR_IO, "%s: cannot be run (error %lu)", program->argv[0], GetLastError());
    close_handle(&s->out); // what it writes ends where it ends
    pm_free(line.p);
    pm_free(environment.p);
    return status;
}

// The exit code of a program that the system ended, as the signal that tells the same elsewhere.
static int exit_code_of(HANDLE process, bool *interrupted) {
    enum { INTERRUPTED = 130, ABORTED = 134, BAD_ADDRESS = 139 };
    DWORD code = 1;
    WaitForSingleObject(process, INFINITE);
    GetExitCodeProcess(process, &code);
    *interrupted = code == 0xc000013a;
    if (code < 0xc0000000)
        return (int)code;
    return *interrupted ? INTERRUPTED : code == 0xc0000005 ? BAD_ADDRESS : ABORTED;
}

// A pipe cannot be waited for with a time limit: it is looked at a hundred times a second. False: it has ended, or was silent.
static bool wait_for_text(HANDLE in, uint32_t silence_ms, bool *silent) {
    DWORD waiting = 0;
    for (uint64_t began = pm_now_ns(); PeekNamedPipe(in, NULL, 0, NULL, &waiting, NULL);) {
        if (waiting > 0)
            return true;
        *silent = pm_now_ns() - began >= (uint64_t)silence_ms * 1000000u;
        if (*silent)
            return false;
        Sleep(10);
    }
    return false;
}

// Reads until its stdout is closed, or as program->silence_ms says; *ended is false where it was not read to its end.
static void read_text(const pm_program *program, HANDLE in, size_t limit, char *out, size_t *size, bool *ended) {
    bool silent = false;
    DWORD got;
    while (*size < limit) {
        size_t room = limit - *size < 1 << 16 ? limit - *size : 1 << 16;
        if ((program->silence_ms > 0 && !wait_for_text(in, program->silence_ms, &silent)) ||
            !ReadFile(in, out + *size, (DWORD)room, &got, NULL))
            break;
        *size += got;
    }
    *ended = !silent && *size < limit;
}

static pm_status read_program(const pm_program *program, HANDLE in, HANDLE process, size_t limit, char **out, size_t *size) {
    enum { KILLED = 137 };
    bool ended = false;
    *out = pm_malloc(limit + 2);
    if (*out) {
        read_text(program, in, limit + 1, *out, size, &ended);
        (*out)[*size] = 0;
    }
    if (!ended)
        TerminateProcess(process, KILLED);
    if (!*out)
        return pm_fail(PM_ERR_MEMORY, "%s: no memory to read what it says", program->argv[0]);
    if (!ended && program->silence_ms == 0)
        return pm_fail(PM_ERR_FILE, "%s: larger than %zu bytes", program->argv[0], limit);
    return PM_OK;
}

// Whatever is started meanwhile by another thread would inherit what this program is given, and hold its stdout open.
static SRWLOCK starting = SRWLOCK_INIT;

static pm_status start_with_streams(const pm_program *program, streams *s, HANDLE *process) {
    PM_TRY(streams_open(program->argv[0], s));
    pm_status status = start_program(program, s, process);
    if (status != PM_OK)
        streams_close(s);
    return status;
}

pm_status pm_program_run(const pm_program *program, size_t limit, char **out, size_t *size, int *exit_code) {
    streams s;
    HANDLE process = NULL;
    bool interrupted = false;
    *out = NULL;
    *size = 0;
    *exit_code = -1;
    AcquireSRWLockExclusive(&starting);
    pm_status status = start_with_streams(program, &s, &process);
    ReleaseSRWLockExclusive(&starting);
    PM_TRY(status);
    status = read_program(program, s.read, process, limit, out, size);
    close_handle(&s.read); // it may wait for us to read more
    *exit_code = exit_code_of(process, &interrupted);
    CloseHandle(process);
    streams_close(&s);
    if (status == PM_OK && interrupted) // Ctrl-C goes to all programs of a console
        status = pm_fail(PM_ERR_CANCELLED, "%s: interrupted", program->argv[0]);
    if (status != PM_OK) {
        pm_free(*out);
        *out = NULL;
        *size = 0;
    }
    return status;
}
