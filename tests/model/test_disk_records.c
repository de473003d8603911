/* test_disk_records.c - the disk tier with records of any size, near its budget, so that it cleans
 * all the time: every read gives what was last written there, whatever is moved meanwhile, and
 * whichever request fails, is short, or never completes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mem_disk.h"
#include "tiers/tier.h"

#define SLOT ((size_t)32768)
#define BLOCK ((size_t)4096)
#define SEGMENT ((size_t)262144)
#define BUDGET (8192 + 12 * SEGMENT)
#define MAX_HELD 800u
#define N_FLIGHTS 8u
#define SEED 5u

typedef struct holding {
    kvp_slot slot;
    size_t n_bytes;
    uint64_t stamp; /* 0: what is there is not known: a write failed */
    bool is_busy;
} holding;

typedef struct flight {
    kvp_io io;
    uint32_t held; /* which; MAX_HELD: none in flight */
    uint64_t stamp;
} flight;

static mem_disk disk;
static kvp_tier *tier;
static holding held[MAX_HELD];
static uint32_t n_held;
static uint64_t bytes_held, next_stamp;
static flight flights[N_FLIGHTS];
static char *buffers; /* [N_FLIGHTS][SLOT] */

/* What happened. */
static uint64_t n_reads, n_errors, n_refused, n_again, bytes_written;

static void fill(char *to, size_t n, uint64_t stamp)
{
    for (size_t at = 0; at < n; at += 512) {
        uint64_t word[2] = {stamp, at};
        memcpy(to + at, word, sizeof word);
    }
}

static bool is_filled(const char *from, size_t n, uint64_t stamp)
{
    for (size_t at = 0; at < n; at += 512) {
        uint64_t word[2] = {stamp, at};
        if (memcmp(from + at, word, sizeof word) != 0)
            return false;
    }
    return true;
}

static void open_tier(uint64_t seed)
{
    mem_disk_init(&disk, BUDGET, seed);
    kvp_tier_config cfg = {.budget_bytes = BUDGET,
                           .slot_bytes = SLOT,
                           .max_depth = N_FLIGHTS,
                           .env = &disk.env,
                           .has_small_slots = true,
                           .segment_bytes = SEGMENT};
    assert_int_equal(kvpi_tier_open(&kvpi_tier_disk, &cfg, &tier), KVP_OK);
    n_held = 0;
    bytes_held = n_reads = n_errors = n_refused = n_again = bytes_written = 0;
    next_stamp = 1;
    for (uint32_t i = 0; i < N_FLIGHTS; i++)
        flights[i].held = MAX_HELD;
}

static void close_tier(void)
{
    mem_disk_release(&disk);
    kvpi_tier_close(tier);
    if (disk.violation)
        fail_msg("%s", disk.violation);
    mem_disk_fini(&disk);
}

static kvp_tier_usage usage(void)
{
    kvp_tier_usage u;
    kvpi_tier_usage(tier, &u);
    assert_int_equal(u.bytes_used, bytes_held);
    assert_int_equal(u.slots_used, n_held);
    return u;
}

/* ---- the user's requests ----------------------------------------------------------------------*/

static void land(kvp_io *io)
{
    flight *f = io->owner;
    holding *h = &held[f->held];
    h->is_busy = false;
    f->held = MAX_HELD;
    n_errors += io->status != KVP_OK;
    if (io->op == KVP_IO_WRITE) {
        h->stamp = io->status ? 0 : f->stamp;
    } else if (!io->status && h->stamp) {
        assert_true(is_filled(io->buf, h->n_bytes, h->stamp));
        n_reads++;
    }
}

/* False: nothing happened until a moment later. */
static bool reap(void)
{
    kvp_io *io;
    kvp_status status = kvpi_tier_reap(tier, disk.now_ns + 1000, &io);
    if (io)
        land(io);
    assert_true(status == KVP_OK || status == KVP_E_AGAIN);
    return io || status;
}

