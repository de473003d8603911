/* tokenizer_folder.c - a tokenizer from a model folder: tokenizer.json, or vocab.json with
 * merges.txt; then what the small files beside them say: special tokens, what goes before a text,
 * the chat template.
 *
 * Follows PreTrainedTokenizerBase of Hugging Face's transformers: where there is a tokenizer.json,
 * it says what goes before a text, otherwise add_bos_token of tokenizer_config.json does; a
 * chat_template.jinja goes before the template in tokenizer_config.json. */
#include <stdlib.h>
#include <string.h>

#include "integration/files/folder.h"
#include "integration/text/tokenizer_build.h"
#include "integration/text/utf8.h"

#define MERGES_LIMIT_BYTES ((size_t)256 << 20)
#define TEMPLATE_LIMIT_BYTES ((size_t)16 << 20)
#define MAX_UNMERGED 128u /* tokens that are neither a byte nor made by a merge: special ones */

/* ---- merges.txt ------------------------------------------------------------------------------ */

/* The next line that holds a merge; false at the end. *at moves behind it. */
static bool next_line(const char *text, size_t n, size_t *at, const char **line, size_t *length)
{
    while (*at < n) {
        const char *begin = text + *at;
        const char *newline = memchr(begin, '\n', n - *at);
        size_t l = newline ? (size_t)(newline - begin) : n - *at;
        *at += l + 1;
        if (l && begin[l - 1] == '\r')
            l--;
        if (l == 0 || (l >= 8 && memcmp(begin, "#version", 8) == 0))
            continue;
        *line = begin;
        *length = l;
        return true;
    }
    return false;
}

static size_t count_lines(const char *text, size_t n)
{
    size_t count = 0, at = 0, length;
    const char *line;
    while (next_line(text, n, &at, &line, &length))
        count++;
    return count;
}

static kvp_status load_merges(tokenizer *t, const char *text, size_t n, const char *where)
{
    size_t at = 0, length;
    const char *line;
    kvp_status status = KVP_OK;
    for (size_t rank = 0; !status && next_line(text, n, &at, &line, &length); rank++) {
        merge_text merge;
        if (!merge_text_parse(line, length, &merge))
            return kvp_fail(KVP_E_INVALID, "%s: merge %zu is not two tokens: \"%.*s\"", where,
                            rank + 1, (int)(length < 80 ? length : 80), line);
        status = tokenizer_put_merge(t, rank, &merge, where);
    }
    return status;
}

/* A file that was cut at the end of a line looks whole: what it lacks shows in the vocabulary. */
static kvp_status check_merge_count(size_t n_vocab, size_t n_merges, const char *where)
{
    if (n_vocab <= 256 + n_merges + MAX_UNMERGED)
        return KVP_OK;
    return kvp_fail(KVP_E_INVALID,
                    "%s: %zu merges are too few for a vocabulary of %zu tokens, which takes about "
                    "%zu: the file is not whole",
                    where, n_merges, n_vocab, n_vocab - 256);
}

static kvp_status load_vocab(const char *dir, tokenizer *t)
{
    char where[FOLDER_PATH_BYTES];
    json_t *vocab = NULL;
    kvp_status status = folder_path(dir, "vocab.json", where);
    if (!status)
        status = json_file_load(dir, "vocab.json", &vocab);
    if (!status)
        status = tokenizer_put_vocab_json(t, vocab, where);
    json_decref(vocab);
    return status;
}

static kvp_status load_vocab_and_merges(const char *dir, tokenizer *t)
{
    char where[FOLDER_PATH_BYTES];
    char *merges = NULL;
    size_t n = 0, n_merges = 0;
    kvp_status status = load_vocab(dir, t);
    if (!status)
        status = folder_path(dir, "merges.txt", where);
    if (!status)
        status = folder_read(dir, "merges.txt", MERGES_LIMIT_BYTES, &merges, &n);
    if (!status) {
        n_merges = count_lines(merges, n);
        status = check_merge_count(t->vocab.n_used, n_merges, where);
    }
    if (!status)
        status = tokenizer_start_merges(t, n_merges);
    if (!status)
        status = load_merges(t, merges, n, where);
    free(merges);
    return status;
}

static kvp_status load_pipeline(const char *dir, tokenizer *t)
{
    char where[FOLDER_PATH_BYTES];
    json_t *root = NULL;
    kvp_status status = folder_path(dir, "tokenizer.json", where);
    if (!status)
        status = json_file_load(dir, "tokenizer.json", &root);
    if (!status)
        status = tokenizer_load_json(t, root, where);
    json_decref(root);
    return status;
}

/* ---- added and special tokens ---------------------------------------------------------------- */

