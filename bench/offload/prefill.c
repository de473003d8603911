/* prefill.c - bench_offload prefill: reads a text once, as fast as it goes; can save the KV. */
#include "offload.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/harness.h"
#include "integration/text/sampler.h"
#include "integration/text/tokenizer.h"
#include "kv_file.h"

#define BYTES_PER_TOKEN 16u /* of text, more than any tokenizer needs */

static char *read_text(const char *path, size_t max, size_t *n)
{
    FILE *f = fopen(path, "rbe");
    char *text = f ? malloc(max) : NULL;
    *n = text ? fread(text, 1, max, f) : 0;
    if (f)
        fclose(f);
    return text;
}

/* The first n_tokens of the text; the caller frees. */
static kvp_status read_tokens(const offload_options *o, int32_t **ids)
{
    tokenizer *t = NULL;
    size_t n_text, n_ids = 0;
    char *text = read_text(o->text, o->n_tokens * BYTES_PER_TOKEN, &n_text);
    kvp_status status = n_text ? tokenizer_open(o->model, &t)
                               : kvp_fail(KVP_E_IO, "%s: cannot be read, or is empty", o->text);
    if (!status)
        status = tokenizer_encode(t, text, utf8_valid_prefix(text, n_text), ids, &n_ids);
    if (!status && n_ids < o->n_tokens)
        status = kvp_fail(KVP_E_RANGE, "%s: has %zu tokens, %" PRIu64 " are wanted", o->text, n_ids,
                          o->n_tokens);
    tokenizer_close(t);
    free(text);
    return status;
}

static kvp_status save(const workload *w, const char *path)
{
    sampler *greedy = NULL;
    kv_file_head head = {.fingerprint = w->info->fingerprint,
                         .n_tokens = kvp_seq_length(w->seq),
                         .n_layers = w->info->n_layers};
    kvp_status status = sampler_create(&(sampler_options){.top_p = 1}, w->info->n_vocab, &greedy);
    if (!status)
        status = sampler_next(greedy, w->logits, &head.next, NULL);
    sampler_destroy(greedy);
    return status ? status : kv_file_save(path, &head, w->seq);
}

kvp_status offload_prefill(const offload_options *o, json_t *result)
{
    workload w = {0};
    int32_t *ids = NULL;
    kvp_status status = read_tokens(o, &ids);
    if (!status)
        status = workload_load(o, 0, &w);
    if (!status)
        status = workload_open_pager(&w, o->ram_bytes);
    const model_forward_args args = {
        .tokens = ids, .n_tokens = o->n_tokens, .logits = w.logits, .n_logits = 1};
    uint64_t begin = bench_now_ns();
    if (!status)
        status = model_forward(w.m, w.seq, &args);
    double seconds = (double)(bench_now_ns() - begin) * 1e-9;
    if (!status)
        status = workload_describe(&w, result);
    if (!status) {
        json_object_set_new(result, "n_tokens", json_integer((json_int_t)o->n_tokens));
        json_object_set_new(result, "seconds", json_real(seconds));
        json_object_set_new(
            result, "hidden_bytes",
            json_integer((json_int_t)(o->n_tokens * w.info->d_model * sizeof(float))));
    }
    if (!status && o->kv)
        status = save(&w, o->kv);
    workload_close(&w);
    free(ids);
    return status;
}
