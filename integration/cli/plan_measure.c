/* plan_measure.c - what a step, a chunk of a prompt and a page that is missing cost here.
 *
 * Two hollow models: one with few layers for the prefill, whose layers pass one after the other,
 * each warm; and one with as many layers as the probe can afford, since decoding streams weights
 * and KV from memory and must not find them in a cache. The KV is planted, not computed.
 *
 * The probe lasts PROBE_SECONDS, however busy the machine is: each part has a point in time at
 * which it stops taking samples, and takes one if it begins late. A disk may be half as fast for a
 * second and then recover: so all steps take turns until the end, and what counts is the mean of
 * what lies in the middle, which no single mode or hiccup decides. */
#include "integration/cli/plan_measure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "integration/cli/interrupt.h"
#include "integration/least.h"
#include "integration/cli/proc.h"
#include "integration/cli/run.h"
#include "integration/random.h"

#define PROBE_BYTES ((uint64_t)1 << 30)      /* of weights and KV: more than caches hold */
#define PROBE_KV_BYTES ((uint64_t)256 << 20) /* of these: what is planted, read and written */
#define PLANT_TOKENS 256u                    /* planted at a time */
#define MAX_SAMPLES 12u                      /* of one figure */
#define BIG_LAYER_BYTES ((uint64_t)64 << 20)
#define LONG_TOKENS 16384u
#define SWAP_PATH_BYTES 4096u

/* When parts end, in seconds since the probe began. */
#define CHUNK_FIRST_END 0.5
#define CHUNK_LAST_END 1.6
#define PROBE_SECONDS 5.0
#define WRITE_PART 0.45 /* of what is left then, for pages of the paged steps */

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

