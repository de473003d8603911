/* test_tier.c - what every tier backend promises: ram, zram, disk over its three engines, and disk
 * over the fault-injecting wrapper with faults off. */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "faulty_disk.h"
#include "tiers/tier.h"

#define SLOT ((size_t)16384)
#define N_SLOTS 96u
#define BUDGET_BYTES (N_SLOTS * SLOT + 8192)
#define DEPTH 8u
#define SEED 77u

typedef struct backend {
    const char *title;
    const kvp_tier_ops *ops;
    const char *engine;
    bool is_wrapped;
} backend;

static const backend backends[] = {
    {"ram", &kvpi_tier_ram, NULL, false},
    {"zram", &kvpi_tier_zram, NULL, false},
    {"disk, uring-fixed", &kvpi_tier_disk, "uring-fixed", false},
    {"disk, uring", &kvpi_tier_disk, "uring", false},
    {"disk, threads", &kvpi_tier_disk, "threads", false},
    {"disk, wrapped", &kvpi_tier_disk, "threads", true},
};

static const backend *current;
static faulty_disk faulty;
static char *buffers; /* [N_SLOTS][SLOT], aligned */
static kvp_io ios[N_SLOTS];
static kvp_tier *tier;

static kvp_status open_tier(uint64_t budget_bytes, kvp_tier **out)
{
    kvp_tier_config cfg = {.budget_bytes = budget_bytes,
                           .slot_bytes = SLOT,
                           .max_depth = DEPTH,
                           .env = current->is_wrapped ? &faulty.env : NULL,
                           .engine = current->engine,
                           .n_ranges = 1};
    cfg.ranges[0].base = buffers;
    cfg.ranges[0].bytes = N_SLOTS * SLOT;
    return kvpi_tier_open(current->ops, &cfg, out);
}

static int set_up(void **state)
{
    (void)state;
    buffers = aligned_alloc(4096, N_SLOTS * SLOT);
    assert_non_null(buffers);
    faulty_disk_init(&faulty, NULL);
    assert_int_equal(open_tier(BUDGET_BYTES, &tier), KVP_OK);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kvpi_tier_close(tier);
    faulty_disk_fini(&faulty);
    free(buffers);
    return 0;
}

static bool is_variable(void)
{
    return (current->ops->caps & KVP_CAP_VARIABLE) != 0;
}

static uint64_t next_random(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return *s >> 33;
}

static void fill(char *to, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (char)next_random(&seed);
}

static bool is_filled(const char *from, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        if (from[i] != (char)next_random(&seed))
            return false;
    return true;
}

static kvp_tier_usage usage(void)
{
    kvp_tier_usage u;
    memset(&u, 0xEE, sizeof u);
    kvpi_tier_usage(tier, &u);
    return u;
}

static void submit(size_t i, kvp_io_op op, kvp_slot slot, size_t n)
{
    ios[i] = (kvp_io){.op = op,
                      .slot = slot,
                      .buf = buffers + i * SLOT,
                      .len_bytes = n,
                      .status = KVP_E_LOST,
                      .owner = &ios[i]};
    assert_int_equal(kvpi_tier_submit(tier, &ios[i]), KVP_OK);
}

static kvp_io *reap(uint64_t deadline_ns)
{
    kvp_io *done = (kvp_io *)1;
    assert_int_equal(kvpi_tier_reap(tier, deadline_ns, &done), KVP_OK);
    return done;
}

static void reap_all(size_t n)
{
    for (size_t i = 0; i < n; i++) {
        kvp_io *io = reap(KVP_FOREVER);
        assert_non_null(io);
        assert_ptr_equal(io->owner, io);
        assert_int_equal(io->status, KVP_OK);
        assert_int_equal(io->native_error, 0);
        io->status = KVP_E_LOST;
    }
    assert_null(reap(KVP_FOREVER));
}

static void write_one(kvp_slot slot, size_t n, uint64_t seed)
{
    fill(buffers, n, seed);
    submit(0, KVP_IO_WRITE, slot, n);
    reap_all(1);
}

