// What the model's chat template means for a command: its thinking, and how to draw while it thinks.
#ifndef PM_APP_STYLE_H
#define PM_APP_STYLE_H

#include "app/sampling.h"

// Says once for a template that is a stranger what is used in its place.
void app_style_warn(pm_str template_text);

// Will the model think, given --think and the last of /think and /no_think in what user and system said?
bool app_style_thinks(pm_str template_text, const pm_chat_message *messages, int n, int enable_thinking);

// The sampler for that: what was given, else what is advised for the mode in force where the checkpoint's own numbers are the
// thinking ones or none, else those. Warns once of a greedy draw while thinking, which ends in repetitions. thinks -1: this is no
// conversation.
pm_sampler app_style_sampler(const app_sampling *given, const pm_model *model, int thinks);

#endif
