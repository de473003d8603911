/* test_tier_zram.c - compressed RAM: what blobs cost, and that they come back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "tiers/tier.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BLOB_BYTES = 64 << 10 };

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static kvp_tier *open_tier(uint64_t budget_bytes)
{
    kvp_tier *tier;
    kvp_tier_config cfg = {.budget_bytes = budget_bytes,
                           .slot_bytes = MAX_BLOB_BYTES,
                           .max_depth = 4,
                           .mem = &kvpi_mem_default};
    assert_int_equal(kvpi_tier_zram.open(&cfg, &tier), KVP_OK);
    return tier;
}

static kvp_tier_usage usage_of(kvp_tier *tier)
{
    kvp_tier_usage usage;
    tier->ops->usage(tier, &usage);
    return usage;
}

static void transfer(kvp_tier *tier, kvp_io_op op, kvp_slot slot, void *buf, size_t n)
{
    kvp_io io = {.op = op, .slot = slot, .buf = buf, .len_bytes = n, .status = KVP_E_IO};
    kvp_io *done = NULL;
    assert_int_equal(tier->ops->submit(tier, &io), KVP_OK);
    assert_int_equal(tier->ops->reap(tier, KVP_FOREVER, &done), KVP_OK);
    assert_ptr_equal(done, &io);
    assert_int_equal(io.status, KVP_OK);
}

static void fill_buffer(unsigned char *buf, size_t n, uint64_t seed)
{
    seed = seed * 2654435761u + 1;
    for (size_t i = 0; i < n; i++)
        buf[i] = (unsigned char)next_random(&seed);
}

/* Sizes around every place where the pieces change. */
static void test_blobs_of_every_size_come_back(void **state)
{
    (void)state;
    static unsigned char out[MAX_BLOB_BYTES], in[MAX_BLOB_BYTES];
    kvp_tier *tier = open_tier(1 << 20);
    for (size_t n = 1; n <= MAX_BLOB_BYTES; n += n < 300 ? 1 : n < 17000 ? 127 : 4093) {
        kvp_slot slot;
        assert_int_equal(tier->ops->slot_alloc(tier, n, &slot), KVP_OK);
        fill_buffer(out, n, n);
        transfer(tier, KVP_IO_WRITE, slot, out, n);
        memset(in, 0, n);
        transfer(tier, KVP_IO_READ, slot, in, n);
        assert_memory_equal(in, out, n);
        tier->ops->slot_free(tier, slot);
        assert_int_equal(usage_of(tier).bytes_used, 0);
    }
    tier->ops->close(tier);
}

/* The bar: raw bytes held / bytes charged >= 0.95 x the codec's ratio, so stored / charged >= 0.95.
 * Per blob, for the sizes that compressed pages have. */
static void test_each_blob_is_charged_for_little_more_than_its_bytes(void **state)
{
    (void)state;
    kvp_tier *tier = open_tier(1 << 20);
    for (size_t n = 4096; n <= MAX_BLOB_BYTES; n += 97) {
        kvp_slot slot;
        assert_int_equal(tier->ops->slot_alloc(tier, n, &slot), KVP_OK);
        assert_in_range(usage_of(tier).bytes_used, n, n * 100 / 95);
        tier->ops->slot_free(tier, slot);
    }
    tier->ops->close(tier);
}

typedef struct blob {
    kvp_slot slot;
    size_t n; /* 0: none */
    uint64_t seed;
} blob;

static void check_blob(kvp_tier *tier, const blob *b)
{
    static unsigned char expected[MAX_BLOB_BYTES], in[MAX_BLOB_BYTES];
    fill_buffer(expected, b->n, b->seed);
    transfer(tier, KVP_IO_READ, b->slot, in, b->n);
    assert_memory_equal(in, expected, b->n);
}

