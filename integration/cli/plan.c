/* plan.c - the arithmetic of predictions. */
#include "integration/cli/plan.h"

#include <math.h>

/* What the model does at a time in a prefill (see models/): of a prompt, one such chunk after the
 * other reads the KV of the layer before it. */
#define PREFILL_CHUNK_TOKENS 128u

/* The last layer of a prefill computes K and V and little else: that part of a layer. */
#define LAST_LAYER 0.15

static uint64_t ceil_div(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit;
}

/* ---- sizes ---- */

uint64_t plan_pages(const plan_kv *kv)
{
    return ceil_div(kv->n_tokens, kv->page_tokens) * kv->n_lanes;
}

uint64_t plan_kv_bytes(const plan_kv *kv)
{
    return plan_pages(kv) * kv->slot_bytes;
}

uint64_t plan_written_bytes(const plan_kv *kv, uint64_t n_tokens)
{
    return n_tokens * kv->n_lanes * kv->slot_bytes / kv->page_tokens;
}

/* ---- all in RAM ---- */

/* A step is a fixed part (embedding and head), one per layer, and one per layer and token. */
double plan_step_in_ram(const plan_kv *kv, const plan_probe *p)
{
    double n_probed = (double)p->n_layers, n_more = (double)kv->n_layers - n_probed;
    double per_layer = p->n_layers > p->few_layers ? (p->step_alone - p->few_step_alone) /
                                                         (double)(p->n_layers - p->few_layers)
                                                   : p->step_alone / n_probed;
    double per_row =
        p->n_tokens ? fmax(p->step - p->step_alone, 0) / (n_probed * (double)p->n_tokens) : 0;
    double more_rows = (double)kv->n_layers * (double)kv->n_tokens - n_probed * (double)p->n_tokens;
    return p->step + n_more * fmax(per_layer, 0) + more_rows * per_row;
}

/* A token of a prompt costs a part of its own, and one for each token before it. */
double plan_prefill_in_ram(const plan_kv *kv, const plan_probe *p)
{
    double chunk = (double)p->chunk_tokens, n = (double)kv->n_tokens;
    double per_pair = p->chunk_position ? fmax(p->chunk_last - p->chunk_first, 0) /
                                              (chunk * (double)p->chunk_position)
                                        : 0;
    double per_token = p->chunk_first / chunk - per_pair * chunk / 2;
    double layers =
        ((double)kv->n_layers - 1 + LAST_LAYER) / ((double)p->few_layers - 1 + LAST_LAYER);
    return layers * (n * per_token + n * n / 2 * per_pair);
}

/* ---- under a budget ---- */

/* Frames that hold pages on their way instead of pages that stay: as many as were missing in the
 * probe beyond what had no frame. */
static double ring_frames(const plan_probe *p)
{
    double ring = 0;
    for (int i = 0; i < PLAN_PAGED; i++)
        ring = fmax(ring,
                    p->paged[i].missing_pages + (double)p->paged[i].n_frames - (double)p->n_pages);
    return ring;
}

static double missing_of(double n_pages, double n_frames, double ring)
{
    if (n_frames >= n_pages + ring)
        return 0;
    return fmin(n_pages, n_pages - n_frames + ring);
}

double plan_missing_pages(const plan_kv *kv, const plan_probe *p, uint64_t n_frames)
{
    if (!p->has_paged)
        return 0;
    return missing_of((double)plan_pages(kv), (double)n_frames, ring_frames(p));
}

/* The line through both paged probes, in seconds and pages of the probe. */
static void fit_line(const plan_probe *p, double *alpha, double *beta)
{
    const plan_paged *a = &p->paged[0], *b = &p->paged[1];
    if (a->missing_pages > b->missing_pages) {
        const plan_paged *more = a;
        a = b;
        b = more;
    }
    double pages = b->missing_pages - a->missing_pages;
    *beta = pages > 0 ? fmax((b->seconds - a->seconds) / pages, 0) : 0;
    *alpha = b->seconds - *beta * b->missing_pages;
}

/* Seconds to bring a page up when nothing else is to do. */
static double seconds_per_page(const plan_probe *p)
{
    double alpha, beta;
    fit_line(p, &alpha, &beta);
    return beta;
}

double plan_step(const plan_kv *kv, const plan_probe *p, uint64_t n_frames)
{
    double in_ram = plan_step_in_ram(kv, p), missing = plan_missing_pages(kv, p, n_frames);
    double alpha, beta;
    if (missing <= 0)
        return in_ram;
    fit_line(p, &alpha, &beta);
    /* What is not overlapped grows as the KV does. */
    double scale = (double)plan_pages(kv) / (double)p->n_pages;
    return fmax(in_ram, alpha * scale + beta * missing);
}

/* Layer by layer, each chunk reads what has no frame of the layer's pages before it. */
static double pages_read_by_prefill(const plan_kv *kv, const plan_probe *p, uint64_t n_frames)
{
    double lanes = (double)kv->n_lanes / (double)kv->n_layers, ring = ring_frames(p), pages = 0;
    for (uint64_t at = 0; at < kv->n_tokens; at += PREFILL_CHUNK_TOKENS)
        pages +=
            missing_of(lanes * (double)ceil_div(at + 1, kv->page_tokens), (double)n_frames, ring);
    return pages * (double)(kv->n_layers - 1); /* the last layer's queries are few */
}

double plan_prefill(const plan_kv *kv, const plan_probe *p, uint64_t n_frames)
{
    double in_ram = plan_prefill_in_ram(kv, p);
    double n_below = (double)plan_pages(kv) - (double)n_frames;
    if (n_below <= 0 || !p->has_paged)
        return in_ram;
    double writing = n_below * (double)kv->slot_bytes / p->write_bytes_per_second;
    double reading = pages_read_by_prefill(kv, p, n_frames) * seconds_per_page(p);
    return fmax(in_ram, writing + reading);
}
