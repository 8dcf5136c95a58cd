// The public API of Pumice: open a device and a model, evaluate prompts, draw tokens. Text in and out is in text.h, devices are in
// device.h, a model's dimensions in config.h, status and messages in status.h: this header brings them all, and they are all that
// is installed. tests/example.c is a whole program.
//
// Ownership: who opens closes; a session must be closed before its model, a model before its device. Close takes the address of
// the handle, sets it to NULL, and is fine with one that is NULL. Threads: one session, one thread; a device serves its sessions
// from one thread at a time.
//
// Errors: whoever works on a device may return PM_ERR_DEVICE and PM_ERR_DEVICE_LOST; whoever allocates, PM_ERR_MEMORY. What is said
// below comes on top. pm_error_text tells it in words.
#ifndef PM_PUMICE_H
#define PM_PUMICE_H

#include "backend/text.h"
#include "host/device.h"
#include "host/status.h"
#include "loader/config.h"

PM_API_BEGIN

// ---- model ------------------------------------------------------------------------------------------------------------

typedef struct pm_model pm_model;

typedef enum pm_precision {
    PM_PRECISION_F16, // KV cache in halves, and products of halves where the device is good at them; sums in f32
    PM_PRECISION_F32, // floats throughout
    PM_PRECISION_FAST // as F16; products with quantized weights round activations to bytes where the device multiplies those faster
} pm_precision;

// The type of the KV cache apart from the rest.
typedef enum pm_kv_type {
    PM_KV_DEFAULT, // as the precision says
    PM_KV_F16,
    PM_KV_F32,
    PM_KV_Q8_0, // a byte an element and a half for the scale of 32: 53 % of halves; wants heads of a multiple of 32
} pm_kv_type;

// How a model reaches positions beyond those of its training, in place of what its file says. A short text loses a little under
// YaRN with a large factor: pm_session_set_rope_factor gives each sequence the factor it needs.
typedef struct pm_rope_options {
    bool given;              // false: as the file says, and nothing below counts
    pm_rope_scaling scaling; // PM_ROPE_NONE: none, whatever the file says
    double factor;           // 1 to 1000
    uint32_t original_ctx;   // positions of the training; 0: the file's, or else all positions that it allows
} pm_rope_options;

typedef struct pm_model_options {
    // Called while weights are uploaded, by the thread that opens; may be NULL. Bytes of the file.
    void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes);
    void *user; // handed through
    // Inverse rotary frequencies rounded to bfloat16, as a transformers model that was cast as a whole (model.to(bfloat16)) has
    // them: for comparing with what such a model computed. Far positions differ by percents from the full precision's.
    bool bf16_frequencies;
    pm_rope_options rope; // PM_ERR_USAGE where it makes no sense; a warning where the file says otherwise
} pm_model_options;

// Opens a model and puts its weights on the device in the types they have in the file. path: a folder with config.json and
// *.safetensors, one .safetensors file, or a .gguf file; or "synthetic:NAME:TYPE", random weights in the shapes of NAME and the
// types of TYPE, to measure with: PM_ERR_USAGE lists both; or "fd:N", a whole .gguf file by its open descriptor, as Android's
// document picker hands them out (not on Windows): the descriptor stays the caller's and may be closed afterwards. options may be
// NULL. PM_ERR_IO, PM_ERR_FILE (damaged), PM_ERR_UNSUPPORTED (sound, but nothing we run); PM_ERR_DEVICE_MEMORY, with the shortfall,
// before anything is allocated where it does not fit.
pm_status pm_model_open(pm_device *dev, const char *path, const pm_model_options *options, pm_model **model);
void pm_model_close(pm_model **model);

// What these give belongs to the model and lives as long. Any thread may ask.
const pm_config *pm_model_config(const pm_model *model);
// NULL where the model comes without a tokenizer.
const pm_tokenizer *pm_model_tokenizer(const pm_model *model);
// The Jinja text that pm_chat_render takes; n == 0 where the model has none.
pm_str pm_model_chat_template(const pm_model *model);
// The least of the factors 1, 2 and 4 with which YaRN reaches n_positions; 4 where none does, 1 where the file does not say how far
// the training went. config.rope.original_ctx, or else config.max_ctx, is what factor 1 reaches.
double pm_model_rope_factor(const pm_model *model, uint64_t n_positions);
uint64_t pm_model_weight_bytes(const pm_model *model); // on the device
// Does the model want its config's bos before a text? Nobody puts it there by himself.
bool pm_model_add_bos(const pm_model *model);
// The id that its tokenizer puts behind a text that stands alone, as embedding models have it, never behind a prompt; -1: none.
// Nobody puts it there by himself.
int32_t pm_model_end_id(const pm_model *model);
// Does this id end the model's answer?
bool pm_model_is_eos(const pm_model *model, int32_t id);

