/* test_disk.c - what every disk engine promises, over the three engines and the fault-injecting
 * wrapper with faults off; then the engine of threads when its threads are late or few. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "child.h"
#include "disk_fixture.h"
#include "kvpager/env.h"
#include "tiers/disk_engine.h"

#define SEED 20240607u

static uint64_t next_random(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return *s >> 33;
}

/* Reap n requests; each must come once and be whole. */
static void reap_all(size_t n)
{
    for (size_t i = 0; i < n; i++) {
        kvp_disk_io *io = disk_reap(fx.disk, KVP_FOREVER);
        assert_non_null(io);
        disk_assert_done(io);
        io->status = KVP_E_LOST; /* a second time would fail above, unless resubmitted */
    }
    assert_null(disk_reap(fx.disk, KVP_FOREVER));
}

/* ---- the contract -----------------------------------------------------------------------------*/

static void test_random_transfers_beyond_depth_match_model(void **state)
{
    (void)state;
    uint64_t random = SEED, written[N_BLOCKS] = {0}, serial = 0;
    print_message("seed %u\n", SEED);
    for (int round = 0; round < 24; round++) {
        size_t n = 1 + next_random(&random) % N_BLOCKS, first = next_random(&random) % N_BLOCKS;
        bool is_write = round == 0 || next_random(&random) % 2;
        n = round == 0 ? N_BLOCKS : n;
        for (size_t i = 0; i < n; i++) {
            size_t block = (first + i * 7) % N_BLOCKS; /* 7 and 64: each at most once */
            char *buf = fx.memory + i * BLOCK_BYTES;
            if (is_write)
                block_fill(buf, BLOCK_BYTES, written[block] = ++serial);
            else
                memset(buf, 0, BLOCK_BYTES);
            fx.ios[i] = disk_request(is_write ? KVP_IO_WRITE : KVP_IO_READ, buf, BLOCK_BYTES,
                                     block * BLOCK_BYTES);
            disk_submit(fx.disk, &fx.ios[i]);
        }
        reap_all(n);
        for (size_t i = 0; i < n && !is_write; i++)
            assert_true(block_is_filled(fx.memory + i * BLOCK_BYTES, BLOCK_BYTES,
                                        written[(first + i * 7) % N_BLOCKS]));
    }
    assert_true(serial > 2 * N_BLOCKS);
}

static void test_a_chain_beyond_depth_is_taken_whole(void **state)
{
    (void)state;
    for (int op = KVP_IO_WRITE; op >= KVP_IO_READ; op--) {
        for (size_t i = 0; i < N_BLOCKS; i++) {
            char *buf = fx.memory + i * BLOCK_BYTES;
            if (op == KVP_IO_WRITE)
                block_fill(buf, BLOCK_BYTES, i + 1000);
            else
                memset(buf, 0, BLOCK_BYTES);
            fx.ios[i] = disk_request((kvp_io_op)op, buf, BLOCK_BYTES, i * BLOCK_BYTES);
            fx.ios[i].next = i + 1 < N_BLOCKS ? &fx.ios[i + 1] : NULL;
        }
        disk_submit(fx.disk, fx.ios);
        reap_all(N_BLOCKS);
    }
    for (size_t i = 0; i < N_BLOCKS; i++)
        assert_true(block_is_filled(fx.memory + i * BLOCK_BYTES, BLOCK_BYTES, i + 1000));
}

#define N_SUBMITTERS 4u
#define PER_SUBMITTER (N_BLOCKS / N_SUBMITTERS)

typedef struct submitter {
    kvp_io_op op;
    size_t first;
    bool ok;
} submitter;

/* Exits right away: the kernel must not drop the requests of a thread that is gone. */
static void submit_some(void *arg)
{
    submitter *s = arg;
    s->ok = true;
    for (size_t i = s->first; i < s->first + PER_SUBMITTER; i++) {
        fx.ios[i] = disk_request(s->op, fx.memory + i * BLOCK_BYTES, BLOCK_BYTES, i * BLOCK_BYTES);
        s->ok = s->ok && fx.disk->ops->submit(fx.disk, &fx.ios[i]) == KVP_OK;
    }
}

