/* tiny_llama.c - small Llama folders, and their forward by plain loops in float64 (Touvron et al.
 * 2023; rotary positions as Hugging Face lays them out). */
#include "tests/support/tiny_llama.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/temp_dir.h"
#include "tests/support/tiny_file.h"

#define THETA 10000.0
#define EPSILON 1e-5

tiny_llama tiny_llama_default(void)
{
    return (tiny_llama){.n_layers = 2,
                        .n_heads = 4,
                        .n_kv_heads = 2,
                        .head_dim = 12,
                        .d_model = 16,
                        .d_inner = 24,
                        .n_ctx = 64,
                        .n_vocab = 29};
}

static void *must_alloc(size_t n, size_t size)
{
    void *p = calloc(n, size);
    assert_non_null(p);
    return p;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void put_layer(tiny_file *f, const tiny_llama *t, uint32_t layer)
{
    size_t d = t->d_model, q = (size_t)t->n_heads * t->head_dim;
    size_t kv = (size_t)t->n_kv_heads * t->head_dim;
    const struct {
        const char *name;
        size_t rows, width;
    } parts[] = {{"input_layernorm", 0, d},        {"self_attn.q_proj", q, d},
                 {"self_attn.k_proj", kv, d},      {"self_attn.v_proj", kv, d},
                 {"self_attn.o_proj", d, q},       {"post_attention_layernorm", 0, d},
                 {"mlp.gate_proj", t->d_inner, d}, {"mlp.up_proj", t->d_inner, d},
                 {"mlp.down_proj", d, t->d_inner}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char name[64];
        snprintf(name, sizeof name, "layers.%u.%s.weight", layer, parts[i].name);
        tiny_file_put(f, "model.", name, parts[i].rows, parts[i].width);
    }
}

void tiny_llama_write(const char *dir, const tiny_llama *t)
{
    tiny_file *f = tiny_file_begin("F32");
    tiny_file_put(f, "model.", "embed_tokens.weight", t->n_vocab, t->d_model);
    for (uint32_t i = 0; i < t->n_layers; i++)
        put_layer(f, t, i);
    tiny_file_put(f, "model.", "norm.weight", 0, t->d_model);
    tiny_file_put(f, "", "lm_head.weight", t->n_vocab, t->d_model);
    tiny_file_end(f, dir);
    char text[1024];
    snprintf(text, sizeof text,
             "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],"
             "\"num_hidden_layers\":%u,\"num_attention_heads\":%u,\"num_key_value_heads\":%u,"
             "\"head_dim\":%u,\"hidden_size\":%u,\"intermediate_size\":%u,"
             "\"max_position_embeddings\":%u,\"vocab_size\":%u,\"hidden_act\":\"silu\","
             "\"rope_theta\":%.1f,\"rms_norm_eps\":%g,\"tie_word_embeddings\":false}",
             t->n_layers, t->n_heads, t->n_kv_heads, t->head_dim, t->d_model, t->d_inner, t->n_ctx,
             t->n_vocab, THETA, EPSILON);
    temp_dir_write_text(dir, "config.json", text);
}

/* ---- computing ------------------------------------------------------------------------------- */

static void load(const char *name, size_t n, double *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (double)tiny_value(name, i);
}

/* y [n_out] = W x, W [n_out][n_in]. */
static void linear(const double *w, const double *x, size_t n_in, size_t n_out, double *y)
{
    for (size_t o = 0; o < n_out; o++) {
        y[o] = 0;
        for (size_t i = 0; i < n_in; i++)
            y[o] += w[o * n_in + i] * x[i];
    }
}

static void norm(const double *x, size_t d, const double *weight, double *out)
{
    double square = 0;
    for (size_t i = 0; i < d; i++)
        square += x[i] * x[i] / (double)d;
    for (size_t i = 0; i < d; i++)
        out[i] = x[i] / sqrt(square + EPSILON) * weight[i];
}

static void rotate(const double *x, size_t dim, uint64_t position, double *out)
{
    for (size_t i = 0; i < dim / 2; i++) {
        double angle = (double)position * pow(THETA, -2.0 * (double)i / (double)dim);
        double a = x[i], b = x[i + dim / 2];
        out[i] = a * cos(angle) - b * sin(angle);
        out[i + dim / 2] = b * cos(angle) + a * sin(angle);
    }
}

/* A layer's weights, and K before rotation and V of every token. */
typedef struct layer {
    double *norm_1, *q, *k, *v, *o, *norm_2, *gate, *up, *down;
    double *keys, *values; /* [n][n_kv_heads][head_dim] */
} layer;

static double *load_part(uint32_t index, const char *part, size_t n)
{
    char name[64];
    double *w = must_alloc(n, sizeof *w);
    snprintf(name, sizeof name, "layers.%u.%s.weight", index, part);
    load(name, n, w);
    return w;
}

static layer open_layer(const tiny_llama *t, uint32_t i, size_t n)
{
    size_t d = t->d_model, q = (size_t)t->n_heads * t->head_dim;
    size_t kv = (size_t)t->n_kv_heads * t->head_dim;
    return (layer){.norm_1 = load_part(i, "input_layernorm", d),
                   .q = load_part(i, "self_attn.q_proj", q * d),
                   .k = load_part(i, "self_attn.k_proj", kv * d),
                   .v = load_part(i, "self_attn.v_proj", kv * d),
                   .o = load_part(i, "self_attn.o_proj", d * q),
                   .norm_2 = load_part(i, "post_attention_layernorm", d),
                   .gate = load_part(i, "mlp.gate_proj", t->d_inner * d),
                   .up = load_part(i, "mlp.up_proj", t->d_inner * d),
                   .down = load_part(i, "mlp.down_proj", d * t->d_inner),
                   .keys = must_alloc(n * kv, sizeof(double)),
                   .values = must_alloc(n * kv, sizeof(double))};
}

static void close_layer(layer *l)
{
    double *const parts[] = {l->norm_1, l->q,  l->k,    l->v,    l->o,     l->norm_2,
                             l->gate,   l->up, l->down, l->keys, l->values};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        free(parts[i]);
}

static bool is_seen(const tiny_view *v, uint64_t token, uint64_t p)
{
    uint64_t first = token / v->page_tokens * v->page_tokens;
    return v->keep == 0 || first + v->page_tokens - 1 + v->keep > p || first < v->sinks;
}

/* The tokens that token p sees, itself last, and where it thinks that they are. */
static size_t see(const tiny_view *v, uint64_t p, uint64_t *seen, uint64_t *positions)
{
    size_t n = 0;
    for (uint64_t j = 0; j <= p; j++) {
        if (!is_seen(v, j, p))
            continue;
        positions[n] = v->compact ? n : j;
        seen[n++] = j;
    }
    return n;
}

/* One query head over what is seen. */
static void attend(const tiny_llama *t, const layer *l, size_t kv_head, const double *q,
                   const uint64_t *seen, const uint64_t *positions, size_t n, double *out)
{
    const size_t dim = t->head_dim;
    double query[64], key[64], top = -INFINITY, sum = 0;
    double *scores = must_alloc(n, sizeof *scores);
    rotate(q, dim, positions[n - 1], query);
    for (size_t j = 0; j < n; j++) {
        rotate(l->keys + (seen[j] * t->n_kv_heads + kv_head) * dim, dim, positions[j], key);
        for (size_t i = 0; i < dim; i++)
            scores[j] += query[i] * key[i] / sqrt((double)dim);
        top = fmax(top, scores[j]);
    }
    for (size_t j = 0; j < n; j++)
        sum += scores[j] = exp(scores[j] - top);
    memset(out, 0, dim * sizeof *out);
    for (size_t j = 0; j < n; j++) {
        const double *value = l->values + (seen[j] * t->n_kv_heads + kv_head) * dim;
        for (size_t i = 0; i < dim; i++)
            out[i] += scores[j] / sum * value[i];
    }
    free(scores);
}

static void add_attention(const tiny_llama *t, const layer *l, const tiny_view *view, uint64_t p,
                          double *x)
{
    const size_t d = t->d_model, dim = t->head_dim, group = t->n_heads / t->n_kv_heads;
    double normed[64], q[256], out[256], delta[64];
    uint64_t *seen = must_alloc(p + 1, sizeof *seen), *positions = must_alloc(p + 1, sizeof *seen);
    size_t n = see(view, p, seen, positions);
    norm(x, d, l->norm_1, normed);
    linear(l->q, normed, d, t->n_heads * dim, q);
    for (size_t h = 0; h < t->n_heads; h++)
        attend(t, l, h / group, q + h * dim, seen, positions, n, out + h * dim);
    linear(l->o, out, t->n_heads * dim, d, delta);
    for (size_t i = 0; i < d; i++)
        x[i] += delta[i];
    free(seen);
    free(positions);
}

static void add_mlp(const tiny_llama *t, const layer *l, double *x)
{
    const size_t d = t->d_model;
    double normed[64], gate[256], up[256], delta[64];
    norm(x, d, l->norm_2, normed);
    linear(l->gate, normed, d, t->d_inner, gate);
    linear(l->up, normed, d, t->d_inner, up);
    for (size_t i = 0; i < t->d_inner; i++)
        up[i] *= gate[i] / (1 + exp(-gate[i]));
    linear(l->down, up, t->d_inner, d, delta);
    for (size_t i = 0; i < d; i++)
        x[i] += delta[i];
}

static void run_layer(const tiny_llama *t, layer *l, const tiny_view *view, size_t n, double *x)
{
    const size_t d = t->d_model, kv = (size_t)t->n_kv_heads * t->head_dim;
    double normed[64];
    for (size_t p = 0; p < n; p++) {
        norm(x + p * d, d, l->norm_1, normed);
        linear(l->k, normed, d, kv, l->keys + p * kv);
        linear(l->v, normed, d, kv, l->values + p * kv);
    }
    for (size_t p = 0; p < n; p++) {
        add_attention(t, l, view, p, x + p * d);
        add_mlp(t, l, x + p * d);
    }
}

void tiny_llama_forward(const tiny_llama *t, const int32_t *tokens, size_t n, const tiny_view *view,
                        double *logits)
{
    const size_t d = t->d_model;
    assert_true(d <= 64 && t->head_dim <= 64 && t->d_inner <= 256);
    assert_true(t->n_heads * t->head_dim <= 256);
    double *x = must_alloc(n * d, sizeof *x), weight[64], normed[64];
    for (size_t i = 0; i < n * d; i++)
        x[i] = (double)tiny_value("embed_tokens.weight", (size_t)tokens[i / d] * d + i % d);
    for (uint32_t i = 0; i < t->n_layers; i++) {
        layer l = open_layer(t, i, n);
        run_layer(t, &l, view, n, x);
        close_layer(&l);
    }
    double *head = must_alloc(t->n_vocab * d, sizeof *head);
    load("norm.weight", d, weight);
    load("lm_head.weight", t->n_vocab * d, head);
    for (size_t p = 0; p < n; p++) {
        norm(x + p * d, d, weight, normed);
        linear(head, normed, d, t->n_vocab, logits + p * t->n_vocab);
    }
    free(head);
    free(x);
}
