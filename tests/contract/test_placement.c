/* test_placement.c - what every placement policy keeps to, under the same calls. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "placement_model.h"

#include <stdlib.h>
#include <string.h>

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

enum { N = 300, N_CALLS = 6000 };

typedef enum standing { OUT, IN, IN_USE } standing;

/* The policy's pages, kept in step with it. */
typedef struct mirror {
    placement_model *m;
    standing standing[N];
    kvp_placement_page facts[N];
    uint32_t n_in;
} mirror;

static mirror open_mirror(const kvp_placement_ops *ops)
{
    mirror r = {.m = model_open(ops, MODEL_MAX_PAGES, 4)};
    return r;
}

static void put_in(mirror *r, uint32_t page, uint64_t random, bool is_used)
{
    kvp_placement_page *f = &r->facts[page];
    *f = (kvp_placement_page){.page = page,
                              .lane = page % 3,
                              .lane_index = page / 3,
                              .is_open = random % 29 == 0,
                              .is_hot = random % 7 == 0,
                              .is_cold = random % 13 == 0,
                              .is_used = is_used};
    model_insert(r->m, f);
    r->standing[page] = IN;
    r->n_in++;
}

static void take_out(mirror *r, uint32_t page, kvp_removal why, standing to)
{
    model_remove(r->m, page, why);
    r->standing[page] = to;
    r->n_in--;
}

/* One thing that the pager may do with a page. */
static void call(mirror *r, uint64_t random)
{
    uint32_t page = (uint32_t)(random % N);
    uint64_t facts = random >> 20;
    const kvp_placement_ops *ops = r->m->ops;
    if (ops->mass && random >> 60 == 0 && r->standing[page] != IN)
        ops->mass(r->m->policy, page, (float)(facts % 1000) / 1000);
    switch (r->standing[page]) {
    case OUT:
        if (random >> 50 & 1)
            put_in(r, page, facts, random >> 51 & 1);
        else
            r->m->memories[page] = 0;
        break;
    case IN_USE:
        put_in(r, page, facts, true);
        break;
    case IN:
        if (random >> 50 & 1) {
            take_out(r, page, KVP_REMOVED_FOR_USE, IN_USE);
        } else if (random >> 51 & 1) {
            take_out(r, page, KVP_REMOVED_GONE, OUT);
        } else {
            take_out(r, page, KVP_REMOVED_RETOLD, OUT);
            put_in(r, page, facts, false);
        }
    }
}

/* 0: leaves before all others .. 2: after them. */
static int class_of(const kvp_placement_page *f)
{
    return f->is_cold ? 0 : f->is_hot ? 2 : 1;
}

/* It leaves somewhere between the others: see below. */
static bool is_open(const kvp_placement_page *f)
{
    return f->is_open && !f->is_cold && !f->is_hot;
}

/* The walk names every page that is in, once, and none else: cold ones first, hot ones last.
 * Returns a hash of the order. */
static uint64_t check_walk(const mirror *r)
{
    bool is_seen[N] = {false};
    uint32_t n = 0;
    uint64_t hash = 14695981039346656037u;
    int last = 0;
    for (uint32_t v = model_victim(r->m, KVP_PAGE_NONE); v != KVP_PAGE_NONE;
         v = model_victim(r->m, v)) {
        assert_true(v < N && r->standing[v] == IN && !is_seen[v]);
        assert_true(is_open(&r->facts[v]) || class_of(&r->facts[v]) >= last);
        last = is_open(&r->facts[v]) ? last : class_of(&r->facts[v]);
        is_seen[v] = true;
        n++;
        hash = (hash ^ v) * 1099511628211u;
    }
    assert_int_equal(n, r->n_in);
    return hash;
}

static uint64_t random_calls(const kvp_placement_ops *ops, uint64_t seed)
{
    mirror r = open_mirror(ops);
    uint64_t hash = 0;
    for (int i = 0; i < N_CALLS; i++) {
        call(&r, next_random(&seed));
        if (i % 16 == 0) { /* looking changes nothing: the same again */
            uint64_t order = check_walk(&r);
            assert_true(order == check_walk(&r));
            hash = hash * 31 + order;
        }
    }
    model_close(r.m);
    return hash;
}

static void test_walks_name_every_page_once_in_order_of_class(void **state)
{
    (void)state;
    for (size_t i = 0; kvp_placement_at(i); i++)
        for (uint64_t seed = 1; seed < 6; seed++)
            random_calls(kvp_placement_at(i), seed);
}

static void insert_used(placement_model *m, uint32_t page, bool is_open)
{
    model_insert(m, &(kvp_placement_page){
                        .page = page, .lane_index = page, .is_open = is_open, .is_used = true});
}