static size_t reap_while_others_submit(kvp_io_op op)
{
    const kvp_env *env = kvp_env_default();
    submitter submitters[N_SUBMITTERS];
    void *threads[N_SUBMITTERS];
    size_t n = 0;
    for (size_t i = 0; i < N_SUBMITTERS; i++) {
        submitters[i] = (submitter){.op = op, .first = i * PER_SUBMITTER};
        assert_int_equal(env->thread_start(NULL, submit_some, &submitters[i], &threads[i]), KVP_OK);
    }
    while (n < N_BLOCKS) { /* nothing in flight yet is an answer too */
        kvp_disk_io *io = disk_reap(fx.disk, KVP_FOREVER);
        if (io) {
            disk_assert_done(io);
            n++;
        }
    }
    for (size_t i = 0; i < N_SUBMITTERS; i++) {
        env->thread_join(NULL, threads[i]);
        assert_true(submitters[i].ok);
    }
    assert_null(disk_reap(fx.disk, KVP_FOREVER));
    return n;
}

static void test_several_submitters_and_one_reaper_lose_nothing(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 4; round++) {
        for (size_t i = 0; i < N_BLOCKS; i++)
            block_fill(fx.memory + i * BLOCK_BYTES, BLOCK_BYTES, round * N_BLOCKS + i);
        assert_int_equal(reap_while_others_submit(KVP_IO_WRITE), N_BLOCKS);
        memset(fx.memory, 0, FILE_BYTES);
        assert_int_equal(reap_while_others_submit(KVP_IO_READ), N_BLOCKS);
        for (size_t i = 0; i < N_BLOCKS; i++)
            assert_true(
                block_is_filled(fx.memory + i * BLOCK_BYTES, BLOCK_BYTES, round * N_BLOCKS + i));
    }
}

static void test_reap_with_nothing_in_flight_returns_at_once(void **state)
{
    (void)state;
    assert_null(disk_reap(fx.disk, KVP_FOREVER));
    assert_null(disk_reap(fx.disk, 0));
}

static void test_polling_with_a_past_deadline_gets_everything_in_the_end(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_BLOCKS; i++) {
        fx.ios[i] =
            disk_request(KVP_IO_WRITE, fx.memory + i * BLOCK_BYTES, BLOCK_BYTES, i * BLOCK_BYTES);
        disk_submit(fx.disk, &fx.ios[i]);
    }
    for (size_t n = 0; n < N_BLOCKS;) {
        kvp_disk_io *io = disk_reap(fx.disk, n % 2 ? 0 : 1);
        if (io) {
            disk_assert_done(io);
            n++;
        }
    }
    assert_null(disk_reap(fx.disk, 0));
}

static void test_read_across_the_end_is_short(void **state)
{
    (void)state;
    uint64_t last = FILE_BYTES - 4096;
    kvp_disk_io io = disk_request(KVP_IO_READ, fx.memory, BLOCK_BYTES, last);
    disk_run_one(fx.disk, &io);
    assert_int_equal(io.status, KVP_E_IO);
    assert_int_equal(io.native_error, 0);
    assert_int_equal(io.done_bytes, 4096);
    io = disk_request(KVP_IO_READ, fx.memory, BLOCK_BYTES, FILE_BYTES);
    disk_run_one(fx.disk, &io);
    assert_int_equal(io.status, KVP_E_IO);
    assert_int_equal(io.done_bytes, 0);
}

static void test_buffer_outside_the_registered_range_works(void **state)
{
    (void)state;
    char *outside = disk_map_pages(2 * BLOCK_BYTES);
    block_fill(outside, BLOCK_BYTES, 77);
    kvp_disk_io io = disk_request(KVP_IO_WRITE, outside, BLOCK_BYTES, 5 * BLOCK_BYTES);
    disk_assert_done(disk_run_one(fx.disk, &io));
    io = disk_request(KVP_IO_READ, fx.memory + FILE_BYTES - BLOCK_BYTES, BLOCK_BYTES,
                      5 * BLOCK_BYTES);
    disk_assert_done(disk_run_one(fx.disk, &io));
    assert_true(block_is_filled(fx.memory + FILE_BYTES - BLOCK_BYTES, BLOCK_BYTES, 77));
    io = disk_request(KVP_IO_READ, outside + BLOCK_BYTES, BLOCK_BYTES, 5 * BLOCK_BYTES);
    disk_assert_done(disk_run_one(fx.disk, &io));
    assert_true(block_is_filled(outside + BLOCK_BYTES, BLOCK_BYTES, 77));
    munmap(outside, 2 * BLOCK_BYTES);
}