static float *make_rows(size_t n)
{
    float *rows = malloc(n * sizeof *rows);
    uint64_t state = RANDOM_SEED;
    for (size_t i = 0; rows && i < n; i++)
        rows[i] = random_float(&state);
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

/* A call of n_tokens after what is planted; all it appends is removed again. */
typedef struct figure {
    rig *rig;
    const int32_t *tokens;
    size_t n_tokens, n_logits;
    double samples[MAX_SAMPLES]; /* seconds */
    size_t n_samples;
    uint64_t n_faults; /* of all samples */
} figure;

static kvp_status call(const figure *f, double *seconds)
{
    rig *r = f->rig;
    const model_forward_args args = {
        .tokens = f->tokens, .n_tokens = f->n_tokens, .logits = r->logits, .n_logits = f->n_logits};
    double begin = now_seconds();
    kvp_status status = model_forward(r->m, r->seq, &args);
    *seconds = now_seconds() - begin;
    if (!status)
        status = kvp_seq_truncate(r->seq, r->planted);
    if (!status && interrupted())
        status = kvp_fail(KVP_E_AGAIN, "interrupted");
    return status;
}

static kvp_status count_faults(const rig *r, uint64_t *n)
{
    kvp_stats stats = {.size = sizeof stats};
    kvp_status status = kvp_pager_stats(r->pager, &stats);
    *n = stats.minor_faults + stats.major_faults;
    return status;
}

static kvp_status take_sample(figure *f)
{
    uint64_t before = 0, after = 0;
    kvp_status status = count_faults(f->rig, &before);
    if (!status)
        status = call(f, &f->samples[f->n_samples]);
    if (!status)
        status = count_faults(f->rig, &after);
    f->n_faults += after - before;
    f->n_samples++;
    return status;
}

/* Until `end`, turn by turn. The first turn brings caches and RAM into the state that stays, and
 * counts only if there is no time for another. */
static kvp_status take_turns(figure *figures, size_t n, double end)
{
    kvp_status status = KVP_OK;
    for (size_t turn = 0; turn <= MAX_SAMPLES && (turn == 0 || now_seconds() < end); turn++)
        for (size_t i = 0; i < n && !status; i++) {
            if (turn == 1)
                figures[i].n_samples = figures[i].n_faults = 0;
            status = take_sample(&figures[i]);
        }
    return status;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The mean of the samples but for the lowest and the highest quarter. */
static double middle_of(figure *f)
{
    size_t skipped = f->n_samples / 4, n = f->n_samples - 2 * skipped;
    double sum = 0;
    qsort(f->samples, f->n_samples, sizeof *f->samples, compare_doubles);
    for (size_t i = skipped; i < skipped + n; i++)
        sum += f->samples[i];
    return sum / (double)n;
}

/* One figure alone, each call as warm as the one before leaves it. */
static kvp_status time_calls(figure f, double end, double *seconds)
{
    kvp_status status = take_turns(&f, 1, end);
    *seconds = status ? 0 : middle_of(&f);
    return status;
}

static const int32_t step_token = 0;

static figure step_figure(rig *r)
{
    return (figure){.rig = r, .tokens = &step_token, .n_tokens = 1, .n_logits = 1};
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

/* A budget that the pager takes, from `ram_bytes` on. */
static kvp_status open_paged(rig *r, kvp_config *cfg, uint64_t ram_bytes)
{
    kvp_status status = KVP_E_BUDGET;
    for (cfg->ram_bytes = ram_bytes; status == KVP_E_BUDGET && cfg->ram_bytes <= 64 * ram_bytes;
         cfg->ram_bytes *= 2)
        status = open_seq(r, cfg);
    return status;
}

/* ---- the prefill ---- */

static kvp_status time_chunks(rig *r, double begin, plan_probe *p)
{
    int32_t *tokens = calloc(p->chunk_tokens, sizeof *tokens);
    kvp_status status = tokens ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory for tokens");
    const figure chunk = {.rig = r, .tokens = tokens, .n_tokens = p->chunk_tokens};
    if (!status)
        status = time_calls(chunk, begin + CHUNK_FIRST_END, &p->chunk_first);
    p->chunk_last = p->chunk_first;
    p->chunk_position = p->n_tokens > 2 * p->chunk_tokens ? p->n_tokens - p->chunk_tokens : 0;
    if (!status && p->chunk_position)
        status = plant(r, p->chunk_position);
    if (!status && p->chunk_position)
        status = time_calls(chunk, begin + CHUNK_LAST_END, &p->chunk_last);
    free(tokens);
    return status;
}

static kvp_status measure_prefill(const plan_subject *s, double begin, plan_probe *p)
{
    rig r;
    kvp_status status = open_rig(s->few, &r);
    kvp_config cfg = rig_config(s, &r, true);
    if (!status)
        status = open_seq(&r, &cfg);
    if (!status)
        status = time_chunks(&r, begin, p);
    close_rig(&r);
    return status;
}

/* ---- writing ---- */

/* Plant p's KV of that many layers in a pager with frames for a part of it. */
static kvp_status plant_paged(const plan_subject *s, const plan_kv *kv, rig *r, double fraction,
                              plan_probe *p, uint64_t *n_frames)
{
    kvp_config cfg = rig_config(s, r, false);
    char path[SWAP_PATH_BYTES];
    kvp_stats stats = {.size = sizeof stats};
    plan_kv probed = *kv;
    probed.n_tokens = p->n_tokens;
    uint64_t n_pages = plan_pages(&probed) / kv->n_layers * r->info->n_layers;
    /* Both budgets are open at a time: a file that has a name needs two. */
    if (cfg.disk_path && fraction == paged_fractions[0]) {
        snprintf(path, sizeof path, "%s.2", cfg.disk_path);
        cfg.disk_path = path;
    }
    /* As much of zram as of KV. */
    cfg.zram_bytes = (uint64_t)((double)cfg.zram_bytes * (double)n_pages / (double)plan_pages(kv));
    kvp_status status =
        open_paged(r, &cfg, (uint64_t)(fraction * (double)(n_pages * kv->slot_bytes)));
    if (!status)
        status = kvp_pager_stats(r->pager, &stats);
    *n_frames = stats.n_frames;
    double begin = now_seconds();
    if (!status)
        status = plant(r, p->n_tokens);
    double seconds = now_seconds() - begin;
    if (n_pages > *n_frames)
        p->write_bytes_per_second = (double)((n_pages - *n_frames) * kv->slot_bytes) / seconds;
    return status;
}

/* As many layers as can be written in time, going by few of them; but twice these, where there are
 * so many, so that what a layer takes can be told from what embedding and head take. */
static kvp_status limit_writing(const plan_subject *s, const plan_kv *kv, double begin,
                                plan_probe *p)
{
    rig r;
    uint64_t n_frames = 0;
    kvp_status status = open_rig(s->few, &r);
    if (!status)
        status = plant_paged(s, kv, &r, paged_fractions[PLAN_PAGED - 1], p, &n_frames);
    close_rig(&r);
    double written = 0; /* of a layer */
    for (int i = 0; i < PLAN_PAGED; i++)
        written += (1 - paged_fractions[i]) * (double)(p->n_pages / p->n_layers * kv->slot_bytes);
    double seconds = WRITE_PART * fmax(begin + PROBE_SECONDS - now_seconds(), 0);
    double most = p->write_bytes_per_second * seconds / fmax(written, 1);
    if (!status && p->write_bytes_per_second > 0 && most < (double)p->n_layers) {
        uint64_t n_layers = least(2 * p->few_layers, p->n_layers);
        n_layers = most > (double)n_layers ? (uint64_t)most : n_layers;
        p->n_pages = p->n_pages / p->n_layers * n_layers;
        p->n_layers = n_layers;
    }
    return status;
}

/* ---- steps of many layers, in RAM and not ---- */

enum { FEW, ALONE, IN_RAM, PAGED, N_RIGS = PAGED + PLAN_PAGED };

static kvp_status open_many(const plan_subject *s, const plan_kv *kv, model *m, rig *rigs,
                            size_t n_rigs, plan_probe *p)
{
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < n_rigs && !status; i++) {
        rig *r = &rigs[i];
        status = open_rig(i == FEW ? s->few : m, r);
        const kvp_config cfg = rig_config(s, r, true);
        if (!status && i >= PAGED)
            status =
                plant_paged(s, kv, r, paged_fractions[i - PAGED], p, &p->paged[i - PAGED].n_frames);
        else if (!status)
            status = open_seq(r, &cfg);
        if (!status && i == IN_RAM)
            status = plant(r, p->n_tokens);
    }
    return status;
}

static void take_results(figure *figures, size_t n_figures, plan_probe *p)
{
    p->few_step_alone = middle_of(&figures[FEW]);
    p->step_alone = middle_of(&figures[ALONE]);
    p->step = middle_of(&figures[IN_RAM]);
    for (size_t i = PAGED; i < n_figures; i++) {
        p->paged[i - PAGED].seconds = middle_of(&figures[i]);
        p->paged[i - PAGED].missing_pages =
            (double)figures[i].n_faults / (double)figures[i].n_samples;
    }
    p->has_paged = n_figures == N_RIGS && p->paged[PLAN_PAGED - 1].missing_pages > 0;
}

static kvp_status measure_many(const plan_subject *s, const plan_kv *kv, model *m, double begin,
                               bool is_paged, plan_probe *p)
{
    rig rigs[N_RIGS] = {0};
    figure figures[N_RIGS];
    size_t n_rigs = is_paged ? N_RIGS : PAGED;
    kvp_status status = open_many(s, kv, m, rigs, n_rigs, p);
    for (size_t i = 0; i < n_rigs; i++)
        figures[i] = step_figure(&rigs[i]);
    if (!status)
        status = take_turns(figures, n_rigs, begin + PROBE_SECONDS);
    if (!status)
        take_results(figures, n_rigs, p);
    for (size_t i = 0; i < N_RIGS; i++)
        close_rig(&rigs[i]);
    return status;
}

/* ---- how much the probe can afford ---- */

static void choose_sizes(const plan_subject *s, const plan_kv *kv, plan_probe *p)
{
    uint64_t available = proc_machine_bytes("MemAvailable");
    uint64_t bytes = available ? least(PROBE_BYTES, available / 2) : PROBE_BYTES;
    uint64_t kv_bytes = least(PROBE_KV_BYTES, bytes / 4);
    uint64_t layer_weights = model_get_info(s->few)->weights_bytes / kv->n_layers;
    uint64_t token_bytes = kv->slot_bytes * kv->n_lanes / kv->n_layers / kv->page_tokens + 1;
    p->few_layers = model_get_info(s->few)->n_layers;
    p->n_tokens = least(kv->n_tokens - 1, kv_bytes / p->few_layers / token_bytes);
    uint64_t layer_kv = p->n_tokens * token_bytes;
    /* Of KV there is all in RAM, and beside it the paged parts. */
    uint64_t n_layers = least(bytes / (layer_weights + 2 * layer_kv), kv_bytes / (layer_kv + 1));
    p->n_layers = n_layers < p->few_layers ? p->few_layers : least(n_layers, kv->n_layers);
    plan_kv probed = *kv;
    probed.n_tokens = p->n_tokens;
    p->n_pages = plan_pages(&probed) / kv->n_layers * p->n_layers;
    bool is_slow = layer_weights > BIG_LAYER_BYTES || p->n_tokens > LONG_TOKENS;
    p->chunk_tokens = least(is_slow ? 128 : 256, kv->n_tokens);
}

/* What pages to nowhere is measured without: compressed RAM alone may be too little. */
static kvp_status measure_steps(const plan_subject *s, const plan_kv *kv, model *m, double begin,
                                bool is_paged, plan_probe *p)
{
    kvp_status status = measure_many(s, kv, m, begin, is_paged, p);
    return status == KVP_E_NOSPACE && is_paged ? measure_many(s, kv, m, begin, false, p) : status;
}

kvp_status plan_measure(const plan_subject *s, const plan_kv *kv, plan_probe *p)
{
    double begin = now_seconds();
    *p = (plan_probe){0};
    choose_sizes(s, kv, p);
    bool is_paged = (s->budget.disk_bytes || s->budget.zram_bytes) && p->n_pages;
    kvp_status status = measure_prefill(s, begin, p);
    if (!status && is_paged)
        status = limit_writing(s, kv, begin, p);
    if (status == KVP_E_NOSPACE && is_paged) {
        is_paged = false;
        status = KVP_OK;
    }
    if (status || p->n_layers == p->few_layers)
        return status ? status : measure_steps(s, kv, s->few, begin, is_paged, p);
    model *many;
    status =
        model_open_hollow(s->options->model_path, &s->model_options, (uint32_t)p->n_layers, &many);
    if (status)
        return status;
    status = measure_steps(s, kv, many, begin, is_paged, p);
    model_close(many);
    return status;
}
