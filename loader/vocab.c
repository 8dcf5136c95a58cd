// What both formats say about a byte-level BPE vocabulary in different words.
#include "loader/internal.h"

#include <string.h>

// gguf names a split pattern, tokenizer.json spells it out. The patterns are the published tokenizer.json ones.
#define GPT2_WORDS "'s|'t|'re|'ve|'m|'ll|'d"
static const struct {
    const char *name;
    const char *regex;
    bool nfc;
} pres[] = {
    {"qwen2",
     "(?i:" GPT2_WORDS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     true},
    {"gpt-2", GPT2_WORDS "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", false},
    {"llama-bpe",
     "(?i:" GPT2_WORDS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     false},
    // Digits are cut out one by one first, then GPT-2's pattern sees the pieces; as one pattern: blanks before a digit end a piece.
    {"smollm", "\\p{N}|" GPT2_WORDS "| ?\\p{L}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?![^\\s\\p{N}])|\\s+", false},
};

void pm_vocab_set_pre(pm_vocab_data *vocab, pm_str name) {
    size_t use = 0;
    bool known = false;
    for (size_t i = 0; i < sizeof(pres) / sizeof(pres[0]) && !known; i++) {
        known = pm_str_is(name, pres[i].name);
        use = known ? i : 0;
    }
    if (!known && pm_str_is(name, "default")) { // the converter did not know the tokenizer either
        pm_log(PM_LOG_WARN, "the file does not say how its tokenizer splits text: GPT-2's pattern is used");
        use = 1;
    } else if (!known) {
        pm_log(PM_LOG_WARN, "unknown pre-tokenizer \"%.*s\": Qwen2's pattern is used", (int)(name.n < 64 ? name.n : 64), name.p);
    }
    vocab->regex = (pm_str){pres[use].regex, strlen(pres[use].regex)};
    vocab->nfc = pres[use].nfc;
}

const char *pm_vocab_find_pre(pm_str regex) {
    for (size_t i = 0; i < sizeof(pres) / sizeof(pres[0]); i++)
        if (pm_str_is(regex, pres[i].regex))
            return pres[i].name;
    return NULL;
}

bool pm_vocab_split_merge(pm_str text, pm_vocab_merge *merge) {
    const char *space = text.n ? memchr(text.p, ' ', text.n) : NULL;
    if (!space)
        return false;
    merge->left = (pm_str){text.p, (size_t)(space - text.p)};
    merge->right = (pm_str){space + 1, text.n - merge->left.n - 1};
    return merge->left.n && merge->right.n && !memchr(merge->right.p, ' ', merge->right.n);
}

bool pm_vocab_find(const pm_vocab_data *vocab, pm_str text, int32_t *id) {
    for (uint32_t i = vocab->n_tokens; i-- > 0;) { // added tokens come last, and they are who is looked for
        pm_str it = vocab->tokens[i].text;
        if (vocab->tokens[i].used && it.n == text.n && text.n && memcmp(it.p, text.p, text.n) == 0) {
            *id = (int32_t)i;
            return true;
        }
    }
    return false;
}

bool pm_vocab_is_end(pm_str text) {
    static const char *const ends[] = {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>"};
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        if (pm_str_is(text, ends[i]))
            return true;
    return false;
}
