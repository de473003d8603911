/* input.c - reads the input whole: every command needs all of it before it can begin. */
#include "integration/cli/input.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LIMIT_BYTES ((size_t)1 << 30)

static kvp_status too_large(const input *in)
{
    return kvp_fail(KVP_E_RANGE, "%s: more than 1 GiB: that is too large for an input", in->name);
}

/* read(2) to the end; the file may be a pipe and need not tell its size. */
static kvp_status read_all(int fd, input *in)
{
    size_t capacity = 0;
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > (off_t)LIMIT_BYTES)
        return too_large(in);
    for (;;) {
        if (in->n_bytes > LIMIT_BYTES)
            return too_large(in);
        if (in->n_bytes == capacity) {
            capacity = capacity ? 2 * capacity : 1u << 16;
            char *grown = realloc(in->bytes, capacity);
            if (!grown)
                return kvp_fail(KVP_E_NOMEM, "%s: out of memory after %zu bytes", in->name,
                                in->n_bytes);
            in->bytes = grown;
        }
        ssize_t n = read(fd, in->bytes + in->n_bytes, capacity - in->n_bytes);
        if (n == 0)
            return KVP_OK;
        if (n > 0)
            in->n_bytes += (size_t)n;
        else if (errno != EINTR)
            return kvp_fail(KVP_E_IO, "%s: cannot read: %s", in->name, strerror(errno));
    }
}

static kvp_status read_argument(const char *text, input *in)
{
    in->name = "-p";
    in->bytes = strdup(text);
    if (!in->bytes)
        return kvp_fail(KVP_E_NOMEM, "out of memory for the prompt");
    in->n_bytes = strlen(text);
    return KVP_OK;
}

kvp_status input_read(const options *o, input *in)
{
    *in = (input){0};
    if (o->prompt)
        return read_argument(o->prompt, in);
    const char *path = o->file ? o->file : o->ids_file;
    bool is_stdin = strcmp(path, "-") == 0;
    in->name = is_stdin ? "stdin" : path;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return kvp_fail(KVP_E_IO, "%s: cannot open: %s", path, strerror(errno));
    kvp_status status = read_all(fd, in);
    if (!is_stdin)
        close(fd);
    return status;
}

void input_free(input *in)
{
    free(in->bytes);
    *in = (input){0};
}

/* Put the tokenizer's prefix before the ids. */
static kvp_status add_prefix(const tokenizer *t, int32_t **ids, size_t *n_ids)
{
    size_t n;
    const int32_t *prefix = tokenizer_prefix(t, &n);
    if (!n)
        return KVP_OK;
    int32_t *all = malloc((n + *n_ids) * sizeof *all);
    if (!all)
        return kvp_fail(KVP_E_NOMEM, "out of memory for %zu tokens", n + *n_ids);
    memcpy(all, prefix, n * sizeof *all);
    if (*n_ids)
        memcpy(all + n, *ids, *n_ids * sizeof *all);
    free(*ids);
    *ids = all;
    *n_ids += n;
    return KVP_OK;
}

kvp_status input_encode(const input *in, const tokenizer *t, int32_t **ids, size_t *n_ids)
{
    int32_t *encoded = NULL;
    size_t n = 0;
    kvp_status status = tokenizer_encode(t, in->bytes, in->n_bytes, &encoded, &n);
    if (!status)
        status = add_prefix(t, &encoded, &n);
    if (status) {
        free(encoded);
        return kvp_fail(status, "%s: %s", in->name, kvp_error());
    }
    *ids = encoded;
    *n_ids = n;
    return KVP_OK;
}

static kvp_status copy_ids(const input *in, const json_t *array, uint32_t n_vocab, int32_t *ids)
{
    size_t i;
    const json_t *item;
    json_array_foreach(array, i, item)
    {
        if (!json_is_integer(item))
            return kvp_fail(KVP_E_RANGE, "%s: element %zu of the array is not an integer", in->name,
                            i);
        json_int_t id = json_integer_value(item);
        if (id < 0 || id >= (json_int_t)n_vocab)
            return kvp_fail(KVP_E_RANGE,
                            "%s: element %zu of the array is %" JSON_INTEGER_FORMAT
                            ", but token ids go from 0 to %u",
                            in->name, i, id, n_vocab - 1);
        ids[i] = (int32_t)id;
    }
    return KVP_OK;
}

kvp_status input_parse_ids(const input *in, uint32_t n_vocab, int32_t **ids, size_t *n_ids)
{
    json_error_t error;
    json_t *array = json_loadb(in->bytes ? in->bytes : "", in->n_bytes, 0, &error);
    if (!array)
        return kvp_fail(KVP_E_INVALID, "%s: not a JSON array of token ids: line %d, column %d: %s",
                        in->name, error.line, error.column, error.text);
    kvp_status status = KVP_OK;
    int32_t *copy = NULL;
    size_t n = json_array_size(array);
    if (!json_is_array(array))
        status = kvp_fail(KVP_E_INVALID, "%s: not a JSON array of token ids", in->name);
    else if (!(copy = malloc((n + 1) * sizeof *copy)))
        status = kvp_fail(KVP_E_NOMEM, "%s: out of memory for %zu tokens", in->name, n);
    else
        status = copy_ids(in, array, n_vocab, copy);
    json_decref(array);
    if (status) {
        free(copy);
        return status;
    }
    *ids = copy;
    *n_ids = n;
    return KVP_OK;
}
