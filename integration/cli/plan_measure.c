/* plan_measure.c - what a step, a chunk of a prompt and a page that is missing cost here.
 *
 * Two hollow models: one with few layers for the prefill, whose layers pass one after the other,
 * each warm; and one with as many layers as the probe can afford, since decoding streams weights
 * and KV from memory and must not find them in a cache. The KV is planted, not computed. */
#include "integration/cli/plan_measure.h"

#include <stdlib.h>

#include "integration/cli/interrupt.h"
#include "integration/least.h"
#include "integration/cli/proc.h"
#include "integration/cli/run.h"

#define PROBE_BYTES ((uint64_t)1 << 30)      /* of weights and KV: more than caches hold */
#define PROBE_KV_BYTES ((uint64_t)256 << 20) /* of these: what is planted, read and written */
#define PLANT_TOKENS 256u                    /* planted at a time */
#define MAX_SAMPLES 9u                       /* of one figure */
#define MIN_SAMPLES 3u
#define SAMPLE_SECONDS 0.35 /* for them; at most twice that for the first MIN_SAMPLES */
#define BIG_LAYER_BYTES ((uint64_t)64 << 20)
#define LONG_TOKENS 16384u

/* Of the probe's KV; the smaller is where the disk decides. */
static const double paged_fractions[PLAN_PAGED] = {0.5, 0.125};

/* A model, a pager of its KV and one sequence. */
typedef struct rig {
    model *m;
    const model_info *info;
    kvp_pager *pager;
    kvp_seq *seq;
    uint64_t planted;
    float *logits; /* [n_vocab] */
} rig;

/* ---- planting ---- */

/* Numbers in (-1, 1) that compress like keys and values do: hardly. */
static float *make_rows(size_t n)
{
    float *rows = malloc(n * sizeof *rows);
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; rows && i < n; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        rows[i] = (float)((double)(state >> 11) / (double)(UINT64_C(1) << 52) - 1);
    }
    return rows;
}

static kvp_status plant_layer(rig *r, uint32_t layer, uint64_t n_tokens, const float *rows)
{
    kvp_status status = KVP_OK;
    for (uint64_t at = 0, n; at < n_tokens && !status; at += n) {
        n = n_tokens - at < PLANT_TOKENS ? n_tokens - at : PLANT_TOKENS;
        status = kvp_seq_append(r->seq, layer, rows, rows, n);
        if (!status && interrupted())
            status = kvp_fail(KVP_E_AGAIN, "interrupted");
    }
    return status;
}

static kvp_status plant(rig *r, uint64_t n_tokens)
{
    float *rows = make_rows((size_t)PLANT_TOKENS * r->info->n_kv_heads * r->info->head_dim);
    kvp_status status = rows ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory for rows");
    for (uint32_t layer = 0; layer < r->info->n_layers && !status; layer++)
        status = plant_layer(r, layer, n_tokens, rows);
    free(rows);
    r->planted = n_tokens;
    return status;
}

/* ---- timing ---- */

/* Tokens at the end of what is planted; afterwards they are gone again. */
static kvp_status forward(rig *r, const int32_t *tokens, size_t n, size_t n_logits, double *seconds)
{
    const model_forward_args args = {
        .tokens = tokens, .n_tokens = n, .logits = r->logits, .n_logits = n_logits};
    double begin = now_seconds();
    kvp_status status = model_forward(r->m, r->seq, &args);
    *seconds = now_seconds() - begin;
    if (!status)
        status = kvp_seq_truncate(r->seq, r->planted);
    if (!status && interrupted())
        status = kvp_fail(KVP_E_AGAIN, "interrupted");
    return status;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *samples, size_t n)
{
    qsort(samples, n, sizeof *samples, compare_doubles);
    return samples[(n - 1) / 2];
}

/* Several calls, as many as there is time for. */
static kvp_status time_calls(rig *r, const int32_t *tokens, size_t n_tokens, size_t n_logits,
                             double *seconds, size_t *n_calls)
{
    double samples[MAX_SAMPLES], begin = now_seconds(), elapsed = 0;
    size_t n = 0;
    kvp_status status = KVP_OK;
    while (n < MAX_SAMPLES && elapsed < (n < MIN_SAMPLES ? 2 : 1) * SAMPLE_SECONDS) {
        status = forward(r, tokens, n_tokens, n_logits, &samples[n++]);
        if (status)
            return status;
        elapsed = now_seconds() - begin;
    }
    *seconds = median(samples, n);
    *n_calls = n;
    return KVP_OK;
}

