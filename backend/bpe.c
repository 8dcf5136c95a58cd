// Byte-pair encoding. The symbols of a piece are a linked list; a heap gives the pair with the lowest rank, leftmost first.
#include "backend/bpe.h"

#include <string.h>

#include "backend/unicode.h"

#define FREE_PAIR UINT64_MAX
#define NO_RANK   UINT32_MAX
#define NO_SYMBOL UINT32_MAX

// ---- token text -> id, needed only while opening -----------------------------------------------------------------------

typedef struct id_table {
    const pm_vocab_token *tokens;
    int32_t *ids; // -1: free
    size_t mask;
} id_table;

static size_t hash_text(pm_str a, pm_str b) {
    uint64_t h = 0xCBF29CE484222325u; // FNV-1a
    for (size_t i = 0; i < a.n; i++)
        h = (h ^ (uint8_t)a.p[i]) * 0x100000001B3u;
    for (size_t i = 0; i < b.n; i++)
        h = (h ^ (uint8_t)b.p[i]) * 0x100000001B3u;
    return (size_t)(h ^ h >> 32);
}

static bool is_joined(pm_str text, pm_str a, pm_str b) {
    return text.n == a.n + b.n && memcmp(text.p, a.p, a.n) == 0 && memcmp(text.p + a.n, b.p, b.n) == 0;
}

// The slot of the token whose text is a followed by b, or the free slot where it belongs.
static size_t find_slot(const id_table *table, pm_str a, pm_str b) {
    size_t i = hash_text(a, b) & table->mask;
    while (table->ids[i] >= 0 && !is_joined(table->tokens[table->ids[i]].text, a, b))
        i = (i + 1) & table->mask;
    return i;
}

static int32_t find_id(const id_table *table, pm_str a, pm_str b) {
    return table->ids[find_slot(table, a, b)];
}

static size_t table_size(size_t entries) {
    size_t size = 16;
    while (size < entries * 2)
        size *= 2;
    return size;
}

static void insert_tokens(id_table *table, const pm_vocab_data *vocab, bool added) {
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        const pm_vocab_token *token = &vocab->tokens[id];
        if (!token->used || token->added != added || token->text.n == 0)
            continue;
        size_t slot = find_slot(table, token->text, PM_STR(""));
        if (table->ids[slot] < 0)
            table->ids[slot] = (int32_t)id;
    }
}