/* "added_tokens_decoder": {"50256": {"content": ...}, ...} */
static kvp_status load_added_decoder(tokenizer *t, json_t *decoder, const char *where)
{
    const char *key;
    json_t *token;
    kvp_status status = KVP_OK;
    json_object_foreach(decoder, key, token)
    {
        char *end;
        long long id = strtoll(key, &end, 10);
        if (*end || end == key || id < 0)
            return kvp_fail(KVP_E_INVALID, "%s: added_tokens_decoder: \"%s\" is not an id", where,
                            key);
        status = tokenizer_put_added_json(t, token, id, false, where);
        if (status)
            break;
    }
    return status;
}

static const char *const special_keys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                           "pad_token", "cls_token", "mask_token"};

/* The special tokens that tokenizer_config.json and special_tokens_map.json name. */
static kvp_status load_special_keys(tokenizer *t, const json_t *root, const char *where)
{
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < sizeof special_keys / sizeof *special_keys && !status; i++) {
        const json_t *token = json_object_get(root, special_keys[i]);
        if (json_is_string(token) || json_is_object(token))
            status = tokenizer_put_added_json(t, token, -1, true, where);
    }
    const json_t *more = json_object_get(root, "additional_special_tokens");
    for (size_t i = 0; json_is_array(more) && i < json_array_size(more) && !status; i++)
        status = tokenizer_put_added_json(t, json_array_get(more, i), -1, true, where);
    return status;
}

/* The id of the token that `key` names; what it was if it names none. */
static int32_t named_token(const tokenizer *t, const json_t *root, const char *key, int32_t id)
{
    const json_t *token = json_object_get(root, key);
    const char *text =
        json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
    return text ? tokenizer_find_special(t, text) : id;
}

static void find_ends(tokenizer *t, const json_t *root)
{
    t->bos = named_token(t, root, "bos_token", t->bos);
    t->eos = named_token(t, root, "eos_token", t->eos);
}

static kvp_status load_special_map(const char *dir, tokenizer *t)
{
    static const char name[] = "special_tokens_map.json";
    char where[FOLDER_PATH_BYTES];
    if (!folder_has(dir, name))
        return KVP_OK;
    json_t *map = NULL;
    kvp_status status = folder_path(dir, name, where);
    if (!status)
        status = json_file_load(dir, name, &map);
    if (!status)
        status = load_special_keys(t, map, where);
    if (!status)
        find_ends(t, map);
    json_decref(map);
    return status;
}

/* added_tokens.json: {"text": id, ...} */
static kvp_status load_added_file(const char *dir, tokenizer *t)
{
    static const char name[] = "added_tokens.json";
    char where[FOLDER_PATH_BYTES];
    if (!folder_has(dir, name))
        return KVP_OK;
    json_t *map = NULL;
    kvp_status status = folder_path(dir, name, where);
    if (!status)
        status = json_file_load(dir, name, &map);
    const char *text;
    json_t *id;
    json_object_foreach(map, text, id)
    {
        json_t *token = json_string(text);
        if (!token)
            status = kvp_fail(KVP_E_NOMEM, "out of memory: an added token");
        else if (!json_is_integer(id))
            status = kvp_fail(KVP_E_INVALID, "%s: the id of \"%s\" is not an integer", where, text);
        else
            status = tokenizer_put_added_json(t, token, json_integer_value(id), false, where);
        json_decref(token);
        if (status)
            break;
    }
    json_decref(map);
    return status;
}

/* What GPT2Tokenizer assumes when no file names special tokens. */
static kvp_status load_default_special(tokenizer *t)
{
    static const char text[] = "<|endoftext|>";
    int64_t id = -1;
    kvp_status status = tokenizer_find_spelling(t, text, sizeof text - 1, &id);
    if (!status && !t->added.n && id >= 0)
        status = tokenizer_put_added(
            t, &(added_token){.text = text, .n = sizeof text - 1, .is_control = true}, text);
    if (!status && t->bos < 0)
        t->bos = tokenizer_find_special(t, text);
    if (!status && t->eos < 0)
        t->eos = tokenizer_find_special(t, text);
    return status;
}

/* ---- tokenizer_config.json ------------------------------------------------------------------- */

/* Classes whose vocab.json and merges.txt need no tokenizer.json to be understood. */
static const struct {
    const char *name;
    splitter_kind kind;
    bool composes;
} classes[] = {
    {"GPT2Tokenizer", SPLITTER_GPT2, false},     {"GPT2TokenizerFast", SPLITTER_GPT2, false},
    {"Qwen2Tokenizer", SPLITTER_QWEN2, true},    {"Qwen2TokenizerFast", SPLITTER_QWEN2, true},
    {"TokenizersBackend", SPLITTER_GPT2, false},
};

