/* planning.c - fills in the rows of a plan. */
#include "integration/cli/planning.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "integration/cli/page_facts.h"
#include "integration/cli/proc.h"

static const struct {
    const char *name;
    uint64_t divisor;
} fractions[] = {{"1/16", 16}, {"1/8", 8}, {"1/4", 4}, {"1/2", 2}, {"all", 1}};
#define N_FRACTIONS (sizeof fractions / sizeof *fractions)

/* ---- sizes ---- */

static kvp_config real_config(const planning *p)
{
    const options *o = &p->shared;
    kvp_config cfg = p->subject.budget;
    cfg.geometry = model_geometry(p->info, o->kv_dtype, o->page_tokens);
    cfg.geometry.n_layers = model_real_layers(p->subject.few);
    cfg.pool = model_pool(p->subject.few);
    return cfg;
}

kvp_status planning_learn(planning *p)
{
    const options *o = &p->shared;
    kvp_config cfg = real_config(p);
    page_facts facts;
    cfg.zram_bytes = cfg.disk_bytes = 0;
    cfg.disk_path = NULL;
    kvp_status status = page_facts_learn(&cfg, &facts);
    if (status)
        return status;
    p->kv = (plan_kv){.n_tokens = o->n_ctx ? o->n_ctx : p->info->n_ctx,
                      .n_layers = cfg.geometry.n_layers,
                      .n_lanes = facts.n_lanes,
                      .page_tokens = facts.page_tokens,
                      .slot_bytes = facts.slot_bytes,
                      .token_bytes = (uint64_t)cfg.geometry.n_layers * p->info->n_kv_heads *
                                     p->info->head_dim * 2 * kvp_dtype_bytes(o->kv_dtype)};
    p->hidden_bytes = p->kv.n_tokens * p->info->d_model * sizeof(float);
    return KVP_OK;
}

/* "--ram 1M is too small", in the words of a run. */
static void say_ram(const planning *p, budget_row *row, uint64_t needed, const char *remedy)
{
    const char *given = row == &p->rows[ROW_GIVEN] ? p->shared.ram.text : NULL;
    snprintf(row->why, sizeof row->why, "%s%s%stoo small: needs at least %" PRIu64 " bytes (%s)",
             given ? "--ram " : "", given ? given : "", given ? " is " : "", needed, remedy);
}

/* Would a run be refused for what lies below RAM? Compressed RAM is taken to compress nothing: how
 * well it does is not known. */
static void judge_below(const planning *p, budget_row *row)
{
    const options *o = &p->shared;
    bool has_disk = p->subject.budget.disk_bytes != 0;
    const char *note = o->zram.bytes ? " if no page compresses" : "";
    if (!has_disk && row->n_below && !o->zram.bytes)
        say_ram(p, row, p->rows[ROW_ALL].ram_bytes, "less with --zram or --disk");
    else if (!has_disk && row->n_below > o->zram.bytes / p->kv.slot_bytes)
        snprintf(row->why, sizeof row->why,
                 "--zram %s is too small: needs at least %" PRIu64 " bytes%s; or give a --disk",
                 o->zram.text, row->n_below * p->kv.slot_bytes, note);
    else if (o->disk.given && row->disk_bytes > o->disk.bytes)
        snprintf(row->why, sizeof row->why,
                 "--disk %s is too small: needs at least %" PRIu64 " bytes%s", o->disk.text,
                 row->disk_bytes, note);
    else if (row->disk_bytes > p->disk_free_bytes)
        snprintf(row->why, sizeof row->why,
                 "%" PRIu64 " bytes of the disk are free: needs at least %" PRIu64 "%s",
                 p->disk_free_bytes, row->disk_bytes, note);
}

/* A run that takes more memory than there is may begin, and is killed or swapped out. */
static void judge(const planning *p, budget_row *row)
{
    uint64_t needed = planning_process_bytes(p, row);
    judge_below(p, row);
    if (!*row->why && p->memory_free_bytes && needed > p->memory_free_bytes)
        snprintf(row->why, sizeof row->why,
                 "%" PRIu64 " bytes of this machine's RAM are free: the process needs %" PRIu64,
                 p->memory_free_bytes, needed);
}

