// What a rehearsal notes: kernels, which are then tried and made all at once, and the products and attention that the tuner
// measures.
#include "host/command.h"

#include <assert.h>
#include <string.h>

void pm_cmd_note_use(pm_cmd *cmd, const pm_kernel_use *use) {
    pm_kernel_use *uses = pm_cmd_with_room(cmd->uses, &cmd->uses_capacity, cmd->n_uses, sizeof(*uses));
    if (!uses) {
        pm_cmd_fail(cmd, PM_ERR_MEMORY);
        return;
    }
    cmd->uses = uses;
    uses[cmd->n_uses++] = *use;
}

pm_status pm_cmd_prepare(pm_cmd *cmd) {
    assert(cmd->state == CMD_REHEARSED);
    PM_TRY(pm_selftest_uses(cmd->dev, cmd->uses, cmd->n_uses, &cmd->stale));
    return cmd->stale ? PM_OK : pm_kernels_prepare(cmd->dev, cmd->uses, cmd->n_uses);
}

bool pm_cmd_is_stale(const pm_cmd *cmd) {
    return cmd->stale;
}

void pm_cmd_note_products(pm_cmd *cmd, bool on) {
    cmd->noting = on;
}

static pm_problem *find_problem(pm_cmd *cmd, const pm_linear_shape *shape) {
    for (int i = 0; i < cmd->n_problems; i++) {
        const pm_linear_shape *s = &cmd->problems[i].shape;
        if (s->dtype == shape->dtype && s->epilogue == shape->epilogue && s->rows == shape->rows && s->cols == shape->cols &&
            s->n == shape->n && s->exact == shape->exact && s->fast == shape->fast && s->n_experts == shape->n_experts &&
            s->n_used == shape->n_used && s->tile == shape->tile)
            return &cmd->problems[i];
    }
    return NULL;
}

void pm_cmd_note_product(pm_cmd *cmd, const pm_linear_shape *shape, const pm_tensor *w) {
    if (cmd->state != CMD_REHEARSING || !cmd->noting || !pm_cmd_ok(cmd))
        return;
    pm_problem *p = find_problem(cmd, shape);
    if (!p) {
        pm_problem *grown = pm_cmd_with_room(cmd->problems, &cmd->problems_capacity, cmd->n_problems, sizeof(*grown));
        if (!grown) {
            pm_cmd_fail(cmd, PM_ERR_MEMORY);
            return;
        }
        cmd->problems = grown;
        p = &grown[cmd->n_problems++];
        *p = (pm_problem){.shape = *shape};
    }
    p->count++;
    if (p->n_weights < PM_PROBLEM_WEIGHTS)
        p->weights[p->n_weights++] = *w;
}

const pm_problem *pm_cmd_problems(const pm_cmd *cmd, int *n) {
    *n = cmd->n_problems;
    return cmd->problems;
}

void pm_cmd_note_attend(pm_cmd *cmd, const pm_attend_shape *shape) {
    if (cmd->state != CMD_REHEARSING || !cmd->noting || cmd->n_attends == PM_MAX_ATTENDS)
        return;
    for (int i = 0; i < cmd->n_attends; i++)
        if (!memcmp(&cmd->attends[i], shape, sizeof(*shape)))
            return;
    cmd->attends[cmd->n_attends++] = *shape;
}

const pm_attend_shape *pm_cmd_attends(const pm_cmd *cmd, int *n) {
    *n = cmd->n_attends;
    return cmd->attends;
}