static kvp_status open_class(tokenizer *t, const json_t *config, const char *where)
{
    const json_t *class = json_object_get(config, "tokenizer_class");
    if (json_is_unset(class))
        return splitter_open(SPLITTER_GPT2, &t->splitter);
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        if (json_is_text(class, classes[i].name)) {
            t->composes = classes[i].composes;
            return splitter_open(classes[i].kind, &t->splitter);
        }
    }
    return kvp_fail(KVP_E_UNSUPPORTED,
                    "%s: tokenizer_class %s is not supported without a tokenizer.json "
                    "(GPT2Tokenizer and Qwen2Tokenizer are); token ids made elsewhere do without: "
                    "--ids",
                    where, json_is_string(class) ? json_string_value(class) : "(not a text)");
}

/* What tokenizer_config.json says of texts where there is no tokenizer.json. */
static kvp_status load_prefix(tokenizer *t, const json_t *config, const char *where)
{
    if (json_is_true(json_object_get(config, "add_eos_token")))
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: add_eos_token true is not supported: a text would end before the "
                        "model continues it",
                        where);
    if (!json_is_true(json_object_get(config, "add_bos_token")))
        return KVP_OK;
    if (t->bos < 0)
        return kvp_fail(KVP_E_INVALID, "%s: add_bos_token is true, but there is no bos_token",
                        where);
    return id_list_push(&t->prefix, t->bos);
}

/* The text of the chat template, which may be a list of named ones. */
static const json_t *default_template(const json_t *config)
{
    const json_t *templates = json_object_get(config, "chat_template");
    for (size_t i = 0; i < json_array_size(templates); i++) {
        const json_t *one = json_array_get(templates, i);
        if (json_is_text(json_object_get(one, "name"), "default"))
            return json_object_get(one, "template");
    }
    return templates;
}

static kvp_status load_template(const char *dir, tokenizer *t, const json_t *config)
{
    size_t n;
    if (folder_has(dir, "chat_template.jinja"))
        return folder_read(dir, "chat_template.jinja", TEMPLATE_LIMIT_BYTES, &t->chat_template, &n);
    const char *text = json_string_value(default_template(config));
    if (text && !(t->chat_template = strdup(text)))
        return kvp_fail(KVP_E_NOMEM, "out of memory: the chat template");
    return KVP_OK;
}

/* ---- the folder ------------------------------------------------------------------------------ */

static kvp_status load_without_pipeline(const char *dir, tokenizer *t, const json_t *config,
                                        const char *where)
{
    kvp_status status = open_class(t, config, where);
    t->add_prefix_space = json_is_true(json_object_get(config, "add_prefix_space"));
    return status ? status : load_vocab_and_merges(dir, t);
}

static kvp_status load_small_files(const char *dir, tokenizer *t, const json_t *config,
                                   const char *where)
{
    kvp_status status =
        load_added_decoder(t, json_object_get(config, "added_tokens_decoder"), where);
    if (!status)
        status = load_special_keys(t, config, where);
    if (!status)
        status = load_special_map(dir, t);
    if (!status)
        status = load_added_file(dir, t);
    if (!status)
        find_ends(t, config);
    return status ? status : load_template(dir, t, config);
}

static kvp_status refuse(const char *dir)
{
    bool is_sentencepiece = folder_has(dir, "tokenizer.model");
    return kvp_fail(
        is_sentencepiece ? KVP_E_UNSUPPORTED : KVP_E_IO,
        "%s: %s; token ids made elsewhere do without: --ids", dir,
        is_sentencepiece
            ? "its tokenizer.model is SentencePiece, which is not supported (byte-level "
              "BPE is)"
            : "no tokenizer: neither tokenizer.json nor vocab.json is there");
}

static kvp_status load_all(const char *dir, tokenizer *t, const json_t *config, const char *where)
{
    bool has_pipeline = folder_has(dir, "tokenizer.json");
    if (!has_pipeline && !folder_has(dir, "vocab.json"))
        return refuse(dir);
    kvp_status status =
        has_pipeline ? load_pipeline(dir, t) : load_without_pipeline(dir, t, config, where);
    if (!status)
        status = load_small_files(dir, t, config, where);
    if (status || has_pipeline)
        return status;
    status = load_default_special(t);
    return status ? status : load_prefix(t, config, where);
}

kvp_status tokenizer_load_folder(const char *dir, tokenizer *t)
{
    char where[FOLDER_PATH_BYTES];
    json_t *config = NULL;
    kvp_status status = folder_check(dir);
    if (!status)
        status = folder_path(dir, "tokenizer_config.json", where);
    if (!status && folder_has(dir, "tokenizer_config.json"))
        status = json_file_load(dir, "tokenizer_config.json", &config);
    if (!status)
        status = load_all(dir, t, config, where);
    json_decref(config);
    return status;
}
