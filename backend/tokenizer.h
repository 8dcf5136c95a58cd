// Making a tokenizer from the vocabulary of a file, without a device. Not installed: programs get one with their model.
#ifndef PM_TOKENIZER_H
#define PM_TOKENIZER_H

#include "backend/text.h"
#include "loader/loader.h"

// Builds from the loader's views, which it keeps: the pm_file must outlive it. vocab NULL (a model without a tokenizer) is
// PM_ERR_UNSUPPORTED; merges of unknown tokens are PM_ERR_FILE, a regex that PCRE2 refuses is PM_ERR_UNSUPPORTED.
pm_status pm_tokenizer_open(const pm_vocab_data *vocab, pm_tokenizer **tok);
void pm_tokenizer_close(pm_tokenizer **tok);

#endif
