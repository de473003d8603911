/* test_bench.c - kvpager bench: that what is measured really happened, and what is refused. Of
 * times only that there are some. */
#define _GNU_SOURCE
#include <glob.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "support.h"

/* The demo model. */
enum { LAYERS = 6, TOKEN_BYTES = LAYERS * 256 * 2 * 2, PAGE_TOKENS = 64, PAGE_BYTES = 64 << 10 };
enum { SESSIONS = 12, HISTORY = 300, TURN = 4, ROUNDS = 2, TURNS = 8 * ROUNDS };
enum { PAGES = LAYERS * ((HISTORY + PAGE_TOKENS - 1) / PAGE_TOKENS), WANTED = TURNS * PAGES };

static const char sizes[] = "--sessions 12 --history 300 --turn 4 --rounds 2";

static outcome sessions(int code, const char *more)
{
    return run_expecting(code, "", "bench sessions -m %s %s %s", demo_model(), sizes, more);
}

/* The random model's folder goes where the other files of these tests are. */
static const char *in_scratch(void)
{
    static char setting[256];
    snprintf(setting, sizeof setting, "TMPDIR=%s", scratch(""));
    return setting;
}

static bool has_folder(void)
{
    glob_t found;
    int result = glob(scratch("kvpager-model-*"), 0, NULL, &found);
    if (result == 0)
        globfree(&found);
    assert_true(result == 0 || result == GLOB_NOMATCH);
    return result == 0;
}

/* ---- what is measured ---- */

static void check_times(const json_t *times, int64_t n, double computed)
{
    double median = real_member(times, "median_seconds");
    assert_int_equal(int_member(times, "n"), n);
    assert_true(median > 0);
    assert_true(real_member(times, "p95_seconds") >= median);
    assert_true(fabs(real_member(times, "speedup") * median - computed) <= 1e-9 * computed);
}

static void check_stalls(const outcome *o, const char *tier)
{
    char path[64];
    snprintf(path, sizeof path, "stalls.%s", tier);
    const json_t *stalls = member(o->json, path);
    double some = real_member(stalls, "some_seconds"), full = real_member(stalls, "full_seconds");
    assert_true(full >= 0 && some >= full);
    assert_true((int_member(stalls, "n") > 0) == (some > 0));
    assert_true(real_member(stalls, "some_share") >= 0);
    assert_true(real_member(stalls, "full_share") <= real_member(stalls, "some_share"));
}

static void check_all(const outcome *o)
{
    double computed = real_member(o->json, "computed.median_seconds");
    check_times(member(o->json, "computed"), ROUNDS, computed);
    check_times(member(o->json, "parked"), TURNS, computed);
    check_times(member(o->json, "again"), ROUNDS, computed);
    check_stalls(o, "ram");
    check_stalls(o, "zram");
    check_stalls(o, "disk");
    assert_int_equal(int_member(o->json, "sessions"), SESSIONS);
    assert_int_equal(int_member(o->json, "kv_bytes"), SESSIONS * HISTORY * TOKEN_BYTES);
    int64_t in_ram = int_member(o->json, "pages.ram");
    assert_int_equal(in_ram + int_member(o->json, "pages.zram") + int_member(o->json, "pages.disk"),
                     WANTED);
    assert_true(fabs(real_member(o->json, "hit_rate") - (double)in_ram / WANTED) < 1e-9);
    assert_true(json_is_true(member(o->json, "identical")));
    assert_string_equal(text_member(o->json, "model"), demo_model());
}

/* Half of the turns at least go to conversations that cannot all be in RAM: pages are read. */
static void test_conversations_are_parked_on_disk(void **state)
{
    (void)state;
    outcome o = sessions(0, "--json");
    check_all(&o);
    assert_int_equal(int_member(o.json, "ram_budget_bytes"), SESSIONS * HISTORY * TOKEN_BYTES / 8);
    int64_t n_faults = int_member(o.json, "major_faults");
    assert_true(n_faults >= int_member(o.json, "pages.disk"));
    assert_true(int_member(o.json, "pages.disk") > WANTED / 4);
    assert_true(int_member(o.json, "bytes_read") >= n_faults * PAGE_BYTES);
    assert_int_equal(int_member(o.json, "minor_faults"), 0);
    assert_true(real_member(o.json, "stalls.disk.some_seconds") > 0);
    outcome_free(&o);
}

