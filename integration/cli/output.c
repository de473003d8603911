/* output.c - owns stdout: everything that is printed there goes through here, so that a write that
 * fails is an error like any other. */
#include "integration/cli/output.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static kvp_status flush(bool ok)
{
    if (ok && fflush(stdout) == 0)
        return KVP_OK;
    return kvp_fail(KVP_E_IO, "cannot write to stdout: %s", strerror(errno));
}

kvp_status output_bytes(const char *bytes, size_t n)
{
    return flush(fwrite(bytes, 1, n, stdout) == n);
}

kvp_status output_line(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    bool ok = vprintf(format, args) >= 0 && putchar('\n') != EOF;
    va_end(args);
    return flush(ok);
}

kvp_status output_json(json_t *object)
{
    if (!object)
        return kvp_fail(KVP_E_NOMEM, "out of memory for the JSON object");
    bool ok = json_dumpf(object, stdout, JSON_COMPACT) == 0 && putchar('\n') != EOF;
    json_decref(object);
    return flush(ok);
}

json_t *json_finite(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

json_t *json_hash(uint64_t hash)
{
    return json_sprintf("%016" PRIx64, hash);
}

json_t *json_ids(const int32_t *ids, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, json_integer(ids[i]));
    return array;
}

static kvp_status make_room(text_output *t, size_t n)
{
    if (t->capacity - t->n >= n)
        return KVP_OK;
    size_t capacity = 2 * (t->capacity + n);
    char *grown = realloc(t->text, capacity);
    if (!grown)
        return kvp_fail(KVP_E_NOMEM, "out of memory for %zu bytes of text", capacity);
    t->text = grown;
    t->capacity = capacity;
    return KVP_OK;
}

/* `n` more bytes are at the end of the text. */
static kvp_status add(text_output *t, size_t n)
{
    t->n += n;
    return t->print && n ? output_bytes(t->text + t->n - n, n) : KVP_OK;
}

static kvp_status add_id(text_output *t, int32_t id)
{
    const size_t room = 16;
    kvp_status status = make_room(t, room);
    if (status)
        return status;
    return add(t, (size_t)snprintf(t->text + t->n, room, "%c%d", t->n ? ',' : '[', (int)id));
}

static kvp_status finish_ids(text_output *t)
{
    const size_t room = 4;
    kvp_status status = make_room(t, room);
    if (status)
        return status;
    return add(t, (size_t)snprintf(t->text + t->n, room, "%s]\n", t->n ? "" : "["));
}

kvp_status text_output_token(text_output *t, int32_t id)
{
    size_t n;
    if (!t->tokenizer)
        return add_id(t, id);
    const char *bytes = tokenizer_token_bytes(t->tokenizer, id, &n);
    kvp_status status = make_room(t, 3 * (n + 4));
    return status ? status : add(t, utf8_stream_push(&t->stream, bytes, n, t->text + t->n));
}

kvp_status text_output_finish(text_output *t)
{
    if (!t->tokenizer)
        return finish_ids(t);
    kvp_status status = make_room(t, 12);
    if (!status)
        status = add(t, utf8_stream_finish(&t->stream, t->text + t->n));
    if (!status && t->print && (t->ends_line || isatty(STDOUT_FILENO)))
        status = output_bytes("\n", 1);
    return status;
}

json_t *text_output_json(const text_output *t)
{
    return t->tokenizer ? json_stringn(t->text ? t->text : "", t->n) : json_null();
}

void text_output_fini(text_output *t)
{
    free(t->text);
    *t = (text_output){0};
}
