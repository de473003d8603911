/* tokenizer_files.c - a tokenizer from a model folder: tokenizer.json, or vocab.json with
 * merges.txt; then the special tokens of the small files beside them.
 *
 * The order in which added tokens are met decides: the first description of a text stays. */
#include "integration/text/tokenizer_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "integration/text/byte_level.h"
#include "integration/files/folder.h"
#include "integration/text/utf8.h"

#define MERGES_LIMIT_BYTES ((size_t)256 << 20)
#define MAX_UNMERGED 128u /* tokens that are neither a byte nor made by a merge: special ones */

/* ---- vocabulary and merges ------------------------------------------------------------------- */

/* What a spelling stands for: bytes, or (not in the alphabet, so no merge makes it) itself.
 * `bytes` has room for n. */
static size_t translate(const char *spelling, size_t n, char *bytes, bool *is_literal)
{
    size_t n_bytes = 0;
    *is_literal = !byte_level_to_bytes(spelling, n, bytes, &n_bytes);
    if (*is_literal)
        memcpy(bytes, spelling, n);
    return *is_literal ? n : n_bytes;
}

static kvp_status put_spelling(vocab *v, const char *spelling, size_t n, const json_t *id,
                               const char *where)
{
    if (!json_is_integer(id))
        return kvp_fail(KVP_E_INVALID, "%s: the id of token \"%s\" is not an integer", where,
                        spelling);
    char *bytes = malloc(n + 1);
    if (!bytes)
        return kvp_fail(KVP_E_NOMEM, "out of memory: a token of %zu bytes", n);
    bool is_literal;
    size_t n_bytes = translate(spelling, n, bytes, &is_literal);
    kvp_status status = vocab_put(v, json_integer_value(id), bytes, n_bytes, is_literal);
    free(bytes);
    return status ? kvp_fail(status, "%s: token \"%s\": %s", where, spelling, kvp_error()) : KVP_OK;
}

static void find_byte_ids(bpe *b, const json_t *vocab)
{
    uint32_t chars[256];
    byte_level_alphabet(chars);
    for (size_t byte = 0; byte < 256; byte++) {
        char spelling[4];
        const json_t *id = json_object_getn(vocab, spelling, utf8_encode(chars[byte], spelling));
        b->byte_ids[byte] = id ? (int32_t)json_integer_value(id) : -1;
    }
}

kvp_status tokenizer_load_vocab(struct tokenizer *t, const json_t *vocab, const char *where)
{
    if (!json_is_object(vocab) || !json_object_size(vocab))
        return kvp_fail(KVP_E_INVALID, "%s: the vocabulary is not an object of token ids", where);
    const char *spelling;
    size_t n;
    json_t *id;
    json_object_keylen_foreach((json_t *)(uintptr_t)vocab, spelling, n, id)
    {
        kvp_status status = put_spelling(&t->vocab, spelling, n, id, where);
        if (status)
            return status;
    }
    find_byte_ids(&t->bpe, vocab);
    return KVP_OK;
}

static int32_t spelling_id(const json_t *vocab, const char *spelling, size_t n)
{
    const json_t *id = json_object_getn(vocab, spelling, n);
    return id ? (int32_t)json_integer_value(id) : -1;
}

static int32_t joined_id(const json_t *vocab, const merge_text *m)
{
    char *joined = malloc(m->n_left + m->n_right + 1);
    if (!joined)
        return -2;
    memcpy(joined, m->left, m->n_left);
    memcpy(joined + m->n_left, m->right, m->n_right);
    int32_t id = spelling_id(vocab, joined, m->n_left + m->n_right);
    free(joined);
    return id;
}

kvp_status tokenizer_load_merge(struct tokenizer *t, const json_t *vocab, size_t rank,
                                const merge_text *m, const char *where)
{
    int32_t left = spelling_id(vocab, m->left, m->n_left);
    int32_t right = spelling_id(vocab, m->right, m->n_right);
    int32_t result = joined_id(vocab, m);
    if (result == -2)
        return kvp_fail(KVP_E_NOMEM, "out of memory: a merge of %zu bytes", m->n_left + m->n_right);
    if (left < 0 || right < 0 || result < 0)
        return kvp_fail(KVP_E_INVALID, "%s: merge %zu (\"%.*s %.*s\"): %s is not in the vocabulary",
                        where, rank + 1, (int)m->n_left, m->left, (int)m->n_right, m->right,
                        left < 0    ? "its left side"
                        : right < 0 ? "its right side"
                                    : "what it makes");
    bpe_set_merge(&t->bpe, rank, left, right, result);
    return KVP_OK;
}