static void assert_holds(kvp_slot slot, size_t n, uint64_t seed)
{
    memset(buffers, 0, SLOT);
    submit(0, KVP_IO_READ, slot, n);
    reap_all(1);
    assert_true(is_filled(buffers, n, seed));
}

/* ---- the contract -----------------------------------------------------------------------------*/

static void test_ops_table_is_complete(void **state)
{
    (void)state;
    assert_int_equal(current->ops->abi, KVP_TIER_ABI);
    assert_int_equal(strncmp(current->title, current->ops->name, strlen(current->ops->name)), 0);
    assert_int_equal((current->ops->caps & KVP_CAP_ASYNC) != 0, current->ops == &kvpi_tier_disk);
    if (current->engine)
        assert_string_equal(kvpi_tier_disk_engine(tier), current->engine);
}

/* Random allocs, frees, rewrites and reads against what the slots should hold. */
static void test_random_operations_match_model(void **state)
{
    (void)state;
    struct {
        kvp_slot slot;
        size_t n;
        uint64_t seed;
    } held[N_SLOTS / 2];
    size_t n_held = 0, n_frees = 0, n_rewrites = 0, n_reads = 0;
    uint64_t random = SEED;
    print_message("seed %u\n", SEED);
    for (uint64_t step = 1; step <= 600; step++) {
        size_t at = n_held ? next_random(&random) % n_held : 0;
        uint64_t dice = next_random(&random) % 8;
        if (n_held < N_SLOTS / 2 && (dice < 3 || !n_held)) {
            size_t n = is_variable() ? 1 + next_random(&random) % SLOT : SLOT;
            at = n_held++;
            held[at].n = n;
            assert_int_equal(kvpi_tier_slot_alloc(tier, n, &held[at].slot), KVP_OK);
            write_one(held[at].slot, n, held[at].seed = step);
        } else if (dice < 4) {
            kvpi_tier_slot_free(tier, held[at].slot);
            held[at] = held[--n_held];
            n_frees++;
        } else if (dice < 5) {
            write_one(held[at].slot, held[at].n, held[at].seed = step);
            n_rewrites++;
        } else {
            assert_holds(held[at].slot, held[at].n, held[at].seed);
            n_reads++;
        }
        assert_int_equal(usage().slots_used, n_held);
    }
    assert_true(n_frees > 20 && n_rewrites > 20 && n_reads > 100);
    for (size_t i = 0; i < n_held; i++)
        assert_holds(held[i].slot, held[i].n, held[i].seed);
}

static size_t fill_up(kvp_slot *slots)
{
    size_t n = 0;
    kvp_status s;
    while (n <= N_SLOTS && !(s = kvpi_tier_slot_alloc(tier, SLOT, &slots[n])))
        n++;
    assert_true(n <= N_SLOTS);
    assert_int_equal(s, KVP_E_NOSPACE);
    return n;
}

static void test_budget_is_a_hard_limit_and_a_freed_slot_can_be_had_again(void **state)
{
    (void)state;
    kvp_slot slots[N_SLOTS + 1], again;
    size_t n = fill_up(slots);
    assert_true(is_variable() ? n > N_SLOTS * 9 / 10 : n == N_SLOTS);
    kvp_tier_usage full = usage();
    assert_int_equal(full.slots_used, n);
    assert_true(full.bytes_used >= n * SLOT && full.bytes_used <= BUDGET_BYTES);
    assert_true(full.bytes_peak >= full.bytes_used && full.bytes_peak <= BUDGET_BYTES);
    assert_true(full.slots_free == 0 || full.slots_free == UINT64_MAX);

    kvpi_tier_slot_free(tier, slots[n / 2]);
    assert_int_equal(usage().slots_used, n - 1);
    assert_true(usage().bytes_used < full.bytes_used);
    assert_int_equal(kvpi_tier_slot_alloc(tier, SLOT, &again), KVP_OK);
    assert_int_equal(kvpi_tier_slot_alloc(tier, SLOT, &slots[n]), KVP_E_NOSPACE);
    assert_true(usage().bytes_peak <= BUDGET_BYTES);
}

