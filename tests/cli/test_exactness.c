/* test_exactness.c - tokens and logits are the same bits wherever the pages lie: for each KV dtype
 * and instruction set, everything in RAM against little RAM with zram and disk and against the
 * smallest budget with disk only, under both placements and the three disk engines.
 *
 * Usually each dtype and instruction set meets one placement and engine of each kind, chosen so
 * that over all of them every placement meets every engine; KVP_TEST_FULL=1 takes all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

#include "kvpager/placement.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define N_PROMPT 1010      /* and past the context of 1,024 */
#define N_SHORT_PROMPT 500 /* enough to fill all tiers: scalar kernels are slow */
#define N_NEW 26

static const char *const dtypes[] = {"f32", "f16", "bf16"};
static const char *const isas[] = {"scalar", "avx2", "avx512"};
static const char *const placements[] = {"sticky", "lru"};
static const char *const engines[] = {"uring-fixed", "uring", "threads"};

static bool has_isa[COUNT(isas)], has_engine[COUNT(engines)];

static outcome generate(const char *dtype, const char *setting, const char *budget)
{
    bool is_short = strstr(setting, "scalar") && !is_full_run();
    const char *ids = ids_file("rolling.token_ids", 0, is_short ? N_SHORT_PROMPT : N_PROMPT);
    return run_expecting(0, setting,
                         "generate -m %s --ids %s -n %d --ignore-eos --kv-dtype %s %s --json",
                         demo_model(), ids, N_NEW, dtype, budget);
}

static void expect_same_bits(const outcome *resident, const outcome *paged, const char *engine)
{
    expect_same_tokens(member(resident->json, "tokens"), member(paged->json, "tokens"));
    assert_string_equal(text_member(resident->json, "logits_xxh3"),
                        text_member(paged->json, "logits_xxh3"));
    assert_true(int_member(paged->json, "stats.major_faults") > 0);
    assert_true(int_member(paged->json, "stats.demotions") > 0);
    assert_true(int_member(paged->json, "stats.bytes_read") > 0);
    assert_true(int_member(paged->json, "stats.bytes_written") > 0);
    assert_int_equal(int_member(paged->json, "stats.checksum_failures"), 0);
    assert_true(int_member(paged->json, "stats.ram_peak_bytes") <=
                int_member(paged->json, "stats.ram_budget_bytes"));
    assert_string_equal(text_member(paged->json, "stats.disk_engine"), engine);
}

static void check_zram_and_disk(const outcome *resident, const char *dtype, const char *setting,
                                const char *placement, const char *engine)
{
    char budget[128];
    snprintf(budget, sizeof budget, "--ram %s --zram 1M --placement %s",
             strcmp(dtype, "f32") == 0 ? "2M" : "1M", placement);
    outcome paged = generate(dtype, setting, budget);
    expect_same_bits(resident, &paged, engine);
    assert_true(int_member(paged.json, "stats.minor_faults") > 0);
    assert_true(int_member(paged.json, "stats.zram_bytes") <= 1 << 20);
    outcome_free(&paged);
}

static void check_smallest_budget(const outcome *resident, const char *dtype, const char *setting,
                                  const char *placement, const char *engine)
{
    char options[128], budget[192];
    snprintf(options, sizeof options, "--kv-dtype %s --placement %s", dtype, placement);
    uint64_t bytes = smallest_budget(setting, options);
    snprintf(budget, sizeof budget, "--ram %llu --placement %s", (unsigned long long)bytes,
             placement);
    outcome paged = generate(dtype, setting, budget);
    expect_same_bits(resident, &paged, engine);
    assert_int_equal(int_member(paged.json, "stats.minor_faults"), 0);
    outcome_free(&paged);
    outcome o = run(setting, "generate -m %s -p x -n 1 --ram %llu %s", demo_model(),
                    (unsigned long long)bytes - 1, options);
    expect_failure(&o, 1, "needs at least ");
    outcome_free(&o);
}

/* `turn` counts the (dtype, ISA) pairs: it picks the placement and engine that this one meets. */
static void check_dtype_and_isa(const char *dtype, const char *isa, size_t turn)
{
    char setting[96];
    snprintf(setting, sizeof setting, "KVP_ISA=%s", isa);
    outcome resident = generate(dtype, setting, "");
    assert_int_equal(int_member(resident.json, "stats.demotions"), 0);
    assert_string_equal(text_member(resident.json, "stats.isa"), isa);
    for (size_t p = 0; p < COUNT(placements); p++)
        for (size_t e = 0; e < COUNT(engines); e++) {
            size_t pair = p * COUNT(engines) + e, n_pairs = COUNT(placements) * COUNT(engines);
            if (!has_engine[e])
                continue;
            snprintf(setting, sizeof setting, "KVP_ISA=%s KVP_DISK_ENGINE=%s", isa, engines[e]);
            if (is_full_run() || pair == turn % n_pairs)
                check_zram_and_disk(&resident, dtype, setting, placements[p], engines[e]);
            if (is_full_run() || pair == (turn + n_pairs / 2) % n_pairs)
                check_smallest_budget(&resident, dtype, setting, placements[p], engines[e]);
        }
    outcome_free(&resident);
}

static void test_results_are_the_same_bits_wherever_pages_lie(void **state)
{
    (void)state;
    size_t n_checked = 0;
    for (size_t i = 0; i < COUNT(isas); i++)
        for (size_t d = 0; has_isa[i] && d < COUNT(dtypes); d++, n_checked++)
            check_dtype_and_isa(dtypes[d], isas[i], i * COUNT(dtypes) + d);
    assert_true(n_checked >= COUNT(dtypes));
}

static void test_every_placement_gives_the_same_bits(void **state)
{
    (void)state;
    outcome resident = generate("f16", "", "");
    for (size_t i = 0; kvp_placement_at(i); i++) {
        char budget[96];
        snprintf(budget, sizeof budget, "--ram 1M --zram 1M --placement %s",
                 kvp_placement_at(i)->name);
        outcome paged = generate("f16", "", budget);
        assert_string_equal(text_member(resident.json, "logits_xxh3"),
                            text_member(paged.json, "logits_xxh3"));
        assert_string_equal(text_member(paged.json, "stats.placement"), kvp_placement_at(i)->name);
        assert_true(int_member(paged.json, "stats.demotions") > 0);
        outcome_free(&paged);
    }
    outcome_free(&resident);
}

/* The library promises it of attention; with the matrix products' threads fixed, of everything. */
static void test_same_command_gives_the_same_bits_again(void **state)
{
    (void)state;
    outcome a = generate("f16", "", "--threads 2"), b = generate("f16", "", "--threads 2 --ram 1M");
    assert_string_equal(text_member(a.json, "logits_xxh3"), text_member(b.json, "logits_xxh3"));
    outcome_free(&a);
    outcome_free(&b);
}

static int init(void **state)
{
    if (support_init(state))
        return -1;
    for (size_t i = 0; i < COUNT(isas); i++)
        if (!(has_isa[i] = isa_works(isas[i])))
            print_message("without %s: not available here\n", isas[i]);
    for (size_t i = 0; i < COUNT(engines); i++)
        if (!(has_engine[i] = engine_works(engines[i])))
            print_message("without %s: not available here\n", engines[i]);
    return has_isa[0] && has_engine[COUNT(engines) - 1] ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results_are_the_same_bits_wherever_pages_lie),
        cmocka_unit_test(test_every_placement_gives_the_same_bits),
        cmocka_unit_test(test_same_command_gives_the_same_bits_again),
    };
    return cmocka_run_group_tests(tests, init, support_fini) != 0;
}
