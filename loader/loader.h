// The face of the loader: a model on disk, in any format we read, as names, shapes and bytes. No Vulkan, no forward pass.
// Everything handed out is a view into the mapping or into the pm_file, valid until pm_file_close.
#ifndef PM_LOADER_H
#define PM_LOADER_H

#include "host/base.h"
#include "loader/config.h"

typedef struct pm_file pm_file;

// A tensor as it stands in the file.
typedef struct pm_tensor_view {
    const char *name; // gguf's spelling in every format: "token_embd.weight", "blk.3.attn_q.weight", ...
    pm_dtype dtype;   // one that kernels read
    int n_dims;
    uint64_t dims[4];           // slowest first: a matrix is {rows, cols}; unused ones are 1
    const uint8_t *data;        // any alignment; NULL where the file has the rows in another form: pm_view_read makes them
    uint64_t size;              // bytes in the file: exactly what dtype and dims need, where data is not NULL
    pm_dtype stored;            // the type it has in the file: dtype, where data is not NULL
    const struct pm_made *made; // where data is NULL: what its rows are made from
} pm_tensor_view;

typedef struct pm_vocab_token {
    pm_str text;  // in the byte alphabet of GPT-2 for ordinary tokens; literal UTF-8 for added ones
    bool added;   // matched in the raw text before anything else
    bool special; // skipped when decoding to plain text (control token)
    bool used;    // false: a hole in the ids or a padding row
} pm_vocab_token;

typedef struct pm_vocab_merge {
    pm_str left, right;
} pm_vocab_merge;

typedef struct pm_vocab_data {
    uint32_t n_tokens;            // at most the config's vocab_size; rows of the embedding from here on are padding
    const pm_vocab_token *tokens; // by id
    uint32_t n_merges;
    const pm_vocab_merge *merges; // by rank
    pm_str regex;                 // pre-tokenizer split pattern as written in tokenizer.json; gguf's "pre" name is translated to it
    bool nfc;                     // normalise with NFC first
    bool add_bos;
    bool add_end;   // an id goes behind a text that stands alone, as embedding models have it; never behind a prompt
    int32_t end_id; // that one; below n_tokens
} pm_vocab_data;

// Opens a folder (config.json beside *.safetensors, single or sharded by index), one .safetensors file with its config.json
// beside it, or a .gguf file (of a split one: any part; the others are found beside it); or "synthetic:qwen3-4b:q4_k_m", which is
// made up: no file is read, and PM_ERR_USAGE says what there is; or "fd:5", a .gguf file by an open descriptor (pm_map_open). Every
// size, offset, shape and type is checked here, against the file's length and against the config: what is returned can be read
// without further tests. Errors: PM_ERR_IO, PM_ERR_FILE, PM_ERR_UNSUPPORTED, PM_ERR_MEMORY; *file is NULL then.
pm_status pm_file_open(const char *path, pm_file **file);
// Opens a tokenizer.json alone, for tests and tools: the vocabulary is there, the config is zero, there are no tensors and no
// chat template.
pm_status pm_file_open_tokenizer(const char *path, pm_file **file);
void pm_file_close(pm_file **file);

const pm_config *pm_file_config(const pm_file *file);
// NULL when the model has no such tensor.
const pm_tensor_view *pm_file_find(const pm_file *file, const char *name);
const pm_tensor_view *pm_file_tensors(const pm_file *file, size_t *n);
// NULL when the model comes without a tokenizer.
const pm_vocab_data *pm_file_vocab(const pm_file *file);
// The Jinja text of the chat template; n == 0 when there is none.
pm_str pm_file_chat_template(const pm_file *file);
// Lets the pages of a tensor that has been uploaded go.
void pm_file_forget(const pm_file *file, const pm_tensor_view *tensor);

// What may be read at a time from a tensor whose data is NULL: columns, and the bytes they take at most.
enum { PM_VIEW_COLS = 256, PM_VIEW_BYTES = PM_VIEW_COLS * 4 };
// Writes rows [row, row + n_rows), columns [col, col + n_cols) of such a tensor to `out`, row after row, as whole blocks of its
// dtype. Matrices in a stack count as one after the other. col is a multiple of PM_VIEW_COLS, n_cols at most that. Any thread.
void pm_view_read(const pm_tensor_view *view, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *out);
// n elements of any tensor from number `first` on, both whole blocks of its dtype: exactly the values of the file.
void pm_view_floats(const pm_tensor_view *view, uint64_t first, uint64_t n, float *values);

// Decodes n elements (whole blocks) of `src` to floats: exactly the values the format defines (dequant.c, grid.c).
void pm_dequant(pm_dtype dtype, const void *src, float *dst, size_t n);

// A model's tool call: {"name": "f", "arguments": {...}}, blanks around it allowed; arguments may also be a string that holds an
// object. *name is unescaped, *arguments is the object's text as it stands; both live in the arena. PM_ERR_FILE where it is no such
// thing, PM_ERR_MEMORY.
pm_status pm_call_parse(pm_str text, pm_arena *arena, const char **name, const char **arguments);

#endif
