/* chat.c - a conversation, turn by turn, in the format of its model (chat_format.h). */
#include "integration/text/chat.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "integration/text/chat_format.h"
#include "integration/text/utf8.h"

struct chat {
    const tokenizer *t;
    chat_format format;
};

kvp_status chat_open(const tokenizer *t, chat **out)
{
    chat *c = calloc(1, sizeof *c);
    if (!c)
        return chat_no_memory();
    c->t = t;
    kvp_status status = chat_format_init(&c->format, t);
    if (status) {
        chat_close(c);
        return status;
    }
    *out = c;
    return KVP_OK;
}

void chat_close(chat *c)
{
    if (!c)
        return;
    chat_format_fini(&c->format);
    free(c);
}

const char *chat_name(const chat *c)
{
    return c->format.marks->name;
}

bool chat_is_end(const chat *c, int32_t id)
{
    const char *const *ends = c->format.marks->ends;
    if (id < 0)
        return false;
    if (id == c->t->eos || id == tokenizer_find_special(c->t, c->format.end))
        return true;
    for (size_t i = 0; i < 3 && ends[i]; i++) {
        if (id == tokenizer_find_special(c->t, ends[i]))
            return true;
    }
    return false;
}

/* ---- turns ----------------------------------------------------------------------------------- */

#define MAX_PIECES 24
#define DATE_BYTES 32

typedef struct turns {
    const chat_format *f;
    text_piece pieces[MAX_PIECES];
    size_t n;
    char date[DATE_BYTES];
} turns;

static void put(turns *t, const char *text)
{
    if (text)
        t->pieces[t->n++] = (text_piece){.text = text, .n = strlen(text)};
}

/* White space as Python's str.strip() knows it. */
static bool is_space_at(const char *text, size_t length)
{
    uint32_t c = length ? utf8_decode(text, length) : 0;
    return text_is_space(c) || (c >= 0x1C && c <= 0x1F);
}

static void trim(text_piece *p)
{
    for (size_t length; (length = utf8_first(p->text, p->n)) && is_space_at(p->text, length);) {
        p->text += length;
        p->n -= length;
    }
    for (size_t length;
         (length = utf8_last(p->text, p->n)) && is_space_at(p->text + p->n - length, length);)
        p->n -= length;
}

/* Checked here, so that messages count bytes from where the text begins. */
static kvp_status put_foreign(turns *t, const char *text, bool trims)
{
    text_piece piece = {.text = text, .n = strlen(text), .is_foreign = true};
    kvp_status status = tokenizer_check_text(piece.text, piece.n);
    if (trims && !status)
        trim(&piece);
    t->pieces[t->n++] = piece;
    return status;
}

static void put_header(turns *t, const char *role)
{
    put(t, t->f->marks->open);
    put(t, role);
    put(t, t->f->marks->close);
}

static void put_end(turns *t)
{
    put(t, t->f->end);
    put(t, t->f->marks->separator);
}

static kvp_status put_date(turns *t)
{
    const char *date = t->f->date;
    if (!*date) {
        time_t now = time(NULL);
        struct tm day;
        if (!localtime_r(&now, &day) || !strftime(t->date, sizeof t->date, "%d %b %Y", &day))
            return kvp_fail(KVP_E_IO, "the date, which the chat template wants, is not known");
        date = t->date;
    }
    put(t, CHAT_DATED);
    put(t, date);
    put(t, "\n\n");
    return KVP_OK;
}

static kvp_status put_system(turns *t, const char *system)
{
    const chat_format *f = t->f;
    if (system && !f->takes_system)
        return chat_unsupported("has no place for a text of the system");
    if (!system && !f->system && !f->date)
        return KVP_OK;
    put_header(t, "system");
    kvp_status status = f->date ? put_date(t) : KVP_OK;
    if (system && !status)
        status = put_foreign(t, system, f->trims_system);
    else if (!system)
        put(t, f->system);
    put_end(t);
    return status;
}

static kvp_status put_user(turns *t, const char *user)
{
    put_header(t, "user");
    kvp_status status = put_foreign(t, user, t->f->trims_user);
    put_end(t);
    put_header(t, "assistant");
    return status;
}

kvp_status chat_first_turn(const chat *c, const char *system, const char *user, int32_t **ids,
                           size_t *n_ids)
{
    turns t = {.f = &c->format};
    put(&t, c->format.bos);
    kvp_status status = put_system(&t, system);
    if (!status)
        status = put_user(&t, user);
    if (status)
        return status;
    return tokenizer_encode_pieces(c->t, t.pieces, t.n, ids, n_ids);
}

/* Text behind a special token is encoded by itself, but the token may take white space from it: so
 * these ids begin with the one that ends a turn, which is left out where the answer has it. */
kvp_status chat_next_turn(const chat *c, int32_t last, const char *user, int32_t **ids,
                          size_t *n_ids)
{
    turns t = {.f = &c->format};
    put_end(&t);
    kvp_status status = put_user(&t, user);
    if (!status)
        status = tokenizer_encode_pieces(c->t, t.pieces, t.n, ids, n_ids);
    if (!status && *n_ids && (*ids)[0] == last) {
        --*n_ids;
        memmove(*ids, *ids + 1, *n_ids * sizeof **ids);
    }
    return status;
}