// ---- session ----------------------------------------------------------------------------------------------------------

// Sequences of tokens, each with its cache: numbered 0 to n_seqs - 1, empty at first. Every `seq` below is such a number.
typedef struct pm_session pm_session;

// Zero is the default of each.
typedef struct pm_session_options {
    uint32_t ctx;       // positions a sequence can have; 0: what the model allows, at most 4096
    uint32_t n_seqs;    // sequences with a cache of their own; 0: 1
    uint32_t max_chunk; // rows a pass of a prompt; 0: the device's
    uint32_t max_batch; // rows of a batch, whose logits take memory; 0: PM_BATCH_MAX. Fewer where the device binds no more at once
    pm_precision precision; // of the KV cache and of activations
    pm_kv_type kv;          // another type for the cache. PM_ERR_UNSUPPORTED of open where the model has no heads for it
    bool profile;           // time every kernel
} pm_session_options;

// options may be NULL. PM_ERR_DEVICE_MEMORY, with the shortfall, where cache and scratch do not fit; PM_ERR_USAGE where no device
// ever could.
pm_status pm_session_open(pm_model *model, const pm_session_options *options, pm_session **session);
void pm_session_close(pm_session **session);
uint32_t pm_session_ctx(const pm_session *session);   // positions a sequence can have
uint64_t pm_session_bytes(const pm_session *session); // cache and scratch on the device

// Runs n >= 1 ids at the end of a sequence, in chunks. *logits (config.vocab_size floats, not normalised) of the last one are
// borrowed until the next call on the session; logits may be NULL where they are not wanted. PM_ERR_CONTEXT when the sequence would
// exceed the context, PM_ERR_USAGE for an id outside the vocabulary, an unknown sequence, or while a generation runs: nothing is
// run then. PM_ERR_CANCELLED between chunks after pm_session_cancel: pm_session_pos tells how far it came.
pm_status pm_session_eval(pm_session *session, int seq, const int32_t *ids, size_t n, const float **logits);

// One pass over rows of several sequences, in order: a decode step of a batch, or pieces of prompts. n is 1 to
// pm_session_max_batch.
// *logits (n rows, pm_session_logits_stride floats from row to row) are borrowed until the next call; may be NULL. Errors as of
// pm_session_eval; nothing is run then.
enum { PM_BATCH_MAX = 8 };
typedef struct pm_batch_row {
    int seq;
    int32_t id; // runs at the end of its sequence
} pm_batch_row;
pm_status pm_session_eval_batch(pm_session *session, const pm_batch_row *rows, int n, const float **logits);
uint32_t pm_session_max_batch(const pm_session *session);     // at least PM_BATCH_MAX
uint32_t pm_session_logits_stride(const pm_session *session); // floats: vocab_size rounded up

// Runs n ids like pm_session_eval, with its errors, and says how likely those from `first` on were (1 <= first < n):
// logprobs[i] = ln p(ids[first + i] | all that stands before it), n - first of them, into the caller's memory. Their logits come
// pm_session_max_batch rows at a time: a larger options.max_batch makes it faster.
pm_status pm_session_score(pm_session *session, int seq, const int32_t *ids, size_t n, size_t first, double *logprobs);

// ---- embedding and ranking --------------------------------------------------------------------------------------------

typedef struct pm_embed_text {
    int seq; // where it runs: an empty sequence, and empty again after it
    const int32_t *ids;
    size_t n; // at least 1
} pm_embed_text;

