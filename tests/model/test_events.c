/* test_events.c - kvp_config.trace: what is told of a scenario, that it does not depend on where
 * pages lie, and that attention mass reaches the placement policy. */
#include "pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LAYERS 2u
#define KV_HEADS 2u
#define HEADS 4u
#define DIM 64u
#define PAGE_TOKENS 16u
#define CHUNK 40u

static const kvp_layer_kind kind = {KV_HEADS, DIM, DIM, KVP_F16};

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

/* ---- events ---- */

typedef struct recorder {
    kvp_trace_event *events;
    size_t n, capacity;
} recorder;

static void record(void *opaque, const kvp_trace_event *event)
{
    recorder *r = opaque;
    if (r->n == r->capacity) {
        r->capacity = 2 * r->capacity + 1024;
        r->events = realloc(r->events, r->capacity * sizeof *r->events);
    }
    kvp_trace_event *e = &r->events[r->n++];
    memset(e, 0, sizeof *e); /* padding, too: they are compared as bytes */
    e->kind = event->kind;
    e->seq = event->seq;
    e->parent = event->parent;
    e->page = event->page;
    e->lane = event->lane;
    e->lane_index = event->lane_index;
    e->mass = event->mass;
}

static size_t count(const recorder *r, kvp_trace_kind kind_)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++)
        n += r->events[i].kind == kind_;
    return n;
}

static kvp_pager *open_pager(uint64_t ram_bytes, const kvp_placement_ops *placement, recorder *r)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = LAYERS,
                                  .n_kv_heads = KV_HEADS,
                                  .head_dim = DIM,
                                  .dtype = KVP_F16,
                                  .page_tokens = PAGE_TOKENS,
                                  .page_heads = 1};
    cfg.ram_bytes = ram_bytes;
    cfg.disk_bytes = ram_bytes == KVP_UNLIMITED ? 0 : KVP_UNLIMITED;
    cfg.placement = placement;
    cfg.n_threads = 1;
    cfg.trace = r ? record : NULL;
    cfg.trace_opaque = r;
    kvp_pager *pager;
    must(kvp_pager_open(&cfg, &pager));
    return pager;
}

/* ---- the scenario ---- */

static void append(kvp_seq *seq, uint32_t n_tokens)
{
    static float k[CHUNK * KV_HEADS * DIM], v[CHUNK * KV_HEADS * DIM];
    uint32_t salts[CHUNK];
    for (uint32_t i = 0; i < n_tokens; i++)
        salts[i] = i;
    pattern_rows(&kind, salts, n_tokens, k, v);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        must(kvp_seq_append(seq, layer, k, v, n_tokens));
}

static void attend(kvp_seq *seq, float *page_mass)
{
    float q[HEADS * DIM], out[HEADS * DIM];
    for (size_t i = 0; i < HEADS * DIM; i++)
        q[i] = (float)(i % 7) - 3;
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        must(kvp_attend(seq, layer,
                        &(kvp_attend_args){.q = q,
                                           .out = out,
                                           .n_queries = 1,
                                           .n_heads = HEADS,
                                           .scale = 0.1f,
                                           .page_mass = page_mass}));
}

static void scenario(kvp_pager *pager)
{
    kvp_seq *seq, *child;
    must(kvp_seq_create(pager, &seq));
    append(seq, CHUNK);
    attend(seq, NULL);
    must(kvp_seq_advise(seq, 0, 20, KVP_COLD));
    must(kvp_seq_fork(seq, &child));
    append(child, 20);
    attend(child, NULL);
    attend(seq, NULL);
    must(kvp_seq_truncate(child, 17));
    append(child, 3);
    kvp_seq_destroy(seq);
    attend(child, NULL);
    must(kvp_pager_check(pager));
    kvp_seq_destroy(child);
}

static recorder run(uint64_t ram_bytes)
{
    recorder r = {0};
    kvp_pager *pager = open_pager(ram_bytes, NULL, &r);
    scenario(pager);
    kvp_pager_close(pager);
    return r;
}