static void test_slots_are_distinct_and_hold_their_own_bytes(void **state)
{
    (void)state;
    kvp_slot slots[N_SLOTS + 1];
    size_t n = fill_up(slots);
    for (size_t i = 0; i < n; i++) {
        fill(buffers + i * SLOT, SLOT, i + 1);
        submit(i, KVP_IO_WRITE, slots[i], SLOT);
    }
    reap_all(n);
    memset(buffers, 0, n * SLOT);
    for (size_t i = 0; i < n; i++)
        submit(i, KVP_IO_READ, slots[(i * 31) % n], SLOT);
    reap_all(n);
    for (size_t i = 0; i < n; i++)
        assert_true(is_filled(buffers + i * SLOT, SLOT, (i * 31) % n + 1));
}

/* Requests [0, n), linked through next. */
static void submit_chain(size_t n, kvp_io_op op, const kvp_slot *slots)
{
    for (size_t i = 0; i < n; i++)
        ios[i] = (kvp_io){.op = op,
                          .slot = slots[i],
                          .buf = buffers + i * SLOT,
                          .len_bytes = SLOT,
                          .status = KVP_E_LOST,
                          .owner = &ios[i],
                          .next = i + 1 < n ? &ios[i + 1] : NULL};
    assert_int_equal(kvpi_tier_submit(tier, ios), KVP_OK);
}

static void test_a_chain_is_taken_whole(void **state)
{
    (void)state;
    kvp_slot slots[N_SLOTS + 1];
    size_t n = fill_up(slots);
    assert_true(n > 1);
    for (size_t i = 0; i < n; i++)
        fill(buffers + i * SLOT, SLOT, i + 100);
    submit_chain(n, KVP_IO_WRITE, slots);
    reap_all(n);
    memset(buffers, 0, n * SLOT);
    submit_chain(n, KVP_IO_READ, slots);
    reap_all(n);
    for (size_t i = 0; i < n; i++)
        assert_true(is_filled(buffers + i * SLOT, SLOT, i + 100));
}

static void test_freeing_everything_returns_to_nothing_used(void **state)
{
    (void)state;
    kvp_slot slots[N_SLOTS + 1];
    for (int round = 0; round < 3; round++) {
        size_t n = fill_up(slots);
        uint64_t peak = usage().bytes_peak;
        for (size_t i = 0; i < n; i++)
            kvpi_tier_slot_free(tier, slots[(i * 7 + 3) % n]);
        assert_int_equal(usage().slots_used, 0);
        assert_true(usage().bytes_used < SLOT);
        assert_true(peak >= n * SLOT);
        assert_int_equal(usage().bytes_peak, peak);
    }
}

static void test_reap_with_nothing_in_flight_returns_at_once(void **state)
{
    (void)state;
    assert_null(reap(KVP_FOREVER));
    assert_null(reap(0));
}

static void test_reserved_slots_can_be_had(void **state)
{
    (void)state;
    kvp_slot slots[N_SLOTS + 1];
    assert_int_equal(kvpi_tier_reserve(tier, 0), KVP_OK);
    assert_int_equal(kvpi_tier_reserve(tier, N_SLOTS / 2), KVP_OK);
    for (size_t i = 0; i < N_SLOTS / 2; i++)
        assert_int_equal(kvpi_tier_slot_alloc(tier, SLOT, &slots[i]), KVP_OK);
    assert_int_equal(usage().slots_used, N_SLOTS / 2);
    if (current->ops->reserve)
        assert_int_equal(kvpi_tier_reserve(tier, N_SLOTS), KVP_E_NOSPACE);
}

