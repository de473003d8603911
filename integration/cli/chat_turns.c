/* chat_turns.c - lines of stdin, read with read(2), so that a signal ends the wait for one. */
#include "integration/cli/chat_turns.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "integration/cli/interrupt.h"

#define READ_BYTES ((size_t)64 << 10)
#define LIMIT_BYTES ((size_t)1 << 30)

void chat_turns_init(chat_turns *t)
{
    *t = (chat_turns){.is_terminal = isatty(STDIN_FILENO)};
}

void chat_turns_fini(chat_turns *t)
{
    free(t->input.bytes);
    free(t->turn.bytes);
    *t = (chat_turns){0};
}

/* Room for n more bytes. */
static kvp_status make_room(byte_buffer *b, size_t n)
{
    if (b->capacity - b->n >= n)
        return KVP_OK;
    if (b->n > LIMIT_BYTES)
        return kvp_fail(KVP_E_RANGE, "stdin: more than 1 GiB: that is too much for a turn");
    size_t capacity = b->n + n + b->n / 2;
    char *bytes = realloc(b->bytes, capacity);
    if (!bytes)
        return kvp_fail(KVP_E_NOMEM, "stdin: out of memory after %zu bytes", b->n);
    b->bytes = bytes;
    b->capacity = capacity;
    return KVP_OK;
}

static kvp_status append(byte_buffer *b, const char *bytes, size_t n)
{
    kvp_status status = make_room(b, n + 1);
    if (status)
        return status;
    memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
    b->bytes[b->n] = 0;
    return KVP_OK;
}

/* More input, or it is over. */
static kvp_status read_more(chat_turns *t)
{
    byte_buffer *in = &t->input;
    kvp_status status = make_room(in, READ_BYTES);
    if (status)
        return status;
    ssize_t n =
        interrupt_wait_input(STDIN_FILENO) ? read(STDIN_FILENO, in->bytes + in->n, READ_BYTES) : 0;
    if (n < 0 && errno != EINTR)
        return kvp_fail(KVP_E_IO, "stdin: cannot read: %s", strerror(errno));
    t->is_over = n == 0;
    in->n += n > 0 ? (size_t)n : 0;
    return KVP_OK;
}

/* The length of the first line of the input, without its end; the line is not used up. */
static kvp_status first_line(chat_turns *t, size_t *n)
{
    const byte_buffer *in = &t->input;
    size_t looked_at = 0;
    for (;;) {
        const char *end = in->n ? memchr(in->bytes + looked_at, '\n', in->n - looked_at) : NULL;
        *n = end ? (size_t)(end - in->bytes) : in->n;
        if (end || t->is_over)
            return KVP_OK;
        looked_at = in->n;
        kvp_status status = read_more(t);
        if (status)
            return status;
    }
}

static void use_up(byte_buffer *in, size_t n)
{
    n = n < in->n ? n : in->n;
    in->n -= n;
    memmove(in->bytes, in->bytes + n, in->n);
}

/* One line more for the turn. *goes_on: it ends in a backslash. */
static kvp_status take_line(chat_turns *t, bool *goes_on)
{
    size_t n;
    kvp_status status = first_line(t, &n);
    if (status || t->input.n == 0)
        return status;
    const char *line = t->input.bytes;
    size_t n_kept = n && line[n - 1] == '\r' ? n - 1 : n;
    *goes_on = n_kept && line[n_kept - 1] == '\\';
    n_kept -= *goes_on;
    status = append(&t->turn, line, n_kept);
    if (!status && *goes_on)
        status = append(&t->turn, "\n", 1);
    use_up(&t->input, n + 1);
    return status;
}

static void ask(const chat_turns *t, const char *prompt)
{
    if (t->is_terminal && isatty(STDERR_FILENO))
        fputs(prompt, stderr);
}

static bool has_more(const chat_turns *t)
{
    return !t->is_over || t->input.n;
}

static bool is_blank(const byte_buffer *b)
{
    return strspn(b->bytes, " \t\r\n\v\f") == b->n;
}

/* A turn, or a blank one at the end. */
static kvp_status read_turn(chat_turns *t)
{
    bool goes_on = true;
    t->turn.n = 0;
    kvp_status status = append(&t->turn, "", 0);
    for (const char *prompt = "> "; goes_on && has_more(t) && !status; prompt = "  ") {
        ask(t, prompt);
        goes_on = false;
        status = take_line(t, &goes_on);
    }
    return status;
}

kvp_status chat_turns_next(chat_turns *t, const char **turn)
{
    *turn = NULL;
    while (has_more(t)) {
        kvp_status status = read_turn(t);
        if (status)
            return status;
        if (interrupted())
            break;
        if (memchr(t->turn.bytes, 0, t->turn.n))
            return kvp_fail(KVP_E_RANGE, "the turn has a zero byte, which is no text");
        if (!is_blank(&t->turn)) {
            *turn = t->turn.bytes;
            return KVP_OK;
        }
    }
    ask(t, "\n");
    return KVP_OK;
}
