/* kvpager_attention.c - kvpager's side of attention.py: one JSON request per line on stdin, one
 * answer on stdout (see peers.py).
 *
 *   open     heads, kv_heads, width, dtype ("f32", "f16", "bf16"), tokens, layers, queries, threads
 *   attend   passes: so many times over all layers, whose last `queries` tokens attend
 *   limits   what the machine gives these threads */
#define _GNU_SOURCE 1
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/harness.h"
#include "bench/limits.h"
#include "kvpager.h"

#define LIMITS_BYTES ((size_t)256 << 20)

typedef struct contender {
    kvp_pool *pool;
    kvp_pager *pager;
    kvp_seq *seq;
    int heads, kv_heads, width, layers, queries, threads;
    size_t tokens;
    float *q, *out;
    limits limits;
} contender;

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static float *random_floats(size_t n)
{
    uint64_t state = 42;
    float *x = malloc(n * sizeof *x);
    if (!x) {
        fprintf(stderr, "compare_attention: out of memory for %zu floats\n", n);
        exit(1);
    }
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(bench_random(&state) >> 40) * 0x1p-23f - 1;
    return x;
}

/* ---- operations: each takes a request and makes the answer ----------------------------------- */

static void close_layers(contender *c)
{
    if (c->pool)
        limits_close(&c->limits);
    kvp_pager_close(c->pager);
    kvp_pool_close(c->pool);
    free(c->q);
    free(c->out);
    *c = (contender){0};
}

static kvp_status fill_layers(contender *c)
{
    const size_t row = (size_t)c->kv_heads * (size_t)c->width;
    float *rows = random_floats(c->tokens * row);
    kvp_status status = kvp_seq_create(c->pager, &c->seq);
    for (uint32_t layer = 0; layer < (uint32_t)c->layers && !status; layer++)
        status = kvp_seq_append(c->seq, layer, rows, rows, c->tokens);
    free(rows);
    return status;
}

static kvp_status open_layers(contender *c, json_t *request, json_t **out)
{
    static const char *const names[] = {"f32", "f16", "bf16"};
    const char *name = "";
    json_int_t tokens = 0;
    kvp_dtype dtype = KVP_F32;
    model_isa isa;
    close_layers(c);
    if (json_unpack(request, "{s:i, s:i, s:i, s:s, s:I, s:i, s:i, s:i}", "heads", &c->heads,
                    "kv_heads", &c->kv_heads, "width", &c->width, "dtype", &name, "tokens", &tokens,
                    "layers", &c->layers, "queries", &c->queries, "threads", &c->threads))
        return kvp_fail(KVP_E_INVALID, "open: a member is missing");
    while (dtype < KVP_BF16 && strcmp(name, names[dtype]) != 0)
        dtype++;
    c->tokens = (size_t)tokens;
    kvp_status status = model_isa_find(&isa);
    if (!status)
        status = kvp_pool_open((uint32_t)c->threads, NULL, NULL, &c->pool);
    if (status)
        return status;
    c->limits = limits_open(c->pool, isa, LIMITS_BYTES);
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = (uint32_t)c->layers,
                                  .n_kv_heads = (uint32_t)c->kv_heads,
                                  .head_dim = (uint32_t)c->width,
                                  .dtype = dtype};
    cfg.pool = c->pool;
    c->q = random_floats((size_t)c->queries * (size_t)c->heads * (size_t)c->width);
    c->out = random_floats((size_t)c->queries * (size_t)c->heads * (size_t)c->width);
    *out = json_pack("{s:s}", "isa", kvp_isa());
    status = kvp_pager_open(&cfg, &c->pager);
    return status ? status : fill_layers(c);
}

static kvp_status attend(contender *c, json_t *request, json_t **out)
{
    const json_int_t passes = json_integer_value(json_object_get(request, "passes"));
    const kvp_attend_args args = {.q = c->q,
                                  .out = c->out,
                                  .n_queries = (size_t)c->queries,
                                  .n_heads = (uint32_t)c->heads,
                                  .scale = 1 / sqrtf((float)c->width),
                                  .role = c->queries > 16 ? KVP_PREFILL : KVP_DECODE};
    kvp_status status = KVP_OK;
    const uint64_t wall = bench_now_ns(), cpu = cpu_ns();
    for (json_int_t i = 0; i < passes; i++)
        for (uint32_t layer = 0; layer < (uint32_t)c->layers && !status; layer++)
            status = kvp_attend(c->seq, layer, &args);
    *out = json_pack("{s:f, s:f}", "seconds", (double)(bench_now_ns() - wall) * 1e-9, "cpu_seconds",
                     (double)(cpu_ns() - cpu) * 1e-9);
    return status;
}

static kvp_status measure_limits(contender *c, json_t *request, json_t **out)
{
    (void)request;
    *out = json_pack("{s:f, s:f}", "read_gb", limits_read(&c->limits), "f32_gflop",
                     limits_multiply(&c->limits, 0));
    return KVP_OK;
}

/* ---- requests -------------------------------------------------------------------------------- */

static kvp_status serve(contender *c, json_t *request, json_t **out)
{
    static const struct {
        const char *op;
        kvp_status (*run)(contender *c, json_t *request, json_t **out);
    } operations[] = {{"open", open_layers}, {"attend", attend}, {"limits", measure_limits}};
    const char *op = json_string_value(json_object_get(request, "op"));
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        if (op && strcmp(op, operations[i].op) == 0)
            return i && !c->pager ? kvp_fail(KVP_E_INVALID, "%s before open", op)
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
    close_layers(&c);
    return 0;
}
