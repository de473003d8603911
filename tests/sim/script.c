/* script.c - worlds and operations from a seed. */
#include "tests/sim/script.h"

const char *const sim_op_names[SIM_N_OPS] = {
    "append", "pin",    "pin now", "pin by",   "unpin", "prepare", "poll",  "serve",
    "wait",   "cancel", "scan",    "truncate", "evict", "fork",    "renew", "reserve",
    "advise", "park",   "resume",  "mend",     "limit", "think"};

/* How often, relative to each other. */
static const uint8_t weights[SIM_N_OPS] = {
    [SIM_APPEND] = 34, [SIM_PIN] = 8,      [SIM_PIN_NOW] = 6, [SIM_PIN_BY] = 7, [SIM_UNPIN] = 8,
    [SIM_PREPARE] = 7, [SIM_POLL] = 8,     [SIM_SERVE] = 2,   [SIM_WAIT] = 2,   [SIM_CANCEL] = 1,
    [SIM_SCAN] = 7,    [SIM_TRUNCATE] = 4, [SIM_EVICT] = 3,   [SIM_FORK] = 4,   [SIM_RENEW] = 2,
    [SIM_RESERVE] = 1, [SIM_ADVISE] = 5,   [SIM_PARK] = 2,    [SIM_RESUME] = 2, [SIM_MEND] = 4,
    [SIM_LIMIT] = 3,   [SIM_THINK] = 3};

static uint32_t pick(uint64_t *random, uint32_t n)
{
    return (uint32_t)(sim_random(random) >> 32) % n;
}

/* ---- worlds ---- */

static const sim_device nvme = {.latency_ns = 80000,
                                .bytes_per_s = 3000000000u,
                                .n_channels = 16,
                                .timeout_ns = 30000000000u,
                                .keeps_bytes = true};
static const sim_device hard_disk = {.latency_ns = 8000000,
                                     .bytes_per_s = 150000000u,
                                     .n_channels = 1,
                                     .timeout_ns = 30000000000u,
                                     .keeps_bytes = true};

/* Nothing, now and then, or all the time. */
static void make_device(uint64_t *random, sim_device *d)
{
    static const uint32_t rates[] = {0, 40, 1500};
    *d = pick(random, 3) ? nvme : hard_disk;
    uint32_t how_bad = pick(random, 4);
    for (uint32_t i = 0; i < SIM_N_FAULTS; i++)
        d->rates[i] = how_bad < 3 ? rates[how_bad] : rates[pick(random, 3)];
    if (pick(random, 6) == 0)
        d->capacity_bytes = 4096 * (64 + pick(random, 512));
}

void sim_world_make(uint64_t seed, sim_world *w)
{
    static const kvp_dtype dtypes[] = {KVP_F16, KVP_BF16, KVP_F32};
    static const uint32_t page_tokens[] = {4, 8, 16};
    uint64_t random = seed ^ UINT64_C(0x776f726c64);
    *w = (sim_world){.seed = seed, .n_actors = 4 + pick(&random, SIM_MAX_ACTORS - 3)};
    w->kinds[0] = (kvp_layer_kind){2, 16, 16, dtypes[pick(&random, 3)]};
    w->kinds[1] = (kvp_layer_kind){3, 8, 12, dtypes[pick(&random, 3)]};
    make_device(&random, &w->device);
    kvp_config *cfg = &w->cfg;
    *cfg = kvp_config_default();
    cfg->n_threads = 1;
    cfg->geometry.n_layers = SIM_LAYERS;
    cfg->geometry.page_tokens = page_tokens[pick(&random, 3)];
    cfg->geometry.page_heads = 1 + pick(&random, 2);
    cfg->ram_bytes = 4096 * (12 + pick(&random, 48));
    cfg->placement = kvp_placement_at(pick(&random, 6));
    uint32_t tiers = pick(&random, 8); /* mostly a disk without an end */
    cfg->disk_bytes = tiers == 0   ? 0
                      : tiers == 1 ? 4096 * (64 + pick(&random, 512))
                                   : KVP_UNLIMITED;
    if (tiers == 0 || pick(&random, 3) == 0)
        cfg->zram_bytes = 32768 + pick(&random, 262144);
    w->n_groups = pick(&random, 2) ? 1 + pick(&random, SIM_MAX_GROUPS) : 0;
}

kvp_config sim_world_config(const sim_world *w)
{
    kvp_config cfg = w->cfg;
    cfg.geometry.layers = w->kinds;
    return cfg;
}

/* ---- operations ---- */

static sim_op_kind pick_kind(uint64_t *random)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < SIM_N_OPS; i++)
        sum += weights[i];
    uint32_t at = pick(random, sum);
    for (uint32_t i = 0; i < SIM_N_OPS; i++) {
        if (at < weights[i])
            return (sim_op_kind)i;
        at -= weights[i];
    }
    return SIM_THINK;
}

void sim_script_make(uint64_t seed, const sim_world *w, sim_op *ops, uint32_t n)
{
    uint64_t random = seed ^ UINT64_C(0x736372697074);
    for (uint32_t i = 0; i < n; i++)
        ops[i] = (sim_op){.id = i,
                          .kind = (uint16_t)pick_kind(&random),
                          .actor = (uint16_t)pick(&random, w->n_actors),
                          .a = (uint32_t)(sim_random(&random) >> 32),
                          .b = (uint32_t)(sim_random(&random) >> 32),
                          .c = (uint32_t)(sim_random(&random) >> 32)};
}
