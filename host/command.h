// Private to the files of a command (command.c, rehearsal.c, timing.c): what it holds, and what each has of the others.
#ifndef PM_COMMAND_H
#define PM_COMMAND_H

#include "host/vk.h"

enum {
    PM_MAX_RANGES = 128, // remembered since the last barrier; when there is no room for more, a barrier makes some
    PM_MAX_ATTENDS = 4,  // kinds of attention of one rehearsal that are noted
};

typedef enum cmd_state { CMD_EMPTY, CMD_RECORDING, CMD_REHEARSING, CMD_REHEARSED, CMD_READY, CMD_RUNNING } cmd_state;

typedef struct range_list {
    pm_slice ranges[PM_MAX_RANGES];
    int n;
} range_list;

struct pm_cmd {
    pm_device *dev;
    const char *name;
    cmd_state state;
    pm_status status; // the first error of the recording; it sticks until the next begin
    char error[512];  // its line: by the time of pm_cmd_end another one may stand in pm_error_text
    VkCommandPool pool;
    VkCommandBuffer *pieces; // the recording, cut at sections; made as they are needed, kept
    int n_pieces, n_made, pieces_capacity;
    VkCommandBuffer vk; // the piece that is being recorded
    VkFence fence;      // of the last piece
    int n_sections, n_rehearsed_sections;
    int n_wanted;                  // pieces
    uint64_t submitted_ns, run_ns; // when; and how long the last run took
    VkPipeline bound;
    range_list reads, writes; // since the last barrier
    VkDescriptorPool *set_pools;
    int n_set_pools, set_pools_capacity, n_sets; // sets taken, over all pools
    int n_dispatches;
    pm_kernel_use *uses; // of a rehearsal
    int n_uses, uses_capacity;
    bool exact;
    pm_slice quants;      // of pm_cmd_fast
    bool stale;           // one of them was found bad
    bool noting;          // products too
    pm_problem *problems; // the products of a rehearsal by shape
    int n_problems, problems_capacity;
    pm_attend_shape attends[PM_MAX_ATTENDS]; // and its attention
    int n_attends;
    pm_breakage broken;  // in builds with tests: what PM_BREAK wants of the submission
    bool profile, timed; // wanted; and done in what is recorded now
    const char *label;
    pm_timing *timings;
    int n_timings, timings_capacity;
    VkQueryPool *query_pools;
    int n_query_pools, query_pools_capacity,
        n_queries; // timestamps taken, over all pools: one at the start and one after each timing
};

// `array` of *capacity elements of `size` bytes, moved and grown where it is full with n; NULL (and `array` as it was) without
// memory.
void *pm_cmd_with_room(void *array, int *capacity, int n, size_t size);

// ---- rehearsal.c -------------------------------------------------------------------------------------------------------------

void pm_cmd_note_use(pm_cmd *cmd, const pm_kernel_use *use);

// ---- timing.c ----------------------------------------------------------------------------------------------------------------

void pm_cmd_put_timestamp(pm_cmd *cmd);
// Closes the time of what was just recorded, where times are wanted. One timestamp each: a time is the difference to the one before
// it, so the times add up to the whole, waits included, and of two kernels that overlap the second shows what it took longer.
void pm_cmd_put_timing(pm_cmd *cmd, pm_timing timing);

#endif
