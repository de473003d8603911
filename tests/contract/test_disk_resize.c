/* test_disk_resize.c - an engine lets go of memory that it has registered, and takes it up again:
 * the three engines, of which two have nothing to let go of, and the fault-injecting wrapper. */
#define _GNU_SOURCE 1
#include <fcntl.h>
#include <sched.h>
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

#include "disk_fixture.h"

#define LARGE_BYTES ((size_t)140 << 20) /* several registered buffers */

static void resize(size_t bytes)
{
    if (fx.disk->ops->resize)
        fx.disk->ops->resize(fx.disk, fx.memory, bytes);
}

/* Reap n requests, each whole. */
static void reap_all(size_t n)
{
    for (size_t i = 0; i < n; i++) {
        kvp_disk_io *io = disk_reap(fx.disk, KVP_FOREVER);
        assert_non_null(io);
        disk_assert_done(io);
    }
    assert_null(disk_reap(fx.disk, KVP_FOREVER));
}

/* Read the first blocks of the file into the memory of the same numbers. With the first half of
 * them in flight the range is resized, unless resize_to is 0. */
static void read_blocks(size_t n_blocks, size_t resize_to)
{
    memset(fx.memory, 0, n_blocks * BLOCK_BYTES);
    for (size_t i = 0; i < n_blocks; i++) {
        fx.ios[i] =
            disk_request(KVP_IO_READ, fx.memory + i * BLOCK_BYTES, BLOCK_BYTES, i * BLOCK_BYTES);
        disk_submit(fx.disk, &fx.ios[i]);
        if (i == n_blocks / 2 && resize_to)
            resize(resize_to);
    }
    reap_all(n_blocks);
    for (size_t i = 0; i < n_blocks; i++)
        assert_true(block_is_filled(fx.memory + i * BLOCK_BYTES, BLOCK_BYTES, i));
}

static void test_memory_taken_from_the_range_can_be_given_back_and_used_again(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_BLOCKS; i++) {
        block_fill(fx.memory + i * BLOCK_BYTES, BLOCK_BYTES, i);
        fx.ios[i] =
            disk_request(KVP_IO_WRITE, fx.memory + i * BLOCK_BYTES, BLOCK_BYTES, i * BLOCK_BYTES);
        disk_submit(fx.disk, &fx.ios[i]);
    }
    reap_all(N_BLOCKS);
    size_t registered = REGISTERED_BYTES / BLOCK_BYTES; /* whole blocks */
    for (size_t kept = 0; kept < registered; kept += registered / 4) {
        read_blocks(kept, kept * BLOCK_BYTES);
        resize(kept * BLOCK_BYTES);
        assert_int_equal(
            madvise(fx.memory + kept * BLOCK_BYTES, FILE_BYTES - kept * BLOCK_BYTES, MADV_DONTNEED),
            0);
        read_blocks(N_BLOCKS, 0);                /* also where nothing is registered */
        read_blocks(N_BLOCKS, REGISTERED_BYTES); /* and where it is again */
        read_blocks(N_BLOCKS, 0);
    }
}

/* What the kernel says that is pinned, in bytes. */
static uint64_t pinned_bytes(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/status", "re");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) && sscanf(line, "VmPin: %llu", &kib) != 1)
        continue;
    fclose(f);
    return kib << 10;
}

/* Kernels before 6.13 let go of it a moment later. */
static void assert_pinned(uint64_t bytes)
{
    const kvp_env *env = kvp_env_default();
    uint64_t give_up_ns = env->now_ns(NULL) + 20000000000u;
    while (pinned_bytes() != bytes && env->now_ns(NULL) < give_up_ns)
        sched_yield();
    assert_int_equal(pinned_bytes(), bytes);
}

/* Over several pieces: what is beyond the range is not pinned any more. */
static void test_registered_memory_follows_the_range(void **state)
{
    (void)state;
    const size_t mib = (size_t)1 << 20, bytes = LARGE_BYTES;
    static const size_t sizes[] = {140, 139, 128, 70, 64, 3, 0, 65, 140};
    if (!fx.disk->ops->resize)
        return;
    char *memory = disk_map_pages(bytes);
    (void)madvise(memory, bytes, MADV_NOHUGEPAGE); /* of which the kernel counts all */
    kvp_disk_config cfg = disk_config(fx.fd, fx.engine);
    cfg.ranges[0].base = memory;
    cfg.ranges[0].bytes = bytes;
    kvp_disk *disk;
    uint64_t before = pinned_bytes();
    assert_int_equal(cfg.env->disk_open(cfg.env->opaque, &cfg, &disk), KVP_OK);
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        disk->ops->resize(disk, memory, sizes[k] * mib);
        assert_pinned(before + sizes[k] * mib);
        for (size_t at = 0; at + BLOCK_BYTES <= bytes; at += 7 * mib + 4096) {
            block_fill(memory + at, BLOCK_BYTES, at);
            kvp_disk_io io = disk_request(KVP_IO_WRITE, memory + at, BLOCK_BYTES, 0);
            disk_assert_done(disk_run_one(disk, &io));
            memset(memory + at, 0, BLOCK_BYTES);
            io = disk_request(KVP_IO_READ, memory + at, BLOCK_BYTES, 0);
            disk_assert_done(disk_run_one(disk, &io));
            assert_true(block_is_filled(memory + at, BLOCK_BYTES, at));
        }
    }
    disk->ops->resize(disk, memory + 4096, mib); /* no such range: nothing happens */
    assert_pinned(before + bytes);
    disk->ops->close(disk);
    munmap(memory, bytes);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(
        test_memory_taken_from_the_range_can_be_given_back_and_used_again, disk_set_up,
        disk_tear_down),
    cmocka_unit_test_setup_teardown(test_registered_memory_follows_the_range, disk_set_up,
                                    disk_tear_down),
};

/* Does the engine work on this machine, with as much registered memory as the tests have? */
static bool is_available(const char *engine)
{
    kvp_disk *disk;
    fx.memory = disk_map_pages(LARGE_BYTES);
    kvp_disk_config cfg = disk_config(open("/dev/zero", O_RDWR | O_CLOEXEC), engine);
    cfg.ranges[0].bytes = LARGE_BYTES;
    kvp_status s = kvp_disk_open(&cfg, &disk);
    if (s)
        fprintf(stderr, "skipping: %s\n", kvp_error());
    else
        disk->ops->close(disk);
    close(cfg.fd);
    munmap(fx.memory, LARGE_BYTES);
    return !s;
}

int main(void)
{
    int failed = 0;
    for (size_t i = 0; i < 6; i++) {
        char title[64];
        fx.engine = disk_engines[i / 2];
        fx.is_wrapped = i % 2;
        snprintf(title, sizeof title, "%s%s", fx.engine, fx.is_wrapped ? ", wrapped" : "");
        if (is_available(fx.engine))
            failed += cmocka_run_group_tests_name(title, tests, NULL, NULL);
    }
    return failed != 0;
}
