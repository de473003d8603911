/* disk.c - chooses the disk engine: the one that was named, or the first of the three that really
 * works here. Containers often forbid io_uring, and RLIMIT_MEMLOCK often forbids registering. */
#include "tiers/disk_engine.h"

#include <stdlib.h>
#include <string.h>

#include "alloc/mem.h"

typedef struct engine {
    const char *name;
    kvp_status (*open)(const kvp_disk_config *cfg, kvp_disk **out);
} engine;

/* Best first. */
static const engine engines[] = {{"uring-fixed", kvpi_disk_uring_fixed_open},
                                 {"uring", kvpi_disk_uring_open},
                                 {"threads", kvpi_disk_threads_open}};
#define N_ENGINES (sizeof engines / sizeof *engines)

static const engine *find_engine(const char *name)
{
    for (size_t i = 0; i < N_ENGINES; i++)
        if (!strcmp(engines[i].name, name))
            return &engines[i];
    return NULL;
}

/* Read the first block: a filter may allow io_uring_setup and forbid the rest. An empty file is
 * fine: a short read has no errno. */
static kvp_status probe(const kvp_disk_config *cfg, kvp_disk *disk)
{
    char *memory;
    kvp_status s = kvpi_alloc(cfg->mem, 2 * KVP_IO_ALIGN, "probing a disk engine", &memory);
    if (s)
        return s;
    size_t skip = (KVP_IO_ALIGN - (uintptr_t)memory % KVP_IO_ALIGN) % KVP_IO_ALIGN;
    kvp_disk_io io = {.op = KVP_IO_READ, .buf = memory + skip, .len_bytes = KVP_IO_ALIGN}, *done;
    s = disk->ops->submit(disk, &io);
    if (!s)
        s = disk->ops->reap(disk, KVP_FOREVER, &done);
    if (!s && io.native_error) {
        errno = io.native_error;
        s = kvp_fail(KVP_E_UNSUPPORTED,
                     "disk engine %s does not work here: reading the file's first block: %m; use "
                     "the engine threads",
                     disk->ops->name);
    }
    kvpi_free(cfg->mem, memory, 2 * KVP_IO_ALIGN);
    return s;
}

static kvp_status open_engine(const engine *e, const kvp_disk_config *cfg, kvp_disk **out)
{
    kvp_disk *disk;
    kvp_status s = e->open(cfg, &disk);
    if (s)
        return s;
    s = probe(cfg, disk);
    if (s)
        disk->ops->close(disk);
    else
        *out = disk;
    return s;
}

static kvp_status open_best(const kvp_disk_config *cfg, kvp_disk **out)
{
    kvp_status s = KVP_E_UNSUPPORTED;
    for (size_t i = 0; i < N_ENGINES && s == KVP_E_UNSUPPORTED; i++)
        s = open_engine(&engines[i], cfg, out);
    return s;
}

kvp_status kvp_disk_open(const kvp_disk_config *cfg, kvp_disk **out)
{
    kvp_disk_config c = *cfg;
    if (c.max_depth < 1 || c.n_ranges > sizeof c.ranges / sizeof *c.ranges)
        return kvp_fail(KVP_E_INVALID, "disk: depth %u (at least 1) or %u ranges (at most 2)",
                        c.max_depth, c.n_ranges);
    if (!c.mem)
        c.mem = &kvpi_mem_default;
    if (!c.env)
        c.env = kvp_env_default();
    const char *variable = getenv("KVP_DISK_ENGINE");
    const char *name = c.engine ? c.engine : variable && *variable ? variable : NULL;
    const engine *e = name ? find_engine(name) : NULL;
    if (name && !e)
        return kvp_fail(KVP_E_INVALID,
                        "%s '%s' is not a disk engine: there are uring-fixed, uring and threads",
                        c.engine ? "engine" : "KVP_DISK_ENGINE", name);
    return e ? open_engine(e, &c, out) : open_best(&c, out);
}
