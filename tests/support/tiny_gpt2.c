/* tiny_gpt2.c - writes small GPT-2 folders, and computes what they must answer. */
#include "tests/support/tiny_gpt2.h"

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

tiny_gpt2 tiny_gpt2_default(void)
{
    return (tiny_gpt2){.n_layers = 2,
                       .n_heads = 2,
                       .d_model = 8,
                       .n_ctx = 16,
                       .n_vocab = 11,
                       .prefix = "transformer.",
                       .dtype = "F32"};
}

static size_t inner_of(const tiny_gpt2 *t)
{
    return t->d_inner ? t->d_inner : 4 * (size_t)t->d_model;
}

/* ---- writing --------------------------------------------------------------------------------- */

typedef struct writer {
    const tiny_gpt2 *t;
    tiny_file *file;
} writer;

/* rows 0: a vector. */
static void put(const writer *w, const char *prefix, const char *name, size_t rows, size_t width)
{
    if (!w->t->left_out || strcmp(name, w->t->left_out) != 0)
        tiny_file_put(w->file, prefix, name, rows, width);
}

static void put_buffers(const writer *w, uint32_t layer)
{
    char name[128], shape[64];
    size_t n = w->t->n_ctx;
    unsigned char *mask = malloc(n * n);
    assert_non_null(mask);
    for (size_t i = 0; i < n * n; i++)
        mask[i] = i % n <= i / n;
    snprintf(name, sizeof name, "%sh.%u.attn.bias", w->t->prefix, layer);
    snprintf(shape, sizeof shape, "[1,1,%zu,%zu]", n, n);
    tiny_file_put_bytes(w->file, name, "BOOL", shape, mask, n * n);
    snprintf(name, sizeof name, "%sh.%u.attn.masked_bias", w->t->prefix, layer);
    tiny_file_put_bytes(w->file, name, "F32", "[]", "\0\0\0", 4);
    free(mask);
}

static void put_layer(const writer *w, uint32_t layer)
{
    size_t d = w->t->d_model, inner = inner_of(w->t);
    const struct {
        const char *name;
        size_t rows, width;
    } parts[] = {{"ln_1.weight", 0, d},
                 {"ln_1.bias", 0, d},
                 {"attn.c_attn.weight", d, 3 * d},
                 {"attn.c_attn.bias", 0, 3 * d},
                 {"attn.c_proj.weight", d, d},
                 {"attn.c_proj.bias", 0, d},
                 {"ln_2.weight", 0, d},
                 {"ln_2.bias", 0, d},
                 {"mlp.c_fc.weight", d, inner},
                 {"mlp.c_fc.bias", 0, inner},
                 {"mlp.c_proj.weight", inner, d},
                 {"mlp.c_proj.bias", 0, d}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char name[64];
        snprintf(name, sizeof name, "h.%u.%s", layer, parts[i].name);
        put(w, w->t->prefix, name, parts[i].rows, parts[i].width);
    }
    if (w->t->has_buffers)
        put_buffers(w, layer);
}

static void write_config(const char *dir, const tiny_gpt2 *t)
{
    char text[2048], inner[64] = "";
    if (t->d_inner)
        snprintf(inner, sizeof inner, ",\"n_inner\":%u", t->d_inner);
    snprintf(text, sizeof text,
             "{\"model_type\":\"gpt2\",\"architectures\":[\"GPT2LMHeadModel\"],\"n_layer\":%u,"
             "\"n_head\":%u,\"n_embd\":%u,\"n_positions\":%u,\"vocab_size\":%u,"
             "\"tie_word_embeddings\":%s%s%s}",
             t->config_layers ? t->config_layers : t->n_layers, t->n_heads, t->d_model, t->n_ctx,
             t->n_vocab, t->is_untied ? "false" : "true", inner,
             t->config_extra ? t->config_extra : "");
    temp_dir_write_text(dir, "config.json", text);
}

void tiny_gpt2_write(const char *dir, const tiny_gpt2 *t)
{
    const writer w = {.t = t, .file = tiny_file_begin(t->dtype)};
    put(&w, t->prefix, "wte.weight", t->n_vocab, t->d_model);
    put(&w, t->prefix, "wpe.weight", t->n_ctx, t->d_model);
    for (uint32_t i = 0; i < t->n_layers; i++)
        put_layer(&w, i);
    put(&w, t->prefix, "ln_f.weight", 0, t->d_model);
    put(&w, t->prefix, "ln_f.bias", 0, t->d_model);
    if (t->is_untied)
        put(&w, "", "lm_head.weight", t->n_vocab, t->d_model);
    if (t->added)
        put(&w, "", t->added, 0, 1);
    tiny_file_end(w.file, dir);
    write_config(dir, t);
}

/* ---- computing ------------------------------------------------------------------------------- */

