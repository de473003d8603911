/* workload.c - opens what a command works with, and describes it. */
#include "offload.h"

#include <stdlib.h>

#include "integration/cli/proc.h"

kvp_status workload_load(const offload_options *o, uint32_t hollow_layers, workload *w)
{
    const model_options options = {.weights = o->bf16 ? KVP_BF16 : KVP_F32,
                                   .n_threads = o->n_threads,
                                   .n_ctx = o->n_ctx,
                                   .yarn = o->yarn};
    *w = (workload){.options = o};
    kvp_status status = hollow_layers ? model_open_hollow(o->model, &options, hollow_layers, &w->m)
                                      : model_open(o->model, &options, &w->m);
    if (status)
        return status;
    w->info = model_get_info(w->m);
    w->logits = malloc(w->info->n_vocab * sizeof *w->logits);
    return w->logits ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory for logits");
}

kvp_status workload_open_pager(workload *w, uint64_t ram_bytes)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(w->m), KVP_F16, 0);
    cfg.pool = model_pool(w->m);
    cfg.fingerprint = w->info->fingerprint;
    if (ram_bytes) {
        cfg.ram_bytes = ram_bytes;
        cfg.disk_bytes = KVP_UNLIMITED;
    }
    kvp_status status = kvp_pager_open(&cfg, &w->pager);
    return status ? status : kvp_seq_create(w->pager, &w->seq);
}

void workload_close_pager(workload *w)
{
    kvp_pager_close(w->pager);
    w->pager = NULL;
    w->seq = NULL;
}

void workload_close(workload *w)
{
    workload_close_pager(w);
    model_close(w->m);
    free(w->logits);
    *w = (workload){0};
}

kvp_status workload_kv_bytes(const workload *w, uint64_t n_tokens, uint64_t *bytes)
{
    kvp_stats stats = {.size = sizeof stats};
    kvp_status status = kvp_pager_stats(w->pager, &stats);
    *bytes = 0;
    for (uint32_t layer = 0; layer < w->info->n_layers && !status; layer++) {
        kvp_layer_info info;
        status = kvp_seq_layer_info(w->seq, layer, &info);
        if (status)
            return status;
        uint32_t groups = (info.kind.n_kv_heads + info.page_heads - 1) / info.page_heads;
        *bytes += (n_tokens + info.page_tokens - 1) / info.page_tokens * groups * stats.slot_bytes;
    }
    return status;
}

static void set_count(json_t *object, const char *key, uint64_t n)
{
    json_object_set_new(object, key,
                        n == KVP_UNLIMITED ? json_null() : json_integer((json_int_t)n));
}

kvp_status workload_describe(const workload *w, json_t *result)
{
    kvp_stats s = {.size = sizeof s};
    uint64_t kv_bytes;
    kvp_status status = kvp_pager_stats(w->pager, &s);
    if (!status)
        status = workload_kv_bytes(w, kvp_seq_length(w->seq), &kv_bytes);
    if (status)
        return status;
    json_object_set_new(result, "architecture", json_string(w->info->architecture));
    json_object_set_new(result, "weights", json_string(w->options->bf16 ? "bf16" : "f32"));
    json_object_set_new(result, "isa", json_string(kvp_isa()));
    json_object_set_new(result, "disk_engine", json_string(s.disk_engine));
    set_count(result, "kv_bytes", kv_bytes);
    set_count(result, "weights_bytes", w->info->weights_bytes);
    set_count(result, "workspace_bytes", model_workspace_bytes(w->m));
    set_count(result, "ram_budget_bytes", s.ram_budget_bytes);
    set_count(result, "ram_peak_bytes", s.ram_peak_bytes);
    set_count(result, "table_bytes", s.table_bytes);
    set_count(result, "bytes_read", s.bytes_read);
    set_count(result, "bytes_written", s.bytes_written);
    set_count(result, "major_faults", s.major_faults);
    set_count(result, "process_peak_bytes", proc_self_bytes("VmHWM"));
    return KVP_OK;
}
