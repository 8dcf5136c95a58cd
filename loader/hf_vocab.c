// tokenizer.json of the tokenizers library: byte-level BPE only. Its lists have 150,000 members and more: they are walked once,
// never searched.
#include "loader/internal.h"

#include <cjson/cJSON.h>
#include <string.h>

// What the readers below pass around.
typedef struct vocab_reader {
    const char *path;
    pm_arena *arena;
    uint32_t limit; // ids must be below
    pm_vocab_token *tokens;
    uint32_t n_tokens;
    pm_vocab_data *out;
} vocab_reader;

static const char *type_of(const cJSON *item) {
    const cJSON *type = pm_json_get(item, "type");
    return cJSON_IsString(type) ? type->valuestring : "of no type";
}

static bool is_type(const cJSON *item, const char *type) {
    return strcmp(type_of(item), type) == 0;
}

static pm_status unsupported(const vocab_reader *r, const char *what, const char *name) {
    return pm_fail(PM_ERR_UNSUPPORTED, "%s: %s %s is not supported; only byte-level BPE is", r->path, what, name);
}

// ---- normalizer and pre_tokenizer: an object, or a Sequence of them -------------------------------------------------------------

// The members of a Sequence under `key`, or the object itself; NULL where there is none.
static const cJSON *first_step(const cJSON *object, const char *key, bool *sequence) {
    *sequence = is_type(object, "Sequence");
    if (!*sequence)
        return object;
    const cJSON *list = pm_json_get(object, key);
    return cJSON_IsArray(list) ? list->child : NULL;
}

static pm_status read_normalizer(const vocab_reader *r, const cJSON *root) {
    bool sequence;
    const cJSON *step = pm_json_get(root, "normalizer");
    if (!step)
        return PM_OK;
    for (step = first_step(step, "normalizers", &sequence); step; step = sequence ? step->next : NULL) {
        if (!is_type(step, "NFC"))
            return unsupported(r, "normalizer", type_of(step));
        r->out->nfc = true;
    }
    return PM_OK;
}

// What the steps of the pre-tokenizer amount to.
typedef struct split_steps {
    bool digits, byte_level, gpt2_regex;
    const char *regex;
} split_steps;

static pm_status read_split(const vocab_reader *r, const cJSON *step, split_steps *steps) {
    const char *regex = NULL, *behavior = "Isolated";
    bool invert = false;
    PM_TRY(pm_json_string(r->path, pm_json_get(step, "pattern"), "Regex", &regex));
    PM_TRY(pm_json_string(r->path, step, "behavior", &behavior));
    PM_TRY(pm_json_bool(r->path, step, "invert", &invert));
    if (!regex || steps->regex)
        return unsupported(r, "pre-tokenizer", "Split without one regex");
    // Both keep each match as a piece; the patterns leave nothing between matches.
    if (strcmp(behavior, invert ? "Removed" : "Isolated") != 0)
        return unsupported(r, "split behavior", behavior);
    steps->regex = regex;
    return PM_OK;
}

static pm_status read_byte_level(const vocab_reader *r, const cJSON *step, split_steps *steps) {
    bool add_prefix_space = false, use_regex = true;
    PM_TRY(pm_json_bool(r->path, step, "add_prefix_space", &add_prefix_space));
    PM_TRY(pm_json_bool(r->path, step, "use_regex", &use_regex));
    if (add_prefix_space)
        return unsupported(r, "pre-tokenizer", "ByteLevel with add_prefix_space");
    steps->byte_level = true;
    steps->gpt2_regex = use_regex;
    return PM_OK;
}

static pm_status read_step(const vocab_reader *r, const cJSON *step, split_steps *steps) {
    if (is_type(step, "Split"))
        return read_split(r, step, steps);
    if (is_type(step, "ByteLevel"))
        return read_byte_level(r, step, steps);
    if (!is_type(step, "Digits"))
        return unsupported(r, "pre-tokenizer", type_of(step));
    steps->digits = true;
    bool individual = false;
    PM_TRY(pm_json_bool(r->path, step, "individual_digits", &individual));
    return individual ? PM_OK : unsupported(r, "pre-tokenizer", "Digits in groups");
}

static pm_status read_pre_tokenizer(const vocab_reader *r, const cJSON *root) {
    const cJSON *step = pm_json_get(root, "pre_tokenizer");
    split_steps steps = {0};
    bool sequence;
    if (!step)
        return unsupported(r, "a tokenizer", "without pre_tokenizer");
    for (step = first_step(step, "pretokenizers", &sequence); step; step = sequence ? step->next : NULL)
        PM_TRY(read_step(r, step, &steps));

    if (!steps.byte_level)
        return unsupported(r, "a pre-tokenizer", "without ByteLevel");
    if ((steps.regex != NULL) == steps.gpt2_regex || (steps.digits && steps.regex))
        return unsupported(r, "this combination of", "pre-tokenizers");
    if (!steps.regex) {
        bool nfc = r->out->nfc; // the file's own word, not the one of the name
        pm_vocab_set_pre(r->out, steps.digits ? PM_STR("smollm") : PM_STR("gpt-2"));
        r->out->nfc = nfc;
        return PM_OK;
    }
    size_t n = strlen(steps.regex);
    r->out->regex = (pm_str){pm_text_copy(r->arena, steps.regex, n), n};
    return r->out->regex.p ? PM_OK : pm_no_memory(r->path);
}

