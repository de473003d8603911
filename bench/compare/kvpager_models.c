/* kvpager_models.c - kvpager's side of models.py: one JSON request per line on stdin, one answer on
 * stdout (see peers.py).
 *
 *   open     path, weights ("f32", "f16", "bf16"), threads
 *   prefill  tokens: of a sequence of its own; logits: of so many of them (optional: 1)
 *   plant    sequences, tokens: KV of this length, made of numbers of no meaning
 *   decode   tokens: so many steps of all that were planted, which are as before afterwards
 *   limits   what the machine gives these threads */
#define _GNU_SOURCE 1
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/harness.h"
#include "bench/limits.h"
#include "integration/models/model.h"

#define MAX_SEQUENCES ((size_t)64)
#define LIMITS_BYTES ((size_t)256 << 20)
#define PLANT_ROWS ((size_t)64)

typedef struct contender {
    model *m;
    const model_info *info;
    kvp_pager *pager;
    kvp_seq *seqs[MAX_SEQUENCES];
    size_t n_seqs;
    uint64_t depth; /* their tokens */
    float *logits;  /* [MAX_SEQUENCES][n_vocab] */
    limits limits;
} contender;

typedef struct stopwatch {
    uint64_t wall, cpu;
} stopwatch;

static stopwatch times_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (stopwatch){bench_now_ns(), (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec};
}

static json_t *answer(stopwatch since, size_t work)
{
    stopwatch now = times_now();
    return json_pack("{s:f, s:f, s:I}", "seconds", (double)(now.wall - since.wall) * 1e-9,
                     "cpu_seconds", (double)(now.cpu - since.cpu) * 1e-9, "work", (json_int_t)work);
}

static int32_t token_of(const contender *c, size_t i)
{
    return (int32_t)((i * 7919 + i * i % 31) % c->info->n_vocab);
}

/* ---- operations: each takes a request and makes the answer ----------------------------------- */

static kvp_status open_limits(contender *c)
{
    model_isa isa;
    kvp_status status = model_isa_find(&isa);
    if (!status)
        c->limits = limits_open(model_pool(c->m), isa, LIMITS_BYTES);
    return status;
}

static kvp_status open_model(contender *c, json_t *request, json_t **out)
{
    static const char *const names[] = {"f32", "f16", "bf16"};
    const char *path = "", *weights = "";
    int threads = 0;
    model_options options = {0};
    if (json_unpack(request, "{s:s, s:s, s:i}", "path", &path, "weights", &weights, "threads",
                    &threads))
        return kvp_fail(KVP_E_INVALID, "open: path, weights and threads are needed");
    while (options.weights < KVP_BF16 && strcmp(weights, names[options.weights]) != 0)
        options.weights++;
    options.n_threads = (uint32_t)threads;
    kvp_status status = model_open(path, &options, &c->m);
    if (status)
        return status;
    c->info = model_get_info(c->m);
    c->logits = malloc(MAX_SEQUENCES * c->info->n_vocab * sizeof *c->logits);
    if (!c->logits)
        return kvp_fail(KVP_E_NOMEM, "out of memory for logits");
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(c->info, KVP_F16, 0);
    cfg.pool = model_pool(c->m);
    *out = json_pack("{s:I}", "weights_bytes", (json_int_t)c->info->weights_bytes);
    status = open_limits(c);
    return status ? status : kvp_pager_open(&cfg, &c->pager);
}

static kvp_status prefill(contender *c, json_t *request, json_t **out)
{
    kvp_seq *seq = NULL;
    size_t n = (size_t)json_integer_value(json_object_get(request, "tokens"));
    size_t n_logits = (size_t)json_integer_value(json_object_get(request, "logits"));
    n_logits = n_logits ? n_logits : 1;
    int32_t *tokens = malloc((n + 1) * sizeof *tokens);
    float *logits = malloc(n_logits * c->info->n_vocab * sizeof *logits);
    kvp_status status = tokens && logits ? kvp_seq_create(c->pager, &seq)
                                         : kvp_fail(KVP_E_NOMEM, "out of memory for %zu tokens", n);
    for (size_t i = 0; i < n && !status; i++)
        tokens[i] = token_of(c, i);
    const model_forward_args args = {
        .tokens = tokens, .n_tokens = n, .logits = logits, .n_logits = n_logits};
    stopwatch since = times_now();
    if (!status)
        status = model_forward(c->m, seq, &args);
    *out = answer(since, n);
    kvp_seq_destroy(seq);
    free(tokens);
    free(logits);
    return status;
}

