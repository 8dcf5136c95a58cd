// Byte-pair encoding: joins the bytes of one piece of text by rank of their merges. Private to the tokenizer.
#ifndef PM_BPE_H
#define PM_BPE_H

#include "loader/loader.h"

typedef struct pm_bpe_merge {
    int32_t left, right, joined;
} pm_bpe_merge;

typedef struct pm_bpe {
    int32_t byte_id[256]; // the token of each byte, -1: the vocabulary has none
    uint32_t n_merges;
    pm_bpe_merge *merges; // by rank
    // An open-addressing table from a pair of ids to its rank, at most half full.
    uint64_t *pairs; // left << 32 | right, or all ones: free
    uint32_t *ranks;
    uint32_t mask;
} pm_bpe;

// Resolves the vocabulary's merges to ids; nothing of vocab is kept. Zero-initialise bpe; close takes half-built ones.
pm_status pm_bpe_open(const pm_vocab_data *vocab, pm_bpe *bpe);
void pm_bpe_close(pm_bpe *bpe);

// Scratch of one encoding thread; it grows to the largest piece. Zero-initialise.
typedef struct pm_bpe_work {
    struct pm_bpe_symbol *symbols;
    uint64_t *heap;
    size_t heap_n, room;
} pm_bpe_work;
void pm_bpe_work_close(pm_bpe_work *work);

// Encodes a piece of n < 2^31 bytes in n log n; writes at most n ids and says how many. PM_ERR_UNSUPPORTED: a byte without a token.
pm_status pm_bpe_encode(const pm_bpe *bpe, pm_bpe_work *work, const uint8_t *piece, size_t n, int32_t *ids, size_t *n_ids);

#endif
