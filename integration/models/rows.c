/* rows.c - what is done to each row of activations by itself, shared among threads. */
#include "integration/models/rows.h"

#include "integration/models/elementwise.h"

#define ROWS_PER_TASK ((size_t)8)

typedef struct job {
    void (*run)(const struct job *j, size_t first, size_t n);
    model_isa isa;
    const decoder_config *config;
    const norm_weights *norm;
    const float *from;
    float *to;
    size_t n_rows, width, n_heads;
} job;

static void run_task(void *arg, size_t i)
{
    const job *j = arg;
    size_t first = i * ROWS_PER_TASK, n = j->n_rows - first;
    j->run(j, first, n < ROWS_PER_TASK ? n : ROWS_PER_TASK);
}

static void run_job(kvp_pool *pool, job *j)
{
    kvp_pool_run(pool, (j->n_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, run_task, j);
}

static void normalise(const job *j, size_t first, size_t n)
{
    const float *from = j->from + first * j->width;
    float epsilon = j->config->epsilon;
    float *to = j->to + first * j->width;
    if (j->config->norm == NORM_RMS)
        rms_norm(from, n, j->width, j->norm->weight, epsilon, to);
    else
        layer_norm(from, n, j->width, j->norm->weight, j->norm->bias, epsilon, to);
}

void rows_normalise(kvp_pool *pool, const decoder_config *c, const norm_weights *norm,
                    const float *rows, size_t n, float *out)
{
    job j = {.run = normalise,
             .config = c,
             .norm = norm,
             .from = rows,
             .to = out,
             .n_rows = n,
             .width = c->d_model};
    run_job(pool, &j);
}

static void add(const job *j, size_t first, size_t n)
{
    add_to(j->to + first * j->width, j->from + first * j->width, n * j->width);
}

void rows_add(kvp_pool *pool, const float *delta, size_t n, size_t width, float *rows)
{
    job j = {.run = add, .from = delta, .to = rows, .n_rows = n, .width = width};
    run_job(pool, &j);
}

static void activate(const job *j, size_t first, size_t n)
{
    size_t inner = j->config->d_inner;
    if (j->config->mlp == MLP_GELU_TANH)
        gelu_tanh(j->isa, j->to + first * inner, n * inner);
    else if (j->config->mlp == MLP_RELU)
        relu(j->to + first * inner, n * inner);
    else {
        for (size_t i = first; i < first + n; i++) {
            const float *gate = j->from + i * 2 * inner;
            gated_silu(j->isa, gate, gate + inner, inner, j->to + i * inner);
        }
    }
}

const float *rows_activate(kvp_pool *pool, model_isa isa, const decoder_config *c, float *up,
                           float *gated, size_t n)
{
    float *out = c->mlp == MLP_GATED_SILU ? gated : up;
    job j = {.run = activate, .isa = isa, .config = c, .from = up, .to = out, .n_rows = n};
    run_job(pool, &j);
    return out;
}

static void rotate(const job *j, size_t first, size_t n)
{
    const rope_config *r = &j->config->rope;
    for (size_t i = first; i < first + n; i++)
        rope_rotate(j->from + i * r->dim, r->dim / 2, j->to + i * j->width, j->n_heads,
                    j->config->head_dim);
}

void rows_rotate(kvp_pool *pool, const decoder_config *c, const float *angles, size_t n_heads,
                 size_t n, float *rows)
{
    job j = {.run = rotate,
             .config = c,
             .from = angles,
             .to = rows,
             .n_rows = n,
             .width = decoder_qkv_width(c),
             .n_heads = n_heads};
    run_job(pool, &j);
}
