// What the files of the loader share. Every reader takes bytes and a path for its messages, so that tests and fuzzers can call it
// without a disk. Strings it keeps lie in the pm_file's arena or in a mapping.
#ifndef PM_LOADER_INTERNAL_H
#define PM_LOADER_INTERNAL_H

#include "loader/loader.h"

struct cJSON;
struct pm_gguf;

// One file of weights.
typedef struct pm_shard {
    const char *path;
    pm_map map;
} pm_shard;

// What config.json says about quantized matrices (hf_quant.c).
typedef enum pm_quant_method { PM_QUANT_NONE, PM_QUANT_FP8, PM_QUANT_AWQ } pm_quant_method;
typedef struct pm_quantization {
    pm_quant_method method;
    uint32_t group_rows, group_cols; // that have one scale; 0: all columns
} pm_quantization;

// One of the tensors that make such a matrix.
typedef enum pm_fragment_kind {
    PM_FRAGMENT_NONE,
    PM_FRAGMENT_WEIGHT,
    PM_FRAGMENT_SCALE_INV,
    PM_FRAGMENT_QWEIGHT,
    PM_FRAGMENT_QZEROS,
    PM_FRAGMENT_SCALES,
    PM_FRAGMENT_COUNT
} pm_fragment_kind;
typedef struct pm_fragment {
    const char *name; // of the matrix
    pm_fragment_kind kind;
    char type[12];
    int n_dims;
    uint64_t dims[4];
    const uint8_t *data;
    uint64_t size;
} pm_fragment;

struct pm_file {
    pm_arena arena;
    pm_shard *shards;
    size_t n_shards;
    pm_tensor_view *tensors; // sorted by name once pm_file_finish has run
    size_t n_tensors, tensor_room;
    pm_quantization quantization;
    pm_fragment *fragments;
    size_t n_fragments, fragment_room;
    pm_config config;
    pm_vocab_data vocab;
    bool has_vocab;
    bool bare; // safetensors: no tensor is called "model.something", as in checkpoints of embedding models
    pm_str chat_template;
    const struct pm_gguf *gguf; // the metadata as it stands; NULL for other formats
};

// ---- file.c -----------------------------------------------------------------------------------------------------------

// "PATH: out of memory"
pm_status pm_no_memory(const char *path);
// A 0-terminated copy; NULL when there is no memory.
char *pm_text_copy(pm_arena *arena, const char *p, size_t n);
// The file `name` in the folder of `path`; NULL when there is no memory.
char *pm_path_beside(pm_arena *arena, const char *path, const char *name);
// `shards` for n files, unmapped, without paths.
pm_status pm_file_make_shards(pm_file *file, const char *path, size_t n);
pm_status pm_file_map_shard(pm_file *file, size_t i, const char *path);

// Room for n more tensors.
pm_status pm_file_reserve(pm_file *file, const char *path, size_t n);
// Adds `view` (name, dtype and dims are set); its bytes begin at `offset` of the shard. The range is checked against the file.
// What was reserved must suffice. *size: the bytes it takes.
pm_status pm_file_add(pm_file *file, const pm_shard *shard, pm_tensor_view view, uint64_t offset, uint64_t *size);
// Sorts the tensors, then checks that names are unique and that all the config implies is there in the right shape.
pm_status pm_file_finish(pm_file *file, const char *path);

// A tensor's bytes in its file, to see whether two overlap.
typedef struct pm_range {
    uint64_t begin, end;
    const char *name;
} pm_range;
// Sorts by `begin`; PM_ERR_FILE when two overlap.
pm_status pm_ranges_check(const char *path, pm_range *ranges, size_t n);

// ---- dequant.c, grid.c --------------------------------------------------------------------------------------------------

float pm_e4m3_to_f32(uint8_t code);

// A superblock of a type in PM_FILE_DTYPES, but for NVFP4: value i is scale * scales[i / 16] * quants[i], exactly.
typedef struct pm_grid_block {
    float scale;
    int8_t scales[16];
    int8_t quants[256];
} pm_grid_block;
void pm_grid_unpack(pm_dtype dtype, const uint8_t *src, pm_grid_block *out);
// The scale and the values of 16 columns of a block of NVFP4.
float pm_nvfp4_unpack(const uint8_t *src, int part, int8_t quants[16]);
void pm_grid_dequant(pm_dtype dtype, const uint8_t *src, float *dst, size_t n);

// ---- repack.c -----------------------------------------------------------------------------------------------------------

