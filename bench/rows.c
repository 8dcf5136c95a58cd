// Rows in the formats that programs read: JSON, a JSON object a line, CSV and SQL, as llama-bench writes them.
#include "bench/report.h"

#include <cjson/cJSON.h>
#include <stdio.h>

// Lists have no column.
static bool is_column(const cJSON *item) {
    return !cJSON_IsArray(item);
}

// ---- CSV --------------------------------------------------------------------------------------------------------------

// In quotes, those within doubled: of CSV and of SQL.
static void print_quoted(const char *text, char quote) {
    putchar(quote);
    for (; *text; text++) {
        if (*text == quote)
            putchar(quote);
        putchar(*text);
    }
    putchar(quote);
}

// llama-bench quotes every value, and so do its readers expect it. A number has all its digits.
static void print_value(const cJSON *item, char quote) {
    char number[32];
    if (cJSON_IsNumber(item)) {
        snprintf(number, sizeof(number), "%.17g", item->valuedouble);
        print_quoted(number, quote);
    } else if (cJSON_IsBool(item)) {
        print_quoted(cJSON_IsTrue(item) ? "1" : "0", quote);
    } else {
        print_quoted(cJSON_IsString(item) ? item->valuestring : "", quote);
    }
}

static void print_names(const cJSON *row, const char *separator) {
    const char *before = "";
    const cJSON *item;
    cJSON_ArrayForEach(item, row) {
        if (is_column(item)) {
            printf("%s%s", before, item->string);
            before = separator;
        }
    }
}

static void print_csv(const bench_report *r, const cJSON *row) {
    const char *before = "";
    const cJSON *item;
    if (r->n_rows == 0) {
        print_names(row, ",");
        puts("");
    }
    cJSON_ArrayForEach(item, row) {
        if (is_column(item)) {
            fputs(before, stdout);
            print_value(item, '"');
            before = ",";
        }
    }
    puts("");
}

// ---- SQL --------------------------------------------------------------------------------------------------------------

static const char *sql_type(const cJSON *item) {
    return cJSON_IsNumber(item) ? " REAL" : cJSON_IsBool(item) ? " INTEGER" : cJSON_IsString(item) ? " TEXT" : "";
}

// "where" is a word of the language: all names are in quotes.
static void print_table(const cJSON *row) {
    const char *before = "CREATE TABLE IF NOT EXISTS llama_bench (\n  ";
    const cJSON *item;
    cJSON_ArrayForEach(item, row) {
        if (is_column(item)) {
            printf("%s\"%s\"%s", before, item->string, sql_type(item));
            before = ",\n  ";
        }
    }
    puts("\n);\n");
}

static void print_sql(const bench_report *r, const cJSON *row) {
    const char *before = ") VALUES (";
    const cJSON *item;
    if (r->n_rows == 0)
        print_table(row);
    printf("INSERT INTO llama_bench (\"");
    print_names(row, "\", \"");
    putchar('"');
    cJSON_ArrayForEach(item, row) {
        if (!is_column(item))
            continue;
        fputs(before, stdout);
        before = ", ";
        if (cJSON_IsNull(item))
            fputs("NULL", stdout);
        else if (cJSON_IsNumber(item))
            printf("%.17g", item->valuedouble);
        else
            print_value(item, '\'');
    }
    puts(");");
}

// ---- all --------------------------------------------------------------------------------------------------------------

static pm_status print_json(const bench_report *r, const cJSON *row) {
    bool lines = r->options->output == BENCH_JSONL;
    char *text = lines ? cJSON_PrintUnformatted(row) : cJSON_Print(row);
    if (!text)
        return pm_fail(PM_ERR_MEMORY, "no memory for a row of the report");
    if (lines)
        puts(text);
    else
        printf("%s%s", r->n_rows ? ",\n" : "\n", text);
    pm_free(text);
    return PM_OK;
}

void bench_rows_begin(const bench_report *r) {
    if (r->options->output == BENCH_JSON)
        printf("[");
}

pm_status bench_rows_print(bench_report *r, const cJSON *row) {
    if (r->options->output == BENCH_CSV)
        print_csv(r, row);
    else if (r->options->output == BENCH_SQL)
        print_sql(r, row);
    else
        PM_TRY(print_json(r, row));
    r->n_rows++;
    return PM_OK;
}

void bench_rows_end(const bench_report *r) {
    if (r->options->output == BENCH_JSON)
        puts("\n]");
}
