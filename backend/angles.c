// The rotation angles of a session: a table for each factor of YaRN that a sequence of it has chosen.
#include <string.h>

#include "backend/model.h"

static pm_status write_table(pm_angles *a, uint32_t table, double factor) {
    const pm_config *own = &a->model->config;
    pm_config scaled = pm_rope_scaled(own, factor);
    float *values = pm_rope_table(table == 0 ? own : &scaled, a->n_positions);
    if (!values)
        return pm_fail(PM_ERR_MEMORY, "no memory for the rotation angles of %u positions", a->n_positions);
    pm_slice slice = a->tables;
    slice.size = (uint64_t)a->rows * own->head_dim * sizeof *values;
    slice.offset += table * slice.size;
    pm_status status = pm_slice_write(a->model->dev, slice, values, slice.size);
    pm_free(values);
    a->factors[table] = status == PM_OK ? factor : 0;
    return status;
}

uint64_t pm_angles_bytes(const pm_config *config, uint32_t n_positions) {
    return (uint64_t)PM_ROPE_TABLES * pm_rope_table_rows(n_positions) * config->head_dim * sizeof(float);
}

pm_status pm_angles_open(const pm_model *model, uint32_t n_positions, uint32_t n_seqs, pm_angles *a) {
    a->model = model;
    a->n_positions = n_positions;
    a->n_seqs = n_seqs;
    a->rows = pm_rope_table_rows(n_positions);
    a->table_of = pm_calloc(n_seqs, sizeof *a->table_of);
    if (!a->table_of)
        return pm_fail(PM_ERR_MEMORY, "no memory for a session");
    const pm_rope_config *rope = &model->config.rope;
    return write_table(a, 0, rope->scaling == PM_ROPE_NONE ? 1 : rope->factor);
}

void pm_angles_close(pm_angles *a) {
    pm_free(a->table_of);
    a->table_of = NULL;
}

static bool in_use(const pm_angles *a, uint32_t table, int but_for) {
    for (uint32_t i = 0; i < a->n_seqs; i++)
        if (a->table_of[i] == table && i != (uint32_t)but_for)
            return true;
    return false;
}

// A table that has this factor, or else one that no other sequence uses.
static uint32_t find_table(const pm_angles *a, int seq, double factor) {
    uint32_t unused = PM_ROPE_TABLES;
    for (uint32_t i = 0; i < PM_ROPE_TABLES; i++) {
        if (a->factors[i] == factor)
            return i;
        if (i > 0 && unused == PM_ROPE_TABLES && !in_use(a, i, seq))
            unused = i;
    }
    return unused;
}

pm_status pm_angles_choose(pm_angles *a, int seq, double factor) {
    uint32_t table = find_table(a, seq, factor);
    if (table == PM_ROPE_TABLES)
        return pm_fail(PM_ERR_USAGE, "the sequences have %d different rope factors already, which is all there is room for",
                       PM_ROPE_TABLES);
    if (a->factors[table] != factor)
        PM_TRY(write_table(a, table, factor));
    a->table_of[seq] = table;
    return PM_OK;
}
