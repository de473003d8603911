/* test_splitter.c - words of every kind put together are the text, however long its runs are. */
#include "integration/text/splitter.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define N_KINDS (SPLITTER_LLAMA3 + 1)

typedef struct words {
    const char *next; /* where the next one must begin */
    size_t n;
} words;

static kvp_status take(void *opaque, const char *word, size_t n)
{
    words *w = opaque;
    assert_ptr_equal(word, w->next);
    assert_true(n > 0);
    w->next += n;
    w->n++;
    return KVP_OK;
}

static splitter *open_or_fail(splitter_kind kind)
{
    splitter *s = NULL;
    if (splitter_open(kind, &s))
        fail_msg("%s", kvp_error());
    return s;
}

static size_t count_words(const splitter *s, const char *text, size_t n)
{
    words w = {.next = text};
    if (splitter_each(s, text, n, take, &w))
        fail_msg("%s", kvp_error());
    assert_ptr_equal(w.next, text + n);
    return w.n;
}

/* PCRE2's machine code has a small stack, and quadratic time would not end. */
static void test_long_runs_are_split(void **state)
{
    (void)state;
    static const char *const units[] = {"a",  " ",      "\n",     " \n",     "\u3000",
                                        "1",  "\u00bd", ".",      "\r",      "'s",
                                        "' ", "  x",    "\u6771", "e\u0301", "\U0001f642"};
    enum { N = 200000 };
    char *text = malloc(N + 1);
    for (int kind = 0; kind < N_KINDS; kind++) {
        splitter *s = open_or_fail((splitter_kind)kind);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            size_t length = strlen(units[u]), n = N / length * length;
            for (size_t i = 0; i < n; i += length)
                memcpy(text + i, units[u], length);
            text[n] = 'x';
            assert_true(count_words(s, text, n) <= 2 * (n / length) + 1);
            (void)count_words(s, text, n + 1);
        }
        splitter_close(s);
    }
    free(text);
}

static void test_kinds_differ_in_numbers(void **state)
{
    (void)state;
    static const size_t wanted[N_KINDS][3] = {
        [SPLITTER_GPT2] = {1, 3, 1},  [SPLITTER_SMOLLM] = {4, 5, 3}, [SPLITTER_DIGITS] = {4, 5, 1},
        [SPLITTER_QWEN2] = {4, 5, 3}, [SPLITTER_LLAMA3] = {2, 3, 2},
    };
    for (int kind = 0; kind < N_KINDS; kind++) {
        splitter *s = open_or_fail((splitter_kind)kind);
        assert_int_equal(count_words(s, "1234", 4), wanted[kind][0]);
        assert_int_equal(count_words(s, "\n\n1234", 6), wanted[kind][1]);
        assert_int_equal(count_words(s, " \u00bd\u00bd", 5), wanted[kind][2]);
        splitter_close(s);
    }
}

static void test_patterns_are_known_by_their_spelling(void **state)
{
    (void)state;
    splitter_kind kind = SPLITTER_GPT2;
    assert_true(splitter_kind_of_regex("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
                                       "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
                                       "|\\s+(?!\\S)|\\s+",
                                       &kind));
    assert_int_equal(kind, SPLITTER_LLAMA3);
    assert_false(splitter_kind_of_regex("", &kind));
    assert_false(splitter_kind_of_regex("\\p{L}+", &kind));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_runs_are_split),
        cmocka_unit_test(test_kinds_differ_in_numbers),
        cmocka_unit_test(test_patterns_are_known_by_their_spelling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
