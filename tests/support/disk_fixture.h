/* disk_fixture.h - what tests of disk engines share: a scratch file, memory of which a part is
 * registered, and an engine of fx.engine over them. Whatever goes wrong fails the test.
 *
 * fx.engine and fx.is_wrapped are for main() to set, before each group. */
#ifndef TESTS_DISK_FIXTURE_H
#define TESTS_DISK_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "faulty_disk.h"
#include "kvpager/env.h"
#include "tiers/disk_engine.h"

#define BLOCK_BYTES ((size_t)16384)
#define N_BLOCKS 64u
#define FILE_BYTES (BLOCK_BYTES * N_BLOCKS)
/* Ends inside a block: that one is not registered. */
#define REGISTERED_BYTES (FILE_BYTES / 2 + 4096)
#define DEPTH 4u

typedef struct disk_fixture {
    const char *engine;
    bool is_wrapped; /* engines are opened through `faulty` */
    faulty_disk faulty;
    int fd;
    char *memory; /* [N_BLOCKS][BLOCK_BYTES], of which REGISTERED_BYTES are registered */
    kvp_disk *disk;
    kvp_disk_io ios[N_BLOCKS];
} disk_fixture;

extern disk_fixture fx;

/* The names of the engines, the best first: the two of io_uring, then threads. */
extern const char *const disk_engines[3];

/* cmocka's setup and teardown: everything; or a file and memory, and no engine: its threads would
 * not survive the forks of some tests. */
int disk_set_up(void **state);
int disk_set_up_file(void **state);
int disk_tear_down(void **state);

/* DEPTH, the memory of fx registered; `engine` NULL: the best. */
kvp_disk_config disk_config(int fd, const char *engine);
/* An engine as fx says, on another file. */
kvp_disk *disk_open_on(int fd);
/* n bytes outside the registered memory, for munmap(). */
char *disk_map_pages(size_t n);

/* Contents that are known from the seed. */
void block_fill(char *to, size_t n, uint64_t seed);
bool block_is_filled(const char *from, size_t n, uint64_t seed);

kvp_disk_io disk_request(kvp_io_op op, void *buf, size_t n, uint64_t offset);
void disk_submit(kvp_disk *disk, kvp_disk_io *io);
kvp_disk_io *disk_reap(kvp_disk *disk, uint64_t deadline_ns);
/* Submit, and reap it and nothing else; returns io. */
kvp_disk_io *disk_run_one(kvp_disk *disk, kvp_disk_io *io);
/* It succeeded and moved everything. */
void disk_assert_done(const kvp_disk_io *io);

#endif