// What the rows of a tensor are made from where the file has no blocks that kernels read.
typedef struct pm_made {
    void (*read)(const struct pm_made *made, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *out);
    pm_dtype from, to;
    uint64_t rows, cols;
    const uint8_t *data;
    uint64_t size;
    // Of safetensors (hf_quant.c).
    const uint8_t *scales, *zeros;
    pm_dtype scale_dtype;
    uint32_t group_rows, group_cols; // that have one scale
} pm_made;
// Makes the view of a tensor in a type of PM_FILE_DTYPES one in a type that kernels read.
pm_status pm_repack(pm_file *file, const char *path, pm_tensor_view *view);
// Says in one line which types run as which.
void pm_repack_tell(const pm_file *file, const char *path);

// ---- config.c ---------------------------------------------------------------------------------------------------------

// What we run. A row says how a name in a file becomes flags.
typedef struct pm_architecture {
    const char *name; // gguf's general.architecture and, but for underscores, config.json's model_type
    const char *hf;   // config.json's architectures[0]
    bool interleaved; // its gguf files keep the two of a rotary pair in neighbouring rows of q and k, not half a head apart
    bool qk_norm, qkv_bias;
    bool experts;
    uint32_t head_dim; // where config.json gives none; 0: dim / n_heads
} pm_architecture;
// By either name, or the second one's form without a head (Qwen3Model); NULL when we do not run it.
const pm_architecture *pm_architecture_find(const char *name);
// "PATH: architecture NAME is not supported; supported are ..."
pm_status pm_architecture_fail(const char *path, const char *name);

// The numbers both formats give, under their two names.
typedef struct pm_config_key {
    const char *hf, *gguf;
    size_t offset; // of the uint32_t in pm_config
    uint32_t max;
    bool required;
} pm_config_key;
const pm_config_key *pm_config_keys(size_t *n);

// Values that mean "the file does not say".
void pm_config_init(pm_config *config);
// Fills what follows from other fields and refuses what cannot be run.
pm_status pm_config_finish(const char *path, pm_config *config);
// Adds an id on which generation stops, once.
pm_status pm_config_add_eos(const char *path, pm_config *config, int32_t id);
// Calls `add` for each tensor that the config implies, experts in stacks; cols 0: a vector of `rows`; n not 0: a stack of n
// matrices.
typedef pm_status (*pm_add_implied)(void *user, const char *name, uint64_t n, uint64_t rows, uint64_t cols);
pm_status pm_config_imply(const pm_config *config, pm_add_implied add, void *user);
// PM_ERR_FILE unless every tensor the config implies is among the sorted ones; PM_ERR_UNSUPPORTED for one it does not explain.
pm_status pm_config_check_tensors(const char *path, const pm_file *file);

// ---- vocab.c ----------------------------------------------------------------------------------------------------------

// The split pattern that gguf's tokenizer.ggml.pre names, and whether text is normalised first.
void pm_vocab_set_pre(pm_vocab_data *vocab, pm_str name);
// The reverse: gguf's name of a split pattern; NULL where it has none.
const char *pm_vocab_find_pre(pm_str regex);
// Splits "left right" at its only space; false when it is not such a pair.
bool pm_vocab_split_merge(pm_str text, pm_vocab_merge *merge);
// The token with this text, the last where there are several; false where there is none.
bool pm_vocab_find(const pm_vocab_data *vocab, pm_str text, int32_t *id);
// True for the texts of control tokens that end an answer in the families we know.
bool pm_vocab_is_end(pm_str text);

// ---- json.c: the only file beside hf_*.c and safetensors.c that knows cJSON ----------------------------------------------

// The whole of `text` as one JSON value; the caller calls cJSON_Delete.
pm_status pm_json_parse(const char *path, const char *text, size_t n, struct cJSON **root);
pm_status pm_json_open(const char *path, struct cJSON **root);
// A member that is there and not null, else NULL.
const struct cJSON *pm_json_get(const struct cJSON *object, const char *key);
// These leave *out as it is when the member is absent or null, and fail with PM_ERR_FILE when it has another type or range.
pm_status pm_json_double(const char *path, const struct cJSON *object, const char *key, double min, double max, double *out);
pm_status pm_json_float(const char *path, const struct cJSON *object, const char *key, double min, double max, float *out);
pm_status pm_json_u32(const char *path, const struct cJSON *object, const char *key, uint32_t max, uint32_t *out);
pm_status pm_json_i32(const char *path, const struct cJSON *object, const char *key, int32_t min, int32_t max, int32_t *out);
pm_status pm_json_bool(const char *path, const struct cJSON *object, const char *key, bool *out);
pm_status pm_json_string(const char *path, const struct cJSON *object, const char *key, const char **out);
// A number that is an integer in [min, max].
bool pm_json_is_integer(const struct cJSON *item, double min, double max);

// ---- hf_json.c, hf_vocab.c ----------------------------------------------------------------------------------------------

