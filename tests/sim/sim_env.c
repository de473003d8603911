/* sim_env.c - the clock and the random numbers; no threads. */
#include "tests/sim/sim.h"

#include <errno.h>
#include <string.h>

#define START_NS 1000000000u /* 0 would mean "do not wait" */

static uint64_t now_ns(void *opaque)
{
    return ((const sim *)opaque)->now_ns;
}

static kvp_status random_bytes(void *opaque, void *buf, size_t n)
{
    unsigned char *to = buf;
    for (size_t i = 0; i < n; i++)
        to[i] = (unsigned char)sim_random(&((sim *)opaque)->random);
    return KVP_OK;
}

static kvp_status thread_start(void *opaque, void (*run)(void *arg), void *arg, void **thread)
{
    (void)opaque, (void)run, (void)arg, (void)thread;
    return kvp_fail(KVP_E_UNSUPPORTED, "the simulator has one thread, the caller's");
}

static void thread_join(void *opaque, void *thread)
{
    (void)opaque, (void)thread;
}

static kvp_status disk_open(void *opaque, const kvp_disk_config *cfg, kvp_disk **out)
{
    return sim_disk_open(opaque, cfg, out);
}

static int file_grow(void *opaque, int fd, uint64_t from_bytes, uint64_t to_bytes)
{
    sim *s = opaque;
    (void)fd, (void)from_bytes;
    if (s->device.capacity_bytes && to_bytes > s->device.capacity_bytes)
        return ENOSPC;
    s->file_bytes = to_bytes;
    return 0;
}

void sim_init(sim *s, uint64_t seed, const sim_device *device)
{
    *s = (sim){.env = {.opaque = s,
                       .now_ns = now_ns,
                       .random = random_bytes,
                       .thread_start = thread_start,
                       .thread_join = thread_join,
                       .disk_open = disk_open,
                       .file_grow = file_grow},
               .device = *device,
               .now_ns = START_NS,
               .random = seed,
               .device_random = ~seed};
}

void sim_fini(sim *s)
{
    memset(&s->env, 0, sizeof s->env);
}

void sim_advance(sim *s, uint64_t ns)
{
    s->now_ns += ns;
}

uint64_t sim_n_errors(const sim *s)
{
    return s->n_injected[SIM_EIO] + s->n_injected[SIM_SHORT] + s->n_injected[SIM_STUCK];
}

uint64_t sim_n_corruptions(const sim *s)
{
    return s->n_injected[SIM_FLIP] + s->n_injected[SIM_ROT] + s->n_injected[SIM_LOST_WRITE] +
           s->n_injected[SIM_MISDIRECTED];
}