static void test_events_tell_the_scenario(void **state)
{
    (void)state;
    recorder r = run(KVP_UNLIMITED);
    enum { LANES = LAYERS * KV_HEADS };
    assert_int_equal(count(&r, KVP_TRACE_SEQ_CREATED), 1);
    assert_int_equal(count(&r, KVP_TRACE_SEQ_FORKED), 1);
    assert_int_equal(count(&r, KVP_TRACE_SEQ_ENDED), 2);
    /* 40 tokens are three pages; the child has a copy of the third and one more; and, after it was
     * cut to 17 tokens, a copy of the second. */
    assert_int_equal(count(&r, KVP_TRACE_PAGE_NEW), LANES * (3 + 2 + 1));
    assert_int_equal(count(&r, KVP_TRACE_PAGE_FREED), LANES * (3 + 2 + 1));
    assert_int_equal(count(&r, KVP_TRACE_PAGE_SEALED), LANES * (2 + 1));
    assert_int_equal(count(&r, KVP_TRACE_PAGE_COLD), LANES * 2);
    assert_int_equal(count(&r, KVP_TRACE_PAGE_MASS), 0);
    bool is_live[64] = {false};
    for (size_t i = 0; i < r.n; i++) {
        const kvp_trace_event *e = &r.events[i];
        assert_true(e->page < 64);
        if (e->kind == KVP_TRACE_PAGE_NEW) {
            assert_true(!is_live[e->page] && e->lane < LANES && e->lane_index < 4);
            is_live[e->page] = true;
        } else if (e->kind > KVP_TRACE_PAGE_NEW) {
            assert_true(is_live[e->page]);
            is_live[e->page] = e->kind != KVP_TRACE_PAGE_FREED;
        }
    }
    /* Attention: 3 pages; 4 and 3; and in the end 2. Besides, copies and rows that are added. */
    size_t n_used = count(&r, KVP_TRACE_PAGE_USED);
    assert_true(n_used >= LANES * (3 + 4 + 3 + 2) && n_used <= LANES * (3 + 4 + 3 + 2 + 6));
    free(r.events);
}

static void test_events_do_not_depend_on_the_budget(void **state)
{
    (void)state;
    recorder all = run(KVP_UNLIMITED), little = run(40000);
    assert_int_equal(all.n, little.n);
    assert_memory_equal(all.events, little.events, all.n * sizeof *all.events);
    free(all.events);
    free(little.events);
}

/* ---- attention mass ---- */

static float told[64];
static size_t n_told;

static void note_mass(kvp_placement *p, uint32_t page, float mass)
{
    (void)p;
    assert_true(page < 64);
    told[page] = mass;
    n_told++;
}

static kvp_placement_ops noting; /* LRU that notes masses */

static kvp_status open_noting(const kvp_placement_config *cfg, kvp_placement **out)
{
    kvp_status status = kvp_placement_lru.open(cfg, out);
    if (!status)
        (*out)->ops = &noting;
    return status;
}

static void test_attention_mass_reaches_the_policy(void **state)
{
    (void)state;
    noting = kvp_placement_lru;
    noting.open = open_noting;
    noting.mass = note_mass;
    recorder r = {0};
    kvp_pager *pager = open_pager(KVP_UNLIMITED, &noting, &r);
    kvp_seq *seq;
    must(kvp_seq_create(pager, &seq));
    assert_true(kvp_pager_wants_mass(pager));
    append(seq, CHUNK);
    attend(seq, NULL);
    assert_int_equal(n_told, 0);
    float masses[HEADS * 3];
    attend(seq, masses); /* of the last layer, in the end; its lanes' pages are 6 .. 11 */
    assert_int_equal(n_told, LAYERS * KV_HEADS * 3);
    for (uint32_t group = 0; group < KV_HEADS; group++) {
        float sum = 0;
        for (uint32_t i = 0; i < 3; i++) {
            float mean = (masses[2 * group * 3 + i] + masses[(2 * group + 1) * 3 + i]) / 2;
            float got = told[6 + 3 * group + i];
            assert_true(got - mean < 1e-6f && mean - got < 1e-6f);
            sum += got;
        }
        assert_true(sum > 0.999f && sum < 1.001f);
    }
    assert_int_equal(count(&r, KVP_TRACE_PAGE_MASS), n_told);
    kvp_pager_close(pager);
    pager = open_pager(KVP_UNLIMITED, NULL, NULL);
    assert_false(kvp_pager_wants_mass(pager));
    kvp_pager_close(pager);
    free(r.events);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events_tell_the_scenario),
        cmocka_unit_test(test_events_do_not_depend_on_the_budget),
        cmocka_unit_test(test_attention_mass_reaches_the_policy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