static pm_status id_table_open(const pm_vocab_data *vocab, id_table *table) {
    size_t size = table_size(vocab->n_tokens);
    table->ids = pm_malloc(size * sizeof *table->ids);
    if (table->ids == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory for a vocabulary of %u tokens", (unsigned)vocab->n_tokens);
    memset(table->ids, 0xFF, size * sizeof *table->ids);
    table->tokens = vocab->tokens;
    table->mask = size - 1;
    insert_tokens(table, vocab, false); // where an added token has the text of an ordinary one, merges mean the ordinary one
    insert_tokens(table, vocab, true);
    return PM_OK;
}

// ---- pair -> rank -----------------------------------------------------------------------------------------------------

static uint32_t hash_pair(uint64_t pair) {
    pair ^= pair >> 32; // the finaliser of murmur3
    pair *= 0xFF51AFD7ED558CCDu;
    return (uint32_t)(pair >> 32 ^ pair);
}

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static uint32_t pair_slot(const pm_bpe *bpe, uint64_t pair) {
    uint32_t i = hash_pair(pair) & bpe->mask;
    while (bpe->pairs[i] != pair && bpe->pairs[i] != FREE_PAIR)
        i = (i + 1) & bpe->mask;
    return i;
}

static uint32_t rank_of(const pm_bpe *bpe, int32_t left, int32_t right) {
    uint64_t pair = pair_of(left, right);
    uint32_t i = pair_slot(bpe, pair);
    return bpe->pairs[i] == pair ? bpe->ranks[i] : NO_RANK;
}

// ---- open -------------------------------------------------------------------------------------------------------------

static void find_bytes(pm_bpe *bpe, const id_table *table) {
    for (int b = 0; b < 256; b++) {
        uint32_t c = pm_byte_to_char((uint8_t)b);
        char text[2] = {(char)(c < 0x80 ? c : 0xC0 | c >> 6), (char)(0x80 | (c & 0x3F))};
        bpe->byte_id[b] = find_id(table, (pm_str){text, c < 0x80 ? 1 : 2}, PM_STR(""));
    }
}

static pm_status resolve_merges(pm_bpe *bpe, const pm_vocab_data *vocab, const id_table *table) {
    for (uint32_t rank = 0; rank < vocab->n_merges; rank++) {
        pm_str left = vocab->merges[rank].left, right = vocab->merges[rank].right;
        pm_bpe_merge merge = {find_id(table, left, PM_STR("")), find_id(table, right, PM_STR("")), -1};
        if (merge.left >= 0 && merge.right >= 0)
            merge.joined = find_id(table, left, right);
        if (merge.joined < 0)
            return pm_fail(PM_ERR_FILE,
                           "tokenizer: merge %u joins '%.*s' and '%.*s', and the vocabulary lacks one of the three tokens",
                           (unsigned)rank, (int)(left.n < 64 ? left.n : 64), left.p, (int)(right.n < 64 ? right.n : 64), right.p);
        bpe->merges[rank] = merge;
        uint64_t pair = pair_of(merge.left, merge.right);
        uint32_t slot = pair_slot(bpe, pair);
        bpe->pairs[slot] = pair;
        bpe->ranks[slot] = rank; // of the same merge twice the later one counts, as in the tokenizers library
    }
    return PM_OK;
}

static pm_status build(pm_bpe *bpe, const pm_vocab_data *vocab, id_table *table) {
    PM_TRY(id_table_open(vocab, table));
    size_t size = table_size(vocab->n_merges);
    bpe->merges = pm_calloc((size_t)vocab->n_merges + 1, sizeof *bpe->merges);
    bpe->pairs = pm_malloc(size * sizeof *bpe->pairs);
    bpe->ranks = pm_malloc(size * sizeof *bpe->ranks);
    if (bpe->merges == NULL || bpe->pairs == NULL || bpe->ranks == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory for %u merges of the tokenizer", (unsigned)vocab->n_merges);
    memset(bpe->pairs, 0xFF, size * sizeof *bpe->pairs);
    bpe->mask = (uint32_t)(size - 1);
    bpe->n_merges = vocab->n_merges;
    find_bytes(bpe, table);
    return resolve_merges(bpe, vocab, table);
}

pm_status pm_bpe_open(const pm_vocab_data *vocab, pm_bpe *bpe) {
    if (vocab->n_tokens > INT32_MAX || vocab->n_merges > INT32_MAX / 2)
        return pm_fail(PM_ERR_FILE, "tokenizer: %u tokens and %u merges are more than ids can count", (unsigned)vocab->n_tokens,
                       (unsigned)vocab->n_merges);
    id_table table = {0};
    pm_status status = build(bpe, vocab, &table);
    pm_free(table.ids);
    if (status != PM_OK)
        pm_bpe_close(bpe);
    return status;
}

void pm_bpe_close(pm_bpe *bpe) {
    pm_free(bpe->merges);
    pm_free(bpe->pairs);
    pm_free(bpe->ranks);
    *bpe = (pm_bpe){0};
}

// ---- encode -----------------------------------------------------------------------------------------------------------

typedef struct pm_bpe_symbol {
    int32_t id; // -1: joined to the one before
    uint32_t last, next;
} symbol;

// Room for n symbols. A merge takes one entry from the heap and adds two, and there are fewer than n merges and n first entries.
static pm_status reserve(pm_bpe_work *work, size_t n) {
    if (n <= work->room)
        return PM_OK;
    size_t room = n < 64 ? 64 : n + n / 2;
    pm_bpe_work_close(work);
    work->symbols = pm_malloc(room * sizeof *work->symbols);
    work->heap = pm_malloc(room * 2 * sizeof *work->heap);
    if (work->symbols == NULL || work->heap == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory to encode a piece of %zu bytes", n);
    work->room = room;
    return PM_OK;
}

void pm_bpe_work_close(pm_bpe_work *work) {
    pm_free(work->symbols);
    pm_free(work->heap);
    *work = (pm_bpe_work){0};
}

// Sinks `value` from the hole at i. An entry is rank << 32 | index of the left symbol, so that the smallest comes first.
static void sift_down(uint64_t *heap, size_t n, size_t i, uint64_t value) {
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && heap[child + 1] < heap[child];
        if (heap[child] >= value)
            break;
        heap[i] = heap[child];
    }
    heap[i] = value;
}

static uint64_t pop(pm_bpe_work *work) {
    uint64_t top = work->heap[0];
    uint64_t last = work->heap[--work->heap_n];
    if (work->heap_n > 0)
        sift_down(work->heap, work->heap_n, 0, last);
    return top;
}

static void push(pm_bpe_work *work, uint64_t value) {
    size_t i = work->heap_n++;
    for (; i > 0 && work->heap[(i - 1) / 2] > value; i = (i - 1) / 2)
        work->heap[i] = work->heap[(i - 1) / 2];
    work->heap[i] = value;
}

static void push_pair(const pm_bpe *bpe, pm_bpe_work *work, uint32_t left) {
    const symbol *s = &work->symbols[left];
    if (s->next == NO_SYMBOL)
        return;
    uint32_t rank = rank_of(bpe, s->id, work->symbols[s->next].id);
    if (rank != NO_RANK)
        push(work, (uint64_t)rank << 32 | left);
}

static pm_status start(const pm_bpe *bpe, pm_bpe_work *work, const uint8_t *piece, size_t n) {
    symbol *s = work->symbols;
    for (size_t i = 0; i < n; i++) {
        s[i] = (symbol){bpe->byte_id[piece[i]], (uint32_t)i - 1, (uint32_t)i + 1};
        if (s[i].id < 0)
            return pm_fail(PM_ERR_UNSUPPORTED, "tokenizer: the vocabulary has no token for byte 0x%02X", piece[i]);
    }
    s[0].last = s[n - 1].next = NO_SYMBOL;
    work->heap_n = 0;
    for (size_t i = 0; i + 1 < n; i++)
        push_pair(bpe, work, (uint32_t)i);
    return PM_OK;
}

static void join_all(const pm_bpe *bpe, pm_bpe_work *work) {
    symbol *s = work->symbols;
    while (work->heap_n > 0) {
        uint64_t top = pop(work);
        uint32_t left = (uint32_t)top, right = s[left].next;
        const pm_bpe_merge *merge = &bpe->merges[top >> 32];
        // One of the two may have been joined to something else since this entry was made.
        if (s[left].id != merge->left || right == NO_SYMBOL || s[right].id != merge->right)
            continue;
        s[left].id = merge->joined;
        s[left].next = s[right].next;
        s[right].id = -1;
        if (s[left].next != NO_SYMBOL)
            s[s[left].next].last = left;
        if (s[left].last != NO_SYMBOL)
            push_pair(bpe, work, s[left].last);
        push_pair(bpe, work, left);
    }
}

pm_status pm_bpe_encode(const pm_bpe *bpe, pm_bpe_work *work, const uint8_t *piece, size_t n, int32_t *ids, size_t *n_ids) {
    *n_ids = 0;
    if (n == 0)
        return PM_OK;
    PM_TRY(reserve(work, n));
    PM_TRY(start(bpe, work, piece, n));
    join_all(bpe, work);
    for (uint32_t i = 0; i != NO_SYMBOL; i = work->symbols[i].next)
        ids[(*n_ids)++] = work->symbols[i].id;
    return PM_OK;
}
