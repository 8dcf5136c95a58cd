// Ctrl-C while a session works.
#include "app/app.h"

#include <signal.h>

static pm_session *volatile watched;
static volatile sig_atomic_t interrupted;

static void on_interrupt(int number) {
    signal(number, SIG_DFL); // the next one kills
    interrupted = 1;
    pm_session *session = watched;
    if (session)
        pm_session_cancel(session);
}

void app_watch(pm_session *session) {
    watched = session;
    if (!interrupted)
        signal(SIGINT, on_interrupt);
}

bool app_interrupted(void) {
    return interrupted;
}

void app_interrupt_reset(void) {
    interrupted = 0;
    signal(SIGINT, SIG_DFL);
}
