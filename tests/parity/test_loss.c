/* test_loss.c - KV that does not come back from disk as it was written is computed again, by the
 * same calls as before: the logits are those of an undisturbed run, bit by bit. */
#include "integration/cli/context.h"
#include "tests/support/faulty_disk.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_llama.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 8u
#define N 60u
#define FIRST 23u
#define TEXTS 3u

typedef struct fixture {
    char dir[TEMP_DIR_BYTES];
    tiny_llama shape;
    model *m;
    int32_t tokens[TEXTS][N];
} fixture;

static void need(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->shape = tiny_llama_default();
    temp_dir_make(f->dir);
    tiny_llama_write(f->dir, &f->shape);
    const model_options options = {.n_threads = 2};
    need(model_open(f->dir, &options, &f->m));
    uint32_t x = 12345;
    for (uint32_t i = 0; i < TEXTS * N; i++, x = x * 1664525u + 1013904223u)
        f->tokens[i / N][i % N] = (int32_t)((x >> 16) % f->shape.n_vocab);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    model_close(f->m);
    temp_dir_remove(f->dir);
    free(f);
    return 0;
}

/* A pager with RAM for little more than nothing, on a disk that may fail. */
static kvp_pager *open_pager(const fixture *f, const kvp_env *env)
{
    kvp_pager *pager;
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(f->m), KVP_F32, PAGE);
    cfg.ram_bytes = 1;
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.env = env;
    assert_int_equal(kvp_pager_open(&cfg, &pager), KVP_E_BUDGET);
    const char *needs = strstr(kvp_error(), "needs at least ");
    assert_non_null(needs);
    cfg.ram_bytes = strtoull(needs + 15, NULL, 10);
    need(kvp_pager_open(&cfg, &pager));
    return pager;
}

static float *alloc_logits(const fixture *f, size_t n)
{
    float *logits = calloc(n * f->shape.n_vocab, sizeof *logits);
    assert_non_null(logits);
    return logits;
}

/* One text: the first tokens at once, in chunks if the rule says so, the others one by one. */
static kvp_status run(const fixture *f, faulty_disk *disk, const window_rule *rule, float *logits,
                      uint64_t *n_put_back)
{
    kvp_pager *pager = open_pager(f, &disk->env);
    context c;
    need(context_init(&c, f->m, pager, rule));
    kvp_status status = context_extend(&c, f->tokens[0], FIRST, logits, 1);
    for (size_t i = FIRST; i < N && !status; i++)
        status =
            context_extend(&c, f->tokens[0], i + 1, logits + (i - FIRST + 1) * f->shape.n_vocab, 1);
    *n_put_back = c.n_put_back;
    need(kvp_pager_check(pager));
    context_fini(&c);
    kvp_pager_close(pager);
    return status;
}

/* Every nth read of the run is disturbed in turn. */
static void disturb_each(const fixture *f, const window_rule *rule)
{
    const size_t n_bytes = (N - FIRST + 1) * f->shape.n_vocab * sizeof(float);
    float *wanted = alloc_logits(f, N), *logits = alloc_logits(f, N);
    uint64_t n_put_back, n_disturbed = 0;
    faulty_disk disk;
    faulty_disk_init(&disk, NULL);
    need(run(f, &disk, rule, wanted, &n_put_back));
    assert_int_equal(n_put_back, 0);
    uint64_t n_reads = faulty_disk_reads(&disk);
    assert_true(n_reads > 20);
    for (uint64_t nth = 1; nth <= n_reads; nth += 1 + n_reads / 25) {
        faulty_disk_arm(
            &disk,
            (faulty_plan){.kind = FAULT_FLIP, .op = FAULT_READS, .nth = nth, .flip_bit = 7 * nth});
        memset(logits, 0, n_bytes);
        need(run(f, &disk, rule, logits, &n_put_back));
        assert_memory_equal(logits, wanted, n_bytes);
        n_disturbed += faulty_disk_fired(&disk) && n_put_back;
    }
    assert_true(n_disturbed > 5);
    faulty_disk_fini(&disk);
    free(wanted);
    free(logits);
}

static void test_lost_kv_is_computed_again_with_the_same_bits(void **state)
{
    const window_rule rule = {.n_ctx = 64};
    disturb_each(*state, &rule);
}

