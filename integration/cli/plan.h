/* plan.h - what a context of N tokens will take and how fast it will go, from the shape of its KV
 * and from what a short probe measured. Pure arithmetic.
 *
 * A prediction goes from the probe to the real run in two steps: from its layers and context to
 * the real ones, all in RAM; then from its faults to those of a budget. While a step decodes,
 * reading and computing overlap, so it takes the longer of both:
 *
 *     max(compute, alpha + beta * missing pages)
 *
 * where two probes under budgets give the line. */
#ifndef KVPAGER_CLI_PLAN_H
#define KVPAGER_CLI_PLAN_H

#include <stdbool.h>
#include <stdint.h>

/* ---- sizes ---- */

/* The KV of n_tokens in whole pages, each in a slot of slot_bytes. */
typedef struct plan_kv {
    uint64_t n_tokens;
    uint64_t n_layers, n_lanes;
    uint64_t page_tokens, slot_bytes;
    uint64_t token_bytes; /* of all layers, not rounded */
} plan_kv;

uint64_t plan_pages(const plan_kv *kv);
uint64_t plan_kv_bytes(const plan_kv *kv);
/* Written to the tiers below RAM while n_tokens more are appended, once RAM is full: every page
 * once. */
uint64_t plan_written_bytes(const plan_kv *kv, uint64_t n_tokens);

/* ---- speed ---- */

/* A decode step under a budget, with pages in RAM for part of the probe's KV. */
typedef struct plan_paged {
    double seconds;
    double missing_pages; /* that it brought up */
    uint64_t n_frames;
} plan_paged;

enum { PLAN_PAGED = 2 };

/* What the probe measured. Seconds are those of one call. */
typedef struct plan_probe {
    /* Decode of one token, with n_layers layers. */
    uint64_t n_layers, n_tokens, n_pages;
    double step_alone, step; /* no context; n_tokens of it; all in RAM */
    plan_paged paged[PLAN_PAGED];
    bool has_paged; /* there was a place below RAM to probe */
    /* The same and a prefill, with few_layers layers. */
    uint64_t few_layers;
    double few_step_alone;
    uint64_t chunk_tokens, chunk_position;
    double chunk_first, chunk_last; /* a chunk of a prompt at position 0; at chunk_position */
    double write_bytes_per_second;  /* to the tiers below RAM, while KV is appended */
} plan_probe;

/* All KV of the real model in RAM. */
double plan_step_in_ram(const plan_kv *kv, const plan_probe *p);
double plan_prefill_in_ram(const plan_kv *kv, const plan_probe *p);

/* The same under a budget of n_frames; for probes that have_paged, or if everything fits. */
double plan_step(const plan_kv *kv, const plan_probe *p, uint64_t n_frames);
double plan_prefill(const plan_kv *kv, const plan_probe *p, uint64_t n_frames);
/* Pages that a step brings up under it. */
double plan_missing_pages(const plan_kv *kv, const plan_probe *p, uint64_t n_frames);

#endif
