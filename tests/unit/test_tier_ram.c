/* test_tier_ram.c - frames: addressable, bounded, counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "tiers/tier.h"

#include <string.h>
#include <sys/mman.h>

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

/* ---- a budget that moves ---- */

enum { MIB = 1 << 20, N_FRAMES = 8 * MIB / SLOT_BYTES, N_KEPT = 3 * MIB / SLOT_BYTES };

static uint64_t resize(kvp_tier *tier, kvp_tier *disk, uint64_t budget_bytes)
{
    uint64_t over_bytes = UINT64_MAX;
    assert_int_equal(kvpi_tier_resize(tier, disk, budget_bytes, &over_bytes), KVP_OK);
    return over_bytes;
}

static size_t resident_bytes(kvp_tier *tier)
{
    unsigned char vec[8 * MIB / 4096];
    size_t n = 0;
    assert_int_equal(mincore(tier->ops->addr(tier, 0), 8 * MIB, vec), 0);
    for (size_t i = 0; i < sizeof vec; i++)
        n += vec[i] & 1;
    return n * 4096;
}

/* All frames in use, each full of its number. */
static kvp_tier *open_full(void)
{
    kvp_tier *tier = open_tier(8 * MIB);
    for (unsigned i = 0; i < N_FRAMES; i++) {
        kvp_slot slot;
        assert_int_equal(tier->ops->slot_alloc(tier, SLOT_BYTES, &slot), KVP_OK);
        memset(tier->ops->addr(tier, slot), (int)(slot % 251), SLOT_BYTES);
    }
    return tier;
}

/* All frames below `n` are in use. */
static void free_above_end(kvp_tier *tier, uint64_t n)
{
    for (kvp_slot slot = kvpi_tier_ram_end(tier); slot < n; slot++)
        tier->ops->slot_free(tier, slot);
}

static void assert_frame(kvp_tier *tier, kvp_slot slot)
{
    const char *frame = tier->ops->addr(tier, slot);
    for (size_t i = 0; i < SLOT_BYTES; i++)
        assert_int_equal(frame[i], (char)(slot % 251));
}

static void test_lower_budget_waits_for_its_frames_and_gives_memory_back(void **state)
{
    (void)state;
    kvp_tier *tier = open_full();
    kvp_slot slot;
    assert_int_equal(resize(tier, NULL, 3 * MIB + 100), 5 * MIB);
    assert_int_equal(kvpi_tier_ram_end(tier), N_KEPT);
    assert_int_equal(usage_of(tier).bytes_over, 5 * MIB);
    assert_int_equal(usage_of(tier).slots_free, 0);
    assert_int_equal(tier->ops->slot_alloc(tier, SLOT_BYTES, &slot), KVP_E_NOSPACE);
    for (kvp_slot i = 0; i < N_FRAMES; i++) /* nothing has been touched */
        assert_frame(tier, i);

    tier->ops->slot_free(tier, N_FRAMES - 1);
    assert_int_equal(resize(tier, NULL, 3 * MIB), 5 * MIB - SLOT_BYTES);
    assert_int_equal(resident_bytes(tier), 8 * MIB);
    assert_int_equal(tier->ops->slot_alloc(tier, SLOT_BYTES, &slot), KVP_E_NOSPACE);
    for (kvp_slot i = N_KEPT; i < N_FRAMES - 1; i++)
        tier->ops->slot_free(tier, i);
    assert_int_equal(resize(tier, NULL, 3 * MIB), 0);
    assert_int_equal(resident_bytes(tier), 4 * MIB); /* whole units of 2 MiB */
    assert_int_equal(usage_of(tier).bytes_used, 3 * MIB);
    for (kvp_slot i = 0; i < N_KEPT; i++)
        assert_frame(tier, i);
    assert_int_equal(tier->ops->slot_alloc(tier, SLOT_BYTES, &slot), KVP_E_NOSPACE);
    tier->ops->close(tier);
}

