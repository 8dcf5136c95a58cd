// Running other programs, by POSIX: see pm_program in base.h.
#include "host/os.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

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

// A program that another thread starts meanwhile would inherit our ends of the pipe, and hold them open.
static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;

// *in: our end of its stdout.
static pm_status start_with_pipe(const pm_program *program, int *in, pid_t *pid) {
    int ends[2];
    if (pipe(ends) != 0)
        return pm_fail(PM_ERR_IO, "%s: no pipe: %s", program->argv[0], strerror(errno));
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    pm_status status = start_program(program, ends[1], pid);
    close(ends[1]);
    if (status != PM_OK)
        close(ends[0]);
    *in = ends[0];
    return status;
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
    pm_status status = pm_os_read_stream(program->argv[0], stream, limit, out, size);
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
    int in = -1;
    pid_t pid;
    pthread_mutex_lock(&starting);
    pm_status status = start_with_pipe(program, &in, &pid);
    pthread_mutex_unlock(&starting);
    PM_TRY(status);
    if (program->silence_ms > 0)
        status = read_until_silent(program, in, pid, limit, out, size);
    else
        status = read_program(program, in, pid, limit, out, size);
    *exit_code = wait_program(pid);
    if (status != PM_OK && program->silence_ms > 0) {
        pm_free(*out);
        *out = NULL;
    }
    return status;
}