static flight *idle_flight(void)
{
    for (;;) {
        for (uint32_t i = 0; i < N_FLIGHTS; i++)
            if (flights[i].held == MAX_HELD)
                return &flights[i];
        if (!reap())
            return NULL; /* all are stuck, or wait for what is */
    }
}

static void submit(uint32_t i, kvp_io_op op)
{
    flight *f = held[i].is_busy ? NULL : idle_flight();
    if (!f)
        return;
    char *buf = buffers + (size_t)(f - flights) * SLOT;
    f->held = i;
    f->stamp = next_stamp++;
    f->io = (kvp_io){
        .op = op, .slot = held[i].slot, .buf = buf, .len_bytes = held[i].n_bytes, .owner = f};
    held[i].is_busy = true;
    if (op == KVP_IO_WRITE) {
        fill(buf, held[i].n_bytes, f->stamp);
        bytes_written += held[i].n_bytes;
    } else {
        memset(buf, 0, held[i].n_bytes);
    }
    assert_int_equal(kvpi_tier_submit(tier, &f->io), KVP_OK);
}

static void add(void)
{
    size_t n = (1 + mem_disk_random(&disk, SLOT / BLOCK)) * BLOCK;
    kvp_slot slot;
    kvp_status status;
    while ((status = kvpi_tier_slot_alloc(tier, n, &slot)) == KVP_E_AGAIN) {
        n_again++;
        if (!reap())
            return;
    }
    n_refused += status == KVP_E_NOSPACE;
    if (status)
        return;
    held[n_held] = (holding){.slot = slot, .n_bytes = n};
    bytes_held += n;
    submit(n_held++, KVP_IO_WRITE);
}

static void drop(uint32_t i)
{
    if (held[i].is_busy || held[n_held - 1].is_busy) {
        reap();
        return;
    }
    kvpi_tier_slot_free(tier, held[i].slot);
    bytes_held -= held[i].n_bytes;
    held[i] = held[--n_held];
}

static void drain(void)
{
    while (reap())
        continue;
}

/* Random operations with up to fill % of the budget in use. */
static void churn(uint32_t n_steps, uint32_t fill_percent)
{
    for (uint32_t step = 0; step < n_steps; step++) {
        bool is_full = bytes_held > BUDGET / 100 * fill_percent || n_held == MAX_HELD;
        uint32_t dice = mem_disk_random(&disk, 10), i = n_held ? mem_disk_random(&disk, n_held) : 0;
        if (n_held && (is_full || dice < 2))
            drop(i);
        else if (!n_held || dice < 5)
            add();
        else if (dice < 6)
            submit(i, KVP_IO_WRITE);
        else
            submit(i, KVP_IO_READ);
        if (step % 16 == 0)
            usage();
    }
}

/* Of all that was written: those that a fault keeps back, or n_faulty at most, are not compared. */
static void read_everything(uint32_t n_faulty)
{
    drain();
    uint64_t expected = n_reads;
    for (uint32_t i = 0; i < n_held; i++) {
        expected += held[i].stamp && !held[i].is_busy;
        submit(i, KVP_IO_READ);
    }
    drain();
    assert_true(n_reads <= expected && n_reads + n_faulty >= expected);
}

/* ---- the tests --------------------------------------------------------------------------------*/

static int set_up(void **state)
{
    (void)state;
    buffers = aligned_alloc(BLOCK, N_FLIGHTS * SLOT);
    return buffers ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    free(buffers);
    return 0;
}

static void test_records_keep_their_bytes_while_segments_are_cleaned(void **state)
{
    (void)state;
    open_tier(SEED);
    churn(60000, 85);
    assert_int_equal(n_errors, 0);
    read_everything(0);
    kvp_tier_usage u = usage();
    print_message("%llu segments cleaned, %.2f bytes written for each of the user's; %llu refused, "
                  "%llu waits, %llu reads\n",
                  (unsigned long long)u.segments_cleaned,
                  (double)disk.n_written / (double)bytes_written, (unsigned long long)n_refused,
                  (unsigned long long)n_again, (unsigned long long)n_reads);
    assert_true(u.segments_cleaned > 50 && n_again > 0 && n_reads > 10000);
    assert_int_equal(disk.n_written, bytes_written + u.bytes_moved);
    close_tier();
}

