/* products.c - plain C kernels: the readable reference. */
#include "integration/models/products.h"

#include <string.h>

#include "integration/models/convert.h"

void product_pack_floats(const float *x, size_t n_in, size_t depth, size_t n_rows, void *packed)
{
    float *to = packed;
    for (size_t k = 0; k < n_in; k++) {
        for (size_t r = 0; r < n_rows; r++)
            *to++ = x[r * n_in + k];
    }
    memset(to, 0, (depth - n_in) * n_rows * sizeof *to);
}

static void finish(const product_tile *t, const float *sums)
{
    for (size_t j = 0; j < MATRIX_PANEL; j++)
        t->y[j] = sums[j] + t->bias[j];
}

static void multiply_f32(const product_tile *t, size_t n_rows)
{
    (void)n_rows; /* 1: of tile_rows */
    const float *w = t->panel, *x = t->x;
    float y[MATRIX_PANEL] = {0};
    for (size_t k = 0; k < t->depth; k++, w += MATRIX_PANEL) {
        for (size_t j = 0; j < MATRIX_PANEL; j++)
            y[j] += x[k] * w[j];
    }
    finish(t, y);
}

static void multiply_f16(const product_tile *t, size_t n_rows)
{
    (void)n_rows;
    const uint16_t *w = t->panel;
    const float *x = t->x;
    float y[MATRIX_PANEL] = {0};
    for (size_t k = 0; k < t->depth; k++, w += MATRIX_PANEL) {
        for (size_t j = 0; j < MATRIX_PANEL; j++)
            y[j] += x[k] * convert_f16(w[j]);
    }
    finish(t, y);
}

static void multiply_bf16(const product_tile *t, size_t n_rows)
{
    (void)n_rows;
    const uint16_t *w = t->panel;
    const float *x = t->x;
    float y[MATRIX_PANEL] = {0};
    for (size_t k = 0; k < t->depth; k += 2, w += 2 * MATRIX_PANEL) {
        for (size_t j = 0; j < MATRIX_PANEL; j++) {
            y[j] += x[k] * convert_bits((uint32_t)w[2 * j] << 16);
            y[j] += x[k + 1] * convert_bits((uint32_t)w[2 * j + 1] << 16);
        }
    }
    finish(t, y);
}

const products products_scalar = {
    .tile_rows = 1,
    .kernels = {[KVP_F32] = {product_pack_floats, sizeof(float), multiply_f32},
                [KVP_F16] = {product_pack_floats, sizeof(float), multiply_f16},
                [KVP_BF16] = {product_pack_floats, sizeof(float), multiply_bf16}}};

const products *products_for(model_isa isa)
{
#if defined(__x86_64__)
    static const products *const all[] = {[MODEL_ISA_SCALAR] = &products_scalar,
                                          [MODEL_ISA_AVX2] = &products_avx2,
                                          [MODEL_ISA_AVX512] = &products_avx512,
                                          [MODEL_ISA_AVX512_BF16] = &products_avx512_bf16};
    return all[isa];
#else
    (void)isa;
    return &products_scalar;
#endif
}
