/* test_disk.c - what every disk engine promises, over the three engines and the fault-injecting
 * wrapper with faults off; then how kvp_disk_open chooses. */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "child.h"
#include "faulty_disk.h"
#include "kvpager/env.h"
#include "tiers/disk_engine.h"

#define BLOCK ((size_t)16384)
#define N_BLOCKS 64u
#define FILE_BYTES (BLOCK * N_BLOCKS)
#define REGISTERED (FILE_BYTES / 2 + 4096) /* ends inside a block: that one is not registered */
#define DEPTH 4u
#define SEED 20240607u

static const char *const names[] = {"uring-fixed", "uring", "threads"};

typedef struct fixture {
    const char *engine;
    bool is_wrapped;
    faulty_disk faulty;
    int fd;
    char *memory; /* [N_BLOCKS][BLOCK], of which REGISTERED bytes are registered */
    kvp_disk *disk;
    kvp_disk_io ios[N_BLOCKS];
} fixture;

static fixture fx;

static int scratch_file(void)
{
    const char *dir = getenv("TMPDIR");
    int fd = open(dir && *dir ? dir : "/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    if (fcntl(fd, F_SETFL, O_DIRECT))
        assert_int_equal(errno, EINVAL);
    return fd;
}

static char *map_pages(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    return p;
}

static kvp_disk_config config(int fd, const char *engine)
{
    kvp_disk_config cfg = {.fd = fd, .max_depth = DEPTH, .n_ranges = 1, .engine = engine};
    cfg.ranges[0].base = fx.memory;
    cfg.ranges[0].bytes = REGISTERED;
    cfg.env = fx.is_wrapped ? &fx.faulty.env : kvp_env_default();
    return cfg;
}

static kvp_disk *open_on(int fd)
{
    kvp_disk_config cfg = config(fd, fx.engine);
    kvp_disk *disk = NULL;
    assert_int_equal(cfg.env->disk_open(cfg.env->opaque, &cfg, &disk), KVP_OK);
    assert_string_equal(disk->ops->name, fx.engine);
    return disk;
}

/* A file and memory, no engine: its threads would not survive the forks of some tests. */
static int set_up_file(void **state)
{
    (void)state;
    fx.disk = NULL;
    faulty_disk_init(&fx.faulty, NULL);
    fx.memory = map_pages(FILE_BYTES);
    fx.fd = scratch_file();
    assert_int_equal(ftruncate(fx.fd, (off_t)FILE_BYTES), 0);
    return 0;
}

static int set_up(void **state)
{
    set_up_file(state);
    fx.disk = open_on(fx.fd);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (fx.disk)
        fx.disk->ops->close(fx.disk);
    close(fx.fd);
    munmap(fx.memory, FILE_BYTES);
    faulty_disk_fini(&fx.faulty);
    return 0;
}

static uint64_t next_random(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return *s >> 33;
}

static void fill(char *to, size_t n, uint64_t seed)
{
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t v = seed * 0x9E3779B97F4A7C15u + i;
        memcpy(to + i, &v, sizeof v);
    }
}

static bool is_filled(const char *from, size_t n, uint64_t seed)
{
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t v = seed * 0x9E3779B97F4A7C15u + i;
        if (memcmp(from + i, &v, sizeof v))
            return false;
    }
    return true;
}

static kvp_disk_io request(kvp_io_op op, void *buf, size_t n, uint64_t offset)
{
    return (kvp_disk_io){
        .op = op, .buf = buf, .len_bytes = n, .offset_bytes = offset, .status = KVP_E_LOST};
}

static void submit(kvp_disk *disk, kvp_disk_io *io)
{
    assert_int_equal(disk->ops->submit(disk, io), KVP_OK);
}

static kvp_disk_io *reap(kvp_disk *disk, uint64_t deadline_ns)
{
    kvp_disk_io *done = (kvp_disk_io *)1;
    assert_int_equal(disk->ops->reap(disk, deadline_ns, &done), KVP_OK);
    return done;
}

static kvp_disk_io *run_one(kvp_disk *disk, kvp_disk_io *io)
{
    submit(disk, io);
    kvp_disk_io *done = reap(disk, KVP_FOREVER);
    assert_ptr_equal(done, io);
    return done;
}

