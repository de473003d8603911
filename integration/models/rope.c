/* rope.c - rotary positions: frequencies with their scalings, angles, rotation.
 *
 * Angles are computed in double: at position 100,000 a float is off by 0.004 radians. cos and sin
 * of a position come from those of its block of BLOCK positions and of its place in the block, by
 * the addition theorems, so that a chunk of a prefill takes hardly any calls of sin(). */
#include "integration/models/rope.h"

#include <math.h>
#include <stdlib.h>

#define BLOCK 128u
#define NO_BLOCK UINT64_MAX

static const double tau = 6.283185307179586476925;

/* ---- frequencies ----------------------------------------------------------------------------- */

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

/* Wavelengths up to original_n_ctx / high_freq_factor stay, those from original_n_ctx /
 * low_freq_factor on are stretched, between them goes a ramp. */
static double scale_llama3(const rope_config *c, double freq)
{
    double turns = c->original_n_ctx * freq / tau; /* over the original context */
    double keep =
        clamp((turns - c->low_freq_factor) / (c->high_freq_factor - c->low_freq_factor), 0, 1);
    return keep * freq + (1 - keep) * freq / c->factor;
}

/* The frequency index (not a whole number) that makes `turns` rotations over the original context.
 */
static double yarn_index(const rope_config *c, double turns)
{
    return c->dim * log(c->original_n_ctx / (turns * tau)) / (2 * log(c->theta));
}

static double scale_yarn(const rope_config *c, size_t i, double freq)
{
    double low = yarn_index(c, c->beta_fast), high = yarn_index(c, c->beta_slow);
    if (c->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = low > 0 ? low : 0;
    high = high < c->dim - 1 ? high : c->dim - 1;
    high = high == low ? high + 0.001 : high;
    double stretch = clamp(((double)i - low) / (high - low), 0, 1);
    return (1 - stretch) * freq + stretch * freq / c->factor;
}

static double scaled(const rope_config *c, size_t i, double freq)
{
    switch (c->scaling) {
    case ROPE_LINEAR:
        return freq / c->factor;
    case ROPE_LLAMA3:
        return scale_llama3(c, freq);
    case ROPE_YARN:
        return scale_yarn(c, i, freq);
    case ROPE_UNSCALED:
        break;
    }
    return freq;
}

double rope_attention_factor(double factor)
{
    return factor > 1 ? 0.1 * log(factor) + 1 : 1;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void fill(const rope *r, double first, double *cosines)
{
    for (size_t i = 0; i < r->n_freqs; i++) {
        cosines[i] = cos(first * r->freqs[i]);
        cosines[r->n_freqs + i] = sin(first * r->freqs[i]);
    }
}

kvp_status rope_init(const rope_config *config, const float *dividers, rope *out)
{
    size_t n = config->dim / 2;
    rope r = {.n_freqs = n, .attention_factor = 1, .block = NO_BLOCK};
    r.freqs = malloc((n + (BLOCK + 1) * 2 * n) * sizeof *r.freqs);
    if (!r.freqs)
        return kvp_fail(KVP_E_NOMEM, "out of memory: rotary positions");
    r.coarse = r.freqs + n;
    r.fine = r.coarse + 2 * n;
    if (config->scaling == ROPE_YARN)
        r.attention_factor = (float)config->attention_factor;
    for (size_t i = 0; i < n; i++) {
        double freq = pow(config->theta, -2.0 * (double)i / config->dim);
        r.freqs[i] = scaled(config, i, freq) / (dividers ? (double)dividers[i] : 1);
    }
    for (size_t p = 0; p < BLOCK; p++)
        fill(&r, (double)p, r.fine + p * 2 * n);
    *out = r;
    return KVP_OK;
}

void rope_fini(rope *r)
{
    free(r->freqs);
    *r = (rope){0};
}

/* ---- rotation -------------------------------------------------------------------------------- */

void rope_angles(rope *r, const uint64_t *positions, size_t n, float *angles)
{
    size_t n_freqs = r->n_freqs;
    for (size_t k = 0; k < n; k++, angles += 2 * n_freqs) {
        if (positions[k] / BLOCK != r->block) {
            r->block = positions[k] / BLOCK;
            fill(r, (double)(r->block * BLOCK), r->coarse);
        }
        const double *c = r->coarse, *f = r->fine + positions[k] % BLOCK * 2 * n_freqs;
        for (size_t i = 0; i < n_freqs; i++) {
            double cosine = c[i] * f[i] - c[n_freqs + i] * f[n_freqs + i];
            double sine = c[n_freqs + i] * f[i] + c[i] * f[n_freqs + i];
            angles[i] = (float)cosine * r->attention_factor;
            angles[n_freqs + i] = (float)sine * r->attention_factor;
        }
    }
}

void rope_rotate(const float *angles, size_t n_freqs, float *heads, size_t n_heads, size_t head_dim)
{
    const float *restrict cosines = angles, *restrict sines = angles + n_freqs;
    for (size_t h = 0; h < n_heads; h++, heads += head_dim) {
        float *restrict low = heads, *restrict high = heads + n_freqs;
        for (size_t i = 0; i < n_freqs; i++) {
            float a = low[i], b = high[i];
            low[i] = a * cosines[i] - b * sines[i];
            high[i] = b * cosines[i] + a * sines[i];
        }
    }
}
