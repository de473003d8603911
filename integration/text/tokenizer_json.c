/* tokenizer_json.c - tokenizer.json: a pipeline of parts, each of which must be one that this
 * tokenizer is equal to. What is not is an error that names the part, never a guess. */
#include "integration/text/tokenizer_files.h"

#include <string.h>

static const char *type_of(const json_t *part)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    return type ? type : "(no type)";
}

static kvp_status unsupported(const char *where, const char *part, const char *what)
{
    return kvp_fail(KVP_E_UNSUPPORTED, "%s: %s %s is not supported; byte-level BPE as in GPT-2 is",
                    where, part, what);
}

static bool is_empty_text(const json_t *json)
{
    return json_is_unset(json) || json_is_text(json, "");
}

/* ---- model ----------------------------------------------------------------------------------- */

static kvp_status check_model(const json_t *model, const char *where)
{
    if (!json_is_object(model))
        return kvp_fail(KVP_E_INVALID, "%s: there is no \"model\"", where);
    const json_t *type = json_object_get(model, "type"); /* older files leave it out for BPE */
    if (!json_is_unset(type) && !json_is_text(type, "BPE"))
        return unsupported(where, "model type", type_of(model));
    if (json_number_value(json_object_get(model, "dropout")) > 0)
        return unsupported(where, "model", "with dropout");
    if (!is_empty_text(json_object_get(model, "continuing_subword_prefix")) ||
        !is_empty_text(json_object_get(model, "end_of_word_suffix")))
        return unsupported(where, "model", "with continuing_subword_prefix or end_of_word_suffix");
    if (json_is_true(json_object_get(model, "byte_fallback")))
        return unsupported(where, "model", "with byte_fallback");
    if (json_is_true(json_object_get(model, "ignore_merges")))
        return unsupported(where, "model", "with ignore_merges");
    return KVP_OK;
}

/* A merge is "left right", or ["left", "right"]. */
static bool parse_merge(const json_t *json, merge_text *m)
{
    if (json_is_string(json))
        return merge_text_parse(json_string_value(json), json_string_length(json), m);
    const json_t *left = json_array_get(json, 0), *right = json_array_get(json, 1);
    if (json_array_size(json) != 2 || !json_is_string(left) || !json_is_string(right))
        return false;
    *m = (merge_text){.left = json_string_value(left),
                      .n_left = json_string_length(left),
                      .right = json_string_value(right),
                      .n_right = json_string_length(right)};
    return true;
}

static kvp_status load_merges(struct tokenizer *t, const json_t *vocab, const json_t *merges,
                              const char *where)
{
    kvp_status status = KVP_OK;
    for (size_t rank = 0; rank < json_array_size(merges) && !status; rank++) {
        merge_text merge;
        if (!parse_merge(json_array_get(merges, rank), &merge))
            return kvp_fail(KVP_E_INVALID, "%s: merge %zu is not two tokens", where, rank + 1);
        status = tokenizer_load_merge(t, vocab, rank, &merge, where);
    }
    return status;
}

static kvp_status load_model(struct tokenizer *t, const json_t *model, const char *where)
{
    const json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    kvp_status status = check_model(model, where);
    if (status)
        return status;
    if (!json_is_array(merges))
        return kvp_fail(KVP_E_INVALID, "%s: the model has no merges", where);
    status = bpe_init(&t->bpe, json_array_size(merges));
    if (!status)
        status = tokenizer_load_vocab(t, vocab, where);
    if (!status)
        status = load_merges(t, vocab, merges, where);
    return status;
}

/* ---- what comes before and after ------------------------------------------------------------- */

static kvp_status load_pre_tokenizer(struct tokenizer *t, const json_t *part, const char *where)
{
    if (json_is_unset(part))
        return unsupported(where, "no", "pre_tokenizer");
    if (strcmp(type_of(part), "ByteLevel") != 0)
        return unsupported(where, "pre_tokenizer", type_of(part));
    if (json_is_false(json_object_get(part, "use_regex")))
        return unsupported(where, "pre_tokenizer", "ByteLevel without its pattern (use_regex)");
    /* Hugging Face's default for this member is true. */
    t->add_prefix_space = !json_is_false(json_object_get(part, "add_prefix_space"));
    return KVP_OK;
}

static kvp_status check_rest(const json_t *root, const char *where)
{
    const json_t *normalizer = json_object_get(root, "normalizer");
    if (!json_is_unset(normalizer))
        return unsupported(where, "normalizer", type_of(normalizer));
    const json_t *decoder = json_object_get(root, "decoder");
    if (strcmp(type_of(decoder), "ByteLevel") != 0)
        return unsupported(where, "decoder", type_of(decoder));
    const json_t *post = json_object_get(root, "post_processor");
    if (!json_is_unset(post) && strcmp(type_of(post), "ByteLevel") != 0)
        return unsupported(where, "post_processor", type_of(post));
    return KVP_OK;
}

static kvp_status load_added_tokens(struct tokenizer *t, const json_t *added, const char *where)
{
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < json_array_size(added) && !status; i++) {
        const json_t *token = json_array_get(added, i), *id = json_object_get(token, "id");
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return kvp_fail(KVP_E_INVALID, "%s: added token %zu has no id", where, i);
        status = tokenizer_load_added(t, token, json_integer_value(id), false, where);
    }
    return status;
}

kvp_status tokenizer_load_json(struct tokenizer *t, const json_t *root, const char *where)
{
    kvp_status status = check_rest(root, where);
    if (!status)
        status = load_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), where);
    if (!status)
        status = load_model(t, json_object_get(root, "model"), where);
    if (!status)
        status = load_added_tokens(t, json_object_get(root, "added_tokens"), where);
    return status;
}