static double weight_at(uint32_t layer, const char *name, size_t i)
{
    char full[128];
    snprintf(full, sizeof full, "h.%u.%s", layer, name);
    return (double)tiny_value(full, i);
}

static void norm(const double *x, size_t d, const char *name, double *out)
{
    char weight[64], bias[64];
    double mean = 0, variance = 0;
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    for (size_t i = 0; i < d; i++)
        mean += x[i] / (double)d;
    for (size_t i = 0; i < d; i++)
        variance += (x[i] - mean) * (x[i] - mean) / (double)d;
    for (size_t i = 0; i < d; i++)
        out[i] = (x[i] - mean) / sqrt(variance + 1e-5) * (double)tiny_value(weight, i) +
                 (double)tiny_value(bias, i);
}

static void linear(const double *x, size_t n_in, size_t n_out, uint32_t layer, const char *name,
                   double *y)
{
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    for (size_t j = 0; j < n_out; j++) {
        y[j] = weight_at(layer, bias, j);
        for (size_t i = 0; i < n_in; i++)
            y[j] += x[i] * weight_at(layer, weight, i * n_out + j);
    }
}

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

/* Attention of token p over qkv rows [0, p], added to x through c_proj. */
static void attention(const tiny_gpt2 *t, uint32_t layer, const double *qkv, size_t p, double scale,
                      double *x)
{
    size_t d = t->d_model, dim = d / t->n_heads;
    double out[64] = {0}, projected[64], scores[64];
    for (size_t h = 0; h < t->n_heads; h++) {
        const double *q = qkv + p * 3 * d + h * dim;
        double total = 0;
        for (size_t j = 0; j <= p; j++) {
            scores[j] = 0;
            for (size_t i = 0; i < dim; i++)
                scores[j] += q[i] * qkv[j * 3 * d + d + h * dim + i];
            total += scores[j] = exp(scores[j] * scale);
        }
        for (size_t j = 0; j <= p; j++) {
            for (size_t i = 0; i < dim; i++)
                out[h * dim + i] += scores[j] / total * qkv[j * 3 * d + 2 * d + h * dim + i];
        }
    }
    linear(out, d, d, layer, "attn.c_proj", projected);
    for (size_t i = 0; i < d; i++)
        x[i] += projected[i];
}

static void mlp(const tiny_gpt2 *t, uint32_t layer, double *x)
{
    char name[64];
    size_t d = t->d_model, inner = inner_of(t);
    double normed[64], up[256], down[64];
    snprintf(name, sizeof name, "h.%u.ln_2", layer);
    norm(x, d, name, normed);
    linear(normed, d, inner, layer, "mlp.c_fc", up);
    for (size_t i = 0; i < inner; i++)
        up[i] = gelu(up[i]);
    linear(up, inner, d, layer, "mlp.c_proj", down);
    for (size_t i = 0; i < d; i++)
        x[i] += down[i];
}

void tiny_gpt2_forward(const tiny_gpt2 *t, const int32_t *tokens, size_t n, bool scale_by_width,
                       bool scale_by_layer, double *logits)
{
    size_t d = t->d_model;
    double *x = calloc(n * d, sizeof *x), *qkv = calloc(n * 3 * d, sizeof *qkv), normed[64];
    assert_true(x && qkv && d <= 64 && n <= 64 && inner_of(t) <= 256);
    for (size_t p = 0; p < n; p++) {
        for (size_t i = 0; i < d; i++)
            x[p * d + i] = (double)tiny_value("wte.weight", (size_t)tokens[p] * d + i) +
                           (double)tiny_value("wpe.weight", p * d + i);
    }
    for (uint32_t layer = 0; layer < t->n_layers; layer++) {
        double scale = (scale_by_width ? 1 / sqrt((double)d / t->n_heads) : 1) /
                       (scale_by_layer ? (double)layer + 1 : 1);
        char name[64];
        snprintf(name, sizeof name, "h.%u.ln_1", layer);
        for (size_t p = 0; p < n; p++) {
            norm(x + p * d, d, name, normed);
            linear(normed, d, 3 * d, layer, "attn.c_attn", qkv + p * 3 * d);
        }
        for (size_t p = 0; p < n; p++) {
            attention(t, layer, qkv, p, scale, x + p * d);
            mlp(t, layer, x + p * d);
        }
    }
    const char *head = t->is_untied ? "lm_head.weight" : "wte.weight";
    for (size_t p = 0; p < n; p++) {
        norm(x + p * d, d, "ln_f", normed);
        for (size_t v = 0; v < t->n_vocab; v++) {
            double sum = 0;
            for (size_t i = 0; i < d; i++)
                sum += normed[i] * (double)tiny_value(head, v * d + i);
            logits[p * t->n_vocab + v] = sum;
        }
    }
    free(x);
    free(qkv);
}