static void test_open_pages_leave_after_others_and_oldest_first(void **state)
{
    (void)state;
    for (size_t i = 0; kvp_placement_at(i); i++) {
        placement_model *m = model_open(kvp_placement_at(i), MODEL_MAX_PAGES, 4);
        for (uint32_t page = 0; page < 100; page++)
            insert_used(m, page, page >= 90);
        model_remove(m, 92, KVP_REMOVED_FOR_USE);
        insert_used(m, 92, true);
        uint32_t page = KVP_PAGE_NONE;
        for (int n = 0; n < 90; n++)
            assert_true((page = model_victim(m, page)) < 90);
        for (uint32_t n = 90; n < 100; n++)
            if (n != 92)
                assert_int_equal(page = model_victim(m, page), n);
        assert_int_equal(model_victim(m, page), 92);
        model_close(m);
    }
}

/* Many sequences that rest have an open page each: what is used gets its frames all the same. */
static void test_open_pages_that_rest_do_not_take_all(void **state)
{
    (void)state;
    for (size_t i = 0; kvp_placement_at(i); i++) {
        placement_model *m = model_open(kvp_placement_at(i), 100, 4);
        for (uint32_t page = 0; page < 100; page++)
            model_use(m, &(kvp_placement_page){.page = page, .lane_index = page, .is_open = true});
        for (int round = 0; round < 20; round++) {
            uint32_t n_faults = m->n_faults;
            for (uint32_t page = 1000; page < 1040; page++)
                model_use(m, &(kvp_placement_page){.page = page, .lane_index = page});
            assert_true(round < 15 || m->n_faults == n_faults);
        }
        model_close(m);
    }
}

static void test_same_calls_give_the_same_order(void **state)
{
    (void)state;
    for (size_t i = 0; kvp_placement_at(i); i++) {
        assert_true(random_calls(kvp_placement_at(i), 7) == random_calls(kvp_placement_at(i), 7));
        assert_true(random_calls(kvp_placement_at(i), 7) != random_calls(kvp_placement_at(i), 8));
    }
}

/* A tier of a few frames, as the pager uses it: also with all pages but one in use. */
static void test_small_tiers_are_reclaimed(void **state)
{
    (void)state;
    for (size_t i = 0; kvp_placement_at(i); i++)
        for (uint32_t n_frames = 1; n_frames < 6; n_frames++) {
            placement_model *m = model_open(kvp_placement_at(i), n_frames, 4);
            uint64_t seed = 11;
            for (int k = 0; k < 3000; k++) {
                uint32_t page = (uint32_t)(next_random(&seed) % 40);
                model_use(m, &(kvp_placement_page){
                                 .page = page, .lane_index = page, .is_open = page < 2});
            }
            assert_true(m->n_hits > 0 && m->n_resident == n_frames);
            while (m->n_resident)
                model_evict(m);
            assert_int_equal(model_victim(m, KVP_PAGE_NONE), KVP_PAGE_NONE);
            model_close(m);
        }
}

static void test_policies_are_found_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {"sticky", "lru",     "lfu",
                                        "clock",  "s3-fifo", "attention-mass"};
    for (size_t i = 0; i < 6; i++) {
        assert_string_equal(kvp_placement_at(i)->name, names[i]);
        assert_ptr_equal(kvp_placement_find(names[i]), kvp_placement_at(i));
    }
    assert_null(kvp_placement_at(6));
    assert_null(kvp_placement_find("LRU"));
    assert_null(kvp_placement_find(""));
    assert_ptr_equal(kvp_placement_at(0), &kvp_placement_sticky);
}

/* ---- memory ---- */

typedef struct scarce {
    int n_left; /* allocations that succeed */
    size_t bytes;
} scarce;

static void *scarce_alloc(void *opaque, size_t n, size_t align)
{
    scarce *s = opaque;
    if (s->n_left-- <= 0)
        return NULL;
    s->bytes += n;
    return kvpi_mem_default.alloc(kvpi_mem_default.opaque, n, align);
}

static void scarce_free(void *opaque, void *p, size_t n)
{
    scarce *s = opaque;
    s->bytes -= p ? n : 0;
    kvpi_mem_default.free(kvpi_mem_default.opaque, p, n);
}

static void test_no_memory_is_reported_and_all_is_given_back(void **state)
{
    (void)state;
    scarce left;
    const kvp_mem mem = {.alloc = scarce_alloc, .free = scarce_free, .opaque = &left};
    kvp_placement_config cfg = {.mem = &mem, .group_pages = 4};
    for (size_t i = 0; kvp_placement_at(i); i++) {
        const kvp_placement_ops *ops = kvp_placement_at(i);
        kvp_placement *p = NULL;
        left = (scarce){0};
        assert_int_equal(ops->open(&cfg, &p), KVP_E_NOMEM);
        assert_null(p);
        left.n_left = 1;
        assert_int_equal(ops->open(&cfg, &p), KVP_OK);
        ops->close(p);
        assert_int_equal(left.bytes, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walks_name_every_page_once_in_order_of_class),
        cmocka_unit_test(test_open_pages_leave_after_others_and_oldest_first),
        cmocka_unit_test(test_open_pages_that_rest_do_not_take_all),
        cmocka_unit_test(test_same_calls_give_the_same_order),
        cmocka_unit_test(test_small_tiers_are_reclaimed),
        cmocka_unit_test(test_policies_are_found_by_name),
        cmocka_unit_test(test_no_memory_is_reported_and_all_is_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