static void assert_done(const kvp_disk_io *io)
{
    assert_int_equal(io->status, KVP_OK);
    assert_int_equal(io->native_error, 0);
    assert_int_equal(io->done_bytes, io->len_bytes);
}

/* Reap n requests; each must come once and be whole. */
static void reap_all(size_t n)
{
    for (size_t i = 0; i < n; i++) {
        kvp_disk_io *io = reap(fx.disk, KVP_FOREVER);
        assert_non_null(io);
        assert_done(io);
        io->status = KVP_E_LOST; /* a second time would fail above, unless resubmitted */
    }
    assert_null(reap(fx.disk, KVP_FOREVER));
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
            char *buf = fx.memory + i * BLOCK;
            if (is_write)
                fill(buf, BLOCK, written[block] = ++serial);
            else
                memset(buf, 0, BLOCK);
            fx.ios[i] = request(is_write ? KVP_IO_WRITE : KVP_IO_READ, buf, BLOCK, block * BLOCK);
            submit(fx.disk, &fx.ios[i]);
        }
        reap_all(n);
        for (size_t i = 0; i < n && !is_write; i++)
            assert_true(
                is_filled(fx.memory + i * BLOCK, BLOCK, written[(first + i * 7) % N_BLOCKS]));
    }
    assert_true(serial > 2 * N_BLOCKS);
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
        fx.ios[i] = request(s->op, fx.memory + i * BLOCK, BLOCK, i * BLOCK);
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
        kvp_disk_io *io = reap(fx.disk, KVP_FOREVER);
        if (io) {
            assert_done(io);
            n++;
        }
    }
    for (size_t i = 0; i < N_SUBMITTERS; i++) {
        env->thread_join(NULL, threads[i]);
        assert_true(submitters[i].ok);
    }
    assert_null(reap(fx.disk, KVP_FOREVER));
    return n;
}

static void test_several_submitters_and_one_reaper_lose_nothing(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 4; round++) {
        for (size_t i = 0; i < N_BLOCKS; i++)
            fill(fx.memory + i * BLOCK, BLOCK, round * N_BLOCKS + i);
        assert_int_equal(reap_while_others_submit(KVP_IO_WRITE), N_BLOCKS);
        memset(fx.memory, 0, FILE_BYTES);
        assert_int_equal(reap_while_others_submit(KVP_IO_READ), N_BLOCKS);
        for (size_t i = 0; i < N_BLOCKS; i++)
            assert_true(is_filled(fx.memory + i * BLOCK, BLOCK, round * N_BLOCKS + i));
    }
}

static void test_reap_with_nothing_in_flight_returns_at_once(void **state)
{
    (void)state;
    assert_null(reap(fx.disk, KVP_FOREVER));
    assert_null(reap(fx.disk, 0));
}

static void test_polling_with_a_past_deadline_gets_everything_in_the_end(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_BLOCKS; i++) {
        fx.ios[i] = request(KVP_IO_WRITE, fx.memory + i * BLOCK, BLOCK, i * BLOCK);
        submit(fx.disk, &fx.ios[i]);
    }
    for (size_t n = 0; n < N_BLOCKS;) {
        kvp_disk_io *io = reap(fx.disk, n % 2 ? 0 : 1);
        if (io) {
            assert_done(io);
            n++;
        }
    }
    assert_null(reap(fx.disk, 0));
}

static void test_read_across_the_end_is_short(void **state)
{
    (void)state;
    uint64_t last = FILE_BYTES - 4096;
    kvp_disk_io io = request(KVP_IO_READ, fx.memory, BLOCK, last);
    run_one(fx.disk, &io);
    assert_int_equal(io.status, KVP_E_IO);
    assert_int_equal(io.native_error, 0);
    assert_int_equal(io.done_bytes, 4096);
    io = request(KVP_IO_READ, fx.memory, BLOCK, FILE_BYTES);
    run_one(fx.disk, &io);
    assert_int_equal(io.status, KVP_E_IO);
    assert_int_equal(io.done_bytes, 0);
}

