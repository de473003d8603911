/* batch_input.c - lines to prompts. */
#include "integration/cli/batch_input.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

kvp_status batch_prompt_reject(batch_prompt *p)
{
    free(p->error);
    p->error = strdup(kvp_error());
    return p->error ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory for a message");
}

/* The prompt's text: borrowed from the line, or from *holder, which the caller releases. */
typedef struct prompt_text {
    const char *text;
    size_t n;
    json_t *holder;
} prompt_text;

static kvp_status read_object(const char *line, size_t n, batch_prompt *p, prompt_text *out)
{
    json_error_t error;
    json_t *object = json_loadb(line, n, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &error);
    if (!object)
        return kvp_fail(KVP_E_INVALID, "not a JSON object: column %d: %s", error.column,
                        error.text);
    out->holder = object;
    p->id = json_incref(json_object_get(object, "id"));
    const json_t *prompt = json_object_get(object, "prompt");
    if (!json_is_string(prompt))
        return kvp_fail(KVP_E_INVALID, "the object has no string \"prompt\"");
    out->text = json_string_value(prompt);
    out->n = json_string_length(prompt);
    return KVP_OK;
}

static bool is_blank(char c)
{
    return memchr(" \t\r\v\f", c, 5) != NULL;
}

/* The line has more than white space. */
static kvp_status read_line(const char *line, size_t n, batch_prompt *p, prompt_text *out)
{
    const char *first = line;
    while (is_blank(*first))
        first++;
    if (*first == '{')
        return read_object(line, n, p, out);
    json_t *value = NULL;
    if (*first == '"')
        value = json_loadb(line, n, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
    if (value) /* it cannot be anything but a string */
        *out = (prompt_text){json_string_value(value), json_string_length(value), value};
    else
        *out = (prompt_text){.text = line, .n = n};
    return KVP_OK;
}

static kvp_status encode(const batch_encoder *encoder, const prompt_text *text, batch_prompt *p)
{
    kvp_status status = KVP_OK;
    if (text->n)
        status = encoder->encode(encoder->opaque, text->text, text->n, &p->tokens, &p->n_tokens);
    if (!status && p->n_tokens == 0)
        status = kvp_fail(KVP_E_INVALID, "the prompt is empty: there is nothing to continue");
    return status;
}

static kvp_status add(batch_input *in, batch_prompt **p)
{
    if (in->n == in->capacity) {
        size_t capacity = in->capacity ? 2 * in->capacity : 64;
        batch_prompt *prompts = realloc(in->prompts, capacity * sizeof *prompts);
        if (!prompts)
            return kvp_fail(KVP_E_NOMEM, "out of memory for %zu prompts", capacity);
        in->prompts = prompts;
        in->capacity = capacity;
    }
    *p = &in->prompts[in->n++];
    **p = (batch_prompt){0};
    return KVP_OK;
}

static kvp_status take_line(batch_input *in, size_t index, const char *line, size_t n,
                            const batch_encoder *encoder)
{
    batch_prompt *p = NULL;
    prompt_text text = {0};
    kvp_status status = add(in, &p);
    if (status)
        return status;
    p->index = index;
    status = read_line(line, n, p, &text);
    if (!status)
        status = encode(encoder, &text, p);
    json_decref(text.holder);
    if (status == KVP_E_NOMEM)
        return status;
    return status ? batch_prompt_reject(p) : KVP_OK;
}

static bool is_empty(const char *line, size_t n)
{
    while (n && is_blank(line[n - 1]))
        n--;
    return n == 0;
}

kvp_status batch_input_parse(const char *bytes, size_t n, const batch_encoder *encoder,
                             batch_input *out)
{
    *out = (batch_input){0};
    kvp_status status = KVP_OK;
    size_t index = 0;
    for (size_t at = 0; at < n && !status; index++) {
        const char *line = bytes + at, *end = memchr(line, '\n', n - at);
        size_t length = end ? (size_t)(end - line) : n - at;
        at += length + 1;
        if (end && length && line[length - 1] == '\r')
            length--;
        if (!is_empty(line, length))
            status = take_line(out, index, line, length, encoder);
    }
    return status;
}

void batch_input_fini(batch_input *in)
{
    for (size_t i = 0; i < in->n; i++) {
        json_decref(in->prompts[i].id);
        free(in->prompts[i].error);
        free(in->prompts[i].tokens);
    }
    free(in->prompts);
    *in = (batch_input){0};
}