// Texts as vectors of length 1, which point the same way where texts mean the same: out (n, dims), the caller's. That is the last
// norm's result of the last token, or its mean over all tokens where config.pooling says PM_POOL_MEAN; PM_ERR_UNSUPPORTED where it
// says PM_POOL_FIRST. dims: only the first so many numbers, of length 1 again, for models made for it (Matryoshka); 0: config.dim.
// Texts share passes: n sequences make short ones faster. Errors as of pm_session_eval, and PM_ERR_USAGE for two texts in one
// sequence, one that is not empty, or dims beyond config.dim; nothing is run then. No head is needed.
pm_status pm_session_embed(pm_session *session, const pm_embed_text *texts, int n, uint32_t dims, float *out);

// What a reranker is asked about a document. *ids (*n of them) is the caller's to pm_free. instruct NULL: a search on the web.
// flags: PM_ENCODE_SPECIAL where control tokens in these texts shall count, PM_ENCODE_REPAIR. Errors as of pm_tokenizer_encode.
pm_status pm_rerank_prompt(const pm_tokenizer *tok, const char *instruct, pm_str query, pm_str document, unsigned flags,
                           int32_t **ids, size_t *n);
// Runs n >= 1 ids at the end of a sequence, with the errors of pm_session_eval; *score is how probable "yes" is against "no" as
// the next token, or what the model's own classifier of these two says. Documents of one query begin alike: rewind the sequence to
// where they differ and give only the rest. PM_ERR_UNSUPPORTED where the vocabulary has no such tokens.
pm_status pm_session_rerank(pm_session *session, int seq, const int32_t *ids, size_t n, double *score);

// ---- generation -------------------------------------------------------------------------------------------------------

// Added to the logit of an id; -100 as good as bans it, -INFINITY does.
typedef struct pm_logit_bias {
    int32_t id;
    float bias;
} pm_logit_bias;

// What narrows the ids that are drawn from, and the temperature: steps of pm_sampler.order.
typedef enum pm_sampler_step {
    PM_BY_TEMPERATURE = 1,
    PM_BY_TOP_K,
    PM_BY_TOP_P,
    PM_BY_MIN_P,
    PM_BY_TYPICAL_P,
    PM_N_STEPS = 5
} pm_sampler_step;
enum { PM_TOP_LOGPROBS_MAX = 20 };

// How the next token is drawn. All zero is greedy. Numbers out of range: PM_ERR_USAGE of start.
//
// First bias and penalties change the logits (of the greedy too); then the steps narrow what is drawn from, in transformers' order:
// temperature, top-k, top-p, min-p, typical-p, each over the probabilities that those before it left. Ties with the last one kept
// are kept.
typedef struct pm_sampler {
    float temperature; // 0: greedy
    uint32_t top_k;    // 0: off
    float top_p;       // 1 or 0: off
    float min_p;       // 0: off
    uint64_t seed;     // the same seed gives the same text on one device
    float typical_p;   // 1 or 0: off (https://arxiv.org/abs/2202.00666)

    // An id that occurs in the prompt or was drawn: its logit is divided by `repeat` where it is above zero, else multiplied (1 or
    // 0: off). Then one that was drawn, whatever the prompt says, loses `frequency` times as often and `presence` once (0: off).
    float repeat_penalty, frequency_penalty, presence_penalty;
    // What stands before the ids that start is given and shall count too: the last n_history_drawn of them as drawn, the others as
    // prompt. Read by start only.
    const int32_t *history;
    size_t n_history, n_history_drawn;

    const pm_logit_bias *bias; // read by start only; of several for one id the last counts
    size_t n_bias;

    uint8_t order[PM_N_STEPS]; // each pm_sampler_step once; all zero: the usual order

    bool logprobs;         // tell how likely each id was: pm_session_logprobs
    uint32_t top_logprobs; // and the likeliest ones, at most PM_TOP_LOGPROBS_MAX
} pm_sampler;

// An id and ln of its probability, by the model alone: before bias, penalties, temperature and all else.
typedef struct pm_logprob {
    int32_t id;
    float logprob;
} pm_logprob;

// Generation of one sequence. start runs n >= 1 ids like eval, with its errors, and draws the next id on the device; each next
// returns one id. The device is always a step ahead: it works on the next id while the caller looks at this one. end waits for it;
// the sequence then holds the prompt and every id that next returned, less the last (it was drawn, not run).
pm_status pm_session_start(pm_session *session, int seq, const int32_t *ids, size_t n, const pm_sampler *sampler);
pm_status pm_session_next(pm_session *session, int32_t *id); // PM_ERR_CONTEXT when there is no room to run another
pm_status pm_session_end(pm_session *session);               // fine when none is running