static kvp_status fill_row(const planning *p, budget_row *row)
{
    kvp_config cfg = real_config(p);
    page_facts facts;
    cfg.ram_bytes = row->ram_bytes;
    row->prefill = row->decode = NAN;
    if (row == &p->rows[ROW_ALL]) {
        judge(p, row);
        return KVP_OK;
    }
    kvp_status status = page_facts_learn(&cfg, &facts);
    if (status == KVP_E_BUDGET) {
        say_ram(p, row, p->least_ram_bytes, "less with --page-tokens N");
        row->disk_bytes = UINT64_MAX;
        return KVP_OK;
    }
    if (status)
        return status;
    row->n_frames = facts.n_frames;
    row->n_below = page_facts_overflow(&facts, plan_pages(&p->kv));
    if (row->n_below && cfg.disk_bytes)
        row->disk_bytes = page_facts_disk(&facts, row->n_below);
    judge(p, row);
    return KVP_OK;
}

kvp_status planning_fill(planning *p)
{
    kvp_config cfg = real_config(p);
    budget_row *all = &p->rows[ROW_ALL];
    kvp_status status = page_facts_ram(&cfg, plan_pages(&p->kv), &all->ram_bytes);
    if (!status)
        status = page_facts_least_ram(&cfg, &p->least_ram_bytes);
    p->memory_free_bytes = proc_machine_bytes("MemAvailable");
    char folder[1024];
    p->disk_free_bytes =
        page_facts_free_bytes(page_facts_swap_place(p->shared.swap, folder, sizeof folder));
    p->n_rows = N_FRACTIONS;
    for (size_t i = 0; i < N_FRACTIONS; i++) {
        p->rows[i].name = fractions[i].name;
        if (i != ROW_ALL)
            p->rows[i].ram_bytes = plan_kv_bytes(&p->kv) / fractions[i].divisor;
    }
    if (p->shared.ram.given)
        p->rows[p->n_rows++] = (budget_row){.name = "--ram", .ram_bytes = p->shared.ram.bytes};
    for (size_t i = 0; i < p->n_rows && !status; i++)
        status = fill_row(p, &p->rows[i]);
    return status;
}

/* ---- predictions ---- */

uint64_t planning_process_bytes(const planning *p, const budget_row *row)
{
    uint64_t zram_bytes = row->n_below ? p->shared.zram.bytes : 0;
    uint64_t most = p->rows[ROW_ALL].ram_bytes; /* a budget beyond that stays unused */
    uint64_t ram_bytes = row->ram_bytes < most ? row->ram_bytes : most;
    return p->info->weights_bytes + p->hidden_bytes + ram_bytes + zram_bytes;
}

/* What was asked for; else the fastest that works. */
static const budget_row *choose(const planning *p)
{
    if (p->n_rows > ROW_GIVEN && !*p->rows[ROW_GIVEN].why)
        return &p->rows[ROW_GIVEN];
    for (size_t i = N_FRACTIONS; i-- > 0;)
        if (!*p->rows[i].why)
            return &p->rows[i];
    return NULL;
}

void planning_predict(planning *p)
{
    for (size_t i = 0; i < p->n_rows; i++) {
        budget_row *row = &p->rows[i];
        bool is_paged = row->n_below != 0;
        if (*row->why || (is_paged && !p->probe.has_paged))
            continue;
        uint64_t n_frames = is_paged ? row->n_frames : UINT64_MAX;
        row->prefill = (double)p->kv.n_tokens / plan_prefill(&p->kv, &p->probe, n_frames);
        row->decode = 1 / plan_step(&p->kv, &p->probe, n_frames);
        row->missing_bytes =
            plan_missing_pages(&p->kv, &p->probe, n_frames) * (double)p->kv.slot_bytes;
    }
    p->chosen = choose(p);
}