pm_status pm_hf_read_config(const char *path, const struct cJSON *root, pm_config *config);
pm_status pm_hf_read_generation(const char *path, const struct cJSON *root, pm_config *config);
pm_status pm_hf_read_vocab(const char *path, const struct cJSON *root, pm_arena *arena, uint32_t vocab_size, pm_vocab_data *vocab);
pm_status pm_hf_read_tokenizer_config(const char *path, const struct cJSON *root, pm_arena *arena, pm_vocab_data *vocab,
                                      pm_str *chat_template);
// sentence-transformers' 1_Pooling/config.json
pm_status pm_hf_read_pooling(const char *path, const struct cJSON *root, pm_config *config);
// hf_quant.c: what a tensor of this name and type is a part of, if it is; *stem: the length of its name before the ending.
pm_status pm_hf_read_quantization(const char *path, const struct cJSON *root, pm_quantization *out);
pm_fragment_kind pm_fragment_of(const char *name, const char *type, size_t *stem);
// Adds one: name, kind, dims and where its bytes are; they have been found in the file.
pm_status pm_fragment_add(pm_file *file, const char *path, const pm_fragment *fragment, const char *type);
// Makes tensors of all.
pm_status pm_fragments_join(pm_file *file, const char *path);
// config.json at `path` and the files beside it.
pm_status pm_hf_open_config(pm_file *file, const char *path);
pm_status pm_hf_open_vocab(pm_file *file, const char *config_path);

// ---- safetensors.c ------------------------------------------------------------------------------------------------------

// `path` is a folder or a .safetensors file.
pm_status pm_safetensors_open(pm_file *file, const char *path);
pm_status pm_safetensors_read(pm_file *file, const pm_shard *shard);
// The shards' names, each once, in the order of their first appearance.
pm_status pm_safetensors_read_index(const char *path, const struct cJSON *root, pm_arena *arena, const char ***names, size_t *n);

// ---- synthetic.c --------------------------------------------------------------------------------------------------------

bool pm_synthetic_is(const char *path);
// Config and tensors of "synthetic:NAME:TYPE"; PM_ERR_USAGE for one that there is not.
pm_status pm_synthetic_open(pm_file *file, const char *path);

// ---- gguf.c, gguf_model.c -----------------------------------------------------------------------------------------------

// The numbers a gguf file writes before each value.
typedef enum pm_gguf_type {
    PM_GGUF_U8,
    PM_GGUF_I8,
    PM_GGUF_U16,
    PM_GGUF_I16,
    PM_GGUF_U32,
    PM_GGUF_I32,
    PM_GGUF_F32,
    PM_GGUF_BOOL,
    PM_GGUF_STRING,
    PM_GGUF_ARRAY,
    PM_GGUF_U64,
    PM_GGUF_I64,
    PM_GGUF_F64,
    PM_GGUF_TYPE_COUNT
} pm_gguf_type;

// A metadata entry; `value` points into the mapping, at the first element.
typedef struct pm_gguf_entry {
    pm_str key;
    pm_gguf_type type; // of an array: of its elements
    bool is_array;
    uint64_t n; // elements; 1 where it is no array
    const uint8_t *value;
    uint64_t size; // bytes of all elements
} pm_gguf_entry;

typedef struct pm_gguf {
    const pm_shard *shard;
    pm_gguf_entry *entries;
    uint64_t n_entries;
} pm_gguf;

bool pm_gguf_is(const uint8_t *data, uint64_t size);
pm_status pm_gguf_open(pm_file *file, const char *path);
// Header, metadata (left in *gguf) and tensors (added to the file).
pm_status pm_gguf_read(pm_file *file, const pm_shard *shard, pm_gguf *gguf);
const pm_gguf_entry *pm_gguf_find(const pm_gguf *gguf, const char *key);
// The value that begins at *p, which advances; the reader has checked that it lies in the file.
uint32_t pm_gguf_next_u32(const uint8_t **p);
pm_str pm_gguf_next_string(const uint8_t **p);
// As the pm_json_ ones: absent leaves *out as it is.
pm_status pm_gguf_get_u32(const pm_gguf *gguf, const char *key, uint32_t max, uint32_t *out);
pm_status pm_gguf_get_double(const pm_gguf *gguf, const char *key, double min, double max, double *out);
pm_status pm_gguf_get_bool(const pm_gguf *gguf, const char *key, bool *out);
pm_status pm_gguf_get_string(const pm_gguf *gguf, const char *key, pm_str *out);
// Config, vocabulary and chat template from the metadata; the tensors have been added.
pm_status pm_gguf_read_model(pm_file *file, const pm_gguf *gguf);

#endif