bool merge_text_parse(const char *line, size_t n, merge_text *m)
{
    const char *space = memchr(line, ' ', n);
    if (!space || space == line || space + 1 == line + n)
        return false;
    *m = (merge_text){.left = line,
                      .n_left = (size_t)(space - line),
                      .right = space + 1,
                      .n_right = n - (size_t)(space - line) - 1};
    return !memchr(m->right, ' ', m->n_right);
}

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

static kvp_status load_merges(struct tokenizer *t, const json_t *vocab, const char *text, size_t n,
                              const char *where)
{
    size_t at = 0, length;
    const char *line;
    kvp_status status = KVP_OK;
    for (size_t rank = 0; !status && next_line(text, n, &at, &line, &length); rank++) {
        merge_text merge;
        if (!merge_text_parse(line, length, &merge))
            return kvp_fail(KVP_E_INVALID, "%s: merge %zu is not two tokens: \"%.*s\"", where,
                            rank + 1, (int)(length < 80 ? length : 80), line);
        status = tokenizer_load_merge(t, vocab, rank, &merge, where);
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

static kvp_status load_vocab_and_merges(const char *dir, struct tokenizer *t)
{
    json_t *vocab = NULL;
    char *merges = NULL;
    size_t n = 0;
    char where[FOLDER_PATH_BYTES];
    kvp_status status = json_file_load(dir, "vocab.json", &vocab);
    if (!status)
        status = folder_read(dir, "merges.txt", MERGES_LIMIT_BYTES, &merges, &n);
    if (!status)
        status = bpe_init(&t->bpe, count_lines(merges, n));
    if (!status)
        status = folder_path(dir, "vocab.json", where);
    if (!status)
        status = tokenizer_load_vocab(t, vocab, where);
    if (!status)
        status = folder_path(dir, "merges.txt", where);
    if (!status)
        status = check_merge_count(json_object_size(vocab), t->bpe.n_merges, where);
    if (!status)
        status = load_merges(t, vocab, merges, n, where);
    free(merges);
    json_decref(vocab);
    return status;
}

/* ---- added tokens ---------------------------------------------------------------------------- */

/* The id of the vocabulary entry that is spelled like this, -1 if there is none. */
static kvp_status find_spelling(const vocab *v, const char *spelling, size_t n, int64_t *id)
{
    char *bytes = malloc(n + 1);
    if (!bytes)
        return kvp_fail(KVP_E_NOMEM, "out of memory: a token of %zu bytes", n);
    bool is_literal;
    size_t n_bytes = translate(spelling, n, bytes, &is_literal);
    *id = vocab_find(v, bytes, n_bytes, is_literal);
    free(bytes);
    return KVP_OK;
}

static kvp_status choose_id(struct tokenizer *t, added_token *token, int64_t id)
{
    int64_t known;
    kvp_status status = find_spelling(&t->vocab, token->text, token->n, &known);
    if (!status && known < 0) {
        known = id >= 0 ? id : (int64_t)t->vocab.n_ids;
        status = vocab_put(&t->vocab, known, token->text, token->n, true);
    }
    if (!status)
        token->id = (int32_t)known;
    return status;
}

static bool flag(const json_t *json, const char *key, bool missing)
{
    const json_t *value = json_object_get(json, key);
    return json_is_boolean(value) ? json_is_true(value) : missing;
}

kvp_status tokenizer_load_added(struct tokenizer *t, const json_t *json, int64_t id, bool special,
                                const char *where)
{
    if (json_is_unset(json))
        return KVP_OK;
    const json_t *text = json_is_object(json) ? json_object_get(json, "content") : json;
    if (!json_is_string(text))
        return kvp_fail(KVP_E_INVALID, "%s: an added token has no text", where);
    special = flag(json, "special", special);
    added_token token = {.text = json_string_value(text),
                         .n = json_string_length(text),
                         .single_word = flag(json, "single_word", false),
                         .lstrip = flag(json, "lstrip", false),
                         .rstrip = flag(json, "rstrip", false),
                         .normalized = flag(json, "normalized", !special)};
    if (!token.n || added_tokens_find(&t->added, token.text, token.n))
        return KVP_OK;
    kvp_status status = choose_id(t, &token, id);
    if (status)
        return kvp_fail(status, "%s: added token \"%s\": %s", where, token.text, kvp_error());
    return added_tokens_add(&t->added, &token);
}

/* "added_tokens_decoder": {"50256": {"content": ...}, ...} */
static kvp_status load_added_decoder(struct tokenizer *t, json_t *decoder, const char *where)
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
        status = tokenizer_load_added(t, token, id, false, where);
        if (status)
            break;
    }
    return status;
}

static const char *const special_keys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                           "pad_token", "cls_token", "mask_token"};

