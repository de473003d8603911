/* test_long_context.c - SmolLM2 at 7,900 tokens: the same bits with an eighth of the KV's RAM and
 * with the smallest budget; and its perplexity on a long text, against transformers.
 *
 * Usually the perplexity is that of the text's first two windows; KVP_TEST_FULL=1 takes 16k tokens,
 * and bf16 weights besides. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cli/support.h"
#include "tests/support/smollm2.h"

#define N_PROMPT 7900
#define N_NEW 12
#define KV_BYTES (N_PROMPT * 30u * 3u * 64u * 2u * 2u) /* layers, heads, width, K and V, f16 */

static outcome generate(const char *budget)
{
    return run_expecting(0, "", "generate -m %s --ids %s -n %d --ignore-eos --threads 2 %s --json",
                         demo_model(), ids_file("perplexity.token_ids", 0, N_PROMPT), N_NEW,
                         budget);
}

static void expect_same_bits(const outcome *resident, const outcome *paged)
{
    expect_same_tokens(member(resident->json, "tokens"), member(paged->json, "tokens"));
    assert_string_equal(text_member(resident->json, "logits_xxh3"),
                        text_member(paged->json, "logits_xxh3"));
    assert_true(int_member(paged->json, "stats.major_faults") > 0);
    assert_true(int_member(paged->json, "stats.demotions") > 0);
    assert_true(int_member(paged->json, "stats.pages.disk") > 0);
    assert_true(int_member(paged->json, "stats.ram_peak_bytes") <=
                int_member(paged->json, "stats.ram_budget_bytes"));
}

static void test_same_bits_at_full_length(void **state)
{
    (void)state;
    char budget[64];
    outcome resident = generate("");
    assert_int_equal(int_member(resident.json, "stats.demotions"), 0);
    assert_int_equal(int_member(resident.json, "prompt_tokens"), N_PROMPT);
    const uint64_t budgets[] = {KV_BYTES / 8, smallest_budget("", "")};
    for (size_t i = 0; i < 2; i++) {
        snprintf(budget, sizeof budget, "--ram %llu", (unsigned long long)budgets[i]);
        outcome paged = generate(budget);
        expect_same_bits(&resident, &paged);
        outcome_free(&paged);
    }
    outcome_free(&resident);
}

/* Of the first n_windows of the reference's windows; 0: of all. */
static void check_perplexity(const char *options, size_t n_windows, double tolerance)
{
    json_t *reference = member(golden(), "perplexity"), *sums = member(reference, "nll_sums");
    size_t i = n_windows ? n_windows - 1 : json_array_size(sums) - 1;
    int64_t window = int_member(reference, "window"), stride = int_member(reference, "stride");
    size_t n_tokens = n_windows ? (size_t)(window + stride * (int64_t)(n_windows - 1))
                                : json_array_size(member(reference, "token_ids"));
    double wanted = exp(json_number_value(json_array_get(sums, i)) / (double)(n_tokens - 1));
    outcome o =
        run_expecting(0, "", "perplexity -m %s --ids %s --window %lld --stride %lld %s --json",
                      demo_model(), ids_file("perplexity.token_ids", 0, n_tokens),
                      (long long)window, (long long)stride, options);
    double got = real_member(o.json, "perplexity");
    print_message("perplexity of %zu tokens, %s: %.4f, transformers %.4f (%+.4f %%)\n", n_tokens,
                  options, got, wanted, 100 * (got / wanted - 1));
    assert_true(fabs(got / wanted - 1) <= tolerance);
    outcome_free(&o);
}

static void test_perplexity_equals_reference(void **state)
{
    (void)state;
    size_t n_windows = is_full_run() ? 0 : 2;
    check_perplexity("--weights f32 --kv-dtype f32", n_windows, 1e-3);
    if (is_full_run())
        check_perplexity("--weights bf16 --kv-dtype f16", n_windows, 5e-3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits_at_full_length),
        cmocka_unit_test(test_perplexity_equals_reference),
    };
    smollm2_skip_if_missing();
    setenv("KVP_DEMO_MODEL", smollm2_path(), 1);
    setenv("KVP_DEMO_GOLDEN", "tests/data/smollm2", 1);
    return cmocka_run_group_tests(tests, support_init, support_fini) != 0;
}
