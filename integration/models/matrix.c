/* matrix.c - the order of a weight matrix in memory.
 *
 * Products of one row stream a matrix from memory, and must find it in the order in which they read
 * it; those of many rows hold a panel's outputs in registers: 48, three vectors of AVX-512, under 8
 * rows. */
#include "integration/models/matrix.h"

#include <stdint.h>

#include "integration/least.h"
#include "integration/models/convert.h"

size_t matrix_depth(const matrix *w)
{
    return w->dtype == KVP_BF16 ? (w->n_in + 1) / 2 * 2 : w->n_in;
}

size_t matrix_panels(const matrix *w)
{
    return (w->n_out + MATRIX_PANEL - 1) / MATRIX_PANEL;
}

static size_t panel_bytes(const matrix *w)
{
    return MATRIX_PANEL * matrix_depth(w) * kvp_dtype_bytes(w->dtype);
}

const void *matrix_panel(const matrix *w, size_t index)
{
    return (const char *)w->data + index * panel_bytes(w);
}

size_t matrix_bytes(const matrix *w)
{
    return matrix_panels(w) * panel_bytes(w);
}

/* Where in the data input k of output i is: elements. */
static size_t place_of(const matrix *w, size_t k, size_t i)
{
    size_t column = i % MATRIX_PANEL, panel = (i - column) * matrix_depth(w);
    if (w->dtype == KVP_BF16)
        return panel + (k / 2 * MATRIX_PANEL + column) * 2 + k % 2;
    return panel + k * MATRIX_PANEL + column;
}

/* Weights of input k and outputs [i, i + n) of one panel; they are given `stride` floats apart. */
static void put(matrix *w, size_t k, size_t i, size_t n, const float *from, size_t stride)
{
    size_t place = place_of(w, k, i);
    if (w->dtype == KVP_F32) {
        float *to = (float *)w->data + place;
        for (size_t j = 0; j < n; j++)
            to[j] = from[j * stride];
    } else if (w->dtype == KVP_F16) {
        uint16_t *to = (uint16_t *)w->data + place;
        for (size_t j = 0; j < n; j++)
            to[j] = convert_narrow_f16(from[j * stride]);
    } else {
        uint16_t *to = (uint16_t *)w->data + place;
        for (size_t j = 0; j < n; j++)
            to[2 * j] = convert_narrow(from[j * stride]);
    }
}

/* Input by input, so that the writes of one share cache lines. */
static void put_outputs(matrix *w, size_t first, size_t n, const float *rows)
{
    for (size_t done = 0, part; done < n; done += part) {
        part = least(MATRIX_PANEL - (first + done) % MATRIX_PANEL, n - done);
        for (size_t k = 0; k < w->n_in; k++)
            put(w, k, first + done, part, rows + done * w->n_in + k, w->n_in);
    }
}

static void put_inputs(matrix *w, size_t first, size_t n, const float *rows)
{
    for (size_t at = 0; at < w->n_out; at += MATRIX_PANEL) {
        size_t part = least(MATRIX_PANEL, w->n_out - at);
        for (size_t k = 0; k < n; k++)
            put(w, first + k, at, part, rows + k * w->n_out + at, 1);
    }
}

void matrix_put(matrix *w, size_t first, size_t n, const float *rows)
{
    if (w->is_out_major)
        put_outputs(w, first, n, rows);
    else
        put_inputs(w, first, n, rows);
}

void matrix_output(const matrix *w, size_t i, float *row)
{
    for (size_t k = 0; k < w->n_in; k++) {
        size_t place = place_of(w, k, i);
        if (w->dtype == KVP_F32)
            row[k] = ((const float *)w->data)[place];
        else if (w->dtype == KVP_F16)
            row[k] = convert_f16(((const uint16_t *)w->data)[place]);
        else
            row[k] = convert_bits((uint32_t)((const uint16_t *)w->data)[place] << 16);
    }
}
