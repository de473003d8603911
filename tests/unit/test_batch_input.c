/* test_batch_input.c - lines of a file of prompts. */
#include "integration/cli/batch_input.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

/* A token per byte; texts with a ! are refused, with a ? the memory is all gone. */
static kvp_status encode(const void *opaque, const char *text, size_t n, int32_t **ids,
                         size_t *n_ids)
{
    assert_ptr_equal(opaque, encode);
    assert_true(n > 0);
    if (memchr(text, '!', n))
        return kvp_fail(KVP_E_INVALID, "no shouting");
    if (memchr(text, '?', n))
        return kvp_fail(KVP_E_NOMEM, "out of memory");
    *ids = malloc((n + 1) * sizeof **ids);
    assert_non_null(*ids);
    for (size_t i = 0; i < n; i++)
        (*ids)[i] = text[i];
    *n_ids = n;
    return KVP_OK;
}

static const batch_encoder encoder = {encode, encode};

static batch_input parse(const char *text)
{
    batch_input in;
    size_t n = strlen(text);
    char *bytes = malloc(n); /* nothing behind the last one */
    assert_true(n == 0 || bytes);
    if (n)
        memcpy(bytes, text, n);
    if (batch_input_parse(bytes, n, &encoder, &in))
        fail_msg("%s", kvp_error());
    free(bytes);
    return in;
}

static void check(const batch_prompt *p, size_t index, const char *text)
{
    if (p->error)
        fail_msg("line %zu: %s", index, p->error);
    assert_int_equal(p->index, index);
    assert_int_equal(p->n_tokens, strlen(text));
    for (size_t i = 0; i < p->n_tokens; i++)
        assert_int_equal(p->tokens[i], text[i]);
}

static void check_error(const batch_prompt *p, size_t index, const char *word)
{
    assert_int_equal(p->index, index);
    assert_non_null(p->error);
    if (!strstr(p->error, word))
        fail_msg("'%s' does not say '%s'", p->error, word);
}

static void test_lines_are_prompts_as_they_stand(void **state)
{
    (void)state;
    batch_input in = parse("one\n  two words \n[1, 2]\n12\nnull\nthe \"last\"");
    assert_int_equal(in.n, 6);
    check(&in.prompts[0], 0, "one");
    check(&in.prompts[1], 1, "  two words ");
    check(&in.prompts[2], 2, "[1, 2]");
    check(&in.prompts[3], 3, "12");
    check(&in.prompts[4], 4, "null");
    check(&in.prompts[5], 5, "the \"last\"");
    batch_input_fini(&in);
}

static void test_empty_lines_are_counted_and_skipped(void **state)
{
    (void)state;
    batch_input in = parse("\n \t\none\r\n\r\n\ntwo\n\n");
    assert_int_equal(in.n, 2);
    check(&in.prompts[0], 2, "one");
    check(&in.prompts[1], 5, "two");
    batch_input_fini(&in);
    in = parse("");
    assert_int_equal(in.n, 0);
    batch_input_fini(&in);
    in = parse("\n");
    assert_int_equal(in.n, 0);
    batch_input_fini(&in);
}

static void test_json_strings_are_prompts(void **state)
{
    (void)state;
    batch_input in = parse("\"a\\nb\"\n  \"c\"  \n\"said\" he\n\"open\n\"\\ud83d\\ude00\"\n");
    assert_int_equal(in.n, 5);
    check(&in.prompts[0], 0, "a\nb");
    check(&in.prompts[1], 1, "c");
    check(&in.prompts[2], 2, "\"said\" he");
    check(&in.prompts[3], 3, "\"open");
    check(&in.prompts[4], 4, "\xf0\x9f\x98\x80");
    batch_input_fini(&in);
}

static void test_json_objects_have_a_prompt_and_may_have_an_id(void **state)
{
    (void)state;
    batch_input in = parse("{\"prompt\": \"a\", \"id\": [1, \"x\"]}\n {\"id\": null, \"prompt\": "
                           "\"b\", \"other\": 1}\n{\"prompt\": \"c\"}");
    assert_int_equal(in.n, 3);
    check(&in.prompts[0], 0, "a");
    assert_int_equal(json_array_size(in.prompts[0].id), 2);
    check(&in.prompts[1], 1, "b");
    assert_true(json_is_null(in.prompts[1].id));
    check(&in.prompts[2], 2, "c");
    assert_null(in.prompts[2].id);
    batch_input_fini(&in);
}

static void test_what_is_wrong_with_a_line_is_said_in_it(void **state)
{
    (void)state;
    batch_input in = parse("{\"prompt\": \"a\"\n{\"id\": 7}\n{\"prompt\": 3, \"id\": 8}\n"
                           "{\"prompt\": \"x!\", \"id\": 9}\nfine\nx!\n\"\"\n"
                           "{\"prompt\": \"a\", \"prompt\": \"b\"}\n{\"prompt\": \"\xff\"}\n");
    assert_int_equal(in.n, 9);
    check_error(&in.prompts[0], 0, "column");
    check_error(&in.prompts[1], 1, "\"prompt\"");
    check_error(&in.prompts[2], 2, "\"prompt\"");
    assert_int_equal(json_integer_value(in.prompts[2].id), 8);
    check_error(&in.prompts[3], 3, "no shouting");
    assert_int_equal(json_integer_value(in.prompts[3].id), 9);
    check(&in.prompts[4], 4, "fine");
    check_error(&in.prompts[5], 5, "no shouting");
    check_error(&in.prompts[6], 6, "empty");
    check_error(&in.prompts[7], 7, "column");
    check_error(&in.prompts[8], 8, "column");
    batch_input_fini(&in);
}

static void test_no_memory_ends_it(void **state)
{
    (void)state;
    batch_input in;
    assert_int_equal(batch_input_parse("a\nb?\nc", 6, &encoder, &in), KVP_E_NOMEM);
    batch_input_fini(&in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_are_prompts_as_they_stand),
        cmocka_unit_test(test_empty_lines_are_counted_and_skipped),
        cmocka_unit_test(test_json_strings_are_prompts),
        cmocka_unit_test(test_json_objects_have_a_prompt_and_may_have_an_id),
        cmocka_unit_test(test_what_is_wrong_with_a_line_is_said_in_it),
        cmocka_unit_test(test_no_memory_ends_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
