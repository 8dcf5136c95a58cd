// What Pumice.java calls. Texts come and go as bytes of UTF-8: JNI's own strings write characters beyond U+FFFF in another way.
#include <jni.h>
#include <pumice/pumice.h>
#include <stdlib.h>
#include <string.h>

typedef struct engine {
    pm_device *dev;
    pm_model *model;
    pm_session *session;
    char *piece; // of text, that one token completes
} engine;

static char *copy(JNIEnv *env, jbyteArray bytes) { // with a 0 behind, the caller's to free
    jsize n = (*env)->GetArrayLength(env, bytes);
    char *text = calloc(1, (size_t)n + 1);
    if (text)
        (*env)->GetByteArrayRegion(env, bytes, 0, n, (jbyte *)text);
    return text;
}

JNIEXPORT void JNICALL Java_Pumice_close(JNIEnv *env, jclass class, jlong handle) {
    engine *e = (engine *)(intptr_t)handle;
    pm_session_close(&e->session);
    pm_model_close(&e->model);
    pm_device_close(&e->dev);
    free(e->piece);
    free(e);
}

JNIEXPORT jlong JNICALL Java_Pumice_open(JNIEnv *env, jclass class, jbyteArray model) {
    engine *e = calloc(1, sizeof *e); // no phone has too little memory for it
    char *path = copy(env, model);
    if (path && pm_device_open(NULL, &e->dev) == PM_OK && pm_model_open(e->dev, path, NULL, &e->model) == PM_OK &&
        pm_session_open(e->model, NULL, &e->session) == PM_OK && pm_model_tokenizer(e->model))
        e->piece = malloc(pm_tokenizer_text_max(pm_model_tokenizer(e->model)));
    free(path);
    if (e->piece)
        return (jlong)(intptr_t)e;
    Java_Pumice_close(env, class, (jlong)(intptr_t)e);
    (*env)->ThrowNew(env, (*env)->FindClass(env, "java/io/IOException"), pm_error_text());
    return 0;
}

// false: the answer is to end, by the listener's word or an exception of his.
static bool give(JNIEnv *env, jobject to, const char *text, size_t n) {
    jbyteArray bytes = n ? (*env)->NewByteArray(env, (jsize)n) : NULL;
    if (!bytes)
        return n == 0;
    (*env)->SetByteArrayRegion(env, bytes, 0, (jsize)n, (const jbyte *)text);
    jmethodID take = (*env)->GetMethodID(env, (*env)->GetObjectClass(env, to), "take", "([B)Z");
    bool more = (*env)->CallBooleanMethod(env, to, take, bytes);
    (*env)->DeleteLocalRef(env, bytes);
    return more && !(*env)->ExceptionCheck(env);
}

static pm_status stream(JNIEnv *env, engine *e, const int32_t *ids, size_t n, float temperature, jlong seed, jobject to) {
    const pm_sampler sampler = {.temperature = temperature, .top_k = 20, .top_p = 0.95f, .seed = (uint64_t)seed};
    pm_utf8_stream utf8 = {{0}, 0};
    bool more = true;
    pm_session_rewind(e->session, 0, 0);
    PM_TRY(pm_session_start(e->session, 0, ids, n, &sampler));
    for (int32_t id = -1; more && !pm_model_is_eos(e->model, id);) {
        PM_TRY(pm_session_next(e->session, &id));
        n = pm_tokenizer_decode_next(pm_model_tokenizer(e->model), &utf8, id, PM_DECODE_SKIP_SPECIAL, e->piece);
        more = give(env, to, e->piece, n);
    }
    return pm_session_end(e->session);
}

JNIEXPORT void JNICALL Java_Pumice_answer(JNIEnv *env, jclass class, jlong handle, jbyteArray prompt, jfloat temperature,
                                          jlong seed, jobject to) {
    engine *e = (engine *)(intptr_t)handle;
    char *text = copy(env, prompt), *chat = NULL;
    int32_t *ids = NULL;
    size_t n;
    const pm_chat_message message = {.role = "user", .content = text};
    const pm_chat_options options = {.add_generation_prompt = true, .enable_thinking = -1};
    if (pm_chat_render(pm_model_chat_template(e->model), &message, 1, &options, &chat, NULL) != PM_OK ||
        pm_tokenizer_encode(pm_model_tokenizer(e->model), chat, strlen(chat), PM_ENCODE_SPECIAL, &ids, &n) != PM_OK ||
        stream(env, e, ids, n, temperature, seed, to) != PM_OK) {
        pm_session_end(e->session);
        if (!(*env)->ExceptionCheck(env))
            (*env)->ThrowNew(env, (*env)->FindClass(env, "java/io/IOException"), pm_error_text());
    }
    free(text);
    pm_free(chat);
    pm_free(ids);
}
