// For op_linear.c and op_moe.c: a device on which products are laid out another way, by the overrides of host/caps.h.
#ifndef CHECK_LAYOUT_H
#define CHECK_LAYOUT_H

#include "check.h"

// Products of any number of rows by this shape of matvec, "workgroup,lanes,rows,max_cols", but for what PM_TILES says.
static inline int check_open_shaped(const char *shape, const char *tiles, uint64_t megabytes) {
    setenv("PM_MATVEC", shape, 1);
    setenv("PM_MATVEC_BATCH", shape, 1);
    setenv("PM_TILES", tiles, 1);
    print_message("PM_MATVEC=%s PM_TILES=%s\n", shape, tiles);
    check_open(megabytes);
    return 0;
}

// Before the device is opened: no more bytes are bound at once.
static inline void check_bind_at_most(int bytes) {
    char text[16];
    snprintf(text, sizeof(text), "%d", bytes);
    setenv("PM_MAX_BINDING_BYTES", text, 1);
}

static inline int check_close_shaped(void **state) {
    static const char *const names[] = {"PM_MATVEC",    "PM_MATVEC_BATCH", "PM_TILES",
                                        "PM_SUBGROUPS", "PM_DOTS",         "PM_MAX_BINDING_BYTES"};
    for (size_t i = 0; i < CHECK_COUNT(names); i++)
        unsetenv(names[i]);
    check_halves = false;
    return check_close(state);
}

#endif
