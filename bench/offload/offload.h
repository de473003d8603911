/* offload.h - what the commands of bench_offload share. */
#ifndef BENCH_OFFLOAD_H
#define BENCH_OFFLOAD_H

#include <jansson.h>

#include "integration/models/model.h"

typedef struct offload_options {
    const char *model, *text, *kv, *frames_file, *advice;
    uint64_t n_tokens, n_ctx, ram_bytes, n_new, n_warm, limit_seconds;
    uint32_t n_threads;
    bool yarn, bf16, lock, wait;
} offload_options;

/* A model, a pager of its KV and one sequence. */
typedef struct workload {
    const offload_options *options;
    model *m;
    const model_info *info;
    kvp_pager *pager;
    kvp_seq *seq;
    float *logits; /* [n_vocab] */
} workload;

/* hollow_layers: that many layers, without reading weights; 0: the whole model. */
KVP_NODISCARD kvp_status workload_load(const offload_options *o, uint32_t hollow_layers,
                                       workload *w);
/* Within ram_bytes and on disk; 0: everything in RAM. */
KVP_NODISCARD kvp_status workload_open_pager(workload *w, uint64_t ram_bytes);
void workload_close_pager(workload *w);
void workload_close(workload *w);

/* Bytes of the frames of n tokens: whole pages. */
KVP_NODISCARD kvp_status workload_kv_bytes(const workload *w, uint64_t n_tokens, uint64_t *bytes);
/* Members that every result has: the model's and the pager's figures, the process's. */
KVP_NODISCARD kvp_status workload_describe(const workload *w, json_t *result);

/* The commands; each fills in `result`. */
KVP_NODISCARD kvp_status offload_info(const offload_options *o, json_t *result);
KVP_NODISCARD kvp_status offload_prefill(const offload_options *o, json_t *result);
KVP_NODISCARD kvp_status offload_decode(const offload_options *o, json_t *result);
KVP_NODISCARD kvp_status offload_raw(const offload_options *o, json_t *result);

#endif