static void test_address_is_where_the_bytes_are(void **state)
{
    (void)state;
    kvp_slot slots[2];
    for (uint64_t i = 0; i < 2; i++) {
        assert_int_equal(kvpi_tier_slot_alloc(tier, SLOT, &slots[i]), KVP_OK);
        write_one(slots[i], SLOT, i + 1);
    }
    bool is_addressable = (current->ops->caps & KVP_CAP_ADDRESSABLE) != 0;
    for (uint64_t i = 0; i < 2; i++) {
        char *p = kvpi_tier_addr(tier, slots[i]);
        assert_int_equal(p != NULL, is_addressable);
        if (!p)
            continue;
        assert_int_equal((uintptr_t)p % KVP_IO_ALIGN, 0);
        assert_true(is_filled(p, SLOT, i + 1));
        fill(p, SLOT, i + 10);
        assert_holds(slots[i], SLOT, i + 10);
    }
}

static void test_budget_without_room_for_a_slot_is_an_answer(void **state)
{
    (void)state;
    kvp_tier *small = NULL;
    kvp_slot slot;
    kvp_status s = open_tier(SLOT / 2, &small);
    if (s == KVP_OK) {
        assert_int_equal(kvpi_tier_slot_alloc(small, SLOT, &slot), KVP_E_NOSPACE);
        kvpi_tier_close(small);
    } else {
        assert_int_equal(s, KVP_E_BUDGET);
        assert_null(small);
    }
}

/* ---- threads ----------------------------------------------------------------------------------*/

#define N_THREADS 4u
#define PER_THREAD (N_SLOTS / N_THREADS)

typedef struct worker {
    size_t index;
    kvp_slot slots[PER_THREAD];
    bool ok;
} worker;

static bool submit_quietly(size_t i, kvp_io_op op, kvp_slot slot)
{
    ios[i] = (kvp_io){
        .op = op, .slot = slot, .buf = buffers + i * SLOT, .len_bytes = SLOT, .owner = &ios[i]};
    return kvpi_tier_submit(tier, &ios[i]) == KVP_OK;
}

/* Churn, then write a quarter of the slots; the main thread reaps. */
static void churn_and_write(void *arg)
{
    worker *w = arg;
    size_t n = is_variable() ? PER_THREAD * 3 / 4 : PER_THREAD;
    w->ok = true;
    for (int round = 0; round < 200; round++) {
        for (size_t i = 0; i < n; i++)
            w->ok = w->ok && kvpi_tier_slot_alloc(tier, SLOT, &w->slots[i]) == KVP_OK;
        for (size_t i = 0; i < n && round < 199 && w->ok; i++)
            kvpi_tier_slot_free(tier, w->slots[i]);
    }
    for (size_t i = 0; i < n && w->ok; i++) {
        size_t at = w->index * PER_THREAD + i;
        fill(buffers + at * SLOT, SLOT, at + 1);
        w->ok = submit_quietly(at, KVP_IO_WRITE, w->slots[i]);
    }
}

static void test_threads_share_the_tier(void **state)
{
    (void)state;
    const kvp_env *env = kvp_env_default();
    worker workers[N_THREADS];
    void *threads[N_THREADS];
    size_t per_thread = is_variable() ? PER_THREAD * 3 / 4 : PER_THREAD, n_done = 0;
    for (size_t t = 0; t < N_THREADS; t++) {
        workers[t] = (worker){.index = t};
        assert_int_equal(env->thread_start(NULL, churn_and_write, &workers[t], &threads[t]),
                         KVP_OK);
    }
    for (int is_late = 0; is_late < 2; is_late++) { /* while they submit, then the rest */
        for (kvp_io *io; (io = reap(KVP_FOREVER));) {
            assert_int_equal(io->status, KVP_OK);
            n_done++;
        }
        for (size_t t = 0; t < N_THREADS && !is_late; t++) {
            env->thread_join(NULL, threads[t]);
            assert_true(workers[t].ok);
        }
    }
    assert_int_equal(n_done, N_THREADS * per_thread);
    assert_int_equal(usage().slots_used, N_THREADS * per_thread);
    for (size_t t = 0; t < N_THREADS; t++)
        for (size_t i = 0; i < per_thread; i++)
            assert_holds(workers[t].slots[i], SLOT, t * PER_THREAD + i + 1);
}

/* ---- the disk tier's own ----------------------------------------------------------------------*/

static void open_disk_tier(uint64_t budget_bytes)
{
    kvpi_tier_close(tier);
    assert_int_equal(open_tier(budget_bytes, &tier), KVP_OK);
}

