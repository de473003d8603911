/* test_traces.c - the traces that ship: that they are what the workloads do, and the bars that the
 * default placement is held to on them, in hits. */
#include "temp_dir.h"
#include "workloads.h"

#include "integration/replay/replay.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FOLDER "tests/data/traces"

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static trace read_trace(const char *name)
{
    char path[128];
    trace t;
    snprintf(path, sizeof path, FOLDER "/%s.trace", name);
    must(trace_read(path, &t));
    return t;
}

static double rate(const trace *t, const kvp_placement_ops *ops, uint32_t n_frames)
{
    uint64_t n_hits;
    if (ops)
        must(replay_policy(t, ops, n_frames, &n_hits));
    else
        must(replay_optimum(t, n_frames, &n_hits));
    return (double)n_hits / (double)t->n_uses;
}

/* ---- the files ---- */

static char *read_file(const char *folder, const char *name, size_t *n)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s.trace", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s is missing", path);
    char *bytes = malloc(1 << 20);
    *n = fread(bytes, 1, 1 << 20, f);
    fclose(f);
    return bytes;
}

/* Whoever changes what the pager tells, or in which order it uses pages, makes them anew (README.md
 * there says how) and looks at the bars again. */
static void test_traces_are_what_the_workloads_do(void **state)
{
    (void)state;
    char dir[TEMP_DIR_BYTES];
    temp_dir_make(dir);
    for (const workload *w = workloads; w->name; w++) {
        char path[128];
        size_t n, n_shipped;
        snprintf(path, sizeof path, "%s/%s.trace", dir, w->name);
        must(workload_record(w, path));
        char *bytes = read_file(dir, w->name, &n);
        char *shipped = read_file(FOLDER, w->name, &n_shipped);
        print_message("%s: %zu bytes\n", w->name, n);
        assert_int_equal(n, n_shipped);
        assert_memory_equal(bytes, shipped, n);
        assert_true(n < 64 << 10);
        free(bytes);
        free(shipped);
    }
    temp_dir_remove(dir);
}

/* ---- the bars ---- */

/* Of the pages that there are at a time. */
static const struct {
    uint32_t n, of;
} budgets[] = {{1, 16}, {1, 8}, {3, 16}, {1, 4}, {3, 8}, {1, 2}, {5, 8}, {3, 4}, {7, 8}};

#define N_BUDGETS (sizeof budgets / sizeof *budgets)

static uint32_t frames(const trace *t, size_t i)
{
    return t->peak_live * budgets[i].n / budgets[i].of;
}

static void test_default_is_near_the_optimum_on_cyclic_decode(void **state)
{
    (void)state;
    trace t = read_trace("cyclic_decode");
    assert_true(t.n_uses > 30000);
    for (size_t i = 0; i < N_BUDGETS; i++) {
        double optimum = rate(&t, NULL, frames(&t, i));
        double sticky = rate(&t, &kvp_placement_sticky, frames(&t, i));
        print_message("%u/%u: sticky %.4f, optimum %.4f: %.3f of it\n", budgets[i].n, budgets[i].of,
                      sticky, optimum, sticky / optimum);
        assert_true(sticky >= 0.95 * optimum);
    }
    trace_free(&t);
}

/* The same without what policies are told of pages: what LRU does in a textbook. */
static trace strip(const trace *t)
{
    trace bare;
    must(trace_init(&bare, "bare"));
    for (size_t i = 0; i < t->n_ops; i++) {
        const trace_op *op = &t->ops[i];
        if (op->kind == KVP_TRACE_PAGE_NEW) {
            must(trace_add_new(&bare, op->page, 0, 0));
            must(trace_add(&bare, KVP_TRACE_PAGE_SEALED, op->page, 0));
        } else if (op->kind == KVP_TRACE_PAGE_USED || op->kind == KVP_TRACE_PAGE_FREED) {
            must(trace_add(&bare, (kvp_trace_kind)op->kind, op->page, 0));
        }
    }
    return bare;
}

static void test_default_is_never_much_worse_than_lru(void **state)
{
    (void)state;
    for (const workload *w = workloads; w->name; w++) {
        trace t = read_trace(w->name), bare = strip(&t);
        for (size_t i = 0; i < N_BUDGETS; i++) {
            double optimum = rate(&t, NULL, frames(&t, i));
            double sticky = rate(&t, &kvp_placement_sticky, frames(&t, i));
            double lru = rate(&t, &kvp_placement_lru, frames(&t, i));
            double textbook = rate(&bare, &kvp_placement_lru, frames(&t, i));
            print_message("%s %u/%u: sticky %.4f, lru %.4f (%.4f if told nothing), optimum %.4f\n",
                          w->name, budgets[i].n, budgets[i].of, sticky, lru, textbook, optimum);
            assert_true(sticky >= lru - 0.02 && sticky >= textbook - 0.02);
        }
        trace_free(&t);
        trace_free(&bare);
    }
}

/* A page that is known to be heavy stays with attention-mass. */
static void test_masses_are_in_the_trace(void **state)
{
    (void)state;
    trace t = read_trace("cyclic_decode");
    size_t n = 0;
    for (size_t i = 0; i < t.n_ops; i++)
        n += t.ops[i].kind == KVP_TRACE_PAGE_MASS;
    assert_true(n > t.n_pages);
    assert_true(rate(&t, &kvp_placement_attention_mass, frames(&t, 3)) > 0.1);
    trace_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_traces_are_what_the_workloads_do),
        cmocka_unit_test(test_default_is_near_the_optimum_on_cyclic_decode),
        cmocka_unit_test(test_default_is_never_much_worse_than_lru),
        cmocka_unit_test(test_masses_are_in_the_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
