/* chat_format.c - recognises what conversations look like by the model's chat template.
 *
 * A template is known by what it can write (chat_template.h): its turns must have a known shape,
 * and so must whatever else it writes. Anything else is an error, because a format that is only
 * similar makes a model worse in ways that do not show. */
#define _GNU_SOURCE /* memmem */
#include "integration/text/chat_format.h"

#include <stdlib.h>
#include <string.h>

#include "integration/text/chat_template.h"

static const chat_marks known[] = {
    {"ChatML", "<|im_start|>", "\n", "<|im_end|>", "\n", {"<|endoftext|>"}},
    {"Llama-3",
     "<|start_header_id|>",
     "<|end_header_id|>\n\n",
     "<|eot_id|>",
     "",
     {"<|end_of_text|>", "<|eom_id|>"}},
    {"Zephyr", "<|", "|>\n", "", "\n", {NULL}},
};

kvp_status chat_unsupported(const char *why)
{
    return kvp_fail(KVP_E_UNSUPPORTED,
                    "the model's chat template %s; --chat knows the formats ChatML, Llama-3 and "
                    "Zephyr. Without --chat, -p takes a prompt that you have formatted",
                    why);
}

kvp_status chat_no_memory(void)
{
    return kvp_fail(KVP_E_NOMEM, "out of memory: the chat format");
}

/* ---- turns ----------------------------------------------------------------------------------- */

/* `parts` put together (NULL: behind the last); malloc'd. */
static char *joined(const char *const *parts)
{
    size_t n = 1;
    for (size_t i = 0; parts[i]; i++)
        n += strlen(parts[i]);
    char *text = malloc(n);
    if (!text)
        return NULL;
    *text = '\0';
    for (size_t i = 0; parts[i]; i++)
        strcat(text, parts[i]);
    return text;
}

/* How an outline spells the end of a turn. */
static const char *end_of(const chat_marks *m)
{
    return *m->end ? m->end : VALUE_EOS;
}

/* Whether text has this turn, with nothing more behind it. */
static bool has(const char *text, const char *turn, const char *open)
{
    const char *at = strstr(text, turn);
    if (!at)
        return false;
    at += strlen(turn);
    return !*at || strchr(VALUES, *at) || strncmp(at, open, strlen(open)) == 0;
}

static kvp_status find_turn(chat_format *f, const chat_marks *m, const chat_outline *o,
                            const char *role, const char *content)
{
    char *turn = joined(
        (const char *const[]){m->open, role, m->close, content, end_of(m), m->separator, NULL});
    if (!turn)
        return chat_no_memory();
    f->assigns_turns = has(o->assigned, turn, m->open);
    if (f->assigns_turns || has(o->written, turn, m->open))
        f->marks = m;
    free(turn);
    return KVP_OK;
}

/* Turns with these marks, of any role or of users: f->marks stays NULL if there are none. */
static kvp_status match(chat_format *f, const chat_marks *m, const chat_outline *o)
{
    static const char *const roles[] = {VALUE_ROLE, "user"};
    static const char *const contents[] = {VALUE_CONTENT, VALUE_TRIMMED};
    for (size_t i = 0; i < 4 && !f->marks; i++) {
        kvp_status status = find_turn(f, m, o, roles[i / 2], contents[i % 2]);
        if (status)
            return status;
        f->trims_user = f->trims_system = i % 2;
        f->takes_system = i / 2 == 0;
    }
    return KVP_OK;
}

static kvp_status find_marks(chat_format *f, const chat_outline *o)
{
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < sizeof known / sizeof *known && !f->marks && !status; i++)
        status = match(f, &known[i], o);
    return status || f->marks ? status : chat_unsupported("has another format");
}

/* Somewhere there is the header of an answer. */
static kvp_status check_answer(const chat_format *f, const chat_outline *o)
{
    char *header =
        joined((const char *const[]){f->marks->open, "assistant", f->marks->close, NULL});
    if (!header)
        return chat_no_memory();
    bool found = strstr(o->written, header) != NULL;
    free(header);
    return found ? KVP_OK : chat_unsupported("writes no header of an answer");
}

/* ---- the tokens at the ends ------------------------------------------------------------------ */

/* The text of a token, NUL-terminated and malloc'd. */
static char *token_text(const tokenizer *t, int32_t id)
{
    size_t n;
    const char *bytes = tokenizer_token_bytes(t, id, &n);
    return strndup(bytes, n);
}

static kvp_status find_end(chat_format *f, const tokenizer *t)
{
    const char *end = f->marks->end;
    if (*end ? tokenizer_find_special(t, end) < 0 : t->eos < 0)
        return chat_unsupported("ends turns with a token that the vocabulary lacks");
    f->end = *end ? strdup(end) : token_text(t, t->eos);
    return f->end ? KVP_OK : chat_no_memory();
}

