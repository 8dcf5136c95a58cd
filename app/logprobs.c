// A line of JSON a token for --logprobs, named as OpenAI's API does.
#include "app/json.h"
#include "app/run.h"

#include <string.h>

static void put_token(app_json *j, cJSON *to, const pm_tokenizer *tokenizer, pm_logprob likely) {
    app_json_put(j, to, "id", cJSON_CreateNumber(likely.id));
    if (tokenizer) {
        pm_str bytes = pm_tokenizer_bytes(tokenizer, likely.id);
        app_json_str(j, to, "token", bytes);
        cJSON *list = app_json_array(j, to, "bytes");
        for (size_t i = 0; i < bytes.n; i++)
            app_json_put(j, list, NULL, cJSON_CreateNumber((uint8_t)bytes.p[i]));
    }
    app_json_float(j, to, "logprob", likely.logprob);
}

pm_status run_logprobs_write(const pm_tokenizer *tokenizer, const pm_logprob *likely, int n, bool *gone) {
    app_json j = app_json_begin();
    put_token(&j, j.root, tokenizer, likely[0]);
    cJSON *top = app_json_array(&j, j.root, "top_logprobs");
    for (int i = 1; i < n; i++)
        put_token(&j, app_json_object(&j, top, NULL), tokenizer, likely[i]);
    char *line = j.failed ? NULL : cJSON_PrintUnformatted(j.root);
    cJSON_Delete(j.root);
    if (!line)
        return pm_fail(PM_ERR_MEMORY, "no memory for a line of JSON");
    pm_status status = app_write(line, strlen(line), gone);
    cJSON_free(line);
    return status == PM_OK && !*gone ? app_write("\n", 1, gone) : status;
}
