/* disk_fixture.c - a scratch file, memory and an engine for tests of disk engines. */
#define _GNU_SOURCE 1
#include "disk_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

const char *const disk_engines[3] = {"uring-fixed", "uring", "threads"};

disk_fixture fx;

static int scratch_file(void)
{
    const char *dir = getenv("TMPDIR");
    int fd = open(dir && *dir ? dir : "/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    if (fcntl(fd, F_SETFL, O_DIRECT))
        assert_int_equal(errno, EINVAL);
    return fd;
}

char *disk_map_pages(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    return p;
}

kvp_disk_config disk_config(int fd, const char *engine)
{
    kvp_disk_config cfg = {.fd = fd, .max_depth = DEPTH, .n_ranges = 1, .engine = engine};
    cfg.ranges[0].base = fx.memory;
    cfg.ranges[0].bytes = REGISTERED_BYTES;
    cfg.env = fx.is_wrapped ? &fx.faulty.env : kvp_env_default();
    return cfg;
}

kvp_disk *disk_open_on(int fd)
{
    kvp_disk_config cfg = disk_config(fd, fx.engine);
    kvp_disk *disk = NULL;
    assert_int_equal(cfg.env->disk_open(cfg.env->opaque, &cfg, &disk), KVP_OK);
    assert_string_equal(disk->ops->name, fx.engine);
    return disk;
}

int disk_set_up_file(void **state)
{
    (void)state;
    fx.disk = NULL;
    faulty_disk_init(&fx.faulty, NULL);
    fx.memory = disk_map_pages(FILE_BYTES);
    fx.fd = scratch_file();
    assert_int_equal(ftruncate(fx.fd, (off_t)FILE_BYTES), 0);
    return 0;
}

int disk_set_up(void **state)
{
    disk_set_up_file(state);
    fx.disk = disk_open_on(fx.fd);
    return 0;
}

int disk_tear_down(void **state)
{
    (void)state;
    if (fx.disk)
        fx.disk->ops->close(fx.disk);
    close(fx.fd);
    munmap(fx.memory, FILE_BYTES);
    faulty_disk_fini(&fx.faulty);
    return 0;
}

void block_fill(char *to, size_t n, uint64_t seed)
{
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t v = seed * 0x9E3779B97F4A7C15u + i;
        memcpy(to + i, &v, sizeof v);
    }
}

bool block_is_filled(const char *from, size_t n, uint64_t seed)
{
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t v = seed * 0x9E3779B97F4A7C15u + i;
        if (memcmp(from + i, &v, sizeof v))
            return false;
    }
    return true;
}

kvp_disk_io disk_request(kvp_io_op op, void *buf, size_t n, uint64_t offset)
{
    return (kvp_disk_io){
        .op = op, .buf = buf, .len_bytes = n, .offset_bytes = offset, .status = KVP_E_LOST};
}

void disk_submit(kvp_disk *disk, kvp_disk_io *io)
{
    assert_int_equal(disk->ops->submit(disk, io), KVP_OK);
}

kvp_disk_io *disk_reap(kvp_disk *disk, uint64_t deadline_ns)
{
    kvp_disk_io *done = (kvp_disk_io *)1;
    assert_int_equal(disk->ops->reap(disk, deadline_ns, &done), KVP_OK);
    return done;
}

kvp_disk_io *disk_run_one(kvp_disk *disk, kvp_disk_io *io)
{
    disk_submit(disk, io);
    kvp_disk_io *done = disk_reap(disk, KVP_FOREVER);
    assert_ptr_equal(done, io);
    return done;
}

void disk_assert_done(const kvp_disk_io *io)
{
    assert_int_equal(io->status, KVP_OK);
    assert_int_equal(io->native_error, 0);
    assert_int_equal(io->done_bytes, io->len_bytes);
}