static kvp_status plant_layer(contender *c, kvp_seq *seq, uint32_t layer, const float *values)
{
    size_t width = (size_t)c->info->n_kv_heads * c->info->head_dim;
    const kvp_rows rows = {.k = values,
                           .v = values,
                           .dtype = KVP_F32,
                           .k_token_stride = width * sizeof *values,
                           .v_token_stride = width * sizeof *values};
    kvp_status status = KVP_OK;
    for (uint64_t at = 0, n; at < c->depth && !status; at += n) {
        n = c->depth - at < PLANT_ROWS ? c->depth - at : PLANT_ROWS;
        status = kvp_seq_append_rows(seq, layer, &rows, n);
    }
    return status;
}

static kvp_status plant(contender *c, json_t *request, json_t **out)
{
    size_t n = (size_t)json_integer_value(json_object_get(request, "sequences"));
    size_t n_values = PLANT_ROWS * c->info->n_kv_heads * c->info->head_dim;
    uint64_t state = 5;
    kvp_status status = KVP_OK;
    float *values = malloc(n_values * sizeof *values);
    if (!values || n > MAX_SEQUENCES) {
        free(values);
        return kvp_fail(KVP_E_NOMEM, "%zu sequences are too many", n);
    }
    for (size_t i = 0; i < n_values; i++)
        values[i] = (float)(bench_random(&state) >> 40) * 0x1p-24f - 0.5f;
    while (c->n_seqs)
        kvp_seq_destroy(c->seqs[--c->n_seqs]);
    c->depth = (uint64_t)json_integer_value(json_object_get(request, "tokens"));
    while (c->n_seqs < n && !status) {
        status = kvp_seq_create(c->pager, &c->seqs[c->n_seqs]);
        for (uint32_t layer = 0; layer < c->info->n_layers && !status; layer++)
            status = plant_layer(c, c->seqs[c->n_seqs], layer, values);
        c->n_seqs++;
    }
    *out = json_object();
    free(values);
    return status;
}

static kvp_status step(contender *c, size_t number)
{
    int32_t tokens[MAX_SEQUENCES];
    model_item items[MAX_SEQUENCES];
    for (size_t i = 0; i < c->n_seqs; i++) {
        tokens[i] = token_of(c, number + i);
        items[i] = (model_item){.seq = c->seqs[i],
                                .args = {.tokens = &tokens[i],
                                         .n_tokens = 1,
                                         .logits = c->logits + i * c->info->n_vocab,
                                         .n_logits = 1}};
    }
    return model_forward_batch(c->m, items, c->n_seqs);
}

static kvp_status decode(contender *c, json_t *request, json_t **out)
{
    size_t n = (size_t)json_integer_value(json_object_get(request, "tokens"));
    kvp_status status = KVP_OK;
    stopwatch since = times_now();
    for (size_t i = 0; i < n && !status; i++)
        status = step(c, i);
    *out = answer(since, n * c->n_seqs);
    for (size_t i = 0; i < c->n_seqs && !status; i++)
        status = kvp_seq_truncate(c->seqs[i], c->depth);
    return status;
}

static kvp_status measure_limits(contender *c, json_t *request, json_t **out)
{
    (void)request;
    *out = json_pack("{s:f, s:f, s:f}", "read_gb", limits_read(&c->limits), "f32_gflop",
                     limits_multiply(&c->limits, 0), "bf16_gflop", limits_multiply(&c->limits, 1));
    return KVP_OK;
}

/* ---- requests -------------------------------------------------------------------------------- */

static kvp_status serve(contender *c, json_t *request, json_t **out)
{
    static const struct {
        const char *op;
        kvp_status (*run)(contender *c, json_t *request, json_t **out);
    } operations[] = {{"open", open_model},
                      {"prefill", prefill},
                      {"plant", plant},
                      {"decode", decode},
                      {"limits", measure_limits}};
    const char *op = json_string_value(json_object_get(request, "op"));
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        if (op && strcmp(op, operations[i].op) == 0)
            return i && !c->m ? kvp_fail(KVP_E_INVALID, "%s before open", op)
                              : operations[i].run(c, request, out);
    }
    return kvp_fail(KVP_E_INVALID, "unknown operation %s", op ? op : "");
}

int main(void)
{
    contender c = {0};
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        json_t *request = json_loads(line, 0, NULL), *out = NULL;
        if (serve(&c, request, &out)) {
            json_decref(out);
            out = json_pack("{s:s}", "error", kvp_error());
        }
        json_dumpf(out, stdout, JSON_COMPACT);
        putchar('\n');
        fflush(stdout);
        json_decref(out);
        json_decref(request);
    }
    free(line);
    while (c.n_seqs)
        kvp_seq_destroy(c.seqs[--c.n_seqs]);
    kvp_pager_close(c.pager);
    if (c.m)
        limits_close(&c.limits);
    model_close(c.m);
    free(c.logits);
    return 0;
}