/* What is allocated one after the other is one request to read, also where others were freed. */
static void test_disk_slots_follow_each_other_and_freed_ones_are_reused(void **state)
{
    (void)state;
    kvp_slot slots[N_SLOTS];
    for (size_t i = 0; i < N_SLOTS; i++) {
        assert_int_equal(kvpi_tier_slot_alloc(tier, SLOT, &slots[i]), KVP_OK);
        if (i)
            assert_true(kvpi_tier_are_neighbours(tier, slots[i - 1], slots[i]));
        if (i > 1)
            assert_false(kvpi_tier_are_neighbours(tier, slots[i - 2], slots[i]));
    }
    for (size_t i = 20; i < 40; i++)
        kvpi_tier_slot_free(tier, slots[i]);
    for (size_t i = 20; i < 40; i++)
        assert_int_equal(kvpi_tier_slot_alloc(tier, SLOT, &slots[i]), KVP_OK);
    for (size_t i = 21; i < 40; i++)
        assert_true(kvpi_tier_are_neighbours(tier, slots[i - 1], slots[i]));
    assert_int_equal(kvpi_tier_slot_alloc(tier, SLOT, &slots[0]), KVP_E_NOSPACE);
}

/* More slots than the first tables have room for, freed and had again in scattered places. */
static void test_disk_tables_grow(void **state)
{
    (void)state;
    enum { N = 9000 };
    open_disk_tier(8192 + N * SLOT);
    assert_int_equal(usage().slots_free, N);
    static bool seen[N];
    memset(seen, 0, sizeof seen);
    kvp_slot slot;
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(kvpi_tier_slot_alloc(tier, SLOT, &slot), KVP_OK);
        assert_true(slot < N && !seen[slot]);
        seen[slot] = true;
    }
    write_one(N - 1, SLOT, 42);
    assert_holds(N - 1, SLOT, 42);
    for (size_t i = 0; i < N; i += 4095)
        kvpi_tier_slot_free(tier, i);
    for (size_t i = 0; i < N; i += 4095) {
        assert_int_equal(kvpi_tier_slot_alloc(tier, SLOT, &slot), KVP_OK);
        assert_int_equal(slot % 4095, 0);
    }
    assert_int_equal(usage().slots_used, N);
    assert_int_equal(usage().bytes_used, N * SLOT);
    assert_int_equal(usage().slots_free, 0);
}

static void test_disk_without_a_limit_gives_slots(void **state)
{
    (void)state;
    kvp_slot slot;
    open_disk_tier(KVP_UNLIMITED);
    assert_int_equal(usage().slots_free, UINT64_MAX);
    assert_int_equal(kvpi_tier_slot_alloc(tier, SLOT, &slot), KVP_OK);
    write_one(slot, SLOT, 8);
    assert_holds(slot, SLOT, 8);
}

static void test_disk_smallest_budget_holds_one_slot(void **state)
{
    (void)state;
    kvp_tier *t = NULL;
    assert_int_equal(open_tier(8192 + SLOT - 1, &t), KVP_E_BUDGET);
    assert_non_null(strstr(kvp_error(), "needs at least 24576"));
    open_disk_tier(8192 + SLOT);
    kvp_slot a, b;
    assert_int_equal(kvpi_tier_slot_alloc(tier, SLOT, &a), KVP_OK);
    assert_int_equal(kvpi_tier_slot_alloc(tier, SLOT, &b), KVP_E_NOSPACE);
    write_one(a, SLOT, 3);
    assert_holds(a, SLOT, 3);
}

