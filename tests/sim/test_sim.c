/* test_sim.c - the pager in a simulated world: random operations of many sequences, exact to the
 * byte, with errors of the disk; a run is its seed.
 *
 *     sim_sim                          the tests
 *     sim_sim --replay SEED [ID...]    the log of one run, with these operations only
 *     sim_sim --seeds FIRST COUNT      more runs; the first that fails is shortened
 *
 * tests/model/test_pager_model.c plays the same kind of game with real engines and real threads:
 * what it finds cannot be repeated, and it finds what one thread never does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/sim/shrink.h"
#include "tests/support/pattern.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_SANITIZED 1
#endif
#endif
#ifndef IS_SANITIZED
#define IS_SANITIZED 0
#endif

#define OPS_PER_RUN 2000u
#define N_RUNS (IS_SANITIZED ? 50u : 500u) /* a million operations */
#define MAX_TRIES 1500u

/* ---- running seeds ---- */

static sim_op *make_script(uint64_t seed, uint32_t n, sim_world *w)
{
    sim_op *ops = calloc(n, sizeof *ops);
    if (!ops)
        abort();
    sim_world_make(seed, w);
    sim_script_make(seed, w, ops, n);
    return ops;
}

static void print_ops(FILE *f, const sim_op *ops, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        fprintf(f, "    %5u actor %-2u %-8s %u %u %u\n", ops[i].id, ops[i].actor,
                sim_op_names[ops[i].kind], ops[i].a, ops[i].b, ops[i].c);
}

/* Seed, shortened sequence, and how to see it again. */
static void report(FILE *f, uint64_t seed, const sim_op *ops, uint32_t n, const sim_outcome *o)
{
    fprintf(f, "seed %llu fails: %s\n%u of %u operations suffice:\n", (unsigned long long)seed,
            o->message, n, OPS_PER_RUN);
    print_ops(f, ops, n);
    fprintf(f, "again: sim_sim --replay %llu", (unsigned long long)seed);
    for (uint32_t i = 0; i < n; i++)
        fprintf(f, " %u", ops[i].id);
    fprintf(f, "\n");
}

/* False: a run failed, and the report is on stderr. */
static bool run_seeds(uint64_t first, uint64_t n, sim_tally *sum)
{
    for (uint64_t seed = first; seed < first + n; seed++) {
        sim_world w;
        sim_outcome out;
        sim_op *ops = make_script(seed, OPS_PER_RUN, &w);
        sim_try_script(&w, ops, OPS_PER_RUN, &out);
        sim_tally_add(sum, &out.tally);
        if (out.has_failed) {
            uint32_t n_left = sim_shrink(&w, ops, OPS_PER_RUN, MAX_TRIES, &out);
            report(stderr, seed, ops, n_left, &out);
        }
        free(ops);
        if (out.has_failed)
            return false;
    }
    return true;
}

static char *log_of(uint64_t seed, sim_outcome *out)
{
    char *text = NULL;
    size_t n = 0;
    sim_world w;
    sim_op *ops = make_script(seed, OPS_PER_RUN, &w);
    FILE *f = open_memstream(&text, &n);
    assert_non_null(f);
    sim_run_script(&w, ops, OPS_PER_RUN, f, out);
    fclose(f);
    free(ops);
    return text;
}

/* ---- the same seed, the same run ---- */

static char *log_of_new_process(uint64_t seed)
{
    char self[4096], command[4200];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = 0;
    snprintf(command, sizeof command, "'%s' --replay %llu", self, (unsigned long long)seed);
    FILE *from = popen(command, "r");
    assert_non_null(from);
    char *text = NULL;
    size_t size = 0;
    assert_true(getdelim(&text, &size, 0, from) > 0);
    assert_int_equal(pclose(from), 0);
    return text;
}

static void assert_same_log(const char *a, const char *b)
{
    size_t i = 0, line = 0;
    for (; a[i] && a[i] == b[i]; i++)
        line = a[i] == '\n' ? i + 1 : line;
    if (a[i] != b[i])
        fail_msg("two runs of a seed differ:\n%.*s\n%.*s", (int)strcspn(a + line, "\n"), a + line,
                 (int)strcspn(b + line, "\n"), b + line);
}

static void test_a_seed_gives_the_same_run_byte_for_byte(void **state)
{
    (void)state;
    uint64_t last_digest = 0;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        sim_outcome first, second;
        char *a = log_of(seed, &first), *b = log_of(seed, &second);
        assert_same_log(a, b);
        assert_true(first.digest == second.digest && first.digest != last_digest);
        assert_true(first.virtual_ns == second.virtual_ns);
        last_digest = first.digest;
        if (seed % 4 == 0) { /* other addresses, another process */
            char *c = log_of_new_process(seed);
            assert_same_log(a, c);
            free(c);
        }
        free(a);
        free(b);
    }
}

/* ---- a million operations ---- */