/* Fill it, replace blobs at random while it is full, and look how much of the budget they are. */
static void test_full_tier_stays_full_of_blobs_while_they_are_replaced(void **state)
{
    (void)state;
    enum { BUDGET = 3 << 20, N = 200 };
    static unsigned char out[MAX_BLOB_BYTES];
    static blob blobs[N];
    kvp_tier *tier = open_tier(BUDGET);
    uint64_t seed = 3, stored_bytes = 0, n_blobs = 0, n_refused = 0, n_worst = BUDGET;
    for (int step = 0; step < 3000; step++) {
        uint64_t r = next_random(&seed);
        blob *b = &blobs[r % N];
        if (b->n) {
            check_blob(tier, b);
            tier->ops->slot_free(tier, b->slot);
            stored_bytes -= b->n;
            n_blobs--;
        }
        /* Like bf16 pages, a few of them hardly filled. */
        b->n = (r >> 32) % 8 ? 42000 + (r >> 40) % 4000 : 500 + (r >> 40) % 8000;
        b->seed = r;
        if (tier->ops->slot_alloc(tier, b->n, &b->slot) == KVP_E_NOSPACE) {
            b->n = 0;
            n_refused++;
            if (stored_bytes < n_worst)
                n_worst = stored_bytes;
            continue;
        }
        fill_buffer(out, b->n, b->seed);
        transfer(tier, KVP_IO_WRITE, b->slot, out, b->n);
        stored_bytes += b->n;
        n_blobs++;
        kvp_tier_usage usage = usage_of(tier);
        assert_int_equal(usage.slots_used, n_blobs);
        assert_in_range(usage.bytes_used, stored_bytes, BUDGET);
        if (n_blobs > 20) /* before, one small blob may be most of what there is */
            assert_true(usage.bytes_used * 95 <= stored_bytes * 100);
        assert_in_range(usage.bytes_peak, usage.bytes_used, BUDGET);
    }
    print_message("seed 3: refused %u, held %u KiB or more of %u then\n", (unsigned)n_refused,
                  (unsigned)(n_worst >> 10), BUDGET >> 10);
    assert_true(n_refused > 100);
    assert_true(n_worst * 10 >= (uint64_t)BUDGET * 9);
    tier->ops->close(tier); /* with blobs in use */
}

static void test_refused_blob_costs_nothing(void **state)
{
    (void)state;
    kvp_tier *tier = open_tier(150000);
    kvp_slot slot, extra = 99;
    assert_int_equal(tier->ops->slot_alloc(tier, 60000, &slot), KVP_OK);
    assert_int_equal(tier->ops->slot_alloc(tier, 40000, &slot), KVP_OK);
    uint64_t before = usage_of(tier).bytes_used;
    assert_int_equal(tier->ops->slot_alloc(tier, 60000, &extra), KVP_E_NOSPACE);
    assert_int_equal(extra, 99);
    assert_int_equal(usage_of(tier).bytes_used, before);
    assert_int_equal(usage_of(tier).slots_used, 2);
    assert_int_equal(tier->ops->slot_alloc(tier, 20000, &extra), KVP_OK);
    tier->ops->close(tier);
}

static void test_lower_budget_takes_nothing_more_until_enough_is_freed(void **state)
{
    (void)state;
    enum { N = 8, BLOB_BYTES = 32 << 10 };
    static unsigned char out[BLOB_BYTES], in[BLOB_BYTES];
    kvp_tier *tier = open_tier(1 << 20);
    kvp_slot slots[N], slot;
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(tier->ops->slot_alloc(tier, BLOB_BYTES, &slots[i]), KVP_OK);
        fill_buffer(out, BLOB_BYTES, i);
        transfer(tier, KVP_IO_WRITE, slots[i], out, BLOB_BYTES);
    }
    uint64_t used = usage_of(tier).bytes_used;
    assert_int_equal(tier->ops->set_budget(tier, used / 2), KVP_OK);
    assert_int_equal(usage_of(tier).bytes_over, used - used / 2);
    assert_int_equal(tier->ops->slot_alloc(tier, 1, &slot), KVP_E_NOSPACE);
    for (unsigned i = N - 1; i >= N / 2; i--) {
        assert_true(usage_of(tier).bytes_over > 0);
        tier->ops->slot_free(tier, slots[i]);
    }
    assert_int_equal(usage_of(tier).bytes_over, 0);
    assert_int_equal(tier->ops->slot_alloc(tier, BLOB_BYTES, &slot), KVP_E_NOSPACE);
    for (unsigned i = 0; i < N / 2; i++) {
        fill_buffer(out, BLOB_BYTES, i);
        transfer(tier, KVP_IO_READ, slots[i], in, BLOB_BYTES);
        assert_memory_equal(in, out, BLOB_BYTES);
    }
    assert_int_equal(tier->ops->set_budget(tier, (1 << 20) + 1), KVP_E_INVALID);
    assert_int_equal(tier->ops->set_budget(tier, KVP_UNLIMITED), KVP_OK);
    assert_int_equal(tier->ops->slot_alloc(tier, BLOB_BYTES, &slot), KVP_OK);
    tier->ops->close(tier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blobs_of_every_size_come_back),
        cmocka_unit_test(test_each_blob_is_charged_for_little_more_than_its_bytes),
        cmocka_unit_test(test_full_tier_stays_full_of_blobs_while_they_are_replaced),
        cmocka_unit_test(test_refused_blob_costs_nothing),
        cmocka_unit_test(test_lower_budget_takes_nothing_more_until_enough_is_freed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