static void test_conversations_are_parked_in_compressed_ram(void **state)
{
    (void)state;
    outcome o = sessions(0, "--json --ram 3M --zram 30M --disk 0");
    check_all(&o);
    assert_int_equal(int_member(o.json, "ram_budget_bytes"), 3 << 20);
    assert_true(int_member(o.json, "pages.zram") > WANTED / 4);
    assert_true(int_member(o.json, "minor_faults") >= int_member(o.json, "pages.zram"));
    assert_int_equal(int_member(o.json, "major_faults"), 0);
    assert_int_equal(int_member(o.json, "bytes_read"), 0);
    outcome_free(&o);
}

/* The figure that follows a label, at the beginning of a line. */
static double figure(const outcome *o, const char *label)
{
    const char *at = strstr(o->out, label);
    if (!at)
        fail_msg("no '%s' in: %s", label, o->out);
    return strtod(at + strlen(label), NULL);
}

static void test_table(void **state)
{
    (void)state;
    outcome o = sessions(0, "");
    static const char head[] = "12 conversations of 300 tokens, turns of 4: 21.09 MiB of KV, "
                               "2.64 MiB of RAM\n";
    assert_memory_equal(o.out, head, strlen(head));
    assert_true(figure(&o, "\ncomputed again") == ROUNDS);
    assert_true(figure(&o, "\nparked, then resumed") == TURNS);
    assert_true(figure(&o, "\nresumed again at once") == ROUNDS);
    double in_ram = figure(&o, "\n  in RAM"), on_disk = figure(&o, "\n  on disk");
    assert_true(figure(&o, "\npages that a turn wants") == PAGES);
    assert_true(on_disk > 0 && fabs(in_ram + on_disk - PAGES) < 0.2);
    assert_true(figure(&o, "\nread from disk per turn") > 0);
    assert_true(figure(&o, "\n  disk") > 0);
    assert_non_null(strstr(o.out, "faults found no frame\n"));
    assert_non_null(strstr(o.out, "\nthe same logits as before parking: yes\n"));
    assert_string_equal(o.err, "");
    outcome_free(&o);
}

static void test_without_a_model_one_is_made(void **state)
{
    (void)state;
    outcome o = run_expecting(
        0, in_scratch(), "bench sessions --sessions 3 --history 64 --turn 1 --rounds 1 --json");
    assert_true(json_is_null(member(o.json, "model")));
    assert_int_equal(int_member(o.json, "kv_bytes"), 3 * 64 * 12 * 768 * 2 * 2);
    assert_int_equal(int_member(o.json, "pages.ram") + int_member(o.json, "pages.disk"),
                     8 * 12 * 3); /* of 4 heads each */
    assert_true(int_member(o.json, "bytes_read") > 0);
    assert_true(json_is_true(member(o.json, "identical")));
    assert_false(has_folder());
    outcome_free(&o);
}

/* ---- what is not ---- */

static void test_run_that_parks_nothing_fails(void **state)
{
    (void)state;
    outcome o = sessions(1, "--ram 64M --json");
    expect_failure(&o, 1, "no page was read, so no conversation was parked: --ram 64M");
    assert_int_equal(int_member(o.json, "major_faults"), 0);
    assert_true(real_member(o.json, "hit_rate") == 1);
    outcome_free(&o);
}

static void check_refused(int code, const char *text, const char *setting, const char *arguments)
{
    outcome o = run(setting, "bench %s", arguments);
    expect_failure(&o, code, text);
    assert_string_equal(o.out, "");
    outcome_free(&o);
}

