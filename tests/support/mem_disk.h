/* mem_disk.h - a disk engine whose bytes are in memory and whose requests complete in any order, as
 * a seed says; it notices requests that must not be in flight together, and can fail, shorten or
 * keep back the n-th. One thread.
 *
 * Time passes only when a reap waits for nothing: then it is the deadline. */
#ifndef TESTS_MEM_DISK_H
#define TESTS_MEM_DISK_H

#include <stdbool.h>

#include "kvpager/env.h"

#define MEM_DISK_DEPTH 256u

typedef enum mem_disk_fault {
    MEM_DISK_OK,
    MEM_DISK_EIO,
    MEM_DISK_ENOSPC,
    MEM_DISK_SHORT,
    MEM_DISK_STUCK, /* until mem_disk_release() */
} mem_disk_fault;

typedef struct mem_disk {
    kvp_disk base;
    kvp_env env; /* hand out its address */
    char *bytes; /* [n_bytes] of the file */
    size_t n_bytes;
    uint64_t seed, now_ns;
    kvp_disk_io *flights[MEM_DISK_DEPTH];
    uint32_t n;
    kvp_disk_io *stuck;
    mem_disk_fault fault;
    kvp_io_op fault_op;
    uint64_t nth, n_counted; /* requests of that kind */
    bool has_fired;
    const char *violation; /* NULL: none */
    uint64_t n_written;    /* bytes */
} mem_disk;

void mem_disk_init(mem_disk *d, size_t n_bytes, uint64_t seed);
void mem_disk_fini(mem_disk *d);
void mem_disk_arm(mem_disk *d, mem_disk_fault fault, kvp_io_op op, uint64_t nth);
void mem_disk_release(mem_disk *d);
uint32_t mem_disk_random(mem_disk *d, uint32_t below);

#endif