// Of the id that next returned last: itself, then the sampler's top_logprobs likeliest in falling order (fewer where the vocabulary
// has fewer). *n is 0 where the sampler did not ask. Borrowed until the next call on the session.
const pm_logprob *pm_session_logprobs(const pm_session *session, int *n);

// The same draws on the host, from logits that the caller has (and may have changed): by the same steps over the same integers and
// the same noise, so that the ids are those of a session, but where two are as good as equal in the last bits of an exponential.
typedef struct pm_drawer pm_drawer;
// For a generation that starts with the n ids of the prompt; n may be 0. Errors as of pm_session_start.
pm_status pm_drawer_open(const pm_model *model, const pm_sampler *sampler, const int32_t *ids, size_t n, pm_drawer **drawer);
void pm_drawer_close(pm_drawer **drawer);
// Draws from logits (vocab_size) of the token at position pos of its sequence, and counts the id as drawn.
int32_t pm_drawer_next(pm_drawer *drawer, const float *logits, uint32_t pos);
const pm_logprob *pm_drawer_logprobs(const pm_drawer *drawer, int *n); // as pm_session_logprobs

// Does a text run in circles? Zero-initialise.
typedef struct pm_loop_watch {
    int32_t last[64]; // ids, by turns
    uint32_t n;
    uint16_t same[65]; // ids in a row that are the one so many places before
} pm_loop_watch;
// Takes the next id. The length, 16 to 64, of the block of ids that the text has just ended with four times in a row; 0: no such.
uint32_t pm_loop_watch_next(pm_loop_watch *watch, int32_t id);

// Positions a sequence holds, and forgetting those from `pos` on (not while a generation runs). The sequence must exist.
uint32_t pm_session_pos(const pm_session *session, int seq);
void pm_session_rewind(pm_session *session, int seq, uint32_t pos);

// The factor of YaRN (of linear scaling where the model has that) for one sequence; without it, the model's own. 1 is plain.
// Sequences of different factors may share a batch: each gets the logits that it would have in a session of its own, at most four
// factors at a time. What the cache holds is turned by the factor it was written with, so a sequence that outgrows its factor must
// be rewound to 0 and run anew with a larger one: PM_ERR_USAGE unless it is empty. Rewinding keeps the factor.
pm_status pm_session_set_rope_factor(pm_session *session, int seq, double factor);
double pm_session_rope_factor(const pm_session *session, int seq);

// May be called from a signal handler or another thread: a running eval or start returns PM_ERR_CANCELLED after its present chunk.
void pm_session_cancel(pm_session *session);

// Measures for about so many seconds which variants of the kernels are fastest for this model on its device, and keeps the plan on
// disk; passes from now on follow it, and so do later processes. seconds < 0: as many as a first answer may wait on this device,
// which is none on software ones. What was measured before stays as it is unless `again`. The rounding of answers changes with the
// plan. PM_ERR_USAGE while a generation runs.
pm_status pm_session_tune(pm_session *session, double seconds, bool again);

// What options.profile gathered: sums by kernel, variant, label and shape. The *n rows are borrowed until the next call on the
// session, the names are static text.
typedef struct pm_profile_row {
    const char *kernel;
    const char *label;   // the step of the model: "attention"
    uint64_t count;      // dispatches
    uint64_t ns;         // on the GPU
    uint64_t bytes;      // that they must at least move
    uint32_t last;       // of `count`: in the last pass
    uint64_t flops;      // multiplications and additions of products and attention; 0: not counted
    uint32_t rows, cols; // of the weights of a product; else 0
    char numbers[48];    // the kernel's specialization constants, "64,1,32,2,8": which of its variants it is
} pm_profile_row;
const pm_profile_row *pm_session_profile(const pm_session *session, int *n);

// Records every pass anew instead of replaying recordings: for tests that prove both give the same bits.
void pm_session_set_replay(pm_session *session, bool replay);

// ---- dialog -----------------------------------------------------------------------------------------------------------

// A conversation in one sequence of a session, which nobody else uses meanwhile. Each answer is told the whole conversation, and
// only what the sequence does not hold yet is run. Its answers may be of different conversations: what they share at the beginning
// is run once.
typedef struct pm_dialog pm_dialog;

