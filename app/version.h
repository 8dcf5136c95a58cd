// What was built: both programs say it.
#ifndef PM_APP_VERSION_H
#define PM_APP_VERSION_H

// "0.1.0 (commit 0123456789ab, GNU 12.2.0, kernels 01234567)": a + behind the commit where files differed from it, unknown where
// the sources came without git.
const char *app_version(void);
const char *app_commit(void);

#endif
