/* elementwise.c - the small arithmetic between matrix products.
 *
 * Loops are written so that compilers vectorise them without -ffast-math (-fno-trapping-math, which
 * changes no number, is enough: CMakeLists.txt). Sums run in independent lanes, whose order is part
 * of the code, so every compiler adds in the same order. Activations, which are most of it, are
 * compiled for each instruction set; products are not fused with additions (-ffp-contract=off), so
 * that all give the same bits. */
#include "integration/models/elementwise.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES ((size_t)16)
#define INLINE static inline __attribute__((always_inline))

/* Sum of (x - shift)^power for power 1 or 2. */
static float sum(const float *x, size_t n, float shift, int power)
{
    float lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (size_t j = 0; j < LANES; j++) {
            float v = x[i + j] - shift;
            lanes[j] += power == 2 ? v * v : v;
        }
    }
    for (; i < n; i++) {
        float v = x[i] - shift;
        lanes[i % LANES] += power == 2 ? v * v : v;
    }
    for (size_t half = LANES / 2; half; half /= 2) {
        for (size_t j = 0; j < half; j++)
            lanes[j] += lanes[j + half];
    }
    return lanes[0];
}

void layer_norm(const float *x, size_t n_rows, size_t width, const float *weight, const float *bias,
                float epsilon, float *out)
{
    for (size_t r = 0; r < n_rows; r++, x += width, out += width) {
        float mean = sum(x, width, 0.0f, 1) / (float)width;
        float variance = sum(x, width, mean, 2) / (float)width;
        float scale = 1.0f / sqrtf(variance + epsilon);
        for (size_t i = 0; i < width; i++)
            out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
    }
}

void rms_norm(const float *x, size_t n_rows, size_t width, const float *weight, float epsilon,
              float *out)
{
    for (size_t r = 0; r < n_rows; r++, x += width, out += width) {
        float scale = 1.0f / sqrtf(sum(x, width, 0.0f, 2) / (float)width + epsilon);
        for (size_t i = 0; i < width; i++)
            out[i] = x[i] * scale * weight[i];
    }
}

/* e^x with a relative error of about 1e-7; x is clamped to +-87, where results stay normal.
 * Range reduction and polynomial: Cephes, expf.c (S. Moshier). */
INLINE float exp_fast(float x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    x = x < -87.0f ? -87.0f : x;
    x = x > 87.0f ? 87.0f : x;
    float shifted = x * 1.44269504f + shift;
    float n = shifted - shift;
    float r = x - n * 0.693359375f - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23; /* 2^n: the low bits of `shifted` are n */
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

INLINE void gelu_loop(float *x, size_t n)
{
    /* 0.5 x (1 + tanh u) = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3) */
    for (size_t i = 0; i < n; i++) {
        float v = x[i];
        float u2 = 1.59576912f * v * (1.0f + 0.044715f * v * v);
        x[i] = v / (1.0f + exp_fast(-u2));
    }
}

INLINE void silu_loop(const float *gate, const float *up, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = gate[i] / (1.0f + exp_fast(-gate[i])) * up[i];
}

static void gelu_scalar(float *x, size_t n)
{
    gelu_loop(x, n);
}

static void silu_scalar(const float *gate, const float *up, size_t n, float *out)
{
    silu_loop(gate, up, n, out);
}

typedef struct activations {
    void (*gelu)(float *x, size_t n);
    void (*silu)(const float *gate, const float *up, size_t n, float *out);
} activations;

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void gelu_avx2(float *x, size_t n)
{
    gelu_loop(x, n);
}

__attribute__((target("avx2"))) static void silu_avx2(const float *gate, const float *up, size_t n,
                                                      float *out)
{
    silu_loop(gate, up, n, out);
}

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))

AVX512 static void gelu_avx512(float *x, size_t n)
{
    gelu_loop(x, n);
}

AVX512 static void silu_avx512(const float *gate, const float *up, size_t n, float *out)
{
    silu_loop(gate, up, n, out);
}
#endif

static const activations all_activations[] = {
    [MODEL_ISA_SCALAR] = {gelu_scalar, silu_scalar},
#if defined(__x86_64__)
    [MODEL_ISA_AVX2] = {gelu_avx2, silu_avx2},
    [MODEL_ISA_AVX512] = {gelu_avx512, silu_avx512},
    [MODEL_ISA_AVX512_BF16] = {gelu_avx512, silu_avx512},
#endif
};

void gelu_tanh(model_isa isa, float *x, size_t n)
{
    all_activations[isa].gelu(x, n);
}

void gated_silu(model_isa isa, const float *gate, const float *up, size_t n, float *out)
{
    all_activations[isa].silu(gate, up, n, out);
}

void relu(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] < 0.0f ? 0.0f : x[i]; /* NaN stays */
}

void add_to(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}