// The token that a step of a template puts where it stands; NULL for the place of the text.
static const cJSON *special_token(const cJSON *piece) {
    return pm_json_get(pm_json_get(piece, "SpecialToken"), "id");
}

// [text, token]: the token ends a text that stands alone. Its text is its name, by which the vocabulary has it.
static pm_status read_template(const vocab_reader *r, const cJSON *single) {
    const cJSON *last = single->child;
    bool text = false;
    if (special_token(last)) // Llama 3's bos
        r->out->add_bos = true;
    for (; last && last->next; last = last->next)
        text = text || pm_json_get(last, "Sequence");
    const cJSON *name = text ? special_token(last) : NULL;
    if (!name)
        return PM_OK;
    r->out->add_end =
        cJSON_IsString(name) && pm_vocab_find(r->out, (pm_str){name->valuestring, strlen(name->valuestring)}, &r->out->end_id);
    return r->out->add_end ? PM_OK : pm_fail(PM_ERR_FILE, "%s: the post-processor's last token is not in the vocabulary", r->path);
}

static pm_status read_post_processor(const vocab_reader *r, const cJSON *root) {
    bool sequence;
    const cJSON *step = pm_json_get(root, "post_processor");
    if (!step)
        return PM_OK;
    for (step = first_step(step, "processors", &sequence); step; step = sequence ? step->next : NULL) {
        const cJSON *single = pm_json_get(step, "single");
        if (is_type(step, "TemplateProcessing") && cJSON_IsArray(single))
            PM_TRY(read_template(r, single));
    }
    return PM_OK;
}

// ---- tokens -----------------------------------------------------------------------------------------------------------------

static pm_status see_id(vocab_reader *r, const cJSON *id, const char *text) {
    if (!pm_json_is_integer(id, 0, UINT32_MAX))
        return pm_fail(PM_ERR_FILE, "%s: token %.64s has no id", r->path, text);
    if (id->valuedouble >= r->limit)
        return pm_fail(PM_ERR_FILE, "%s: token id %.0f is beyond the model's vocabulary of %u", r->path, id->valuedouble, r->limit);
    if (id->valuedouble >= r->n_tokens)
        r->n_tokens = (uint32_t)id->valuedouble + 1;
    return PM_OK;
}

static const char *added_text(const cJSON *added) {
    const cJSON *content = pm_json_get(added, "content");
    return cJSON_IsString(content) && content->valuestring[0] ? content->valuestring : NULL;
}

// First walk: every id is one, and how many tokens there are.
static pm_status count_tokens(vocab_reader *r, const cJSON *vocab, const cJSON *added_tokens) {
    const cJSON *item;
    cJSON_ArrayForEach(item, vocab) {
        PM_TRY(see_id(r, item, item->string));
    }
    cJSON_ArrayForEach(item, added_tokens) {
        const char *text = added_text(item);
        if (!text)
            return pm_fail(PM_ERR_FILE, "%s: an added token has no content", r->path);
        PM_TRY(see_id(r, pm_json_get(item, "id"), text));
    }
    return PM_OK;
}

static pm_status set_token(vocab_reader *r, uint32_t id, const char *text) {
    size_t n = strlen(text);
    const char *copy = pm_text_copy(r->arena, text, n);
    if (!copy)
        return pm_no_memory(r->path);
    r->tokens[id] = (pm_vocab_token){.text = {copy, n}, .used = true};
    return PM_OK;
}

static pm_status fill_tokens(vocab_reader *r, const cJSON *vocab) {
    const cJSON *item;
    cJSON_ArrayForEach(item, vocab) {
        uint32_t id = (uint32_t)item->valuedouble;
        if (r->tokens[id].used)
            return pm_fail(PM_ERR_FILE, "%s: two tokens have the id %u", r->path, id);
        PM_TRY(set_token(r, id, item->string));
    }
    return PM_OK;
}

// They may replace a token of the vocabulary: it is the same one, said again with flags.
static pm_status fill_added(vocab_reader *r, const cJSON *added_tokens) {
    const cJSON *item;
    cJSON_ArrayForEach(item, added_tokens) {
        uint32_t id = (uint32_t)pm_json_get(item, "id")->valuedouble;
        bool special = false, lstrip = false, rstrip = false, single_word = false;
        PM_TRY(pm_json_bool(r->path, item, "special", &special));
        PM_TRY(pm_json_bool(r->path, item, "lstrip", &lstrip));
        PM_TRY(pm_json_bool(r->path, item, "rstrip", &rstrip));
        PM_TRY(pm_json_bool(r->path, item, "single_word", &single_word));
        if (lstrip || rstrip || single_word)
            pm_log(PM_LOG_WARN, "%s: lstrip, rstrip and single_word of token %.64s are ignored", r->path, added_text(item));
        PM_TRY(set_token(r, id, added_text(item)));
        r->tokens[id].added = true;
        r->tokens[id].special = special;
    }
    return PM_OK;
}

