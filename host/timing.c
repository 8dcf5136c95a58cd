// How long each dispatch of a command took, by the device's own clock.
#include "host/command.h"

#include <assert.h>

enum { QUERIES_PER_POOL = 1024 }; // timestamps of one pool

static pm_status add_query_pool(pm_cmd *cmd) {
    VkQueryPool *grown = pm_cmd_with_room(cmd->query_pools, &cmd->query_pools_capacity, cmd->n_query_pools, sizeof(*grown));
    if (!grown)
        return PM_ERR_MEMORY;
    cmd->query_pools = grown;
    VkQueryPoolCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO, .queryType = VK_QUERY_TYPE_TIMESTAMP, .queryCount = QUERIES_PER_POOL};
    VK_TRY(cmd->dev->fn.vkCreateQueryPool(cmd->dev->vk, &info, NULL, &grown[cmd->n_query_pools]));
    cmd->n_query_pools++;
    return PM_OK;
}

void pm_cmd_put_timestamp(pm_cmd *cmd) {
    if (cmd->dev->info.timestamp_bits == 0)
        return;
    int pool = cmd->n_queries / QUERIES_PER_POOL, query = cmd->n_queries % QUERIES_PER_POOL;
    if (pool == cmd->n_query_pools) {
        pm_cmd_fail(cmd, add_query_pool(cmd));
        if (!pm_cmd_ok(cmd))
            return;
    }
    if (query == 0)
        cmd->dev->fn.vkCmdResetQueryPool(cmd->vk, cmd->query_pools[pool], 0, QUERIES_PER_POOL);
    cmd->dev->fn.vkCmdWriteTimestamp(cmd->vk, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, cmd->query_pools[pool], (uint32_t)query);
    cmd->n_queries++;
}

void pm_cmd_put_timing(pm_cmd *cmd, pm_timing timing) {
    if (!cmd->timed)
        return;
    pm_timing *timings = pm_cmd_with_room(cmd->timings, &cmd->timings_capacity, cmd->n_timings, sizeof(*timings));
    if (!timings) {
        pm_cmd_fail(cmd, PM_ERR_MEMORY);
        return;
    }
    cmd->timings = timings;
    timing.label = cmd->label;
    cmd->timings[cmd->n_timings++] = timing;
    pm_cmd_put_timestamp(cmd);
}

void pm_cmd_profile(pm_cmd *cmd, bool on) {
    cmd->profile = on;
}

const pm_timing *pm_cmd_timings(pm_cmd *cmd, int *n) {
    assert(cmd->state != CMD_RUNNING);
    *n = cmd->n_timings;
    const pm_device_info *info = &cmd->dev->info;
    uint64_t mask = info->timestamp_bits < 64 ? ((uint64_t)1 << info->timestamp_bits) - 1 : UINT64_MAX;
    uint64_t ticks[QUERIES_PER_POOL], before = 0;
    for (int q = 0; q < cmd->n_queries; q++) {
        int pool = q / QUERIES_PER_POOL, left = cmd->n_queries - pool * QUERIES_PER_POOL;
        if (q % QUERIES_PER_POOL == 0 &&
            cmd->dev->fn.vkGetQueryPoolResults(cmd->dev->vk, cmd->query_pools[pool], 0,
                                               (uint32_t)(left < QUERIES_PER_POOL ? left : QUERIES_PER_POOL), sizeof(ticks), ticks,
                                               sizeof(ticks[0]), VK_QUERY_RESULT_64_BIT) != VK_SUCCESS)
            break; // never submitted, or the device is lost
        uint64_t now = ticks[q % QUERIES_PER_POOL];
        if (q > 0)
            cmd->timings[q - 1].ns = (uint64_t)((double)((now - before) & mask) * (double)info->timestamp_ns);
        before = now;
    }
    return cmd->timings;
}
