// Command lines by table: parsing and help.
#include "app/app.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct parsing {
    const app_command *command;
    int argc, i;
    char **argv;
    uint8_t *values;
    int n_operands;
    uint64_t seen; // a bit for each row of the table
    bool only_operands;
} parsing;

static bool is_operand(const app_option *o) {
    return o->name[0] != '-';
}

// What stands before the command's name when one types it.
static const char *program(const app_command *c) {
    return c->alone ? "" : "pumice ";
}

// ---- help -------------------------------------------------------------------------------------------------------------

static void print_usage(const app_command *c) {
    printf("usage: %s%s", program(c), c->name);
    for (int i = 0; i < c->n_options; i++)
        if (is_operand(&c->options[i]))
            printf(c->options[i].required ? " %s%s" : " [%s%s]", c->options[i].name, c->options[i].kind == APP_TEXTS ? "..." : "");
    printf(" [options]\n%s\n", c->summary);
}

static void print_row(const char *letter, const char *name, const char *value, const char *help) {
    char left[64];
    snprintf(left, sizeof(left), "%s%s%s%s%s", letter ? letter : "", letter ? ", " : "", name, value ? " " : "",
             value ? value : "");
    printf("  %-28s %s\n", left, help);
}

static void print_help(const app_command *c, bool all) {
    int n_rare = 0;
    print_usage(c);
    for (int i = 0; i < c->n_options; i++) {
        const app_option *o = &c->options[i];
        n_rare += o->rare;
        if (all || !o->rare)
            print_row(o->letter, o->name, o->value, o->help);
    }
    print_row("-v", "--verbose", NULL, "tell more of what goes on; -h, --help: this text");
    if (n_rare > 0 && !all)
        print_row(NULL, "--help-all", NULL, "this and the rarer options");
    if (c->notes)
        printf("%s\n", c->notes);
}

// ---- values -----------------------------------------------------------------------------------------------------------

static pm_status bad_value(const app_option *o, const char *text) {
    if (o->kind == APP_FLOAT)
        return pm_fail(PM_ERR_USAGE, "%s %s: wanted a number from %g to %g", o->name, text, o->least, o->most);
    return pm_fail(PM_ERR_USAGE, "%s %s: wanted a whole number from %.0f to %.0f", o->name, text, o->least, o->most);
}

static pm_status store_whole(const app_option *o, const char *text, uint8_t *to) {
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    uint64_t most = o->most >= 18446744073709551615.0 ? UINT64_MAX : (uint64_t)o->most;
    if (text[0] < '0' || text[0] > '9' || *end || value < (uint64_t)o->least || value > most)
        return bad_value(o, text);
    if (value == UINT64_MAX && strcmp(text, "18446744073709551615")) // strtoull's way to say "too large"
        return bad_value(o, text);
    uint64_t wide = value;
    uint32_t narrow = (uint32_t)value;
    if (o->kind == APP_U64)
        memcpy(to, &wide, sizeof(wide));
    else
        memcpy(to, &narrow, sizeof(narrow));
    return PM_OK;
}

static pm_status store_float(const app_option *o, const char *text, uint8_t *to) {
    char *end;
    float value = strtof(text, &end);
    if (end == text || *end || !(value >= o->least && value <= o->most))
        return bad_value(o, text);
    memcpy(to, &value, sizeof(value));
    return PM_OK;
}

static pm_status store_word(const app_option *o, const char *text, uint8_t *to) {
    char list[80] = "";
    size_t n = 0;
    for (int i = 0; o->words[i]; i++) {
        if (!strcmp(o->words[i], text)) {
            memcpy(to, &i, sizeof(i));
            return PM_OK;
        }
        if (n < sizeof(list))
            n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i ? " or " : "", o->words[i]);
    }
    return pm_fail(PM_ERR_USAGE, "%s %s: wanted %s", o->name, text, list);
}

static pm_status store(const app_option *o, const char *text, uint8_t *values) {
    uint8_t *to = values + o->offset;
    const bool yes = true;
    switch (o->kind) {
    case APP_FLAG:
        memcpy(to, &yes, sizeof(yes));
        return PM_OK;
    case APP_TEXT:
        memcpy(to, &text, sizeof(text));
        return PM_OK;
    case APP_FLOAT:
        return store_float(o, text, to);
    case APP_WORD:
        return store_word(o, text, to);
    case APP_READ:
        return o->read(o, text, to);
    default:
        return store_whole(o, text, to);
    }
}

// ---- parsing ----------------------------------------------------------------------------------------------------------