static void test_full_device_is_no_space(void **state)
{
    (void)state;
    int fd = open("/dev/full", O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    kvp_disk *disk = disk_open_on(fd);
    kvp_disk_io io = disk_request(KVP_IO_WRITE, fx.memory, BLOCK_BYTES, 0);
    disk_run_one(disk, &io);
    assert_int_equal(io.status, KVP_E_NOSPACE);
    assert_int_equal(io.native_error, ENOSPC);
    assert_int_equal(io.done_bytes, 0);
    disk->ops->close(disk);
    close(fd);
}

static void test_failed_write_leaves_the_engine_usable(void **state)
{
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fx.fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    kvp_disk *disk = disk_open_on(fd);
    kvp_disk_io io = disk_request(KVP_IO_WRITE, fx.memory, BLOCK_BYTES, 0);
    disk_run_one(disk, &io);
    assert_int_equal(io.status, KVP_E_IO);
    assert_int_equal(io.native_error, EBADF);
    io = disk_request(KVP_IO_READ, fx.memory, BLOCK_BYTES, 0);
    disk_assert_done(disk_run_one(disk, &io));
    disk->ops->close(disk);
    close(fd);
}

static int close_in_child(void *arg)
{
    (void)arg;
    fx.disk->ops->close(fx.disk);
    return 7;
}

static void test_closing_in_a_forked_child_leaves_the_parent_working(void **state)
{
    (void)state;
    block_fill(fx.memory, BLOCK_BYTES, 9);
    kvp_disk_io io = disk_request(KVP_IO_WRITE, fx.memory, BLOCK_BYTES, 0);
    disk_assert_done(disk_run_one(fx.disk, &io));
    assert_int_equal(child_run(close_in_child, NULL), 7);
    io = disk_request(KVP_IO_READ, fx.memory + BLOCK_BYTES, BLOCK_BYTES, 0);
    disk_assert_done(disk_run_one(fx.disk, &io));
    assert_true(block_is_filled(fx.memory + BLOCK_BYTES, BLOCK_BYTES, 9));
}

/* ---- deadlines --------------------------------------------------------------------------------*/

/* A read from an empty pipe stays in flight for as long as the test likes. */
static void test_deadline_passes_while_io_is_in_flight(void **state)
{
    (void)state;
    int pipe_fds[2];
    if (!strcmp(fx.engine, "threads"))
        return; /* pread cannot read pipes: test_threads_deadline_... is about that engine */
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    assert_int_equal(write(pipe_fds[1], "probe", 5), 5);
    kvp_disk *disk = disk_open_on(pipe_fds[0]);
    kvp_disk_io io = disk_request(KVP_IO_READ, fx.memory, 4096, 0);
    disk_submit(disk, &io);
    const kvp_env *env = kvp_env_default();
    uint64_t deadline_ns = env->now_ns(NULL) + 2000000;
    assert_null(disk_reap(disk, deadline_ns));
    assert_true(env->now_ns(NULL) >= deadline_ns);
    assert_int_equal(write(pipe_fds[1], "hello", 5), 5);
    assert_ptr_equal(disk_reap(disk, KVP_FOREVER), &io);
    assert_int_equal(io.done_bytes, 5);
    disk->ops->close(disk);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

/* An env whose workers wait for the test before they do anything. */
typedef struct gate {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool is_open;
    int n_allowed; /* threads that may still be started */
    struct gated {
        struct gate *gate;
        void (*run)(void *arg);
        void *arg;
    } threads[8];
    size_t n_threads;
} gate;

static void run_gated(void *arg)
{
    struct gated *g = arg;
    pthread_mutex_lock(&g->gate->lock);
    while (!g->gate->is_open)
        pthread_cond_wait(&g->gate->opened, &g->gate->lock);
    pthread_mutex_unlock(&g->gate->lock);
    g->run(g->arg);
}

static kvp_status start_gated(void *opaque, void (*run)(void *), void *arg, void **thread)
{
    gate *g = opaque;
    if (g->n_allowed-- <= 0)
        return kvp_fail(KVP_E_NOMEM, "no more threads");
    g->threads[g->n_threads] = (struct gated){g, run, arg};
    return kvp_env_default()->thread_start(NULL, run_gated, &g->threads[g->n_threads++], thread);
}

static void open_gate(gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->is_open = true;
    pthread_cond_broadcast(&g->opened);
    pthread_mutex_unlock(&g->lock);
}

static gate new_gate(int n_allowed)
{
    return (gate){.lock = PTHREAD_MUTEX_INITIALIZER,
                  .opened = PTHREAD_COND_INITIALIZER,
                  .n_allowed = n_allowed};
}

static kvp_env gated_env(gate *g)
{
    kvp_env env = *kvp_env_default();
    env.opaque = g;
    env.thread_start = start_gated;
    return env;
}

static void test_threads_deadline_passes_while_io_is_in_flight(void **state)
{
    (void)state;
    gate g = new_gate(8);
    kvp_env env = gated_env(&g);
    kvp_disk_config cfg = disk_config(fx.fd, "threads");
    cfg.env = &env;
    cfg.mem = &kvpi_mem_default;
    kvp_disk *disk;
    assert_int_equal(kvpi_disk_threads_open(&cfg, &disk), KVP_OK);
    kvp_disk_io io = disk_request(KVP_IO_READ, fx.memory, BLOCK_BYTES, 0);
    disk_submit(disk, &io);
    uint64_t deadline_ns = env.now_ns(NULL) + 2000000;
    assert_null(disk_reap(disk, deadline_ns));
    assert_true(env.now_ns(NULL) >= deadline_ns);
    open_gate(&g);
    assert_ptr_equal(disk_reap(disk, KVP_FOREVER), &io);
    disk_assert_done(&io);
    disk->ops->close(disk);
}

static void test_threads_engine_works_with_fewer_threads_than_wanted(void **state)
{
    (void)state;
    for (int n = 0; n <= 2; n++) {
        gate g = new_gate(n);
        kvp_env env = gated_env(&g);
        open_gate(&g);
        kvp_disk_config cfg = disk_config(fx.fd, "threads");
        cfg.env = &env;
        kvp_disk *disk = NULL;
        kvp_status s = kvp_disk_open(&cfg, &disk);
        assert_int_equal(s, n ? KVP_OK : KVP_E_NOMEM);
        assert_int_equal(g.n_threads, (size_t)n);
        if (s)
            continue;
        kvp_disk_io io = disk_request(KVP_IO_READ, fx.memory, BLOCK_BYTES, 0);
        disk_assert_done(disk_run_one(disk, &io));
        disk->ops->close(disk);
    }
}

/* ---- main -------------------------------------------------------------------------------------*/

static const struct CMUnitTest contract[] = {
    cmocka_unit_test_setup_teardown(test_random_transfers_beyond_depth_match_model, disk_set_up,
                                    disk_tear_down),
    cmocka_unit_test_setup_teardown(test_a_chain_beyond_depth_is_taken_whole, disk_set_up,
                                    disk_tear_down),
    cmocka_unit_test_setup_teardown(test_several_submitters_and_one_reaper_lose_nothing,
                                    disk_set_up, disk_tear_down),
    cmocka_unit_test_setup_teardown(test_reap_with_nothing_in_flight_returns_at_once, disk_set_up,
                                    disk_tear_down),
    cmocka_unit_test_setup_teardown(test_polling_with_a_past_deadline_gets_everything_in_the_end,
                                    disk_set_up, disk_tear_down),
    cmocka_unit_test_setup_teardown(test_read_across_the_end_is_short, disk_set_up, disk_tear_down),
    cmocka_unit_test_setup_teardown(test_buffer_outside_the_registered_range_works, disk_set_up,
                                    disk_tear_down),
    cmocka_unit_test_setup_teardown(test_full_device_is_no_space, disk_set_up, disk_tear_down),
    cmocka_unit_test_setup_teardown(test_failed_write_leaves_the_engine_usable, disk_set_up,
                                    disk_tear_down),
    cmocka_unit_test_setup_teardown(test_closing_in_a_forked_child_leaves_the_parent_working,
                                    disk_set_up, disk_tear_down),
    cmocka_unit_test_setup_teardown(test_deadline_passes_while_io_is_in_flight, disk_set_up,
                                    disk_tear_down),
};

static const struct CMUnitTest threads[] = {
    cmocka_unit_test_setup_teardown(test_threads_deadline_passes_while_io_is_in_flight,
                                    disk_set_up_file, disk_tear_down),
    cmocka_unit_test_setup_teardown(test_threads_engine_works_with_fewer_threads_than_wanted,
                                    disk_set_up_file, disk_tear_down),
};

/* Does the engine work on this machine? If not, its contract is skipped, and said so. */
static bool is_available(const char *engine)
{
    int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
    kvp_disk_config cfg = {.fd = fd, .max_depth = 1, .engine = engine};
    kvp_disk *disk;
    kvp_status s = kvp_disk_open(&cfg, &disk);
    if (s)
        fprintf(stderr, "skipping: %s\n", kvp_error());
    else
        disk->ops->close(disk);
    close(fd);
    return !s;
}

int main(void)
{
    int failed = 0;
    for (size_t i = 0; i < 6; i++) {
        fx.engine = disk_engines[i / 2];
        fx.is_wrapped = i % 2;
        char title[64];
        snprintf(title, sizeof title, "%s%s", fx.engine, fx.is_wrapped ? ", wrapped" : "");
        if (is_available(fx.engine))
            failed += cmocka_run_group_tests_name(title, contract, NULL, NULL);
    }
    fx.engine = "threads";
    fx.is_wrapped = false;
    failed += cmocka_run_group_tests_name("late threads", threads, NULL, NULL);
    return failed != 0;
}