static void test_the_same_in_chunks(void **state)
{
    const window_rule rule = {.n_ctx = 64, .chunk = 5};
    disturb_each(*state, &rule);
}

static void test_the_same_where_retention_has_freed_what_came_before(void **state)
{
    const window_rule rule = {.n_ctx = 64, .keep = 20, .sinks = 4, .chunk = 4};
    disturb_each(*state, &rule);
}

static void test_a_disk_that_corrupts_everything_is_an_error(void **state)
{
    const fixture *f = *state;
    const window_rule rule = {.n_ctx = 64};
    float *logits = alloc_logits(f, N);
    uint64_t n_put_back;
    faulty_disk disk;
    faulty_disk_init(&disk, NULL);
    faulty_disk_arm(
        &disk,
        (faulty_plan){.kind = FAULT_FLIP, .op = FAULT_READS, .nth = 1, .is_persistent = true});
    kvp_status status = run(f, &disk, &rule, logits, &n_put_back);
    assert_true(status == KVP_E_CORRUPT || status == KVP_E_LOST);
    faulty_disk_fini(&disk);
    free(logits);
}

/* Several texts, decoded together. */
static void run_batch(const fixture *f, faulty_disk *disk, float *logits, uint64_t *n_put_back)
{
    const size_t n_vocab = f->shape.n_vocab;
    const window_rule rule = {.n_ctx = 64};
    kvp_pager *pager = open_pager(f, &disk->env);
    context c[TEXTS];
    model_item items[TEXTS];
    float *rows = alloc_logits(f, TEXTS);
    for (uint32_t t = 0; t < TEXTS; t++) {
        need(context_init(&c[t], f->m, pager, &rule));
        need(context_extend(&c[t], f->tokens[t], FIRST + t, rows, 1));
    }
    for (uint32_t i = FIRST; i < N - TEXTS; i++) {
        context_step steps[TEXTS];
        for (uint32_t t = 0; t < TEXTS; t++)
            steps[t] = (context_step){.context = &c[t], .text = f->tokens[t], .end = i + t + 1};
        need(context_step_all(steps, TEXTS, rows, items));
        for (uint32_t t = 0; t < TEXTS; t++)
            memcpy(logits + (i * TEXTS + t) * n_vocab, steps[t].logits, n_vocab * sizeof *logits);
    }
    *n_put_back = 0;
    for (uint32_t t = 0; t < TEXTS; t++) {
        *n_put_back += c[t].n_put_back;
        context_fini(&c[t]);
    }
    free(rows);
    kvp_pager_close(pager);
}

static void test_texts_of_a_batch_are_put_back_with_the_same_bits(void **state)
{
    const fixture *f = *state;
    const size_t n = (size_t)N * TEXTS;
    float *wanted = alloc_logits(f, n), *logits = alloc_logits(f, n);
    uint64_t n_put_back, n_disturbed = 0;
    faulty_disk disk;
    faulty_disk_init(&disk, NULL);
    run_batch(f, &disk, wanted, &n_put_back);
    assert_int_equal(n_put_back, 0);
    uint64_t n_reads = faulty_disk_reads(&disk);
    for (uint64_t nth = 1; nth <= n_reads; nth += 1 + n_reads / 25) {
        faulty_disk_arm(
            &disk,
            (faulty_plan){.kind = FAULT_FLIP, .op = FAULT_READS, .nth = nth, .flip_bit = 5 * nth});
        run_batch(f, &disk, logits, &n_put_back);
        assert_memory_equal(logits, wanted, n * f->shape.n_vocab * sizeof *logits);
        n_disturbed += faulty_disk_fired(&disk) && n_put_back;
    }
    assert_true(n_disturbed > 5);
    faulty_disk_fini(&disk);
    free(wanted);
    free(logits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lost_kv_is_computed_again_with_the_same_bits),
        cmocka_unit_test(test_the_same_in_chunks),
        cmocka_unit_test(test_the_same_where_retention_has_freed_what_came_before),
        cmocka_unit_test(test_a_disk_that_corrupts_everything_is_an_error),
        cmocka_unit_test(test_texts_of_a_batch_are_put_back_with_the_same_bits),
    };
    return cmocka_run_group_tests(tests, setup, teardown) != 0;
}
