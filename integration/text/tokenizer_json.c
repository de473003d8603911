/* tokenizer_json.c - tokenizer.json: a pipeline of parts, each of which must be one that this
 * tokenizer is equal to. What is not is an error that names the part, never a guess. */
#include "integration/text/tokenizer_build.h"

#include <string.h>

static const char *type_of(const json_t *part)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    return type ? type : "(no type)";
}

static bool is_type(const json_t *part, const char *type)
{
    return strcmp(type_of(part), type) == 0;
}

static bool is_empty_text(const json_t *json)
{
    return json_is_unset(json) || json_is_text(json, "");
}

/* Parts come alone or as a "Sequence", whose `list` they are then in. */
static size_t count_parts(const json_t *part, const char *list)
{
    if (json_is_unset(part))
        return 0;
    return is_type(part, "Sequence") ? json_array_size(json_object_get(part, list)) : 1;
}

static const json_t *part_at(const json_t *part, const char *list, size_t i)
{
    return is_type(part, "Sequence") ? json_array_get(json_object_get(part, list), i) : part;
}

/* ---- model ----------------------------------------------------------------------------------- */

static kvp_status check_model(const json_t *model, const char *where)
{
    if (!json_is_object(model))
        return kvp_fail(KVP_E_INVALID, "%s: there is no \"model\"", where);
    const json_t *type = json_object_get(model, "type"); /* older files leave it out for BPE */
    if (!json_is_unset(type) && !json_is_text(type, "BPE"))
        return tokenizer_unsupported(where, "model type", type_of(model));
    if (json_number_value(json_object_get(model, "dropout")) > 0)
        return tokenizer_unsupported(where, "model", "with dropout");
    if (!is_empty_text(json_object_get(model, "continuing_subword_prefix")) ||
        !is_empty_text(json_object_get(model, "end_of_word_suffix")))
        return tokenizer_unsupported(where, "model",
                                     "with continuing_subword_prefix or end_of_word_suffix");
    if (json_is_true(json_object_get(model, "byte_fallback")))
        return tokenizer_unsupported(where, "model", "with byte_fallback");
    return KVP_OK;
}