// The option that an argument names, whole or up to its '='.
static const app_option *find_option(const app_command *c, const char *argument) {
    size_t n = strcspn(argument, "=");
    for (int i = 0; i < c->n_options; i++) {
        const app_option *o = &c->options[i];
        bool long_name = !is_operand(o) && strlen(o->name) == n && !memcmp(o->name, argument, n);
        if (long_name || (o->letter && !strcmp(o->letter, argument)))
            return o;
    }
    return NULL;
}

static const app_option *find_operand(const app_command *c, int number) {
    for (int i = 0; i < c->n_options; i++)
        if (is_operand(&c->options[i]) && (number-- == 0 || c->options[i].kind == APP_TEXTS))
            return &c->options[i];
    return NULL;
}

// They are gathered at the front of argv, which has been read already.
static void add_text(parsing *p, const app_option *o, char *text) {
    app_texts texts;
    memcpy(&texts, p->values + o->offset, sizeof(texts));
    p->argv[texts.n++] = text;
    texts.items = (const char *const *)p->argv;
    memcpy(p->values + o->offset, &texts, sizeof(texts));
}

static void mark_seen(parsing *p, const app_option *o) {
    p->seen |= UINT64_C(1) << (o - p->command->options);
}

static pm_status take_operand(parsing *p, char *argument) {
    const app_option *o = find_operand(p->command, p->n_operands++);
    if (!o)
        return pm_fail(PM_ERR_USAGE, "\"%s\" is one argument too many", argument);
    mark_seen(p, o);
    if (o->kind != APP_TEXTS)
        return store(o, argument, p->values);
    add_text(p, o, argument);
    return PM_OK;
}

static pm_status take_option(parsing *p, const char *argument) {
    const app_option *o = find_option(p->command, argument);
    const char *equals = strchr(argument, '='), *text = equals ? equals + 1 : NULL;
    if (!o)
        return pm_fail(PM_ERR_USAGE, "no option %s; %s%s --help lists them", argument, program(p->command), p->command->name);
    if (o->kind == APP_FLAG && text)
        return pm_fail(PM_ERR_USAGE, "%s takes no value", o->name);
    if (o->kind != APP_FLAG && !text) {
        if (p->i >= p->argc)
            return pm_fail(PM_ERR_USAGE, "%s wants a value: %s", argument, o->value ? o->value : o->help);
        text = p->argv[p->i++];
    }
    mark_seen(p, o);
    return store(o, text, p->values);
}

static pm_status take_argument(parsing *p) {
    char *argument = p->argv[p->i++];
    if (p->only_operands || argument[0] != '-' || !argument[1])
        return take_operand(p, argument);
    if (!strcmp(argument, "--")) {
        p->only_operands = true;
        return PM_OK;
    }
    if (!strcmp(argument, "-v") || !strcmp(argument, "--verbose")) {
        pm_log_set_level(PM_LOG_INFO);
        return PM_OK;
    }
    return take_option(p, argument);
}

static pm_status check_required(const parsing *p) {
    for (int i = 0; i < p->command->n_options; i++)
        if (p->command->options[i].required && !(p->seen >> i & 1))
            return pm_fail(PM_ERR_USAGE, "%s is missing; %s%s --help tells more", p->command->options[i].name, program(p->command),
                           p->command->name);
    return PM_OK;
}

static pm_status parse(parsing *p) {
    while (p->i < p->argc)
        PM_TRY(take_argument(p));
    return check_required(p);
}

// Wherever it stands: who asks for help is not told what is wrong with the rest.
static bool asks_for_help(int argc, char **argv, bool *all) {
    for (int i = 0; i < argc && strcmp(argv[i], "--"); i++) {
        *all = !strcmp(argv[i], "--help-all");
        if (*all || !strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return true;
    }
    return false;
}

bool app_parse(const app_command *command, int argc, char **argv, void *values, int *exit_code) {
    parsing p = {.command = command, .argc = argc, .argv = argv, .values = values};
    bool all;
    if (asks_for_help(argc, argv, &all)) {
        print_help(command, all);
        *exit_code = APP_EXIT_OK;
        return false;
    }
    *exit_code = app_exit(parse(&p));
    return *exit_code == APP_EXIT_OK;
}

pm_status app_set(const app_command *c, const char *name, const char *text, void *values) {
    for (int i = 0; i < c->n_options; i++)
        if (!strncmp(c->options[i].name, "--", 2) && !strcmp(c->options[i].name + 2, name))
            return store(&c->options[i], text, values);
    return pm_fail(PM_ERR_USAGE, "nothing to set is called \"%s\"", name);
}

// ---- the program as a child -------------------------------------------------------------------------------------------

void app_try_with_itself(const char *called) {
    char path[1024];
    if (pm_program_path(called, path, sizeof(path)))
        pm_device_try_with(path);
}
