/* test_nfc.c - canonical composition against texts composed by hand (UAX #15) and the rule that
 * ASCII borders change nothing. */
#include "integration/text/nfc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static void expect(const char *text, const char *wanted)
{
    char *out = NULL;
    size_t n = 0;
    assert_int_equal(nfc_compose(text, strlen(text), &out, &n), KVP_OK);
    assert_int_equal(out == NULL, strcmp(text, wanted) == 0);
    assert_int_equal(n, strlen(wanted));
    assert_memory_equal(out ? out : text, wanted, n);
    free(out);
}

static void test_what_is_composed_stays_as_it_is(void **state)
{
    (void)state;
    expect("", "");
    expect("x", "x");
    expect("plain ASCII\n", "plain ASCII\n");
    expect("na\u00efve \u6771\u4eac \U0001f642", "na\u00efve \u6771\u4eac \U0001f642");
    expect("\u0301", "\u0301");
    expect("q\u0301", "q\u0301"); /* there is no such letter */
}

static void test_marks_are_composed_and_put_in_order(void **state)
{
    (void)state;
    expect("e\u0301", "\u00e9");
    expect("cafe\u0301 cafe\u0301", "caf\u00e9 caf\u00e9");
    expect("e\u0301x", "\u00e9x");
    expect("xe\u0301", "x\u00e9");
    expect("a\u0301\u0327", "\u00e1\u0327"); /* cedilla goes first, and then blocks nothing */
    expect("D\u0307\u0323", "\u1e0c\u0307"); /* UAX #15, figure 5 */
    expect("\u212b\u2126", "\u00c5\u03a9");  /* singletons: Angstrom, Ohm */
    expect("\u1100\u1161\u11a8", "\uac01");  /* Hangul */
    expect("\u0344", "\u0308\u0301");        /* never a composed character */
    expect("\ufb01", "\ufb01");              /* a compatibility character: only NFKC changes it */
}

/* As Hugging Face's tokenizers, which know Unicode 9. */
static void test_newer_marks_are_letters_of_their_own(void **state)
{
    (void)state;
    expect("a\u0898\u0316", "a\u0898\u0316"); /* U+0898: Unicode 14 */
    expect("a\u0898\u0301", "a\u0898\u0301");
    expect("\u0898e\u0301", "\u0898\u00e9");
    expect("\U00011935\U00011930", "\U00011935\U00011930"); /* a pair of Unicode 13 */
    expect("a\u08d4\u0316", "a\u0316\u08d4");               /* U+08D4: Unicode 9 */
}

/* Long texts, changed only at the end: what stands before is kept. */
static void test_long_texts_are_composed_everywhere(void **state)
{
    (void)state;
    enum { N = 200000 };
    char *text = malloc(N + 4), *out = NULL;
    size_t n = 0;
    for (size_t i = 0; i < N; i += 2)
        memcpy(text + i, i % 64 ? "ab" : "\u00e9", 2);
    memcpy(text + N, "e\u0301", 3);
    assert_int_equal(nfc_compose(text, N + 3, &out, &n), KVP_OK);
    assert_int_equal(n, N + 2);
    assert_memory_equal(out, text, N);
    assert_memory_equal(out + N, "\u00e9", 2);
    free(out);
    for (size_t i = 0; i < N; i += 2) /* one stretch: marks without end */
        memcpy(text + i, "\u0301", 2);
    assert_int_equal(nfc_compose(text, N, &out, &n), KVP_OK);
    assert_null(out);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_composed_stays_as_it_is),
        cmocka_unit_test(test_marks_are_composed_and_put_in_order),
        cmocka_unit_test(test_newer_marks_are_letters_of_their_own),
        cmocka_unit_test(test_long_texts_are_composed_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