static void test_mistakes_are_explained(void **state)
{
    (void)state;
    char model[256], arguments[512];
    snprintf(model, sizeof model, "sessions -m %s", demo_model());
    const struct {
        int code;
        const char *text, *arguments;
    } mistakes[] = {
        {2, "do not fit into the model's context of 1024", "--history 1020 --turn 5"},
        {2, "do not fit into the model's context of 1024", "--history 18446744073709551615"},
        {2, "--sessions: '0' is not a number from 1 to 65536", "--sessions 0"},
        {2, "--rounds", "--rounds 10001"},
        {2, "--turn: '0'", "--turn 0"},
        {2, "--disk 0 forbids", "--swap x --disk 0"},
        {1, "--ram 1 is too small: needs at least", "--ram 1"},
        {1, "--ram 1M is too small: needs at least", "--ram 1M --disk 0"},
        {1, "an eighth of the KV) is too small: needs at least", "--sessions 1 --history 8"},
    };
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        snprintf(arguments, sizeof arguments, "%s %s", model, mistakes[i].arguments);
        check_refused(mistakes[i].code, mistakes[i].text, "", arguments);
    }
    check_refused(2, "no subject", "", "");
    check_refused(2, "did you mean sessions", "", "session");
    check_refused(2, "unknown subject 'frobnicate'; see kvpager bench --help", "", "frobnicate");
    check_refused(2, "did you mean --history? See kvpager bench sessions", "",
                  "sessions --histry 1");
    check_refused(1, "no-such-model: no such folder", "", "sessions -m no-such-model");
    /* before a folder is made for the random model, and where there is no place for it */
    check_refused(2, "context of 1024", "TMPDIR=/nowhere", "sessions --history 1020");
    check_refused(1, "cannot make a folder in /nowhere", "TMPDIR=/nowhere", "sessions");
}

/* ---- what is left behind ---- */

static void test_signal_leaves_no_swap_file(void **state)
{
    (void)state;
    const char *swap = scratch("bench.swap");
    int watch = watch_scratch();
    process p = start("", NULL, "bench sessions -m %s %s --rounds 10000 --swap %s", demo_model(),
                      sizes, swap);
    wait_for_file(watch, "bench.swap");
    close(watch);
    kill(p.pid, SIGINT);
    outcome o = finish(&p);
    expect_failure(&o, 130, "interrupted");
    assert_string_equal(o.out, "");
    assert_true(access(swap, F_OK) != 0);
    outcome_free(&o);
}

static void test_signal_leaves_no_model(void **state)
{
    (void)state;
    char event[4096];
    int watch = watch_scratch();
    process p = start(in_scratch(), NULL, "bench sessions");
    while (!has_folder())
        assert_true(read(watch, event, sizeof event) > 0);
    close(watch);
    kill(p.pid, SIGINT);
    outcome o = finish(&p);
    expect_failure(&o, 130, "interrupted");
    assert_false(has_folder());
    outcome_free(&o);
}

static void forbid_large_files(void)
{
    const struct rlimit limit = {1 << 20, 1 << 20};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
}

static void test_disk_without_room_leaves_no_model(void **state)
{
    (void)state;
    process p = start(in_scratch(), forbid_large_files, "bench sessions");
    outcome o = finish(&p);
    expect_failure(&o, 1, "model.safetensors: File too large");
    expect_failure(&o, 1, "-m PATH");
    assert_false(has_folder());
    outcome_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversations_are_parked_on_disk),
        cmocka_unit_test(test_conversations_are_parked_in_compressed_ram),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_without_a_model_one_is_made),
        cmocka_unit_test(test_run_that_parks_nothing_fails),
        cmocka_unit_test(test_mistakes_are_explained),
        cmocka_unit_test(test_signal_leaves_no_swap_file),
        cmocka_unit_test(test_signal_leaves_no_model),
        cmocka_unit_test(test_disk_without_room_leaves_no_model),
    };
    return cmocka_run_group_tests(tests, support_init, support_fini) != 0;
}