static void test_budget_grows_again_up_to_that_of_opening(void **state)
{
    (void)state;
    kvp_tier *tier = open_full();
    uint64_t over_bytes = 77;
    resize(tier, NULL, 1 * MIB);
    free_above_end(tier, N_FRAMES);
    assert_int_equal(resize(tier, NULL, 1 * MIB), 0);
    assert_int_equal(resize(tier, NULL, 8 * MIB), 0);
    assert_int_equal(usage_of(tier).slots_free, N_FRAMES - MIB / SLOT_BYTES);
    for (unsigned i = MIB / SLOT_BYTES; i < N_FRAMES; i++) {
        kvp_slot slot;
        assert_int_equal(tier->ops->slot_alloc(tier, SLOT_BYTES, &slot), KVP_OK);
        assert_in_range(slot, MIB / SLOT_BYTES, N_FRAMES - 1);
        memset(tier->ops->addr(tier, slot), (int)(slot % 251), SLOT_BYTES);
    }
    for (kvp_slot i = 0; i < N_FRAMES; i++)
        assert_frame(tier, i);
    assert_int_equal(kvpi_tier_resize(tier, NULL, 8 * MIB + SLOT_BYTES, &over_bytes),
                     KVP_E_INVALID);
    assert_int_equal(kvpi_tier_resize(tier, NULL, SLOT_BYTES - 1, &over_bytes), KVP_E_BUDGET);
    assert_int_equal(over_bytes, 77);
    assert_int_equal(kvpi_tier_ram_end(tier), N_FRAMES); /* as it was */
    assert_int_equal(resize(tier, NULL, KVP_UNLIMITED), 0);
    tier->ops->close(tier);
}

/* One page through the disk: what is written from a frame is read back into it. */
static void move_there_and_back(kvp_tier *ram, kvp_tier *disk, kvp_slot frame)
{
    kvp_slot slot;
    kvp_io *done,
        io = {.op = KVP_IO_WRITE, .buf = ram->ops->addr(ram, frame), .len_bytes = SLOT_BYTES};
    memset(io.buf, (int)(frame % 251), SLOT_BYTES);
    assert_int_equal(kvpi_tier_slot_alloc(disk, SLOT_BYTES, &slot), KVP_OK);
    io.slot = slot;
    for (io.op = KVP_IO_WRITE;; io.op = KVP_IO_READ) {
        assert_int_equal(kvpi_tier_submit(disk, &io), KVP_OK);
        assert_int_equal(kvpi_tier_reap(disk, KVP_FOREVER, &done), KVP_OK);
        assert_ptr_equal(done, &io);
        assert_int_equal(io.status, KVP_OK);
        if (io.op == KVP_IO_READ)
            break;
        memset(io.buf, 0xee, SLOT_BYTES);
    }
    assert_frame(ram, frame);
    kvpi_tier_slot_free(disk, slot);
}

/* Registered memory that is given back is lost to the kernel's transfers: they would go on into the
 * old pages, and what is read would not be seen. */
static void test_disk_that_registered_the_frames_follows_the_budget(void **state)
{
    (void)state;
    kvp_tier *ram = open_full(), *disk;
    kvp_tier_config cfg = {
        .budget_bytes = 1 * MIB, .slot_bytes = SLOT_BYTES, .max_depth = 4, .n_ranges = 1};
    kvpi_tier_ram_range(ram, &cfg.ranges[0].base, &cfg.ranges[0].bytes);
    assert_int_equal(kvpi_tier_open(&kvpi_tier_disk, &cfg, &disk), KVP_OK);
    print_message("engine %s\n", kvpi_tier_disk_engine(disk));
    static const uint64_t budgets[] = {3 * MIB, 8 * MIB, 2 * MIB, 5 * MIB, 1 * MIB, 8 * MIB};
    for (size_t k = 0; k < sizeof budgets / sizeof budgets[0]; k++) {
        uint64_t n_before = usage_of(ram).slots_used;
        if (resize(ram, disk, budgets[k]) > 0) {
            free_above_end(ram, n_before);
            assert_int_equal(resize(ram, disk, budgets[k]), 0);
        }
        for (kvp_slot slot; ram->ops->slot_alloc(ram, SLOT_BYTES, &slot) == KVP_OK;)
            assert_true(slot < budgets[k] / SLOT_BYTES);
        assert_int_equal(usage_of(ram).slots_used, budgets[k] / SLOT_BYTES);
        for (kvp_slot frame = 0; frame < kvpi_tier_ram_end(ram); frame += 31)
            move_there_and_back(ram, disk, frame);
    }
    kvpi_tier_close(disk);
    ram->ops->close(ram);
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
        cmocka_unit_test(test_lower_budget_waits_for_its_frames_and_gives_memory_back),
        cmocka_unit_test(test_budget_grows_again_up_to_that_of_opening),
        cmocka_unit_test(test_disk_that_registered_the_frames_follows_the_budget),
        cmocka_unit_test(test_every_failed_allocation_is_a_clean_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