/* The same after calls that do not count. */
static kvp_status time_warm_calls(rig *r, const int32_t *tokens, size_t n_tokens, size_t n_logits,
                                  double *seconds)
{
    size_t n_calls;
    kvp_status status = forward(r, tokens, n_tokens, n_logits, seconds);
    return status ? status : time_calls(r, tokens, n_tokens, n_logits, seconds, &n_calls);
}

static kvp_status time_step(rig *r, double *seconds)
{
    return time_warm_calls(r, &(int32_t){0}, 1, 1, seconds);
}

/* ---- opening ---- */

static kvp_status open_rig(model *m, rig *r)
{
    *r = (rig){.m = m, .info = model_get_info(m)};
    r->logits = malloc(r->info->n_vocab * sizeof *r->logits);
    return r->logits ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory for logits");
}

static kvp_config rig_config(const plan_subject *s, const rig *r, bool all_in_ram)
{
    kvp_config cfg = all_in_ram ? kvp_config_default() : s->budget;
    cfg.geometry = model_geometry(r->info, s->options->kv_dtype, s->options->page_tokens);
    cfg.pool = model_pool(r->m);
    return cfg;
}

static kvp_status open_seq(rig *r, const kvp_config *cfg)
{
    kvp_status status = kvp_pager_open(cfg, &r->pager);
    r->planted = 0;
    return status ? status : kvp_seq_create(r->pager, &r->seq);
}

static void close_seq(rig *r)
{
    kvp_pager_close(r->pager);
    r->pager = NULL;
    r->seq = NULL;
}

static void close_rig(rig *r)
{
    close_seq(r);
    free(r->logits);
    *r = (rig){0};
}

/* ---- the prefill, and a step of few layers ---- */

static kvp_status time_chunks(rig *r, plan_probe *p)
{
    int32_t *tokens = calloc(p->chunk_tokens, sizeof *tokens);
    kvp_status status = tokens ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory for tokens");
    if (!status)
        status = time_warm_calls(r, tokens, p->chunk_tokens, 0, &p->chunk_first);
    p->chunk_last = p->chunk_first;
    p->chunk_position = p->n_tokens > 2 * p->chunk_tokens ? p->n_tokens - p->chunk_tokens : 0;
    if (!status && p->chunk_position)
        status = plant(r, p->chunk_position);
    if (!status && p->chunk_position)
        status = time_warm_calls(r, tokens, p->chunk_tokens, 0, &p->chunk_last);
    free(tokens);
    return status;
}

static kvp_status measure_few(const plan_subject *s, plan_probe *p)
{
    rig r;
    kvp_status status = open_rig(s->few, &r);
    kvp_config cfg = rig_config(s, &r, true);
    if (!status)
        status = open_seq(&r, &cfg);
    if (!status)
        status = time_step(&r, &p->few_step_alone);
    if (!status)
        status = time_chunks(&r, p);
    close_rig(&r);
    return status;
}

/* ---- steps of many layers, in RAM and not ---- */

static kvp_status count_faults(rig *r, uint64_t *n)
{
    kvp_stats stats = {.size = sizeof stats};
    kvp_status status = kvp_pager_stats(r->pager, &stats);
    *n = stats.minor_faults + stats.major_faults;
    return status;
}

/* A budget that the pager takes, from `ram_bytes` on. */
static kvp_status open_paged(rig *r, kvp_config *cfg, uint64_t ram_bytes)
{
    kvp_status status = KVP_E_BUDGET;
    for (cfg->ram_bytes = ram_bytes; status == KVP_E_BUDGET && cfg->ram_bytes <= 64 * ram_bytes;
         cfg->ram_bytes *= 2)
        status = open_seq(r, cfg);
    return status;
}

/* The steps before those that count bring RAM into the state that stays. */
static kvp_status time_paged_steps(rig *r, plan_paged *out)
{
    const int32_t token = 0;
    size_t n_steps = 0;
    uint64_t before = 0, after = 0;
    kvp_status status = KVP_OK;
    for (int i = 0; i < 2 && !status; i++)
        status = forward(r, &token, 1, 1, &out->seconds);
    if (!status)
        status = count_faults(r, &before);
    if (!status)
        status = time_calls(r, &token, 1, 1, &out->seconds, &n_steps);
    if (!status)
        status = count_faults(r, &after);
    if (!status)
        out->missing_pages = (double)(after - before) / (double)n_steps;
    return status;
}