/* The special tokens that tokenizer_config.json and special_tokens_map.json name. */
static kvp_status load_special_keys(struct tokenizer *t, const json_t *root, const char *where)
{
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < sizeof special_keys / sizeof *special_keys && !status; i++) {
        const json_t *token = json_object_get(root, special_keys[i]);
        if (json_is_string(token) || json_is_object(token))
            status = tokenizer_load_added(t, token, -1, true, where);
    }
    const json_t *more = json_object_get(root, "additional_special_tokens");
    for (size_t i = 0; json_is_array(more) && i < json_array_size(more) && !status; i++)
        status = tokenizer_load_added(t, json_array_get(more, i), -1, true, where);
    return status;
}

static kvp_status check_config(const json_t *config, bool has_pipeline, const char *where)
{
    const json_t *class = json_object_get(config, "tokenizer_class");
    if (!has_pipeline && !json_is_unset(class) && !json_is_text(class, "GPT2Tokenizer") &&
        !json_is_text(class, "GPT2TokenizerFast") && !json_is_text(class, "TokenizersBackend"))
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: tokenizer_class %s is not supported (GPT2Tokenizer is); a "
                        "tokenizer.json beside it may be",
                        where, json_is_string(class) ? json_string_value(class) : "(not a text)");
    if (json_is_true(json_object_get(config, "add_bos_token")))
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: add_bos_token true is not supported", where);
    return KVP_OK;
}

static kvp_status load_config(const char *dir, struct tokenizer *t, bool has_pipeline)
{
    if (!folder_has(dir, "tokenizer_config.json"))
        return KVP_OK;
    char where[FOLDER_PATH_BYTES];
    json_t *config = NULL;
    kvp_status status = folder_path(dir, "tokenizer_config.json", where);
    if (!status)
        status = json_file_load(dir, "tokenizer_config.json", &config);
    if (!status)
        status = check_config(config, has_pipeline, where);
    if (status)
        goto done;
    if (!has_pipeline)
        t->add_prefix_space = flag(config, "add_prefix_space", false);
    status = load_added_decoder(t, json_object_get(config, "added_tokens_decoder"), where);
    if (!status)
        status = load_special_keys(t, config, where);
done:
    json_decref(config);
    return status;
}

static kvp_status load_special_map(const char *dir, struct tokenizer *t)
{
    if (!folder_has(dir, "special_tokens_map.json"))
        return KVP_OK;
    json_t *map = NULL;
    kvp_status status = json_file_load(dir, "special_tokens_map.json", &map);
    if (!status)
        status = load_special_keys(t, map, "special_tokens_map.json");
    json_decref(map);
    return status;
}

/* added_tokens.json: {"text": id, ...} */
static kvp_status load_added_file(const char *dir, struct tokenizer *t)
{
    if (!folder_has(dir, "added_tokens.json"))
        return KVP_OK;
    json_t *map = NULL;
    kvp_status status = json_file_load(dir, "added_tokens.json", &map);
    const char *text;
    json_t *id;
    json_object_foreach(map, text, id)
    {
        json_t *token = json_string(text);
        if (!token)
            status = kvp_fail(KVP_E_NOMEM, "out of memory: an added token");
        else if (!json_is_integer(id))
            status = kvp_fail(KVP_E_INVALID,
                              "added_tokens.json: the id of \"%s\" is not an integer", text);
        else
            status =
                tokenizer_load_added(t, token, json_integer_value(id), false, "added_tokens.json");
        json_decref(token);
        if (status)
            break;
    }
    json_decref(map);
    return status;
}

/* What GPT2Tokenizer assumes when no file names special tokens. */
static kvp_status load_default_special(struct tokenizer *t)
{
    static const char text[] = "<|endoftext|>";
    int64_t id = -1;
    kvp_status status = find_spelling(&t->vocab, text, sizeof text - 1, &id);
    if (status || t->added.n || id < 0)
        return status;
    const added_token token = {.text = text, .n = sizeof text - 1, .id = (int32_t)id};
    return added_tokens_add(&t->added, &token);
}

static kvp_status load_pipeline(const char *dir, struct tokenizer *t)
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

kvp_status tokenizer_files_load(const char *dir, struct tokenizer *t)
{
    kvp_status status = folder_check(dir);
    if (status)
        return status;
    bool has_pipeline = folder_has(dir, "tokenizer.json");
    if (!has_pipeline && !folder_has(dir, "vocab.json"))
        return kvp_fail(KVP_E_IO,
                        "%s: no tokenizer: neither tokenizer.json nor vocab.json is there", dir);
    status = splitter_open(&t->splitter);
    if (!status)
        status = has_pipeline ? load_pipeline(dir, t) : load_vocab_and_merges(dir, t);
    if (!status)
        status = load_config(dir, t, has_pipeline);
    if (!status)
        status = load_special_map(dir, t);
    if (!status)
        status = load_added_file(dir, t);
    if (!status && !has_pipeline)
        status = load_default_special(t);
    return status;
}
