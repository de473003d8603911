#include "integration/cli/rule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "integration/cli/message.h"

#define PAGE 64u

static const model_info rotary = {.architecture = "llama", .n_ctx = 8192, .has_rope = true};
static const model_info learned = {.architecture = "gpt2", .n_ctx = 1024};

static window_rule resolve(const options *o, const model_info *info)
{
    window_rule rule;
    assert_int_equal(rule_resolve(o, info, PAGE, &rule), EXIT_DONE);
    return rule;
}

static void check_refused(const options *o, const model_info *info, uint32_t page_tokens)
{
    window_rule rule;
    assert_int_equal(rule_resolve(o, info, page_tokens, &rule), EXIT_USAGE);
}

static void test_rolling_begins_with_half_of_the_context(void **state)
{
    (void)state;
    options o = options_default();
    window_rule rule = resolve(&o, &learned);
    assert_int_equal(rule.n_ctx, 1024);
    assert_int_equal(rule.roll, 512);
    assert_int_equal(rule.keep, 0);
    assert_int_equal(rule.chunk, 0); /* a prompt passes layer by layer, at once */
    assert_false(rule.shift);
    o.beyond.roll = 1024;
    assert_int_equal(resolve(&o, &learned).roll, 1024);
    o.beyond.roll = 1025;
    check_refused(&o, &learned, PAGE);
}

static void test_keep_bounds_what_rolling_prefills_again(void **state)
{
    (void)state;
    options o = options_default();
    o.keep = (keep_option){.window = 100, .sinks = 3};
    window_rule rule = resolve(&o, &learned);
    assert_int_equal(rule.roll, 100);
    assert_int_equal(rule.keep, 100);
    assert_int_equal(rule.sinks, 3);
}

static void test_keep_feeds_in_chunks_no_shorter_than_the_window(void **state)
{
    (void)state;
    options o = options_default();
    o.keep.window = 100;
    assert_int_equal(resolve(&o, &rotary).chunk, 1024);
    o.keep.window = 5000;
    assert_int_equal(resolve(&o, &rotary).chunk, 5000);
}

static void test_stop_and_yarn_end_with_the_positions_of_the_model(void **state)
{
    (void)state;
    options o = options_default();
    o.beyond.kind = BEYOND_STOP;
    assert_int_equal(resolve(&o, &learned).n_ctx, 1024);
    assert_int_equal(resolve(&o, &learned).roll, 0);
    o.beyond.kind = BEYOND_YARN;
    o.n_ctx = 8192;
    assert_int_equal(resolve(&o, &rotary).n_ctx, 8192);
    assert_int_equal(resolve(&o, &rotary).roll, 0);
    check_refused(&o, &learned, PAGE); /* no rotary positions */
}

static void test_shift_keeps_the_widest_window_and_four_sinks(void **state)
{
    (void)state;
    options o = options_default();
    o.beyond.kind = BEYOND_SHIFT;
    window_rule rule = resolve(&o, &rotary);
    assert_true(rule.shift);
    assert_true(rule.n_ctx == UINT64_MAX); /* of the text: no limit */
    assert_int_equal(rule.roll, 0);
    assert_int_equal(rule.sinks, 4);
    assert_int_equal(rule.keep, 8192 - 64 - 63);
    assert_int_equal(rule.chunk, rule.keep);
    check_refused(&o, &learned, PAGE);
}

static void test_shift_takes_a_window_that_fits(void **state)
{
    (void)state;
    options o = options_default();
    o.beyond.kind = BEYOND_SHIFT;
    o.n_ctx = 20000;
    o.keep = (keep_option){.window = 8192 - 63};
    window_rule rule = resolve(&o, &rotary);
    assert_int_equal(rule.n_ctx, 20000);
    assert_int_equal(rule.keep, 8192 - 63);
    assert_int_equal(rule.sinks, 0); /* as asked for */
    o.keep.window++;
    check_refused(&o, &rotary, PAGE);
    o.keep = (keep_option){.window = 10, .sinks = 8192};
    check_refused(&o, &rotary, PAGE);
    o.keep = (keep_option){0};
    check_refused(&o, &rotary, 8192); /* pages as long as the context */
}

static void test_model_is_asked_for_positions_unless_they_limit_the_text(void **state)
{
    (void)state;
    options o = options_default();
    o.n_ctx = 5000;
    o.n_threads = 3;
    o.weights = KVP_BF16;
    model_options m = rule_model_options(&o);
    assert_int_equal(m.n_ctx, 5000);
    assert_false(m.yarn);
    assert_int_equal(m.n_threads, 3);
    assert_int_equal(m.weights, KVP_BF16);
    o.beyond.kind = BEYOND_YARN;
    m = rule_model_options(&o);
    assert_int_equal(m.n_ctx, 5000);
    assert_true(m.yarn);
    o.beyond.kind = BEYOND_SHIFT;
    m = rule_model_options(&o);
    assert_int_equal(m.n_ctx, 0);
    assert_false(m.yarn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rolling_begins_with_half_of_the_context),
        cmocka_unit_test(test_keep_bounds_what_rolling_prefills_again),
        cmocka_unit_test(test_keep_feeds_in_chunks_no_shorter_than_the_window),
        cmocka_unit_test(test_stop_and_yarn_end_with_the_positions_of_the_model),
        cmocka_unit_test(test_shift_keeps_the_widest_window_and_four_sinks),
        cmocka_unit_test(test_shift_takes_a_window_that_fits),
        cmocka_unit_test(test_model_is_asked_for_positions_unless_they_limit_the_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