static kvp_status measure_paged(const plan_subject *s, const plan_kv *kv, rig *r, double fraction,
                                plan_probe *p, plan_paged *out)
{
    kvp_config cfg = rig_config(s, r, false);
    kvp_stats stats = {.size = sizeof stats};
    uint64_t kv_bytes = p->n_pages * kv->slot_bytes;
    /* As much of zram as of KV. */
    cfg.zram_bytes =
        (uint64_t)((double)cfg.zram_bytes * (double)p->n_pages / (double)plan_pages(kv));
    kvp_status status = open_paged(r, &cfg, (uint64_t)(fraction * (double)kv_bytes));
    if (!status)
        status = kvp_pager_stats(r->pager, &stats);
    out->n_frames = stats.n_frames;
    double begin = now_seconds();
    if (!status)
        status = plant(r, p->n_tokens);
    double seconds = now_seconds() - begin;
    if (p->n_pages > out->n_frames)
        p->write_bytes_per_second =
            (double)((p->n_pages - out->n_frames) * kv->slot_bytes) / seconds;
    if (!status)
        status = time_paged_steps(r, out);
    close_seq(r);
    return status;
}

static kvp_status measure_in_ram(const plan_subject *s, rig *r, plan_probe *p)
{
    kvp_config cfg = rig_config(s, r, true);
    kvp_status status = open_seq(r, &cfg);
    if (!status)
        status = time_step(r, &p->step_alone);
    if (!status)
        status = plant(r, p->n_tokens);
    if (!status)
        status = time_step(r, &p->step);
    close_seq(r);
    return status;
}

static kvp_status measure_many(const plan_subject *s, const plan_kv *kv, model *m, plan_probe *p)
{
    rig r;
    kvp_status status = open_rig(m, &r);
    if (!status)
        status = measure_in_ram(s, &r, p);
    bool has_lower = (s->budget.disk_bytes || s->budget.zram_bytes) && p->n_pages;
    for (int i = 0; i < PLAN_PAGED && has_lower && !status; i++)
        status = measure_paged(s, kv, &r, paged_fractions[i], p, &p->paged[i]);
    p->has_paged = !status && has_lower && p->paged[PLAN_PAGED - 1].missing_pages > 0;
    close_rig(&r);
    return status == KVP_E_NOSPACE ? KVP_OK : status; /* compressed RAM alone: too little of it */
}

/* ---- how much the probe can afford ---- */

static void choose_sizes(const plan_subject *s, const plan_kv *kv, plan_probe *p)
{
    uint64_t available = proc_machine_bytes("MemAvailable");
    uint64_t bytes = available ? least(PROBE_BYTES, available / 2) : PROBE_BYTES;
    uint64_t kv_bytes = least(PROBE_KV_BYTES, bytes / 2);
    uint64_t layer_weights = model_get_info(s->few)->weights_bytes / kv->n_layers;
    uint64_t token_bytes = kv->slot_bytes * kv->n_lanes / kv->n_layers / kv->page_tokens + 1;
    p->few_layers = model_get_info(s->few)->n_layers;
    p->n_tokens = least(kv->n_tokens - 1, kv_bytes / p->few_layers / token_bytes);
    uint64_t layer_kv = p->n_tokens * token_bytes;
    uint64_t n_layers = least(bytes / (layer_weights + layer_kv), kv_bytes / (layer_kv + 1));
    p->n_layers = n_layers < p->few_layers ? p->few_layers : least(n_layers, kv->n_layers);
    plan_kv probed = *kv;
    probed.n_tokens = p->n_tokens;
    p->n_pages = plan_pages(&probed) / kv->n_layers * p->n_layers;
    bool is_slow = layer_weights > BIG_LAYER_BYTES || p->n_tokens > LONG_TOKENS;
    p->chunk_tokens = least(is_slow ? 128 : 256, kv->n_tokens);
}

kvp_status plan_measure(const plan_subject *s, const plan_kv *kv, plan_probe *p)
{
    *p = (plan_probe){0};
    choose_sizes(s, kv, p);
    kvp_status status = measure_few(s, p);
    if (status || p->n_layers == p->few_layers)
        return status ? status : measure_many(s, kv, s->few, p);
    model *many;
    status =
        model_open_hollow(s->options->model_path, &s->model_options, (uint32_t)p->n_layers, &many);
    if (status)
        return status;
    status = measure_many(s, kv, many, p);
    model_close(many);
    return status;
}
