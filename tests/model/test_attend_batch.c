/* test_attend_batch.c - kvp_attend_batch(): the bits of each sequence alone, whoever else is in the
 * call, however many threads there are, and also where frames are short and pages come from disk.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kvpager.h"

#define N_SEQS 16u
#define N_HEADS 6u
#define N_KV_HEADS 3u
#define WIDTH 64u
#define ROW (N_HEADS * WIDTH)
#define MAX_QUERIES 40u

/* Short ones, long ones, one without tokens; decoding, verifying, prefilling. */
static const size_t lengths[N_SEQS] = {1,    64,  5000, 0,   1025, 70, 300, 2047,
                                       1024, 999, 17,   640, 3000, 2,  128, 65};

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s", kvp_error());
}

static uint64_t rng_state = 7;

static float uniform(void) /* [-1, 1), xorshift64* */
{
    rng_state ^= rng_state >> 12;
    rng_state ^= rng_state << 25;
    rng_state ^= rng_state >> 27;
    return (float)((rng_state * UINT64_C(0x2545f4914f6cdd1d)) >> 40) * 0x1p-23f - 1;
}

typedef struct world {
    kvp_pager *pager;
    kvp_attend_item items[N_SEQS];
    float *q, *out, *alone; /* [N_SEQS][MAX_QUERIES][ROW] */
} world;

static float *at(float *rows, size_t seq)
{
    return rows + seq * MAX_QUERIES * ROW;
}

static size_t queries_of(size_t i)
{
    size_t n = i % 5 == 4 ? MAX_QUERIES : i % 3 == 2 ? 4 : 1;
    return n < lengths[i] ? n : lengths[i];
}

static world make_world(uint32_t n_threads, uint64_t ram_bytes)
{
    const size_t n = (size_t)N_SEQS * MAX_QUERIES * ROW;
    world w = {.q = malloc(n * 4), .out = malloc(n * 4), .alone = malloc(n * 4)};
    assert_true(w.q && w.out && w.alone);
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = 1, .n_kv_heads = N_KV_HEADS, .head_dim = WIDTH, .dtype = KVP_F16};
    cfg.n_threads = n_threads;
    if (ram_bytes) {
        cfg.ram_bytes = ram_bytes;
        cfg.disk_bytes = KVP_UNLIMITED;
    }
    must(kvp_pager_open(&cfg, &w.pager));
    rng_state = 7;
    for (size_t i = 0; i < n; i++)
        w.q[i] = uniform();
    float *rows = malloc(5000 * N_KV_HEADS * WIDTH * 4);
    assert_non_null(rows);
    for (size_t i = 0; i < N_SEQS; i++) {
        kvp_seq *seq;
        must(kvp_seq_create(w.pager, &seq));
        for (size_t k = 0; k < lengths[i] * N_KV_HEADS * WIDTH; k++)
            rows[k] = uniform();
        must(kvp_seq_append(seq, 0, rows, rows, lengths[i]));
        w.items[i] = (kvp_attend_item){
            .seq = seq,
            .args = {.q = at(w.q, i),
                     .out = at(w.out, i),
                     .n_queries = queries_of(i),
                     .n_heads = N_HEADS,
                     .scale = 0.125f,
                     .role = queries_of(i) == MAX_QUERIES ? KVP_PREFILL : KVP_DECODE}};
    }
    free(rows);
    return w;
}

static void free_world(world *w)
{
    must(kvp_pager_check(w->pager));
    kvp_pager_close(w->pager);
    free(w->q);
    free(w->out);
    free(w->alone);
}

/* Each alone, in RAM, with one thread: what all others must equal. */
static void attend_alone(float *alone)
{
    world w = make_world(1, 0);
    for (size_t i = 0; i < N_SEQS; i++)
        must(kvp_attend(w.items[i].seq, 0, &w.items[i].args));
    memcpy(alone, w.out, (size_t)N_SEQS * MAX_QUERIES * ROW * 4);
    free_world(&w);
}

static void assert_item(const world *w, size_t i)
{
    if (memcmp(at(w->out, i), at(w->alone, i), w->items[i].args.n_queries * ROW * 4))
        fail_msg("sequence %zu of %zu tokens has other bits", i, lengths[i]);
}

static void clear(world *w)
{
    memset(w->out, 0xff, (size_t)N_SEQS * MAX_QUERIES * ROW * 4);
}

static void test_a_batch_has_the_bits_of_each_alone(void **state)
{
    (void)state;
    for (uint32_t n_threads = 1; n_threads <= 4; n_threads++) {
        world w = make_world(n_threads, 0);
        attend_alone(w.alone);
        for (size_t n = 1; n <= N_SEQS; n++) {
            size_t first = n * 5 % (N_SEQS - n + 1);
            clear(&w);
            must(kvp_attend_batch(w.items + first, n));
            for (size_t i = first; i < first + n; i++)
                assert_item(&w, i);
        }
        free_world(&w);
    }
}

/* A few frames: waves are cut short, and pages come and go. */
static void test_a_batch_over_the_budget_has_the_same_bits(void **state)
{
    (void)state;
    for (uint32_t n_threads = 1; n_threads <= 4; n_threads += 3)
        for (uint64_t ram = 512 << 10; ram <= 4 << 20; ram *= 2) {
            world w = make_world(n_threads, ram);
            attend_alone(w.alone);
            for (int round = 0; round < 2; round++) {
                clear(&w);
                must(kvp_attend_batch(w.items, N_SEQS));
                for (size_t i = 0; i < N_SEQS; i++)
                    assert_item(&w, i);
            }
            kvp_stats stats = {.size = sizeof stats};
            must(kvp_pager_stats(w.pager, &stats));
            assert_true(stats.major_faults > 0);
            free_world(&w);
        }
}

/* A sequence may be there twice: one after the other. */
static void test_a_sequence_twice_in_a_batch(void **state)
{
    (void)state;
    world w = make_world(2, 0);
    attend_alone(w.alone);
    kvp_attend_item twice[3] = {w.items[2], w.items[2], w.items[5]};
    twice[1].args.out = at(w.out, 7);
    clear(&w);
    must(kvp_attend_batch(twice, 3));
    assert_item(&w, 2);
    assert_item(&w, 5);
    assert_memory_equal(at(w.out, 7), at(w.alone, 2), twice[1].args.n_queries * ROW * 4);
    free_world(&w);
}

static void test_bad_batches_are_refused(void **state)
{
    (void)state;
    world w = make_world(2, 0), other = make_world(1, 0);
    must(kvp_attend_batch(NULL, 0));
    assert_int_equal(kvp_attend_batch(NULL, 1), KVP_E_INVALID);
    kvp_attend_item items[2] = {w.items[0], other.items[1]};
    assert_int_equal(kvp_attend_batch(items, 2), KVP_E_INVALID);
    assert_non_null(strstr(kvp_error(), "two pagers"));
    items[1] = w.items[1];
    items[1].args.n_heads = 4;
    assert_int_equal(kvp_attend_batch(items, 2), KVP_E_INVALID);
    items[1].seq = NULL;
    assert_int_equal(kvp_attend_batch(items, 2), KVP_E_INVALID);
    free_world(&w);
    free_world(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_batch_has_the_bits_of_each_alone),
        cmocka_unit_test(test_a_batch_over_the_budget_has_the_same_bits),
        cmocka_unit_test(test_a_sequence_twice_in_a_batch),
        cmocka_unit_test(test_bad_batches_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
