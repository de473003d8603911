/* tokenizer_gguf.c - a tokenizer from the metadata of a GGUF file (keys tokenizer.*).
 *
 * A GGUF file names its words (tokenizer.ggml.pre) instead of spelling a pattern; the names and
 * what they imply are those of llama.cpp (llama-vocab.cpp). Composition to NFC, which Qwen2's
 * tokenizer does and GGUF has no key for, follows the name. "smollm" is read so that it agrees with
 * the model's own tokenizer.json on all ASCII text, and with transformers, which takes the name for
 * GPT-2's words, on numerals such as 1/2 in one character. */
#include <stdlib.h>
#include <string.h>

#include "integration/files/gguf.h"
#include "integration/text/tokenizer_build.h"

#define TOKENS "tokenizer.ggml.tokens"
#define TYPES "tokenizer.ggml.token_type"
#define MERGES "tokenizer.ggml.merges"

static const struct {
    const char *name;
    splitter_kind kind;
    bool composes, ignores_merges, adds_bos; /* the last unless the file says otherwise */
} words[] = {
    {"gpt-2", SPLITTER_GPT2, false, false, false},
    {"smollm", SPLITTER_DIGITS, false, false, false},
    {"starcoder", SPLITTER_DIGITS, false, false, false},
    {"refact", SPLITTER_DIGITS, false, false, false},
    {"qwen2", SPLITTER_QWEN2, true, false, false},
    {"deepseek-r1-qwen", SPLITTER_QWEN2, true, false, false},
    {"llama-bpe", SPLITTER_LLAMA3, false, true, true},
    {"llama3", SPLITTER_LLAMA3, false, true, true},
    {"llama-v3", SPLITTER_LLAMA3, false, true, true},
};

/* Values of tokenizer.ggml.token_type. */
enum { TYPE_NORMAL = 1, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_BYTE = 6 };

typedef struct reader {
    const gguf *g;
    const char *where;
    tokenizer *t;
} reader;

/* A text of the metadata, NUL-terminated and malloc'd; NULL: there is none. */
static kvp_status copy_text(const gguf *g, const char *key, char **out)
{
    const char *text;
    size_t n;
    *out = NULL;
    if (!gguf_get_text(g, key, &text, &n))
        return KVP_OK;
    *out = strndup(text, n);
    return *out ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes of %s", n, key);
}

/* ---- what kind of tokenizer it is ------------------------------------------------------------ */

static kvp_status check_kind(const reader *r, const char *model)
{
    if (!model)
        return kvp_fail(KVP_E_INVALID, "%s: no tokenizer: there is no tokenizer.ggml.model",
                        r->where);
    if (strcmp(model, "gpt2") != 0)
        return tokenizer_unsupported(r->where, "tokenizer.ggml.model", model);
    if (!gguf_array_length(r->g, TOKENS) || !gguf_has(r->g, MERGES))
        return kvp_fail(KVP_E_INVALID, "%s: " TOKENS " or " MERGES " is missing", r->where);
    return KVP_OK;
}

static kvp_status load_words(const reader *r, const char *pre, bool *adds_bos)
{
    for (size_t i = 0; pre && i < sizeof words / sizeof *words; i++) {
        if (strcmp(pre, words[i].name) == 0) {
            r->t->composes = words[i].composes;
            r->t->ignores_merges = words[i].ignores_merges;
            *adds_bos = words[i].adds_bos;
            return splitter_open(words[i].kind, &r->t->splitter);
        }
    }
    return tokenizer_unsupported(r->where, "tokenizer.ggml.pre", pre ? pre : "(missing)");
}

/* ---- tokens and merges ----------------------------------------------------------------------- */

static int64_t type_of(const reader *r, size_t id)
{
    int64_t type = TYPE_NORMAL;
    (void)gguf_array_int(r->g, TYPES, id, &type);
    return type;
}

/* Only normal tokens are spelled in the byte-level alphabet. */
static kvp_status put_token(void *opaque, size_t id, const char *text, size_t n)
{
    const reader *r = opaque;
    int64_t type = type_of(r, id);
    if (type == TYPE_BYTE)
        return tokenizer_unsupported(r->where, "a token of type", "byte");
    if (type == TYPE_NORMAL)
        return tokenizer_put_token(r->t, (int64_t)id, text, n, r->where);
    kvp_status status = vocab_put(&r->t->vocab, (int64_t)id, text, n, true);
    return status ? kvp_fail(status, "%s: %s", r->where, kvp_error()) : KVP_OK;
}

