/* chat_template.c - what a Jinja template writes, without running it.
 *
 * Source: Jinja's Template Designer Documentation; white space is treated as transformers' chat
 * templates want it (trim_blocks, lstrip_blocks). */
#define _GNU_SOURCE /* memmem */
#include "integration/text/chat_template.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A growing text. The first failure stays. */
typedef struct text {
    char *bytes;
    size_t n, capacity;
    bool failed;
} text;

static void put(text *t, const char *bytes, size_t n)
{
    if (t->n + n + 1 > t->capacity && !t->failed) {
        size_t capacity = 2 * (t->n + n + 1);
        char *grown = realloc(t->bytes, capacity);
        t->failed = !grown;
        t->bytes = grown ? grown : t->bytes;
        t->capacity = grown ? capacity : t->capacity;
    }
    if (t->failed)
        return;
    memcpy(t->bytes + t->n, bytes, n);
    t->n += n;
    t->bytes[t->n] = '\0';
}

static void put_value(text *t, const char *value)
{
    put(t, value, 1);
}

static bool is_name_char(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

static bool contains(const char *bytes, size_t n, const char *word)
{
    return memmem(bytes, n, word, strlen(word)) != NULL;
}

static bool is_word(const char *bytes, size_t n, const char *word)
{
    return n == strlen(word) && memcmp(bytes, word, n) == 0;
}

/* ---- expressions: pieces that are put together ----------------------------------------------- */

/* What is left of an expression. */
typedef struct source {
    const char *at, *end;
} source;

static void skip_spaces(source *s)
{
    while (s->at < s->end && isspace((unsigned char)*s->at))
        s->at++;
}

static bool take(source *s, const char *token)
{
    size_t n = strlen(token);
    skip_spaces(s);
    if ((size_t)(s->end - s->at) < n || memcmp(s->at, token, n) != 0)
        return false;
    s->at += n;
    return true;
}

static size_t name_length(const source *s)
{
    size_t n = 0;
    while (s->at + n < s->end && is_name_char(s->at[n]))
        n++;
    return n;
}

/* A text in quotes goes to `out`, if there is one. */
static void read_string(source *s, text *out)
{
    char quote = *s->at++;
    for (; s->at < s->end && *s->at != quote; s->at++) {
        char c = *s->at;
        if (c == '\\' && s->at + 1 < s->end) {
            c = *++s->at;
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
        }
        if (out)
            put(out, &c, 1);
    }
    if (s->at < s->end)
        s->at++;
}

/* Behind the bracket that closes the one at s->at. */
static void skip_brackets(source *s)
{
    size_t depth = 0;
    while (s->at < s->end) {
        char c = *s->at;
        if (c == '\'' || c == '"') {
            read_string(s, NULL);
            continue;
        }
        s->at++;
        depth += c == '(' || c == '[' || c == '{';
        if ((c == ')' || c == ']' || c == '}') && --depth == 0)
            return;
    }
}

/* Attributes, items, calls and filters behind a value: whether they leave it as it is, or only trim
 * it, or change it. */
typedef enum change { UNCHANGED, TRIMMED, CHANGED } change;

static change read_call(source *s, const char *name, size_t n, bool is_filter, change before)
{
    bool trims = is_word(name, n, is_filter ? "trim" : "strip");
    skip_spaces(s);
    bool is_call = s->at < s->end && *s->at == '(';
    if (is_call) {
        trims = trims && s->at + 1 < s->end && s->at[1] == ')';
        skip_brackets(s);
    }
    if (!is_filter && !is_call) /* an attribute: another value, which its name tells */
        return before;
    return trims && before != CHANGED ? TRIMMED : CHANGED;
}

static change read_trailers(source *s)
{
    change result = UNCHANGED;
    for (;;) {
        skip_spaces(s);
        if (s->at == s->end)
            return result;
        if (*s->at == '[') {
            skip_brackets(s);
        } else if (*s->at == '(') {
            skip_brackets(s);
            result = CHANGED;
        } else if (*s->at == '.' || *s->at == '|') {
            bool is_filter = *s->at++ == '|';
            skip_spaces(s);
            const char *name = s->at;
            s->at += name_length(s);
            result = read_call(s, name, (size_t)(s->at - name), is_filter, result);
        } else {
            return result;
        }
    }
}

/* A variable with what stands behind it. */
static void read_value(source *s, text *out)
{
    const char *begin = s->at;
    s->at += name_length(s);
    size_t n_name = (size_t)(s->at - begin);
    change change = read_trailers(s);
    size_t n = (size_t)(s->at - begin);
    const char *value = VALUE_OTHER;
    if (change == UNCHANGED && is_word(begin, n_name, "bos_token"))
        value = VALUE_BOS;
    else if (change == UNCHANGED && is_word(begin, n_name, "eos_token"))
        value = VALUE_EOS;
    else if (change == UNCHANGED && contains(begin, n, "role"))
        value = VALUE_ROLE;
    else if (change != CHANGED && contains(begin, n, "content"))
        value = change == TRIMMED ? VALUE_TRIMMED : VALUE_CONTENT;
    put_value(out, value);
}

/* Everything that is joined by + or ~. A condition ("if") and what follows it is one more value:
 * nothing that is recognised has one. */
static void read_expression(source s, text *out)
{
    for (;;) {
        skip_spaces(&s);
        if (s.at == s.end)
            return;
        if (*s.at == '\'' || *s.at == '"') {
            read_string(&s, out);
            if (read_trailers(&s) != UNCHANGED)
                put_value(out, VALUE_OTHER);
        } else if (name_length(&s) == 2 && memcmp(s.at, "if", 2) == 0) {
            put_value(out, VALUE_OTHER);
            return;
        } else if (is_name_char(*s.at)) {
            read_value(&s, out);
        } else if (*s.at == '+' || *s.at == '~' || *s.at == '(' || *s.at == ')') {
            s.at++;
        } else {
            put_value(out, VALUE_OTHER);
            s.at++;
        }
    }
}

/* ---- statements: only assignments matter ----------------------------------------------------- */

/* Keep the text that was assigned, unless it is empty or not one text. */
static void keep_text(char **kept, text *assigned, size_t begin)
{
    if (assigned->n == begin || strpbrk(assigned->bytes + begin, VALUES))
        return;
    free(*kept);
    *kept = strdup(assigned->bytes + begin);
    assigned->failed |= !*kept;
}

static void read_statement(chat_outline *o, source s, text *assigned)
{
    if (!take(&s, "set") || s.at == s.end || !isspace((unsigned char)*s.at))
        return;
    skip_spaces(&s);
    const char *name = s.at;
    while (s.at < s.end && *s.at != '=')
        s.at++;
    size_t n = (size_t)(s.at - name), begin = assigned->n;
    if (!take(&s, "="))
        return;
    read_expression(s, assigned);
    if (contains(name, n, "system"))
        keep_text(&o->system, assigned, begin);
    if (contains(name, n, "date"))
        keep_text(&o->date, assigned, begin);
    put_value(assigned, VALUE_OTHER);
}

/* ---- the text around them -------------------------------------------------------------------- */

/* Where a tag that begins at `at` ends: behind its closing mark. NULL: it has none. */
static const char *find_end(const char *at)
{
    const char close[3] = {at[1] == '{' ? '}' : at[1], '}', '\0'};
    if (at[1] == '#') {
        const char *end = strstr(at + 2, close);
        return end ? end + 2 : NULL;
    }
    source s = {at + 2, at + strlen(at)};
    while (s.at < s.end) {
        if (*s.at == '\'' || *s.at == '"')
            read_string(&s, NULL);
        else if (*s.at == '{')
            skip_brackets(&s);
        else if (memcmp(s.at, close, 2) == 0)
            return s.at + 2;
        else
            s.at++;
    }
    return NULL;
}

/* Put text[0 .. n) before a tag: white space there may belong to the tag. */
static void put_before(text *out, const char *bytes, size_t n, const char *tag)
{
    if (tag[0] && tag[2] == '-') {
        while (n && isspace((unsigned char)bytes[n - 1]))
            n--;
    } else if (tag[0] && tag[1] != '{' && tag[2] != '+') {
        size_t line = n;
        while (line && (bytes[line - 1] == ' ' || bytes[line - 1] == '\t'))
            line--;
        if (!line || bytes[line - 1] == '\n')
            n = line;
    }
    put(out, bytes, n);
}

/* Where the text behind a tag begins. */
static const char *skip_after(const char *tag, const char *end)
{
    if (end[-3] == '-') {
        while (isspace((unsigned char)*end))
            end++;
    } else if (tag[1] != '{' && end[-3] != '+' && *end == '\n') {
        end++;
    }
    return end;
}

static source inside(const char *tag, const char *end)
{
    source s = {tag + 2, end - 2};
    if (s.at < s.end && (*s.at == '-' || *s.at == '+'))
        s.at++;
    if (s.at < s.end && s.end[-1] == '-')
        s.end--;
    return s;
}

static const char *find_tag(const char *at)
{
    for (; *at; at++) {
        if (at[0] == '{' && (at[1] == '{' || at[1] == '%' || at[1] == '#'))
            break;
    }
    return at;
}

static kvp_status read_template(chat_outline *o, const char *at, text *written, text *assigned)
{
    for (;;) {
        const char *tag = find_tag(at), *end = NULL;
        size_t n = (size_t)(tag - at);
        if (!*tag && n && at[n - 1] == '\n') /* Jinja drops a last newline */
            n--;
        put_before(written, at, n, tag);
        if (!*tag)
            return KVP_OK;
        if (!(end = find_end(tag)))
            return kvp_fail(KVP_E_UNSUPPORTED,
                            "the model's chat template is no Jinja: a tag has no end");
        if (tag[1] == '{')
            read_expression(inside(tag, end), written);
        else if (tag[1] == '%')
            read_statement(o, inside(tag, end), assigned);
        at = skip_after(tag, end);
    }
}

kvp_status chat_outline_init(chat_outline *o, const char *template)
{
    text written = {0}, assigned = {0};
    *o = (chat_outline){0};
    put(&written, "", 0); /* never NULL */
    put(&assigned, "", 0);
    kvp_status status = read_template(o, template, &written, &assigned);
    o->written = written.bytes;
    o->assigned = assigned.bytes;
    if (!status && (written.failed || assigned.failed))
        status = kvp_fail(KVP_E_NOMEM, "out of memory: the model's chat template");
    if (status)
        chat_outline_fini(o);
    return status;
}

void chat_outline_fini(chat_outline *o)
{
    free(o->written);
    free(o->assigned);
    free(o->system);
    free(o->date);
    *o = (chat_outline){0};
}