/* Refused only when there is no more than the reserve, and less than a slot of each segment. */
static void test_full_is_full(void **state)
{
    (void)state;
    open_tier(SEED + 1);
    uint64_t least = UINT64_MAX;
    for (uint32_t step = 0; step < 4000; step++) {
        uint64_t before = n_refused;
        add();
        if (n_refused > before) {
            least = bytes_held < least ? bytes_held : least;
            for (uint32_t k = 0; k < 20; k++)
                drop(mem_disk_random(&disk, n_held));
        }
    }
    assert_true(n_refused > 10 && least != UINT64_MAX);
    assert_true(least > 11 * (SEGMENT - SLOT));
    read_everything(0);
    close_tier();
}

/* Freed to the last byte: everything can be had again. */
static void test_nothing_leaks(void **state)
{
    (void)state;
    open_tier(SEED + 2);
    for (uint32_t round = 0; round < 5; round++) {
        churn(6000, 85);
        drain();
        while (n_held)
            drop(n_held - 1);
        usage();
        drain();
        assert_int_equal(kvpi_tier_reserve(tier, 11 * SEGMENT / SLOT), KVP_OK);
        assert_int_equal(kvpi_tier_reserve(tier, 12 * SEGMENT / SLOT), KVP_E_NOSPACE);
    }
    close_tier();
}

/* The n-th request, for each n until there are no more; returns how many there were. */
static uint64_t fail_each(mem_disk_fault fault, kvp_io_op op)
{
    uint64_t n_cleaners = 0;
    for (uint64_t n = 1;; n++) {
        open_tier(SEED + n);
        churn(500, 84);
        drain();
        mem_disk_arm(&disk, fault, op, n);
        churn(300, 86);
        read_everything(fault == MEM_DISK_STUCK ? N_FLIGHTS : 1);
        bool has_fired = disk.has_fired, was_users = n_errors > 0;
        assert_true(n_errors <= (fault == MEM_DISK_STUCK ? 0 : 1));
        n_cleaners += has_fired && !was_users; /* which is no concern of the user's */
        mem_disk_release(&disk);
        read_everything(0);
        for (uint32_t i = 0; i < n_held; i++)
            assert_false(held[i].is_busy);
        close_tier();
        if (!has_fired) {
            assert_true(n_cleaners > 10);
            return n - 1;
        }
    }
}

static void test_nth_read_fails(void **state)
{
    (void)state;
    assert_true(fail_each(MEM_DISK_EIO, KVP_IO_READ) > 100);
    assert_true(fail_each(MEM_DISK_SHORT, KVP_IO_READ) > 100);
}

static void test_nth_write_fails(void **state)
{
    (void)state;
    assert_true(fail_each(MEM_DISK_EIO, KVP_IO_WRITE) > 100);
    assert_true(fail_each(MEM_DISK_ENOSPC, KVP_IO_WRITE) > 100);
    assert_true(fail_each(MEM_DISK_SHORT, KVP_IO_WRITE) > 100);
}

static void test_nth_request_never_completes(void **state)
{
    (void)state;
    assert_true(fail_each(MEM_DISK_STUCK, KVP_IO_READ) > 100);
    assert_true(fail_each(MEM_DISK_STUCK, KVP_IO_WRITE) > 100);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(test_records_keep_their_bytes_while_segments_are_cleaned),
        CASE(test_full_is_full),
        CASE(test_nothing_leaks),
        CASE(test_nth_read_fails),
        CASE(test_nth_write_fails),
        CASE(test_nth_request_never_completes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
