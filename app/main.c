// The program `pumice`: picks the command. A new one is a line in `commands` and one in app.h.
#include "app/app.h"
#include "app/version.h"
#include "host/host.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static bool reader_gone; // of standard output

static const app_command *const commands[] = {
    &app_run,        &app_chat,  &app_devices, &app_info,     &app_plan,     &app_tune,
    &app_perplexity, &app_embed, &app_rerank,  &app_quantize, &app_tokenize, &app_template,
};

enum { N_COMMANDS = sizeof(commands) / sizeof(*commands) };

static void print_help(FILE *to) {
    fprintf(to, "usage: pumice COMMAND [options]\nruns language models on any Vulkan device\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(to, "\npumice COMMAND --help tells its options; pumice --version the version.\n"
                "Exit codes: 0 done, 1 failed, 2 a command line that makes no sense, 3 no Vulkan device,\n"
                "130 stopped by Ctrl-C.\n");
}

int app_exit(pm_status status) {
    if (status == PM_OK)
        return APP_EXIT_OK;
    fprintf(stderr, "pumice: %s\n", pm_error_text());
    if (status == PM_ERR_USAGE)
        return APP_EXIT_USAGE;
    return status == PM_ERR_NO_DEVICE ? APP_EXIT_NO_DEVICE : APP_EXIT_FAILED;
}

static int run(int argc, char **argv) {
    const char *name = argv[1];
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i]->name, name))
            return commands[i]->run(argc - 2, argv + 2);
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help"))
        return print_help(stdout), APP_EXIT_OK;
    if (!strcmp(name, "--version"))
        return printf("pumice %s\n", app_version()), APP_EXIT_OK;
    return app_exit(pm_fail(PM_ERR_USAGE, "no command \"%s\"; pumice --help lists them", name));
}

static pm_status cannot_write(void) {
    return pm_fail(PM_ERR_IO, "standard output could not be written: %s", strerror(errno));
}

pm_status app_write(const void *data, size_t size, bool *gone) {
    bool written = fwrite(data, 1, size, stdout) == size && fflush(stdout) == 0;
    int error = errno;
    *gone = false;
    if (written)
        return PM_OK;
    if (error == EINTR) { // by Ctrl-C: what is left goes with the next write
        clearerr(stdout);
        return PM_OK;
    }
    *gone = reader_gone = pm_is_broken_pipe(error);
    return reader_gone ? PM_OK : cannot_write();
}

// What was printed may still fail to be written: a full disk. A reader that went away has had enough: that is no failure.
static int finish(int exit_code) {
    if (exit_code != APP_EXIT_OK || reader_gone)
        return exit_code;
    errno = 0;
    bool written = fflush(stdout) == 0 && !ferror(stdout);
    return written || pm_is_broken_pipe(errno) ? exit_code : app_exit(cannot_write());
}

int main(int argc, char **argv) {
    pm_program_begin(&argc, &argv);
#ifdef SIGPIPE
    signal(SIGPIPE, SIG_IGN); // writing tells it
#endif
    if (argc < 2) {
        print_help(stderr);
        return APP_EXIT_USAGE;
    }
    if (!strcmp(argv[1], PM_TRY_COMMAND))
        return pm_device_try_kernels(argc - 2, argv + 2);
    app_try_with_itself(argv[0]);
    return finish(run(argc, argv));
}
