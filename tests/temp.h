// A folder that a test may fill, gone when the program ends well. Include after cmocka.h.
#ifndef PM_TEST_TEMP_H
#define PM_TEST_TEMP_H

#include "host/base.h"
#include "posix.h"

#include <string.h>

static char temp_folder[256];

static inline int temp_open(void **state) {
    (void)state;
    return make_temporary(temp_folder, sizeof(temp_folder)) ? 0 : -1;
}

// FILE NAME's path in the folder; eight are valid at a time.
static inline const char *temp_path(const char *name) {
    static char paths[8][512];
    static int turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof(paths[0]), "%s/%s", temp_folder, name);
    return path;
}

static inline const char *temp_write(const char *name, const void *data, size_t size) {
    const char *path = temp_path(name);
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(data, 1, size, stream), size);
    assert_int_equal(fclose(stream), 0);
    return path;
}

static inline const char *temp_text(const char *name, const char *text) {
    return temp_write(name, text, strlen(text));
}

// Another file's bytes under a name in the folder.
static inline const char *temp_copy(const char *from, const char *name) {
    char *data;
    size_t size;
    assert_int_equal(pm_file_read(from, SIZE_MAX / 4, &data, &size), PM_OK);
    const char *path = temp_write(name, data, size);
    pm_free(data);
    return path;
}

static inline void temp_remove(const char *name) {
    unlink(temp_path(name));
}

static inline int temp_close(void **state) {
    (void)state;
    return remove_folder(temp_folder) ? 0 : -1;
}

#endif