typedef struct pm_dialog_options {
    pm_sampler sampler;       // its history is the dialog's to set
    uint32_t think_budget;    // ids of thinking, after which it is ended by words that say so; 0: no bound
    const char *const *stops; // strings that end the answer's text before them, as pm_stops_open takes them; read by start only
    int n_stops;
    // Not 0: the sequence takes the least factor of YaRN (1, 2, 4; pm_model_rope_factor) that reaches the prompt and so many ids
    // more. One that outgrows its factor, be it in the middle of an answer, is run anew with the next; it keeps a larger one than
    // it needs as long as it holds anything. PM_ERR_USAGE as of pm_session_set_rope_factor. 0: whatever factor the sequence has.
    uint32_t rope_room;
    void (*rescaled)(void *user, double factor, size_t n_again); // before n_again ids are run anew with a larger one; may be NULL
    void *user;                                                  // handed through
} pm_dialog_options;

// Must be closed before the session.
pm_status pm_dialog_open(pm_session *session, int seq, pm_dialog **dialog);
void pm_dialog_close(pm_dialog **dialog);

// Begins an answer: renders the messages as pm_chat_render does, with its errors; PM_ERR_CONTEXT where they do not fit, else as
// pm_session_start. An answer that is not ended yet is. chat->add_generation_prompt is the caller's to set.
pm_status pm_dialog_start(pm_dialog *dialog, const pm_chat_message *messages, int n, const pm_chat_options *chat,
                          const pm_dialog_options *options);
// The same for a prompt of n >= 1 ids.
pm_status pm_dialog_start_ids(pm_dialog *dialog, const int32_t *ids, size_t n, const pm_dialog_options *options);
// The next id, as pm_session_next; *text is what it completes, control tokens left out: a view until the next call, often empty.
pm_status pm_dialog_next(pm_dialog *dialog, int32_t *id, pm_str *text);
// Was one of the stops complete? Then the caller ends the answer.
bool pm_dialog_is_stopped(const pm_dialog *dialog);
// Ends the answer: it may be cut short anywhere. *text: what was left of an unfinished character.
pm_status pm_dialog_finish(pm_dialog *dialog, pm_str *text);
// Ends it without a word about its text, as after an error.
pm_status pm_dialog_end(pm_dialog *dialog);

// The answer as far as it came, sorted; complete after finish. NULL before the first start; until the next one.
const pm_turn *pm_dialog_turn(const pm_dialog *dialog);
// Of the last prompt: ids that were run, and ids that the sequence held already.
void pm_dialog_counts(const pm_dialog *dialog, uint32_t *n_run, uint32_t *n_reused);

// ---- plan -------------------------------------------------------------------------------------------------------------

// What a model and a session would take of a device, and what fits.
typedef struct pm_plan {
    uint32_t ctx;           // of the session: the options' or the usual one
    uint32_t model_ctx;     // that the model was made for; 0: the file does not say
    uint64_t kv_bytes;      // of the cache for one position of one sequence
    uint64_t weight_bytes;  // what pm_model_weight_bytes will tell
    uint64_t session_bytes; // what pm_session_bytes will tell: cache_bytes + scratch_bytes
    uint64_t cache_bytes, scratch_bytes;
    uint64_t host_bytes;                   // of a session's mapped buffers
    uint64_t heap_need[16], heap_free[16]; // by heap of the device: what all of it takes, what is left for it now
    bool fits;
    char reason[256];     // why it does not
    uint32_t longest_ctx; // positions that would fit, whatever the model was made for; 0: not even the weights do
    // Where it does not fit: the widest type with which all of it would if every matrix had it, and the weights' bytes then. Static
    // text, "Q8_0"; NULL where there is none.
    const char *narrower;
    uint64_t narrower_bytes;
} pm_plan;

// Adds up for each of n devices, as pm_device_list has them, from the header of the model's file: plans[i] is that of infos[i].
// Nothing is opened or allocated on a device. options may be NULL. The file's errors are those of pm_model_open; PM_ERR_USAGE for
// options that make no sense; what does not fit is no failure. Gate and up of different types are taken to be stored as
// halves, as nearly all values allow.
pm_status pm_plan_make(const char *path, const pm_device_info *infos, int n, const pm_session_options *options, pm_plan *plans);

PM_API_END
#endif
