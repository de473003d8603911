/* test_tier_ram.c - frames: addressable, bounded, counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "tiers/tier.h"

#include <string.h>

enum { SLOT_BYTES = 8192 };

static kvp_tier *open_tier(uint64_t budget_bytes)
{
    kvp_tier *tier;
    kvp_tier_config cfg = {.budget_bytes = budget_bytes,
                           .slot_bytes = SLOT_BYTES,
                           .max_depth = 4,
                           .mem = &kvpi_mem_default};
    assert_int_equal(kvpi_tier_ram.open(&cfg, &tier), KVP_OK);
    return tier;
}

static kvp_tier_usage usage_of(kvp_tier *tier)
{
    kvp_tier_usage usage;
    tier->ops->usage(tier, &usage);
    return usage;
}

static void test_budget_holds_as_many_frames_as_fit(void **state)
{
    (void)state;
    kvp_tier *tier = open_tier(5 * SLOT_BYTES + SLOT_BYTES / 2);
    kvp_slot slots[5], extra = 99;
    for (int i = 0; i < 5; i++)
        assert_int_equal(tier->ops->slot_alloc(tier, SLOT_BYTES, &slots[i]), KVP_OK);
    assert_int_equal(tier->ops->slot_alloc(tier, 1, &extra), KVP_E_NOSPACE);
    assert_int_equal(extra, 99);
    kvp_tier_usage usage = usage_of(tier);
    assert_int_equal(usage.slots_used, 5);
    assert_int_equal(usage.slots_free, 0);
    assert_int_equal(usage.bytes_used, 5 * SLOT_BYTES);
    tier->ops->slot_free(tier, slots[2]);
    tier->ops->slot_free(tier, slots[3]);
    usage = usage_of(tier);
    assert_int_equal(usage.slots_free, 2);
    assert_int_equal(usage.bytes_used, 3 * SLOT_BYTES);
    assert_int_equal(usage.bytes_peak, 5 * SLOT_BYTES);
    assert_int_equal(tier->ops->slot_alloc(tier, SLOT_BYTES, &extra), KVP_OK);
    tier->ops->close(tier); /* with frames in use */
}

static void test_frames_are_aligned_apart_and_inside_the_range(void **state)
{
    (void)state;
    kvp_tier *tier = open_tier(64 * SLOT_BYTES);
    void *base;
    size_t bytes;
    kvpi_tier_ram_range(tier, &base, &bytes);
    assert_int_equal(bytes, 64 * SLOT_BYTES);
    for (int i = 0; i < 64; i++) {
        kvp_slot slot;
        assert_int_equal(tier->ops->slot_alloc(tier, SLOT_BYTES, &slot), KVP_OK);
        char *frame = tier->ops->addr(tier, slot);
        assert_ptr_equal(frame, (char *)base + i * SLOT_BYTES); /* neighbours, on a fresh tier */
        assert_int_equal((uintptr_t)frame % 4096, 0);
        memset(frame, i, SLOT_BYTES);
    }
    for (int i = 0; i < 64; i++)
        assert_int_equal(((char *)tier->ops->addr(tier, (kvp_slot)i))[SLOT_BYTES - 1], i);
    tier->ops->close(tier);
}

static void test_requests_come_back_in_order_with_the_bytes(void **state)
{
    (void)state;
    static char out[SLOT_BYTES], in[SLOT_BYTES];
    kvp_tier *tier = open_tier(4 * SLOT_BYTES);
    kvp_slot slot;
    kvp_io *done;
    assert_int_equal(tier->ops->reap(tier, 0, &done), KVP_OK);
    assert_null(done);
    assert_int_equal(tier->ops->slot_alloc(tier, SLOT_BYTES, &slot), KVP_OK);
    for (size_t i = 0; i < sizeof out; i++)
        out[i] = (char)(i * 7);
    kvp_io write = {.op = KVP_IO_WRITE, .slot = slot, .buf = out, .len_bytes = 5000};
    kvp_io read = {.op = KVP_IO_READ, .slot = slot, .buf = in, .len_bytes = 5000};
    write.status = read.status = KVP_E_IO;
    assert_int_equal(tier->ops->submit(tier, &write), KVP_OK);
    assert_int_equal(tier->ops->submit(tier, &read), KVP_OK);
    assert_int_equal(tier->ops->reap(tier, KVP_FOREVER, &done), KVP_OK);
    assert_ptr_equal(done, &write);
    assert_int_equal(tier->ops->reap(tier, KVP_FOREVER, &done), KVP_OK);
    assert_ptr_equal(done, &read);
    assert_int_equal(write.status, KVP_OK);
    assert_int_equal(read.status, KVP_OK);
    assert_memory_equal(in, out, 5000);
    assert_memory_equal(tier->ops->addr(tier, slot), out, 5000);
    assert_int_equal(in[5000], 0);
    assert_int_equal(tier->ops->reap(tier, KVP_FOREVER, &done), KVP_OK);
    assert_null(done);
    tier->ops->close(tier);
}

static void test_unlimited_budget_takes_nothing_until_used(void **state)
{
    (void)state;
    kvp_tier *tier = open_tier(KVP_UNLIMITED);
    kvp_slot slot;
    assert_true(usage_of(tier).slots_free > 1000);
    assert_int_equal(usage_of(tier).bytes_used, 0);
    assert_int_equal(tier->ops->slot_alloc(tier, SLOT_BYTES, &slot), KVP_OK);
    memset(tier->ops->addr(tier, slot), 1, SLOT_BYTES);
    tier->ops->close(tier);
}

static void test_budget_below_one_frame_is_refused(void **state)
{
    (void)state;
    kvp_tier *tier = NULL;
    kvp_tier_config cfg = {.budget_bytes = SLOT_BYTES - 1,
                           .slot_bytes = SLOT_BYTES,
                           .max_depth = 1,
                           .mem = &kvpi_mem_default};
    assert_int_equal(kvpi_tier_ram.open(&cfg, &tier), KVP_E_BUDGET);
    assert_null(tier);
}

/* Fails the n-th allocation. */
static size_t n_until_failure;

static void *failing_alloc(void *opaque, size_t n, size_t align)
{
    (void)opaque;
    return n_until_failure-- == 0 ? NULL : kvpi_mem_default.alloc(NULL, n, align);
}

static void test_every_failed_allocation_is_a_clean_error(void **state)
{
    (void)state;
    kvp_mem failing = {.alloc = failing_alloc, .free = kvpi_mem_default.free};
    kvp_tier_config cfg = {
        .budget_bytes = 64 * SLOT_BYTES, .slot_bytes = SLOT_BYTES, .max_depth = 1, .mem = &failing};
    kvp_tier *tier = NULL;
    size_t n = 0;
    for (;; n++) {
        n_until_failure = n;
        kvp_status status = kvpi_tier_ram.open(&cfg, &tier);
        if (status == KVP_OK)
            break;
        assert_int_equal(status, KVP_E_NOMEM);
        assert_null(tier);
    }
    assert_int_equal(n, 2); /* the tier and its slot pool */
    tier->ops->close(tier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budget_holds_as_many_frames_as_fit),
        cmocka_unit_test(test_frames_are_aligned_apart_and_inside_the_range),
        cmocka_unit_test(test_requests_come_back_in_order_with_the_bytes),
        cmocka_unit_test(test_unlimited_budget_takes_nothing_until_used),
        cmocka_unit_test(test_budget_below_one_frame_is_refused),
        cmocka_unit_test(test_every_failed_allocation_is_a_clean_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