static pm_status read_tokens(vocab_reader *r, const cJSON *root, const cJSON *model) {
    const cJSON *vocab = pm_json_get(model, "vocab"), *added = pm_json_get(root, "added_tokens");
    if (!cJSON_IsObject(vocab) || (added && !cJSON_IsArray(added)))
        return pm_fail(PM_ERR_FILE, "%s: model.vocab is not an object or added_tokens not a list", r->path);
    PM_TRY(count_tokens(r, vocab, added));
    r->tokens = pm_arena_alloc(r->arena, r->n_tokens * sizeof(*r->tokens));
    if (!r->tokens)
        return pm_no_memory(r->path);
    PM_TRY(fill_tokens(r, vocab));
    PM_TRY(fill_added(r, added));
    r->out->tokens = r->tokens;
    r->out->n_tokens = r->n_tokens;
    return PM_OK;
}

// ---- merges -----------------------------------------------------------------------------------------------------------------

static bool copy_str(vocab_reader *r, const char *text, pm_str *out) {
    size_t n = strlen(text);
    *out = (pm_str){pm_text_copy(r->arena, text, n), n};
    return out->p != NULL;
}

// "left right" (old), or ["left", "right"] (new).
static pm_status read_merge(vocab_reader *r, const cJSON *item, pm_vocab_merge *merge) {
    if (cJSON_IsString(item)) {
        pm_str text;
        if (!copy_str(r, item->valuestring, &text))
            return pm_no_memory(r->path);
        if (pm_vocab_split_merge(text, merge))
            return PM_OK;
        return pm_fail(PM_ERR_FILE, "%s: merge \"%.64s\" is not a pair", r->path, item->valuestring);
    }
    const cJSON *left = cJSON_IsArray(item) ? item->child : NULL, *right = left ? left->next : NULL;
    if (!cJSON_IsString(left) || !cJSON_IsString(right) || right->next)
        return pm_fail(PM_ERR_FILE, "%s: a merge is not a pair of strings", r->path);
    if (!left->valuestring[0] || !right->valuestring[0])
        return pm_fail(PM_ERR_FILE, "%s: a merge has an empty side", r->path);
    if (!copy_str(r, left->valuestring, &merge->left) || !copy_str(r, right->valuestring, &merge->right))
        return pm_no_memory(r->path);
    return PM_OK;
}

static pm_status read_merges(vocab_reader *r, const cJSON *model) {
    const cJSON *list = pm_json_get(model, "merges"), *item;
    if (!cJSON_IsArray(list))
        return pm_fail(PM_ERR_FILE, "%s: model.merges is not a list", r->path);
    size_t n = 0;
    cJSON_ArrayForEach(item, list) {
        n++;
    }
    pm_vocab_merge *merges = n < UINT32_MAX ? pm_arena_alloc(r->arena, n * sizeof(*merges)) : NULL;
    if (!merges)
        return pm_no_memory(r->path);
    size_t i = 0;
    cJSON_ArrayForEach(item, list) {
        PM_TRY(read_merge(r, item, &merges[i++]));
    }
    r->out->merges = merges;
    r->out->n_merges = (uint32_t)n;
    return PM_OK;
}

// ---- the file ---------------------------------------------------------------------------------------------------------------

static pm_status check_model(const vocab_reader *r, const cJSON *model) {
    const char *type = "BPE", *prefix = "", *suffix = "";
    bool byte_fallback = false, ignore_merges = false;
    PM_TRY(pm_json_string(r->path, model, "type", &type));
    if (strcmp(type, "BPE") != 0)
        return unsupported(r, "tokenizer model", type);
    PM_TRY(pm_json_bool(r->path, model, "byte_fallback", &byte_fallback));
    PM_TRY(pm_json_string(r->path, model, "continuing_subword_prefix", &prefix));
    PM_TRY(pm_json_string(r->path, model, "end_of_word_suffix", &suffix));
    if (byte_fallback || prefix[0] || suffix[0])
        return unsupported(r, "tokenizer model BPE with", byte_fallback ? "byte_fallback" : "subword affixes");
    PM_TRY(pm_json_bool(r->path, model, "ignore_merges", &ignore_merges));
    if (ignore_merges)
        pm_log(PM_LOG_WARN, "%s: ignore_merges is not honoured; rare words may split differently", r->path);
    return PM_OK;
}

pm_status pm_hf_read_vocab(const char *path, const cJSON *root, pm_arena *arena, uint32_t vocab_size, pm_vocab_data *vocab) {
    vocab_reader r = {.path = path, .arena = arena, .limit = vocab_size, .out = vocab};
    const cJSON *model = pm_json_get(root, "model");
    if (!cJSON_IsObject(model))
        return pm_fail(PM_ERR_FILE, "%s: there is no model in it", path);
    PM_TRY(check_model(&r, model));
    PM_TRY(read_normalizer(&r, root));
    PM_TRY(read_pre_tokenizer(&r, root));
    PM_TRY(read_tokens(&r, root, model));
    PM_TRY(read_post_processor(&r, root));
    return read_merges(&r, model);
}