static kvp_status put_added(void *opaque, size_t id, const char *text, size_t n)
{
    const reader *r = opaque;
    int64_t type = type_of(r, id);
    if (type != TYPE_CONTROL && type != TYPE_USER)
        return KVP_OK;
    return tokenizer_put_added(
        r->t,
        &(added_token){.text = text, .n = n, .id = (int32_t)id, .is_control = type == TYPE_CONTROL},
        r->where);
}

static kvp_status put_merge(void *opaque, size_t rank, const char *text, size_t n)
{
    const reader *r = opaque;
    merge_text merge;
    if (!merge_text_parse(text, n, &merge))
        return kvp_fail(KVP_E_INVALID, "%s: " MERGES ": merge %zu is not two tokens", r->where,
                        rank + 1);
    return tokenizer_put_merge(r->t, rank, &merge, r->where);
}

static kvp_status load_tokens(reader *r)
{
    size_t n_types = gguf_array_length(r->g, TYPES), n = gguf_array_length(r->g, TOKENS);
    if (n_types && n_types != n)
        return kvp_fail(KVP_E_INVALID, "%s: %zu tokens, but " TYPES " has %zu", r->where, n,
                        n_types);
    kvp_status status = gguf_each_text(r->g, TOKENS, put_token, r);
    if (!status)
        status = tokenizer_start_merges(r->t, gguf_array_length(r->g, MERGES));
    if (!status && gguf_array_length(r->g, MERGES))
        status = gguf_each_text(r->g, MERGES, put_merge, r);
    return status ? status : gguf_each_text(r->g, TOKENS, put_added, r);
}

/* ---- what goes before a text ----------------------------------------------------------------- */

static kvp_status get_id(const reader *r, const char *key, int32_t *out)
{
    int64_t id;
    size_t n;
    if (!gguf_get_int(r->g, key, &id))
        return KVP_OK;
    if (!vocab_get(&r->t->vocab, id, &n))
        return kvp_fail(KVP_E_INVALID, "%s: %s is %lld, but the vocabulary has no such token",
                        r->where, key, (long long)id);
    *out = (int32_t)id;
    return KVP_OK;
}

static kvp_status load_ends(const reader *r, bool adds_bos)
{
    bool adds_eos = false;
    kvp_status status = get_id(r, "tokenizer.ggml.bos_token_id", &r->t->bos);
    if (!status)
        status = get_id(r, "tokenizer.ggml.eos_token_id", &r->t->eos);
    if (status)
        return status;
    (void)gguf_get_flag(r->g, "tokenizer.ggml.add_bos_token", &adds_bos);
    (void)gguf_get_flag(r->g, "tokenizer.ggml.add_eos_token", &adds_eos);
    if (adds_eos)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: tokenizer.ggml.add_eos_token is not supported: a text would end "
                        "before the model continues it",
                        r->where);
    if (adds_bos && r->t->bos < 0)
        return kvp_fail(KVP_E_INVALID,
                        "%s: texts begin with a token, but there is no tokenizer.ggml.bos_token_id",
                        r->where);
    return adds_bos ? id_list_push(&r->t->prefix, r->t->bos) : KVP_OK;
}

/* ---- the file -------------------------------------------------------------------------------- */

static kvp_status load(reader *r, const char *model, const char *pre)
{
    bool adds_bos = false;
    kvp_status status = check_kind(r, model);
    if (!status)
        status = load_words(r, pre, &adds_bos);
    if (!status)
        status = load_tokens(r);
    if (!status)
        status = load_ends(r, adds_bos);
    return status ? status : copy_text(r->g, "tokenizer.chat_template", &r->t->chat_template);
}

kvp_status tokenizer_load_gguf(const char *path, tokenizer *t)
{
    gguf *g = NULL;
    char *model = NULL, *pre = NULL;
    kvp_status status = gguf_open(path, &g);
    if (status)
        return status;
    status = copy_text(g, "tokenizer.ggml.model", &model);
    if (!status)
        status = copy_text(g, "tokenizer.ggml.pre", &pre);
    if (!status)
        status = load(&(reader){.g = g, .where = path, .t = t}, model, pre);
    free(model);
    free(pre);
    gguf_close(g);
    return status;
}
