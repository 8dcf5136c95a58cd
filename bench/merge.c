// Rows of several machines from their JSON files.
#include "bench/merge.h"

#include <string.h>

enum { MAX_FILE = 64 << 20 };

static pm_status no_memory(void) {
    return pm_fail(PM_ERR_MEMORY, "no memory to merge reports");
}

// ---- rows -------------------------------------------------------------------------------------------------------------

static bool same_pass(const merge_row *a, const merge_row *b) {
    return b->kind == MERGE_OP && a->device == b->device && a->group == b->group && a->n_rows == b->n_rows &&
           a->n_depth == b->n_depth;
}

static double time_of(const merge_row *r) {
    return r->us * (r->count > 1 ? r->count : 1);
}

// What part of its pass each kernel takes, for the rows of one file.
static void share_out(merge_row *rows, int n) {
    for (int i = 0; i < n; i++) {
        double all = 0;
        for (int k = 0; k < n && rows[i].kind == MERGE_OP; k++)
            all += same_pass(&rows[i], &rows[k]) ? time_of(&rows[k]) : 0;
        rows[i].share = all > 0 ? time_of(&rows[i]) / all : 0;
    }
}

typedef bool same_rows(const merge_row *a, const merge_row *b);

// The number of the row among those that differ, whose first ones are listed; -1: there is no room for one more.
static int number_among(const merge *m, const merge_row *r, same_rows *same, int *firsts, int *n, int room) {
    for (int i = 0; i < *n; i++)
        if (same(r, &m->rows[firsts[i]]))
            return i;
    if (*n == room)
        return -1;
    firsts[*n] = m->n;
    return (*n)++;
}

static bool number_row(merge *m, merge_row *r) {
    r->device = number_among(m, r, merge_same_device, m->devices, &m->n_devices, MERGE_MAX_DEVICES);
    r->group = r->kind == MERGE_CEILING ? -1 : number_among(m, r, merge_same_group, m->groups, &m->n_groups, MERGE_MAX_GROUPS);
    return r->device >= 0 && (r->group >= 0 || r->kind == MERGE_CEILING) && m->n < MERGE_MAX_ROWS;
}

static pm_status grow(merge *m) {
    int room = m->room ? 2 * m->room : 64;
    merge_row *grown = m->n < m->room ? m->rows : pm_realloc(m->rows, (size_t)room * sizeof(*grown));
    if (!grown)
        return no_memory();
    m->room = m->n < m->room ? m->room : room;
    m->rows = grown;
    return PM_OK;
}

static pm_status keep_row(merge *m, const cJSON *json, bool *fits) {
    PM_TRY(grow(m));
    merge_row row = merge_read_row(json);
    *fits = *fits && number_row(m, &row);
    if (*fits)
        m->rows[m->n++] = row;
    return PM_OK;
}

// ---- files ------------------------------------------------------------------------------------------------------------

// An array of rows (json), or one row after the other (jsonl); as one array. NULL: it is no JSON.
static cJSON *parse(const char *text, size_t size) {
    cJSON *all = cJSON_CreateArray();
    const char *p = text, *end = text + size;
    while (all) {
        while (p < end && strchr(" \t\r\n", *p) && *p)
            p++;
        if (p == end)
            return all;
        cJSON *next = cJSON_ParseWithLengthOpts(p, (size_t)(end - p), &p, 0);
        if (!next || !cJSON_AddItemToArray(all, next)) {
            cJSON_Delete(next);
            break;
        }
    }
    cJSON_Delete(all);
    return NULL;
}

static const char *fault_of_all(const cJSON *document) {
    const cJSON *part, *row;
    int n = 0;
    cJSON_ArrayForEach(part, document) {
        const char *fault = cJSON_IsArray(part) ? NULL : merge_fault(part);
        n += !cJSON_IsArray(part);
        for (row = cJSON_IsArray(part) ? part->child : NULL; row && !fault; row = row->next, n++)
            fault = merge_fault(row);
        if (fault)
            return fault;
    }
    return n ? NULL : "holds no rows";
}

static pm_status keep_rows(merge *m, const cJSON *document, bool *fits) {
    const cJSON *part, *row;
    cJSON_ArrayForEach(part, document) {
        if (!cJSON_IsArray(part))
            PM_TRY(keep_row(m, part, fits));
        for (row = cJSON_IsArray(part) ? part->child : NULL; row; row = row->next)
            PM_TRY(keep_row(m, row, fits));
    }
    return PM_OK;
}

// Owns the document from now on. Where it does not fit it is as if the file had not been there.
static pm_status keep_all(merge *m, cJSON *document, bool *fits) {
    cJSON **grown = pm_realloc(m->documents, (size_t)(m->n_documents + 1) * sizeof(*grown));
    if (!grown) {
        cJSON_Delete(document);
        return no_memory();
    }
    int n = m->n, n_devices = m->n_devices, n_groups = m->n_groups;
    m->documents = grown;
    m->documents[m->n_documents++] = document;
    PM_TRY(keep_rows(m, document, fits));
    if (*fits)
        share_out(m->rows + n, m->n - n);
    else
        m->n = n, m->n_devices = n_devices, m->n_groups = n_groups;
    return PM_OK;
}

pm_status merge_add_text(merge *m, const char *path, const char *text, size_t size, bool *added) {
    cJSON *document = parse(text, size);
    if (document)
        merge_clean(document);
    const char *fault = document ? fault_of_all(document) : "is no JSON, or cut off";
    bool fits = true;
    *added = false;
    if (fault)
        cJSON_Delete(document);
    else
        PM_TRY(keep_all(m, document, &fits));
    if (!fits)
        fault = "has more rows, devices or models than can be shown beside the others";
    if (fault)
        pm_log(PM_LOG_WARN, "left out: %s %s", path, fault);
    *added = !fault;
    return PM_OK;
}

pm_status merge_add(merge *m, const char *path, bool *added) {
    char *text;
    size_t size;
    *added = false;
    if (pm_file_read(path, MAX_FILE, &text, &size) != PM_OK) {
        pm_log(PM_LOG_WARN, "left out: %s", pm_error_text());
        return PM_OK;
    }
    pm_status status = merge_add_text(m, path, text, size, added);
    pm_free(text);
    return status;
}

void merge_close(merge *m) {
    for (int i = 0; i < m->n_documents; i++)
        cJSON_Delete(m->documents[i]);
    pm_free(m->documents);
    pm_free(m->rows);
    *m = (merge){.n = 0};
}