kvp_status tokenizer_put_vocab_json(tokenizer *t, const json_t *vocab, const char *where)
{
    if (!json_is_object(vocab) || !json_object_size(vocab))
        return kvp_fail(KVP_E_INVALID, "%s: the vocabulary is not an object of token ids", where);
    const char *spelling;
    size_t n;
    json_t *id;
    json_object_keylen_foreach((json_t *)(uintptr_t)vocab, spelling, n, id)
    {
        if (!json_is_integer(id))
            return kvp_fail(KVP_E_INVALID, "%s: the id of token \"%s\" is not an integer", where,
                            spelling);
        kvp_status status = tokenizer_put_token(t, json_integer_value(id), spelling, n, where);
        if (status)
            return status;
    }
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

static kvp_status load_merges(tokenizer *t, const json_t *merges, const char *where)
{
    if (!json_is_array(merges))
        return kvp_fail(KVP_E_INVALID, "%s: the model has no merges", where);
    kvp_status status = tokenizer_start_merges(t, json_array_size(merges));
    for (size_t rank = 0; rank < json_array_size(merges) && !status; rank++) {
        merge_text merge;
        if (!parse_merge(json_array_get(merges, rank), &merge))
            return kvp_fail(KVP_E_INVALID, "%s: merge %zu is not two tokens", where, rank + 1);
        status = tokenizer_put_merge(t, rank, &merge, where);
    }
    return status;
}

/* The token for bytes that the vocabulary lacks. */
static kvp_status load_unknown(tokenizer *t, const json_t *model, const char *where)
{
    const json_t *text = json_object_get(model, "unk_token");
    if (json_is_unset(text))
        return KVP_OK;
    int64_t id = -1;
    kvp_status status = KVP_OK;
    if (json_is_string(text))
        status = tokenizer_find_spelling(t, json_string_value(text), json_string_length(text), &id);
    if (!status && id < 0)
        return kvp_fail(KVP_E_INVALID, "%s: the model's unk_token is not in its vocabulary", where);
    t->bpe.unknown_id = (int32_t)id;
    t->bpe.fuses_unknown = json_is_true(json_object_get(model, "fuse_unk"));
    return status;
}

static kvp_status load_model(tokenizer *t, const json_t *model, const char *where)
{
    kvp_status status = tokenizer_put_vocab_json(t, json_object_get(model, "vocab"), where);
    if (!status)
        status = load_merges(t, json_object_get(model, "merges"), where);
    t->ignores_merges = json_is_true(json_object_get(model, "ignore_merges"));
    return status ? status : load_unknown(t, model, where);
}

/* ---- before the model: normalizer, pre_tokenizer --------------------------------------------- */

static kvp_status load_normalizer(tokenizer *t, const json_t *part, const char *where)
{
    for (size_t i = 0; i < count_parts(part, "normalizers"); i++) {
        const json_t *one = part_at(part, "normalizers", i);
        if (!is_type(one, "NFC"))
            return tokenizer_unsupported(where, "normalizer", type_of(one));
        t->composes = true;
    }
    return KVP_OK;
}

/* ByteLevel after parts that have cut the text already. */
static bool is_plain_byte_level(const json_t *part, bool with_pattern)
{
    return is_type(part, "ByteLevel") &&
           json_is_false(json_object_get(part, "use_regex")) != with_pattern &&
           json_is_false(json_object_get(part, "add_prefix_space"));
}

/* What the parts are together; false: nothing that is known. */
static bool find_kind(tokenizer *t, const json_t *first, const json_t *second, splitter_kind *kind)
{
    if (!second) { /* Hugging Face's default for these members is true */
        *kind = SPLITTER_GPT2;
        t->add_prefix_space = !json_is_false(json_object_get(first, "add_prefix_space"));
        return is_type(first, "ByteLevel") && !json_is_false(json_object_get(first, "use_regex"));
    }
    if (is_type(first, "Digits")) {
        *kind = SPLITTER_SMOLLM;
        return json_is_true(json_object_get(first, "individual_digits")) &&
               is_plain_byte_level(second, true);
    }
    const char *regex =
        json_string_value(json_object_get(json_object_get(first, "pattern"), "Regex"));
    return is_type(first, "Split") &&
           json_is_text(json_object_get(first, "behavior"), "Isolated") &&
           !json_is_true(json_object_get(first, "invert")) && regex &&
           splitter_kind_of_regex(regex, kind) && is_plain_byte_level(second, false);
}

static const char *describe(const json_t *first, size_t n_parts)
{
    if (n_parts > 1)
        return is_type(first, "Split") ? "Sequence with such a Split" : "Sequence";
    return is_type(first, "ByteLevel") ? "ByteLevel without its pattern (use_regex)"
                                       : type_of(first);
}

static kvp_status load_pre_tokenizer(tokenizer *t, const json_t *part, const char *where)
{
    size_t n = count_parts(part, "pretokenizers");
    if (n == 0)
        return tokenizer_unsupported(where, "no", "pre_tokenizer");
    const json_t *first = part_at(part, "pretokenizers", 0);
    const json_t *second = n > 1 ? part_at(part, "pretokenizers", 1) : NULL;
    splitter_kind kind;
    if (n > 2 || !find_kind(t, first, second, &kind))
        return tokenizer_unsupported(where, "pre_tokenizer", describe(first, n));
    return splitter_open(kind, &t->splitter);
}

/* ---- after it: post_processor, decoder ------------------------------------------------------- */

/* {"SpecialToken": {"id": NAME}}, whose ids are in "special_tokens" of the template. */
static kvp_status push_special(tokenizer *t, const json_t *template, const json_t *special,
                               const char *where)
{
    const char *name = json_string_value(json_object_get(special, "id"));
    const json_t *entry = json_object_get(json_object_get(template, "special_tokens"), name);
    const json_t *ids = json_object_get(entry, "ids");
    kvp_status status = KVP_OK;
    if (!name || !json_array_size(ids))
        return kvp_fail(KVP_E_INVALID, "%s: post_processor: a special token without ids", where);
    for (size_t i = 0; i < json_array_size(ids) && !status; i++) {
        json_int_t id = json_integer_value(json_array_get(ids, i));
        if (!json_is_integer(json_array_get(ids, i)) || id < 0 || id >= VOCAB_MAX_IDS)
            return kvp_fail(KVP_E_INVALID, "%s: post_processor: an id of \"%s\" is none", where,
                            name);
        status = id_list_push(&t->prefix, (int32_t)id);
    }
    return status;
}

/* A template is a list of special tokens and one sequence, the text. */
static kvp_status load_template(tokenizer *t, const json_t *template, const char *where)
{
    const json_t *single = json_object_get(template, "single");
    bool has_text = false;
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < json_array_size(single) && !status; i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *special = json_object_get(item, "SpecialToken");
        if (special && !has_text)
            status = push_special(t, template, special, where);
        else if (special || has_text)
            return tokenizer_unsupported(where, "post_processor", "that adds to the text's end");
        else if (json_object_get(item, "Sequence"))
            has_text = true;
    }
    if (!status && !has_text)
        return kvp_fail(KVP_E_INVALID, "%s: post_processor: a template without a text", where);
    return status;
}

static kvp_status load_post_processor(tokenizer *t, const json_t *part, const char *where)
{
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < count_parts(part, "processors") && !status; i++) {
        const json_t *one = part_at(part, "processors", i);
        if (is_type(one, "TemplateProcessing") && !t->prefix.n)
            status = load_template(t, one, where);
        else if (!is_type(one, "ByteLevel"))
            return tokenizer_unsupported(where, "post_processor", type_of(one));
    }
    return status;
}

static kvp_status check_decoder(const json_t *part, const char *where)
{
    return is_type(part, "ByteLevel") ? KVP_OK
                                      : tokenizer_unsupported(where, "decoder", type_of(part));
}

/* ---- the pipeline ---------------------------------------------------------------------------- */

static kvp_status load_added_tokens(tokenizer *t, const json_t *added, const char *where)
{
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < json_array_size(added) && !status; i++) {
        const json_t *token = json_array_get(added, i), *id = json_object_get(token, "id");
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return kvp_fail(KVP_E_INVALID, "%s: added token %zu has no id", where, i);
        status = tokenizer_put_added_json(t, token, json_integer_value(id), false, where);
    }
    return status;
}

kvp_status tokenizer_load_json(tokenizer *t, const json_t *root, const char *where)
{
    kvp_status status = check_model(json_object_get(root, "model"), where);
    if (!status)
        status = load_normalizer(t, json_object_get(root, "normalizer"), where);
    if (!status)
        status = check_decoder(json_object_get(root, "decoder"), where);
    if (!status)
        status = load_post_processor(t, json_object_get(root, "post_processor"), where);
    if (!status)
        status = load_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), where);
    if (!status)
        status = load_model(t, json_object_get(root, "model"), where);
    if (!status)
        status = load_added_tokens(t, json_object_get(root, "added_tokens"), where);
    return status;
}