static void assert_much_happened(const sim_tally *t)
{
    assert_true(t->n_ops == (uint64_t)N_RUNS * OPS_PER_RUN);
    assert_true(t->n_pages_checked > t->n_ops / 4);
    assert_true(t->minor_faults > 0 && t->major_faults > t->n_ops / 10);
    assert_true(t->demotions > 0 && t->evictions > 0 && t->copies_on_write > 0);
    assert_true(t->prefetches > 0 && t->prefetches_advised > 0);
    assert_true(t->n_forks > 0 && t->n_scans > 0 && t->n_tickets > 0 && t->n_mended > 0);
    assert_true(t->n_timeouts > 0 && t->n_again > 0 && t->n_refused > 0 && t->n_busy > 0);
    assert_true(t->n_limits > t->n_ops / 400 && t->n_budget_refused > 0);
    assert_true(t->n_io > 0 && t->n_corrupt > 0 && t->n_lost > 0);
    for (uint32_t i = 0; i < SIM_N_FAULTS; i++)
        if (!t->n_injected[i])
            fail_msg("no request met with: %s", sim_fault_names[i]);
}

static void test_a_million_operations_keep_every_byte(void **state)
{
    (void)state;
    sim_tally sum = {0};
    assert_true(run_seeds(1, N_RUNS, &sum));
    assert_much_happened(&sum);
}

/* ---- what a failing run says ---- */

static void test_a_failing_run_is_shortened(void **state)
{
    (void)state;
    sim_world w;
    sim_outcome out;
    sim_op *ops = make_script(7, OPS_PER_RUN, &w);
    w.is_planted = true;
    sim_try_script(&w, ops, OPS_PER_RUN, &out);
    assert_true(out.has_failed);
    uint32_t n = sim_shrink(&w, ops, OPS_PER_RUN, MAX_TRIES, &out);
    assert_true(out.has_failed && n >= 2 && n <= 6); /* append, fork; more if pages are evicted */
    bool has_fork = false;
    for (uint32_t i = 0; i < n; i++)
        has_fork = has_fork || ops[i].kind == SIM_FORK;
    assert_true(has_fork);
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    assert_non_null(f);
    report(f, 7, ops, n, &out);
    fclose(f);
    assert_non_null(strstr(text, "seed 7 fails"));
    assert_non_null(strstr(text, "wrong bytes"));
    assert_non_null(strstr(text, "--replay 7 "));
    free(text);
    free(ops);
}

/* ---- a disk that does not answer ---- */

#define TOKENS 256u
static const kvp_layer_kind kind = {2, 32, 32, KVP_F16};

typedef struct small_world {
    sim s;
    kvp_pager *pager;
    kvp_seq *seq;
    uint32_t salts[TOKENS];
} small_world;

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

/* A sequence of 16 pages of 4 KiB, of which RAM holds a few. */
static void open_small(small_world *w)
{
    static float k[TOKENS * 64], v[TOKENS * 64];
    const sim_device device = {.latency_ns = 100000,
                               .bytes_per_s = 1000000000u,
                               .n_channels = 4,
                               .timeout_ns = 30000000000u,
                               .keeps_bytes = true};
    sim_init(&w->s, 42, &device);
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = 1, .n_kv_heads = 2, .head_dim = 32, .dtype = KVP_F16, .page_tokens = 16};
    cfg.ram_bytes = 32768;
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.n_threads = 1;
    cfg.env = &w->s.env;
    must(kvp_pager_open(&cfg, &w->pager));
    must(kvp_seq_create(w->pager, &w->seq));
    for (uint32_t i = 0; i < TOKENS; i++)
        w->salts[i] = i + 1;
    pattern_rows(&kind, w->salts, TOKENS, k, v);
    must(kvp_seq_append(w->seq, 0, k, v, TOKENS));
}

static void close_small(small_world *w)
{
    must(kvp_pager_check(w->pager));
    kvp_pager_close(w->pager);
    assert_string_equal(w->s.violation, "");
    sim_fini(&w->s);
}

static kvp_status pin_token(small_world *w, uint64_t token, uint64_t deadline_ns)
{
    kvp_page_view page;
    kvp_view view = {.pages = &page, .max_pages = 1};
    kvp_status status = kvp_seq_pin(w->seq, 0, token, 1, deadline_ns, &view);
    if (!status) {
        assert_true(pattern_page_ok(&page, w->salts));
        kvp_view_unpin(&view);
    }
    return status;
}

/* The first token whose page is on disk alone. */
static uint64_t token_on_disk(small_world *w)
{
    kvp_page_info infos[32];
    size_t n;
    must(kvp_seq_pages(w->seq, infos, 32, &n));
    for (size_t i = 0; i < n; i++)
        if (infos[i].tier == KVP_TIER_DISK && !infos[i].is_lost)
            return infos[i].first_position;
    fail_msg("no page is on disk");
    return 0;
}