static void test_buffer_outside_the_registered_range_works(void **state)
{
    (void)state;
    char *outside = map_pages(2 * BLOCK);
    fill(outside, BLOCK, 77);
    kvp_disk_io io = request(KVP_IO_WRITE, outside, BLOCK, 5 * BLOCK);
    assert_done(run_one(fx.disk, &io));
    io = request(KVP_IO_READ, fx.memory + FILE_BYTES - BLOCK, BLOCK, 5 * BLOCK);
    assert_done(run_one(fx.disk, &io));
    assert_true(is_filled(fx.memory + FILE_BYTES - BLOCK, BLOCK, 77));
    io = request(KVP_IO_READ, outside + BLOCK, BLOCK, 5 * BLOCK);
    assert_done(run_one(fx.disk, &io));
    assert_true(is_filled(outside + BLOCK, BLOCK, 77));
    munmap(outside, 2 * BLOCK);
}

static void test_full_device_is_no_space(void **state)
{
    (void)state;
    int fd = open("/dev/full", O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    kvp_disk *disk = open_on(fd);
    kvp_disk_io io = request(KVP_IO_WRITE, fx.memory, BLOCK, 0);
    run_one(disk, &io);
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
    kvp_disk *disk = open_on(fd);
    kvp_disk_io io = request(KVP_IO_WRITE, fx.memory, BLOCK, 0);
    run_one(disk, &io);
    assert_int_equal(io.status, KVP_E_IO);
    assert_int_equal(io.native_error, EBADF);
    io = request(KVP_IO_READ, fx.memory, BLOCK, 0);
    assert_done(run_one(disk, &io));
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
    fill(fx.memory, BLOCK, 9);
    kvp_disk_io io = request(KVP_IO_WRITE, fx.memory, BLOCK, 0);
    assert_done(run_one(fx.disk, &io));
    assert_int_equal(child_run(close_in_child, NULL), 7);
    io = request(KVP_IO_READ, fx.memory + BLOCK, BLOCK, 0);
    assert_done(run_one(fx.disk, &io));
    assert_true(is_filled(fx.memory + BLOCK, BLOCK, 9));
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
    kvp_disk *disk = open_on(pipe_fds[0]);
    kvp_disk_io io = request(KVP_IO_READ, fx.memory, 4096, 0);
    submit(disk, &io);
    const kvp_env *env = kvp_env_default();
    uint64_t deadline_ns = env->now_ns(NULL) + 2000000;
    assert_null(reap(disk, deadline_ns));
    assert_true(env->now_ns(NULL) >= deadline_ns);
    assert_int_equal(write(pipe_fds[1], "hello", 5), 5);
    assert_ptr_equal(reap(disk, KVP_FOREVER), &io);
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
    kvp_disk_config cfg = config(fx.fd, "threads");
    cfg.env = &env;
    cfg.mem = &kvpi_mem_default;
    kvp_disk *disk;
    assert_int_equal(kvpi_disk_threads_open(&cfg, &disk), KVP_OK);
    kvp_disk_io io = request(KVP_IO_READ, fx.memory, BLOCK, 0);
    submit(disk, &io);
    uint64_t deadline_ns = env.now_ns(NULL) + 2000000;
    assert_null(reap(disk, deadline_ns));
    assert_true(env.now_ns(NULL) >= deadline_ns);
    open_gate(&g);
    assert_ptr_equal(reap(disk, KVP_FOREVER), &io);
    assert_done(&io);
    disk->ops->close(disk);
}

static void test_threads_engine_works_with_fewer_threads_than_wanted(void **state)
{
    (void)state;
    for (int n = 0; n <= 2; n++) {
        gate g = new_gate(n);
        kvp_env env = gated_env(&g);
        open_gate(&g);
        kvp_disk_config cfg = config(fx.fd, "threads");
        cfg.env = &env;
        kvp_disk *disk = NULL;
        kvp_status s = kvp_disk_open(&cfg, &disk);
        assert_int_equal(s, n ? KVP_OK : KVP_E_NOMEM);
        assert_int_equal(g.n_threads, (size_t)n);
        if (s)
            continue;
        kvp_disk_io io = request(KVP_IO_READ, fx.memory, BLOCK, 0);
        assert_done(run_one(disk, &io));
        disk->ops->close(disk);
    }
}

/* ---- choosing ---------------------------------------------------------------------------------*/

static void test_unknown_engine_is_refused_with_the_list(void **state)
{
    (void)state;
    kvp_disk_config cfg = config(fx.fd, "floppy");
    kvp_disk *disk = NULL;
    assert_int_equal(kvp_disk_open(&cfg, &disk), KVP_E_INVALID);
    assert_null(disk);
    assert_non_null(strstr(kvp_error(), "floppy"));
    for (size_t i = 0; i < 3; i++)
        assert_non_null(strstr(kvp_error(), names[i]));
    cfg.engine = NULL;
    setenv("KVP_DISK_ENGINE", "tape", 1);
    assert_int_equal(kvp_disk_open(&cfg, &disk), KVP_E_INVALID);
    unsetenv("KVP_DISK_ENGINE");
    assert_non_null(strstr(kvp_error(), "KVP_DISK_ENGINE 'tape'"));
    cfg.max_depth = 0;
    assert_int_equal(kvp_disk_open(&cfg, &disk), KVP_E_INVALID);
}

static void test_environment_variable_chooses_and_config_wins(void **state)
{
    (void)state;
    kvp_disk_config cfg = config(fx.fd, NULL);
    kvp_disk *disk;
    setenv("KVP_DISK_ENGINE", "threads", 1);
    assert_int_equal(kvp_disk_open(&cfg, &disk), KVP_OK);
    assert_string_equal(disk->ops->name, "threads");
    disk->ops->close(disk);
    setenv("KVP_DISK_ENGINE", "tape", 1);
    cfg.engine = "threads";
    assert_int_equal(kvp_disk_open(&cfg, &disk), KVP_OK);
    disk->ops->close(disk);
    setenv("KVP_DISK_ENGINE", "", 1);
    cfg.engine = NULL;
    assert_int_equal(kvp_disk_open(&cfg, &disk), KVP_OK);
    disk->ops->close(disk);
    unsetenv("KVP_DISK_ENGINE");
}

typedef struct choice {
    const char *engine;   /* to ask for; NULL: the best */
    const char *expected; /* its name, or a piece of the message */
    int n_pieces;
} choice;

/* In a child that has lost rights: 0 if the choice comes out as expected. */
static int check_choice(const choice *c)
{
    kvp_disk_config cfg = config(fx.fd, c->engine);
    kvp_disk *disk = NULL;
    kvp_status s = kvp_disk_open(&cfg, &disk);
    if (c->engine) {
        bool ok = s == KVP_E_UNSUPPORTED && strstr(kvp_error(), c->expected) &&
                  strstr(kvp_error(), c->engine) && strstr(kvp_error(), "threads");
        if (!ok)
            fprintf(stderr, "status %d, message: %s\n", s, kvp_error());
        return ok ? 0 : 1;
    }
    if (s || strcmp(disk->ops->name, c->expected)) {
        fprintf(stderr, "status %d, engine %s: %s\n", s, s ? "" : disk->ops->name, kvp_error());
        return 1;
    }
    kvp_disk_io io = request(KVP_IO_WRITE, fx.memory, BLOCK, 0), *done = NULL;
    if (disk->ops->submit(disk, &io) || disk->ops->reap(disk, KVP_FOREVER, &done) || done != &io)
        return 2;
    disk->ops->close(disk);
    return io.status ? 3 : 0;
}

static int choose_without_uring_setup(void *arg)
{
    return child_deny_syscall(SYS_io_uring_setup, EPERM) ? check_choice(arg) : 10;
}

static int choose_without_uring_in_kernel(void *arg)
{
    return child_deny_syscall(SYS_io_uring_setup, ENOSYS) ? check_choice(arg) : 10;
}

static int choose_without_uring_enter(void *arg)
{
    return child_deny_syscall(SYS_io_uring_enter, EPERM) ? check_choice(arg) : 10;
}

static int choose_with_small_memlock(void *arg)
{
    return child_limit_memlock(65536) ? check_choice(arg) : 10;
}

static void test_forbidden_uring_falls_back_to_threads(void **state)
{
    (void)state;
    int (*const bodies[])(void *) = {choose_without_uring_setup, choose_without_uring_in_kernel,
                                     choose_without_uring_enter};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(child_run(bodies[i], &(choice){.expected = "threads"}), 0);
}

static bool has_uring(void)
{
    kvp_disk_config cfg = config(fx.fd, "uring");
    kvp_disk *disk;
    if (kvp_disk_open(&cfg, &disk))
        return false;
    disk->ops->close(disk);
    return true;
}

static void test_forbidden_uring_named_explicitly_is_a_clear_error(void **state)
{
    (void)state;
    if (!has_uring())
        skip();
    for (size_t i = 0; i < 2; i++) {
        choice c = {.engine = names[i], .expected = strerror(EPERM)};
        assert_int_equal(child_run(choose_without_uring_setup, &c), 0);
        assert_int_equal(child_run(choose_without_uring_enter, &c), 0);
        c.expected = strerror(ENOSYS);
        assert_int_equal(child_run(choose_without_uring_in_kernel, &c), 0);
    }
}

static void test_small_memlock_falls_back_to_plain_uring(void **state)
{
    (void)state;
    if (geteuid() != 0 || !has_uring())
        skip();
    assert_int_equal(child_run(choose_with_small_memlock, &(choice){.expected = "uring"}), 0);
    choice c = {.engine = "uring-fixed", .expected = "RLIMIT_MEMLOCK"};
    assert_int_equal(child_run(choose_with_small_memlock, &c), 0);
}

/* Closing gives the locked memory back at once: the next engine gets it. */
static int reopen_where_one_fits(void *arg)
{
    (void)arg;
    if (!child_limit_memlock(REGISTERED * 3 / 2))
        return 10;
    for (int i = 0; i < 8; i++) { /* the rings themselves do come back late */
        kvp_disk_config cfg = config(fx.fd, "uring-fixed");
        kvp_disk *disk;
        if (kvp_disk_open(&cfg, &disk)) {
            fprintf(stderr, "the %d-th: %s\n", i, kvp_error());
            return 1;
        }
        disk->ops->close(disk);
    }
    return 0;
}

static void test_closed_engine_leaves_no_locked_memory(void **state)
{
    (void)state;
    if (geteuid() != 0 || !has_uring())
        skip();
    assert_int_equal(child_run(reopen_where_one_fits, NULL), 0);
}

/* A ring that dies after opening: requests come back failed, nothing hangs. */
static int lose_uring_enter(void *arg)
{
    (void)arg;
    kvp_disk_config cfg = config(fx.fd, "uring");
    kvp_disk *disk;
    kvp_disk_io *done;
    if (kvp_disk_open(&cfg, &disk) || !child_deny_syscall(SYS_io_uring_enter, EPERM))
        return 1;
    for (size_t i = 0; i < 2 * DEPTH; i++) {
        fx.ios[i] = request(KVP_IO_READ, fx.memory + i * BLOCK, BLOCK, 0);
        if (disk->ops->submit(disk, &fx.ios[i]))
            return 2;
    }
    for (size_t i = 0; i < 2 * DEPTH; i++)
        if (disk->ops->reap(disk, KVP_FOREVER, &done) || done != &fx.ios[i] ||
            done->status != KVP_E_IO || done->native_error != EPERM)
            return 3;
    if (disk->ops->reap(disk, KVP_FOREVER, &done) || done)
        return 4;
    disk->ops->close(disk);
    return 0;
}

static void test_ring_that_breaks_fails_its_requests(void **state)
{
    (void)state;
    if (!has_uring())
        skip();
    assert_int_equal(child_run(lose_uring_enter, NULL), 0);
}

typedef struct scarce {
    size_t left, live;
} scarce;

static void *scarce_alloc(void *opaque, size_t n, size_t align)
{
    scarce *s = opaque;
    if (!s->left)
        return NULL;
    s->left--;
    s->live++;
    return aligned_alloc(align, (n + align - 1) / align * align);
}

static void scarce_free(void *opaque, void *p, size_t n)
{
    (void)n;
    ((scarce *)opaque)->live -= p ? 1 : 0;
    free(p);
}

static void test_failing_nth_allocation_leaks_nothing(void **state)
{
    (void)state;
    for (size_t e = has_uring() ? 0 : 2; e < 3; e++) {
        size_t n_failures = 0;
        for (size_t n = 0;; n++) {
            scarce s = {.left = n};
            kvp_mem mem = {.alloc = scarce_alloc, .free = scarce_free, .opaque = &s};
            kvp_disk_config cfg = config(fx.fd, names[e]);
            cfg.mem = &mem;
            kvp_disk *disk = NULL;
            kvp_status status = kvp_disk_open(&cfg, &disk);
            if (status == KVP_OK)
                disk->ops->close(disk);
            assert_int_equal(s.live, 0);
            if (status != KVP_E_NOMEM)
                break;
            n_failures++;
        }
        assert_true(n_failures >= 1);
    }
}

/* ---- the injected faults ----------------------------------------------------------------------*/

static void test_faulty_disk_fails_the_nth_and_only_the_nth(void **state)
{
    (void)state;
    static const faulty_plan plans[] = {{.kind = FAULT_EIO, .op = FAULT_WRITES, .nth = 2},
                                        {.kind = FAULT_ENOSPC, .op = FAULT_WRITES, .nth = 2},
                                        {.kind = FAULT_SHORT, .op = FAULT_WRITES, .nth = 2}};
    static const kvp_status expected[] = {KVP_E_IO, KVP_E_NOSPACE, KVP_E_IO};
    fx.is_wrapped = true;
    kvp_disk *disk = open_on(fx.fd);
    for (size_t p = 0; p < 3; p++) {
        faulty_disk_arm(&fx.faulty, (faulty_plan){0});
        memset(fx.memory, 0, BLOCK);
        kvp_disk_io io = request(KVP_IO_WRITE, fx.memory, BLOCK, BLOCK);
        assert_done(run_one(disk, &io));
        faulty_disk_arm(&fx.faulty, plans[p]);
        for (uint64_t n = 1; n <= 3; n++) {
            fill(fx.memory, BLOCK, n);
            io = request(KVP_IO_WRITE, fx.memory, BLOCK, (n - 1) * BLOCK);
            run_one(disk, &io);
            assert_int_equal(io.status, n == 2 ? expected[p] : KVP_OK);
            assert_int_equal(faulty_disk_fired(&fx.faulty), n >= 2 ? 1 : 0);
        }
        io = request(KVP_IO_READ, fx.memory, BLOCK, BLOCK);
        assert_done(run_one(disk, &io));
        size_t moved = p == 2 ? BLOCK / 2 : 0; /* the failed write left the rest as it was */
        assert_int_equal(is_filled(fx.memory, BLOCK / 2, 2), p == 2);
        for (size_t i = moved; i < BLOCK; i++)
            assert_int_equal(fx.memory[i], 0);
    }
    disk->ops->close(disk);
    fx.is_wrapped = false;
}

static void test_faulty_disk_flips_one_bit_and_persists(void **state)
{
    (void)state;
    fx.is_wrapped = true;
    kvp_disk *disk = open_on(fx.fd);
    uint64_t reads = faulty_disk_reads(&fx.faulty), writes = faulty_disk_writes(&fx.faulty);
    faulty_disk_arm(&fx.faulty, (faulty_plan){.kind = FAULT_FLIP,
                                              .op = FAULT_READS,
                                              .nth = 2,
                                              .is_persistent = true,
                                              .flip_bit = 8 * 100 + 3});
    fill(fx.memory, BLOCK, 5);
    kvp_disk_io io = request(KVP_IO_WRITE, fx.memory, BLOCK, 0);
    assert_done(run_one(disk, &io));
    for (int n = 1; n <= 3; n++) {
        io = request(KVP_IO_READ, fx.memory + BLOCK, BLOCK, 0);
        assert_done(run_one(disk, &io));
        size_t n_differ = 0;
        for (size_t i = 0; i < BLOCK; i++)
            n_differ += fx.memory[i] != fx.memory[BLOCK + i];
        assert_int_equal(n_differ, n == 1 ? 0 : 1);
        assert_int_equal(fx.memory[100] ^ fx.memory[BLOCK + 100], n == 1 ? 0 : 8);
    }
    assert_int_equal(faulty_disk_fired(&fx.faulty), 2);
    assert_int_equal(faulty_disk_reads(&fx.faulty) - reads, 3);
    assert_int_equal(faulty_disk_writes(&fx.faulty) - writes, 1);
    disk->ops->close(disk);
    fx.is_wrapped = false;
}

/* ---- main -------------------------------------------------------------------------------------*/

static const struct CMUnitTest contract[] = {
    cmocka_unit_test_setup_teardown(test_random_transfers_beyond_depth_match_model, set_up,
                                    tear_down),
    cmocka_unit_test_setup_teardown(test_several_submitters_and_one_reaper_lose_nothing, set_up,
                                    tear_down),
    cmocka_unit_test_setup_teardown(test_reap_with_nothing_in_flight_returns_at_once, set_up,
                                    tear_down),
    cmocka_unit_test_setup_teardown(test_polling_with_a_past_deadline_gets_everything_in_the_end,
                                    set_up, tear_down),
    cmocka_unit_test_setup_teardown(test_read_across_the_end_is_short, set_up, tear_down),
    cmocka_unit_test_setup_teardown(test_buffer_outside_the_registered_range_works, set_up,
                                    tear_down),
    cmocka_unit_test_setup_teardown(test_full_device_is_no_space, set_up, tear_down),
    cmocka_unit_test_setup_teardown(test_failed_write_leaves_the_engine_usable, set_up, tear_down),
    cmocka_unit_test_setup_teardown(test_closing_in_a_forked_child_leaves_the_parent_working,
                                    set_up, tear_down),
    cmocka_unit_test_setup_teardown(test_deadline_passes_while_io_is_in_flight, set_up, tear_down),
};

static const struct CMUnitTest choosing[] = {
    cmocka_unit_test_setup_teardown(test_threads_deadline_passes_while_io_is_in_flight, set_up_file,
                                    tear_down),
    cmocka_unit_test_setup_teardown(test_threads_engine_works_with_fewer_threads_than_wanted,
                                    set_up_file, tear_down),
    cmocka_unit_test_setup_teardown(test_unknown_engine_is_refused_with_the_list, set_up_file,
                                    tear_down),
    cmocka_unit_test_setup_teardown(test_environment_variable_chooses_and_config_wins, set_up_file,
                                    tear_down),
    cmocka_unit_test_setup_teardown(test_forbidden_uring_falls_back_to_threads, set_up_file,
                                    tear_down),
    cmocka_unit_test_setup_teardown(test_forbidden_uring_named_explicitly_is_a_clear_error,
                                    set_up_file, tear_down),
    cmocka_unit_test_setup_teardown(test_small_memlock_falls_back_to_plain_uring, set_up_file,
                                    tear_down),
    cmocka_unit_test_setup_teardown(test_closed_engine_leaves_no_locked_memory, set_up_file,
                                    tear_down),
    cmocka_unit_test_setup_teardown(test_ring_that_breaks_fails_its_requests, set_up_file,
                                    tear_down),
    cmocka_unit_test_setup_teardown(test_failing_nth_allocation_leaks_nothing, set_up_file,
                                    tear_down),
    cmocka_unit_test_setup_teardown(test_faulty_disk_fails_the_nth_and_only_the_nth, set_up_file,
                                    tear_down),
    cmocka_unit_test_setup_teardown(test_faulty_disk_flips_one_bit_and_persists, set_up_file,
                                    tear_down),
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
        fx.engine = names[i / 2];
        fx.is_wrapped = i % 2;
        char title[64];
        snprintf(title, sizeof title, "%s%s", fx.engine, fx.is_wrapped ? ", wrapped" : "");
        if (is_available(fx.engine))
            failed += cmocka_run_group_tests_name(title, contract, NULL, NULL);
    }
    fx.engine = "threads";
    fx.is_wrapped = false;
    failed += cmocka_run_group_tests_name("choosing", choosing, NULL, NULL);
    return failed != 0;
}