/* Before the first turn there may be the token that begins a text, as a value or spelled. */
static kvp_status find_beginning(chat_format *f, const tokenizer *t, const chat_outline *o)
{
    const char *at = o->written, *open = f->marks->open;
    bool has_bos = strstr(at, VALUE_BOS) || strstr(o->assigned, VALUE_BOS);
    char *bos = t->bos >= 0 ? token_text(t, t->bos) : NULL;
    if (t->bos >= 0 && !bos)
        return chat_no_memory();
    if (bos && !has_bos && strcmp(bos, open) != 0 && strncmp(at, bos, strlen(bos)) == 0) {
        has_bos = true;
        at += strlen(bos);
    }
    if (has_bos)
        f->bos = bos;
    else
        free(bos);
    const char *first = strstr(at, open); /* check_answer() has found one */
    const char *expected =
        f->assigns_turns ? VALUE_OTHER VALUE_CONTENT VALUE_BOS : VALUE_OTHER VALUE_BOS;
    return strspn(at, expected) >= (size_t)(first - at)
               ? KVP_OK
               : chat_unsupported("writes more before the conversation");
}

/* ---- the system's turn ----------------------------------------------------------------------- */

static kvp_status keep(char **kept, const char *text, size_t n)
{
    if (*kept)
        return strlen(*kept) == n && memcmp(*kept, text, n) == 0
                   ? KVP_OK
                   : chat_unsupported("has several texts for the system");
    *kept = strndup(text, n);
    return *kept ? KVP_OK : chat_no_memory();
}

/* Turns that lists of tools are put into are not written without tools. */
static bool is_about_tools(const char *text, size_t n)
{
    return memmem(text, n, "tool", 4) || memmem(text, n, "Tool", 4) ||
           memmem(text, n, "function", 8);
}

static kvp_status find_date(chat_format *f, const char *template, const chat_outline *o)
{
    bool is_today = strstr(template, "strftime_now(\"%d %b %Y\")") != NULL;
    if (!is_today && !o->date)
        return chat_unsupported("wants a date that it does not say");
    f->date = strdup(is_today ? "" : o->date);
    return f->date ? KVP_OK : chat_no_memory();
}

/* text[0 .. n) is one thing that the system's turn can consist of. */
static kvp_status read_system(chat_format *f, const char *template, const chat_outline *o,
                              const char *text, size_t n)
{
    static const char dated[] = CHAT_DATED VALUE_OTHER "\n\n";
    if (n && strcspn(text, VALUES) >= n)
        return keep(&f->system, text, n);
    bool is_dated = memmem(text, n, dated, sizeof dated - 1) != NULL;
    if (!is_dated && n != 1)
        return !n || is_about_tools(text, n)
                   ? KVP_OK
                   : chat_unsupported("writes more into the system's turn");
    f->takes_system = true;
    if (n == 1 && *text != *VALUE_OTHER) {
        f->trims_system = *text == *VALUE_TRIMMED;
        return KVP_OK;
    }
    /* A variable: what was assigned to it. */
    f->trims_system = strstr(o->assigned, VALUE_TRIMMED) != NULL;
    kvp_status status = o->system ? keep(&f->system, o->system, strlen(o->system)) : KVP_OK;
    return !status && is_dated && !f->date ? find_date(f, template, o) : status;
}

static kvp_status find_system(chat_format *f, const char *template, const chat_outline *o)
{
    kvp_status status = KVP_OK;
    char *header = joined((const char *const[]){f->marks->open, "system", f->marks->close, NULL});
    if (!header)
        return chat_no_memory();
    for (const char *at = o->written; !status && (at = strstr(at, header));) {
        at += strlen(header);
        const char *end = strstr(at, end_of(f->marks));
        status = read_system(f, template, o, at, end ? (size_t)(end - at) : strlen(at));
    }
    free(header);
    return status;
}

/* ---- everything ------------------------------------------------------------------------------ */

static kvp_status recognise(chat_format *f, const tokenizer *t, const chat_outline *o)
{
    if (strstr(t->chat_template, "</think>"))
        return chat_unsupported("takes thoughts out of earlier answers");
    kvp_status status = find_marks(f, o);
    if (!status)
        status = check_answer(f, o);
    if (!status)
        status = find_end(f, t);
    if (!status)
        status = find_beginning(f, t, o);
    return status ? status : find_system(f, t->chat_template, o);
}

kvp_status chat_format_init(chat_format *f, const tokenizer *t)
{
    *f = (chat_format){0};
    if (!t->chat_template)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "the model has no chat template: it was not trained to chat. Without "
                        "--chat, -p takes a text that it continues");
    chat_outline outline;
    kvp_status status = chat_outline_init(&outline, t->chat_template);
    if (status)
        return status;
    status = recognise(f, t, &outline);
    chat_outline_fini(&outline);
    return status;
}

void chat_format_fini(chat_format *f)
{
    free(f->end);
    free(f->bos);
    free(f->system);
    free(f->date);
    *f = (chat_format){0};
}
