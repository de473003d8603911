/* test_smollm2_text.c - SmolLM2's tokenizer and chat format, read from its GGUF file, against
 * Hugging Face transformers. */
#include "integration/text/chat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/golden.h"
#include "tests/support/smollm2.h"

static tokenizer *open_or_fail(void)
{
    tokenizer *t = NULL;
    if (tokenizer_open(smollm2_path(), &t))
        fail_msg("%s", kvp_error());
    return t;
}

static void test_tokenizer_cases_equal_golden(void **state)
{
    (void)state;
    json_t *golden = golden_load(SMOLLM2_GOLDEN);
    const json_t *cases = json_object_get(golden, "tokenizer_cases");
    tokenizer *t = open_or_fail();
    assert_true(json_array_size(cases) >= 14);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i), *text = json_object_get(one, "text");
        int32_t *ids = NULL;
        size_t n = 0;
        assert_int_equal(
            tokenizer_encode(t, json_string_value(text), json_string_length(text), &ids, &n),
            KVP_OK);
        const json_t *wanted = json_object_get(one, "ids");
        bool same = n == json_array_size(wanted);
        for (size_t k = 0; k < n && same; k++)
            same = ids[k] == json_integer_value(json_array_get(wanted, k));
        if (!same)
            fail_msg("\"%s\" is encoded differently", json_string_value(text));
        free(ids);
    }
    assert_int_equal(tokenizer_n_vocab(t), 49152);
    size_t n_prefix = 1;
    (void)tokenizer_prefix(t, &n_prefix);
    assert_int_equal(n_prefix, 0);
    tokenizer_close(t);
    json_decref(golden);
}

/* Up to the second answer; apply_chat_template() of transformers 5.23 gives the same. */
static const int32_t conversation[] = {
    1,    9690, 198,  2683,  359,   253, 5356, 5646, 11173, 3365, 3511,  308,  34519, 28,
    7018, 411,  407,  19712, 8182,  2,   198,  1,    4093,  198,  19556, 17,   2,     198,
    1,    520,  9531, 198,   26843, 30,  2,    198,  1,     4093, 198,   3528, 281,   216,
    33,   40,   37,   33,    47,    2,   198,  1,    520,   9531, 198};
#define FIRST_TURN 32 /* of these */
#define ANSWER 3      /* with the id that ends it */

static void test_conversation_equals_transformers(void **state)
{
    (void)state;
    tokenizer *t = open_or_fail();
    chat *c = NULL;
    int32_t *ids = NULL;
    size_t n, n_all = sizeof conversation / sizeof *conversation, next = FIRST_TURN + ANSWER;
    assert_int_equal(chat_open(t, &c), KVP_OK);
    assert_string_equal(chat_name(c), "ChatML");
    assert_int_equal(chat_first_turn(c, NULL, "Hello!", &ids, &n), KVP_OK);
    assert_int_equal(n, FIRST_TURN);
    assert_memory_equal(ids, conversation, n * sizeof *ids);
    free(ids);
    assert_true(chat_is_end(c, conversation[next - 1]));
    assert_int_equal(chat_next_turn(c, conversation[next - 1], "And in 1851?", &ids, &n), KVP_OK);
    assert_int_equal(n, n_all - next);
    assert_memory_equal(ids, conversation + next, n * sizeof *ids);
    free(ids);
    chat_close(c);
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizer_cases_equal_golden),
        cmocka_unit_test(test_conversation_equals_transformers),
    };
    smollm2_skip_if_missing();
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