static void test_disk_error_reaches_the_request_and_no_other(void **state)
{
    (void)state;
    kvp_slot slots[4];
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(kvpi_tier_slot_alloc(tier, SLOT, &slots[i]), KVP_OK);
        write_one(slots[i], SLOT, i + 1);
    }
    faulty_disk_arm(&faulty, (faulty_plan){.kind = FAULT_EIO, .op = FAULT_READS, .nth = 3});
    memset(buffers, 0, 4 * SLOT);
    for (size_t i = 0; i < 4; i++)
        submit(i, KVP_IO_READ, slots[i], SLOT);
    for (size_t i = 0; i < 4; i++)
        assert_non_null(reap(KVP_FOREVER));
    assert_int_equal(faulty_disk_fired(&faulty), 1);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(ios[i].status, i == 2 ? KVP_E_IO : KVP_OK);
        assert_int_equal(ios[i].native_error != 0, i == 2);
        assert_int_equal(is_filled(buffers + i * SLOT, SLOT, i + 1), i != 2);
    }
}

/* ---- tier.c -----------------------------------------------------------------------------------*/

static void test_foreign_or_incomplete_ops_are_refused(void **state)
{
    (void)state;
    kvp_tier_ops ops = kvpi_tier_ram;
    kvp_tier_config cfg = {.budget_bytes = BUDGET_BYTES, .slot_bytes = SLOT, .max_depth = 1};
    kvp_tier *t = NULL;
    ops.abi = KVP_TIER_ABI + 1;
    assert_int_equal(kvpi_tier_open(&ops, &cfg, &t), KVP_E_UNSUPPORTED);
    ops = kvpi_tier_ram;
    ops.addr = NULL;
    assert_int_equal(kvpi_tier_open(&ops, &cfg, &t), KVP_E_INVALID);
    ops = kvpi_tier_ram;
    ops.reap = NULL;
    assert_int_equal(kvpi_tier_open(&ops, &cfg, &t), KVP_E_INVALID);
    assert_null(t);
    kvpi_tier_close(NULL);
}

/* ---- main -------------------------------------------------------------------------------------*/

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

static const struct CMUnitTest contract[] = {
    CASE(test_ops_table_is_complete),
    CASE(test_random_operations_match_model),
    CASE(test_budget_is_a_hard_limit_and_a_freed_slot_can_be_had_again),
    CASE(test_slots_are_distinct_and_hold_their_own_bytes),
    CASE(test_a_chain_is_taken_whole),
    CASE(test_freeing_everything_returns_to_nothing_used),
    CASE(test_reap_with_nothing_in_flight_returns_at_once),
    CASE(test_reserved_slots_can_be_had),
    CASE(test_address_is_where_the_bytes_are),
    CASE(test_budget_without_room_for_a_slot_is_an_answer),
    CASE(test_threads_share_the_tier),
};

static const struct CMUnitTest disk_only[] = {
    CASE(test_disk_slots_follow_each_other_and_freed_ones_are_reused),
    CASE(test_disk_tables_grow),
    CASE(test_disk_without_a_limit_gives_slots),
    CASE(test_disk_smallest_budget_holds_one_slot),
};

static const struct CMUnitTest wrapped_only[] = {
    CASE(test_disk_error_reaches_the_request_and_no_other),
};

static const struct CMUnitTest wrappers[] = {
    cmocka_unit_test(test_foreign_or_incomplete_ops_are_refused),
};

static bool is_available(void)
{
    kvp_tier *t;
    buffers = aligned_alloc(4096, N_SLOTS * SLOT);
    faulty_disk_init(&faulty, NULL);
    kvp_status s = open_tier(BUDGET_BYTES, &t);
    if (s)
        fprintf(stderr, "skipping: %s\n", kvp_error());
    else
        kvpi_tier_close(t);
    faulty_disk_fini(&faulty);
    free(buffers);
    return s != KVP_E_UNSUPPORTED; /* anything else fails in set_up, as it should */
}

int main(void)
{
    int failed = cmocka_run_group_tests_name("tier.c", wrappers, NULL, NULL);
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        current = &backends[i];
        if (!is_available())
            continue;
        failed += cmocka_run_group_tests_name(current->title, contract, NULL, NULL);
        if (current->ops == &kvpi_tier_disk)
            failed += cmocka_run_group_tests_name(current->title, disk_only, NULL, NULL);
        if (current->is_wrapped)
            failed += cmocka_run_group_tests_name(current->title, wrapped_only, NULL, NULL);
    }
    return failed != 0;
}
