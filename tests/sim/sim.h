/* sim.h - a world of one thread in which the pager runs: a clock that moves only when somebody
 * waits, and a disk whose requests complete in virtual time, in an order drawn from a seed, with
 * errors at given rates. The same seed and the same calls give the same run, byte for byte.
 *
 *     sim s;
 *     sim_init(&s, seed, &device);
 *     cfg.env = &s.env;
 *     cfg.n_threads = 1;                                  nobody else can start a thread
 *     ... open the pager, use it ...
 *     assert(!s.violation[0]);                            what it did against the contracts
 *     sim_fini(&s);                                       after the pager was closed
 *
 * The pager's code is the real one; what is simulated lies behind kvp_env. The swap file itself is
 * real and stays empty: its bytes are in memory, and its size is a number. Device time is virtual,
 * what the CPU does takes none. */
#ifndef TESTS_SIM_H
#define TESTS_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/env.h"

/* What may happen to a request. */
typedef enum sim_fault {
    SIM_EIO,         /* KVP_E_IO, EIO; of a write, half may have got there */
    SIM_SHORT,       /* KVP_E_IO without errno, half was moved */
    SIM_STUCK,       /* nothing for device.timeout_ns, then KVP_E_IO, ETIMEDOUT */
    SIM_FLIP,        /* reads: a bit is wrong, this time; KVP_OK */
    SIM_ROT,         /* writes: a bit is wrong on the device; KVP_OK */
    SIM_LOST_WRITE,  /* KVP_OK, and nothing was written */
    SIM_MISDIRECTED, /* KVP_OK, but from or to another place in the file */
    SIM_N_FAULTS,
} sim_fault;

extern const char *const sim_fault_names[SIM_N_FAULTS];

typedef struct sim_device {
    uint64_t latency_ns; /* of one request, on average: half to one and a half times that */
    uint64_t bytes_per_s;
    uint32_t n_channels;     /* requests that it works on at a time */
    uint64_t timeout_ns;     /* after which a stuck request fails */
    uint64_t capacity_bytes; /* of the file: growing beyond fails with ENOSPC; 0: endless */
    /* False: the bytes written are dropped, and reads give zeros. What a pager whose pages are all
     * zero verifies then is that it asks for pages under their identities. */
    bool keeps_bytes;
    uint32_t rates[SIM_N_FAULTS]; /* how many of 65536 requests */
} sim_device;

typedef struct sim {
    kvp_env env;
    sim_device device;
    uint64_t now_ns;
    uint64_t random, device_random; /* two streams: env.random(), and what the device does */
    uint64_t n_reads, n_writes;     /* requests */
    uint64_t n_injected[SIM_N_FAULTS];
    uint64_t file_bytes;
    char violation[160]; /* of the contract in disk.h, or of P5: the first one; empty: none */
} sim;

void sim_init(sim *s, uint64_t seed, const sim_device *device);
void sim_fini(sim *s); /* every engine is closed */

/* Time passes; what the device completes meanwhile can be reaped. */
void sim_advance(sim *s, uint64_t ns);
/* Errors that came with a status; wrong bytes that came with none. */
uint64_t sim_n_errors(const sim *s);
uint64_t sim_n_corruptions(const sim *s);

/* splitmix64. */
static inline uint64_t sim_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* ---- for sim_env.c, sim_disk.c and sim_store.c ---- */

kvp_status sim_disk_open(sim *s, const kvp_disk_config *cfg, kvp_disk **out);

/* Bytes by offset: what was never written is zero. */
typedef struct sim_store {
    unsigned char **blocks; /* [n_blocks], NULL: zeros */
    size_t n_blocks;
} sim_store;

void sim_store_fini(sim_store *store);
void sim_store_write(sim_store *store, uint64_t offset, const void *from, size_t n);
void sim_store_read(const sim_store *store, uint64_t offset, void *to, size_t n);

#endif
