/* faulty_disk.h - a kvp_env whose disk engines fail on request, for tests of everything above them.
 *
 *     faulty_disk f;
 *     faulty_disk_init(&f, NULL);
 *     cfg.env = &f.env;                            open the pager, the tier or the engine with it
 *     faulty_disk_arm(&f, (faulty_plan){.kind = FAULT_EIO, .op = FAULT_WRITES, .nth = n});
 *     ... the scenario ...
 *     if (faulty_disk_fired(&f) == 0)              n was larger than the number of writes: stop
 *     faulty_disk_fini(&f);                        after everything opened with it was closed
 *
 * Real engines do the work. An I/O that is to fail with EIO or ENOSPC never reaches the file, so a
 * write that failed has left the old bytes; a short one moves the first half, in whole blocks of
 * 4 KiB. Requests are counted in the order of submission, from 1 since the last arm, over all the
 * engines opened with this env; what the engine does while it is opened does not count.
 *
 * Threads: as for the engines; arm while nothing is in flight. */
#ifndef TESTS_FAULTY_DISK_H
#define TESTS_FAULTY_DISK_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/env.h"

typedef enum fault_kind {
    FAULT_NONE = 0,
    FAULT_EIO,    /* KVP_E_IO, EIO */
    FAULT_ENOSPC, /* KVP_E_NOSPACE, ENOSPC */
    FAULT_SHORT,  /* KVP_E_IO without errno, done_bytes < len_bytes */
    FAULT_FLIP,   /* reads: flip bit flip_bit of what was read; writes are left alone */
} fault_kind;

typedef enum fault_ops { FAULT_ALL = 0, FAULT_READS, FAULT_WRITES } fault_ops;

typedef struct faulty_plan {
    fault_kind kind;
    fault_ops op;       /* which requests count, and can fail */
    uint64_t nth;       /* from 1 */
    bool is_persistent; /* every counted request from the nth on; else the nth alone */
    uint64_t flip_bit;  /* taken modulo the bits of the request */
} faulty_plan;

typedef struct faulty_disk {
    kvp_env env; /* hand out its address */
    const kvp_env *real;
    pthread_mutex_t lock;
    faulty_plan plan;
    uint64_t n_counted, n_fired; /* since the last arm */
    uint64_t n_reads, n_writes;  /* since init */
} faulty_disk;

/* `real` NULL: kvp_env_default(). No faults until armed. */
void faulty_disk_init(faulty_disk *f, const kvp_env *real);
void faulty_disk_fini(faulty_disk *f);

/* Replace the plan and start counting from 1 again; {0} turns faults off. */
void faulty_disk_arm(faulty_disk *f, faulty_plan plan);
/* How many requests were made to fail since the last arm. */
uint64_t faulty_disk_fired(faulty_disk *f);
/* Requests submitted since init. */
uint64_t faulty_disk_reads(faulty_disk *f);
uint64_t faulty_disk_writes(faulty_disk *f);

#endif
