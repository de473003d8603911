/* test_utf8.c - characters one by one, and the decoder of streams of token bytes. */
#include "integration/text/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

#include "integration/text/tokenizer.h"

static void test_first_and_last_character_are_found(void **state)
{
    (void)state;
    static const char text[] = "a\u00e9\u6771\U0001f642"; /* 1, 2, 3 and 4 bytes */
    static const size_t lengths[] = {1, 2, 3, 4};
    for (size_t i = 0, begin = 0; i < 4; begin += lengths[i++]) {
        assert_int_equal(utf8_first(text + begin, sizeof text - 1 - begin), lengths[i]);
        assert_int_equal(utf8_last(text, begin + lengths[i]), lengths[i]);
    }
    assert_int_equal(utf8_first(text, 0), 0);
    assert_int_equal(utf8_last(text, 0), 0);
    assert_int_equal(utf8_first("\xC3", 1), 0); /* cut */
    assert_int_equal(utf8_last("a\x80", 2), 0);
    assert_int_equal(utf8_last("\x80\x80\x80\x80\x80", 5), 0);
}

/* Push bytes in two pieces cut at every place; the output is always the same. */
static void check_stream(const char *in, size_t n, const char *wanted)
{
    for (size_t cut = 0; cut <= n; cut++) {
        utf8_stream s = {.n_pending = 0};
        char out[256];
        size_t n_out = utf8_stream_push(&s, in, cut, out);
        assert_int_equal(utf8_valid_prefix(out, n_out), n_out); /* whole characters only */
        n_out += utf8_stream_push(&s, in + cut, n - cut, out + n_out);
        n_out += utf8_stream_finish(&s, out + n_out);
        assert_int_equal(n_out, strlen(wanted));
        assert_memory_equal(out, wanted, n_out);
    }
}

#define BAD "\xEF\xBF\xBD"

static void test_stream_never_splits_a_character(void **state)
{
    (void)state;
    check_stream("", 0, "");
    check_stream("h\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x99\x82.", 13,
                 "h\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x99\x82.");
}

/* One U+FFFD per maximal subpart: Unicode 15.0, table 3-8 and its neighbours. */
static void test_stream_replaces_what_cannot_become_valid(void **state)
{
    (void)state;
    check_stream("a\xFFz", 3, "a" BAD "z");
    check_stream("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82"
                 "A",
                 9, BAD BAD BAD BAD BAD BAD BAD BAD "A");
    check_stream("\xED\xA0\x80\xED\xBF\xBF\xED\xAF"
                 "A",
                 9, BAD BAD BAD BAD BAD BAD BAD BAD "A");
    check_stream("\xF4\x91\x92\x93\xFF"
                 "A\x80\xBF"
                 "B",
                 9, BAD BAD BAD BAD BAD "A" BAD BAD "B");
    check_stream("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF"
                 "A",
                 9, BAD BAD BAD BAD "A");
    check_stream("ok\xF0\x9F\x99", 5, "ok" BAD); /* ends in the middle */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_and_last_character_are_found),
        cmocka_unit_test(test_stream_never_splits_a_character),
        cmocka_unit_test(test_stream_replaces_what_cannot_become_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
