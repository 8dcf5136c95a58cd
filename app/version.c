// The version line. What it is made of comes from the build: PM_VERSION and PM_COMPILER from CMake, the rest from generated
// headers.
#include "app/version.h"

#include <stdio.h>

#include "commit.h"
#include "shader_hash.h"

const char *app_commit(void) {
    return PM_COMMIT[0] ? PM_COMMIT : "unknown";
}

const char *app_version(void) {
    static char line[160];
    snprintf(line, sizeof(line), "%s (commit %s, %s, kernels %.8s)", PM_VERSION, app_commit(), PM_COMPILER, PM_SHADER_HASH);
    return line;
}
