// What the files of the program share: a table row for a command, a table row for an option, exit codes. options.c and
// interrupt.c are also part of pumice-bench, which is one such command by itself.
#ifndef PM_APP_H
#define PM_APP_H

#include "backend/pumice.h"
#include "host/base.h"

enum {
    APP_EXIT_OK = 0,
    APP_EXIT_FAILED = 1,
    APP_EXIT_USAGE = 2,
    APP_EXIT_NO_DEVICE = 3,
    APP_EXIT_INTERRUPTED = 130, // what a shell calls a program that Ctrl-C ended
};

typedef enum app_kind {
    APP_FLAG,  // bool
    APP_TEXT,  // const char *, of argv
    APP_U32,   // uint32_t within [least, most]
    APP_U64,   // uint64_t within [least, most]
    APP_FLOAT, // float within [least, most]
    APP_WORD,  // int: which of `words` it is
    APP_TEXTS, // app_texts: an operand that may come any number of times, the last one of its table
    APP_READ,  // what `read` makes of the text
} app_kind;

typedef struct app_texts {
    const char *const *items; // of argv
    size_t n;
} app_texts;

// An option or operand of a command, and where its value goes in the command's struct of values, which holds the defaults before.
typedef struct app_option {
    const char *name;   // "--ctx"; without dashes it is an operand: operands are taken in the table's order
    const char *letter; // "-c", or NULL
    const char *value;  // what the help calls the value; NULL for a flag or operand
    const char *help;
    app_kind kind;
    size_t offset;
    double least, most;
    const char *const *words; // ended by NULL
    // Stores into the struct's value; called for each time the option is given.
    pm_status (*read)(const struct app_option *option, const char *text, void *value);
    bool required;
    bool rare; // told by --help-all only: --help is one screen
} app_option;

typedef struct app_command {
    const char *name;
    const char *summary; // one line
    bool alone;          // a program of this name, not a command of `pumice`
    const app_option *options;
    int n_options;
    const char *notes;                 // ends the help; may be NULL
    int (*run)(int argc, char **argv); // what follows the command's name; returns an exit code
} app_command;

// Reads what follows the command's name into the struct at `values`. True: go on. False: the help was printed, or the line made no
// sense and was told so; then *exit_code is what to return. Every command has --help, --help-all and --verbose. "--ctx 5" is
// "--ctx=5", and after "--" all are operands.
bool app_parse(const app_command *command, int argc, char **argv, void *values, int *exit_code);

// Sets one row of the table as if it stood on the command line; name without dashes. PM_ERR_USAGE.
pm_status app_set(const app_command *command, const char *name, const char *text, void *values);

// Says the line of the last pm_fail on stderr and gives the exit code for it; APP_EXIT_OK for PM_OK. Each program has its own.
int app_exit(pm_status status);

// Kernels that are new here are tried by this very program, started as a child: its main hands what follows PM_TRY_COMMAND (host.h)
// on.
void app_try_with_itself(const char *called);

// From now on the first Ctrl-C cancels this session, where one is given, and is remembered; a second one ends the program at once.
void app_watch(pm_session *session);
bool app_interrupted(void);
// Forgets an interruption, and watches no more: Ctrl-C ends the program until the next app_watch.
void app_interrupt_reset(void);

// Standard output: writes and flushes. A reader that went away (pumice run ... | head) is no failure: *gone is set, and the command
// should end; main then asks no more whether everything was written.
pm_status app_write(const void *data, size_t size, bool *gone);

// ---- text.c -----------------------------------------------------------------------------------------------------------

enum { APP_SHORT_TEXT = 32 };
// "640.0 KiB", "1.14 GiB"; "596.0 M". They return text.
const char *app_bytes(uint64_t bytes, char text[APP_SHORT_TEXT]);
const char *app_count(uint64_t count, char text[APP_SHORT_TEXT]);
// 0-terminated copies of what a file says, which may be anything: invalid UTF-8 and zeros become U+FFFD, in a printable one control
// characters too. The caller's to pm_free; NULL without memory.
char *app_utf8(pm_str text);
char *app_printable(pm_str text);
// PM_ERR_USAGE with the offset of the first byte that is not UTF-8, or is zero; `from` names the source.
pm_status app_check_utf8(const char *from, const char *text, size_t n);
pm_status app_check_zeros(const char *from, const char *text, size_t n, const char *remedy);

// The commands; main.c has the list.
extern const app_command app_run;
extern const app_command app_chat;
extern const app_command app_devices;
extern const app_command app_info;
extern const app_command app_plan;
extern const app_command app_tune;
extern const app_command app_perplexity;
extern const app_command app_embed;
extern const app_command app_rerank;
extern const app_command app_quantize;
extern const app_command app_tokenize;
extern const app_command app_template;

#endif