static void test_the_clock_goes_on_to_a_deadline_and_to_the_end_of_a_stuck_request(void **state)
{
    (void)state;
    small_world w;
    open_small(&w);
    uint64_t token = token_on_disk(&w), start_ns = w.s.now_ns;
    w.s.device.rates[SIM_STUCK] = 65536;
    assert_int_equal(pin_token(&w, token, 0), KVP_E_AGAIN);
    assert_true(w.s.now_ns == start_ns);
    assert_int_equal(pin_token(&w, token, start_ns + 5000000), KVP_E_TIMEOUT);
    assert_true(w.s.now_ns == start_ns + 5000000);
    assert_int_equal(w.s.n_injected[SIM_STUCK], 1);
    w.s.device.rates[SIM_STUCK] = 0;
    uint64_t other = token >= TOKENS / 2 ? 0 : TOKENS - 1;
    must(pin_token(&w, other, KVP_FOREVER)); /* meanwhile others go on */
    assert_true(w.s.now_ns < start_ns + w.s.device.timeout_ns);
    must(pin_token(&w, token, KVP_FOREVER)); /* another's fault failed: it tries by itself */
    assert_true(w.s.now_ns >= start_ns + w.s.device.timeout_ns);
    w.s.device.rates[SIM_STUCK] = 65536;
    token = token_on_disk(&w);
    start_ns = w.s.now_ns;
    assert_int_equal(pin_token(&w, token, KVP_FOREVER), KVP_E_IO);
    assert_non_null(strstr(kvp_error(), "timed out"));
    uint64_t waited_ns = w.s.now_ns - start_ns; /* it may try a second time */
    assert_true(waited_ns == w.s.device.timeout_ns || waited_ns == 2 * w.s.device.timeout_ns);
    w.s.device.rates[SIM_STUCK] = 0;
    must(pin_token(&w, token, KVP_FOREVER)); /* the page is as it was */
    close_small(&w);
}

static void test_every_fault_is_a_typed_error(void **state)
{
    (void)state;
    static const kvp_status of_read[SIM_N_FAULTS] = {[SIM_EIO] = KVP_E_IO,
                                                     [SIM_SHORT] = KVP_E_IO,
                                                     [SIM_STUCK] = KVP_E_IO,
                                                     [SIM_FLIP] = KVP_E_CORRUPT,
                                                     [SIM_MISDIRECTED] = KVP_E_CORRUPT};
    for (uint32_t fault = 0; fault < SIM_N_FAULTS; fault++) {
        small_world w;
        open_small(&w);
        uint64_t token = token_on_disk(&w);
        w.s.device.rates[fault] = 65536;
        kvp_status status = pin_token(&w, token, KVP_FOREVER);
        assert_int_equal(status, of_read[fault]);
        w.s.device.rates[fault] = 0;
        /* An error leaves the page; wrong bytes lose it, for ever. */
        assert_int_equal(pin_token(&w, token, KVP_FOREVER),
                         status == KVP_E_CORRUPT ? KVP_E_LOST : KVP_OK);
        close_small(&w);
    }
}

static void test_the_simulator_has_one_thread(void **state)
{
    (void)state;
    small_world w;
    open_small(&w);
    int fd;
    assert_int_equal(kvp_pager_eventfd(w.pager, &fd), KVP_E_UNSUPPORTED);
    close_small(&w);
}

/* ---- the command ---- */

static int replay(uint64_t seed, char **ids, int n_ids)
{
    sim_world w;
    sim_outcome out;
    sim_op *ops = make_script(seed, OPS_PER_RUN, &w);
    uint32_t n = n_ids ? 0 : OPS_PER_RUN;
    for (int i = 0; i < n_ids; i++) {
        unsigned long id = strtoul(ids[i], NULL, 10);
        if (id < OPS_PER_RUN && id >= n)
            ops[n++] = ops[id]; /* ascending, as they were printed */
    }
    sim_run_script(&w, ops, n, stdout, &out);
    free(ops);
    if (out.has_failed)
        fprintf(stderr, "seed %llu fails: %s\n", (unsigned long long)seed, out.message);
    return out.has_failed;
}

static int run_more(uint64_t first, uint64_t n)
{
    sim_tally sum = {0};
    bool ok = run_seeds(first, n, &sum);
    printf("%llu operations, %llu pages compared, %llu faults, %llu errors of the disk\n",
           (unsigned long long)sum.n_ops, (unsigned long long)sum.n_pages_checked,
           (unsigned long long)(sum.major_faults + sum.minor_faults),
           (unsigned long long)(sum.n_io + sum.n_corrupt + sum.n_lost));
    return !ok;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_seed_gives_the_same_run_byte_for_byte),
        cmocka_unit_test(test_a_million_operations_keep_every_byte),
        cmocka_unit_test(test_a_failing_run_is_shortened),
        cmocka_unit_test(test_the_clock_goes_on_to_a_deadline_and_to_the_end_of_a_stuck_request),
        cmocka_unit_test(test_every_fault_is_a_typed_error),
        cmocka_unit_test(test_the_simulator_has_one_thread),
    };
    if (argc > 2 && !strcmp(argv[1], "--replay"))
        return replay(strtoull(argv[2], NULL, 10), argv + 3, argc - 3);
    if (argc == 4 && !strcmp(argv[1], "--seeds"))
        return run_more(strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
    if (argc > 1) {
        fprintf(stderr, "usage: sim_sim [--replay SEED [ID...] | --seeds FIRST COUNT]\n");
        return 2;
    }
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
