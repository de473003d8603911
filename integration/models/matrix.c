/* matrix.c - the order of a weight matrix in memory.
 *
 * Products of one row stream a matrix from memory, and must find it in the order in which they read
 * it. oneDNN's AVX-512 sgemm takes 48 outputs at a time: with panels of that width, one thread of
 * an EPYC reads 26 GB/s for one row, 18 for 8 rows (of 576 inputs), and computes 111 GFLOP/s for
 * 128; panels of 128 give 26 GB/s, 9 and 107, whole rows of outputs 14, 12 and 95.
 *
 * bf16 lies as oneDNN's own kernels want it, which are faster than those for whole rows: of 576
 * inputs, one thread reads 15 GB/s of bf16 for one row (12), 14 for 8 rows (7), and computes 215
 * GFLOP/s for 128 (187). */
#include "integration/models/matrix.h"

#include <stdint.h>
#include <string.h>

#include "integration/least.h"
#include "integration/models/convert.h"

size_t matrix_depth(const matrix *w)
{
    return w->is_bf16 ? (w->n_in + 15) / 16 * 16 : w->n_in;
}

size_t matrix_bytes(const matrix *w)
{
    if (!w->is_bf16)
        return w->n_in * w->n_out * sizeof(float);
    size_t n_panels = (w->n_out + MATRIX_PANEL_BF16 - 1) / MATRIX_PANEL_BF16;
    return n_panels * MATRIX_PANEL_BF16 * matrix_depth(w) * sizeof(uint16_t);
}

/* Where the panel that holds output i begins; *width: its columns, *column: which one i is. */
static float *panel_of(const matrix *w, size_t i, size_t *width, size_t *column)
{
    size_t at = i / MATRIX_PANEL * MATRIX_PANEL;
    *width = least(MATRIX_PANEL, w->n_out - at);
    *column = i - at;
    return (float *)w->data + at * w->n_in;
}

/* Input by input, so that the writes of one share cache lines. */
static void put_outputs(matrix *w, size_t first, size_t n, const float *rows)
{
    for (size_t done = 0, part; done < n; done += part) {
        size_t width, column;
        float *panel = panel_of(w, first + done, &width, &column);
        part = least(width - column, n - done);
        for (size_t k = 0; k < w->n_in; k++) {
            for (size_t j = 0; j < part; j++)
                panel[k * width + column + j] = rows[(done + j) * w->n_in + k];
        }
    }
}

static void put_inputs(matrix *w, size_t first, size_t n, const float *rows)
{
    for (size_t at = 0, width, column; at < w->n_out; at += width) {
        float *panel = panel_of(w, at, &width, &column);
        for (size_t i = 0; i < n; i++)
            memcpy(panel + (first + i) * width, rows + i * w->n_out + at, width * sizeof *panel);
    }
}

/* Where output i of a bf16 matrix begins. */
static uint16_t *output_of(const matrix *w, size_t i)
{
    size_t column = i % MATRIX_PANEL_BF16;
    return (uint16_t *)w->data + (i - column) * matrix_depth(w) + column * 2;
}

/* How far from there input k is: pairs of inputs lie a row of the panel's outputs apart. */
static size_t input_at(size_t k)
{
    return k / 2 * 2 * MATRIX_PANEL_BF16 + k % 2;
}

static void put_outputs_bf16(matrix *w, size_t first, size_t n, const float *rows)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t *output = output_of(w, first + i);
        for (size_t k = 0; k < w->n_in; k++)
            output[input_at(k)] = convert_narrow(rows[i * w->n_in + k]);
    }
}

static void put_inputs_bf16(matrix *w, size_t first, size_t n, const float *rows)
{
    for (size_t k = 0; k < n; k++) {
        for (size_t j = 0; j < w->n_out; j++)
            output_of(w, j)[input_at(first + k)] = convert_narrow(rows[k * w->n_out + j]);
    }
}

void matrix_put(matrix *w, size_t first, size_t n, const float *rows)
{
    if (w->is_bf16 && w->is_out_major)
        put_outputs_bf16(w, first, n, rows);
    else if (w->is_bf16)
        put_inputs_bf16(w, first, n, rows);
    else if (w->is_out_major)
        put_outputs(w, first, n, rows);
    else
        put_inputs(w, first, n, rows);
}

void matrix_output(const matrix *w, size_t i, float *row)
{
    size_t width, column;
    if (w->is_bf16) {
        matrix_widen(w, i, 1, row);
        return;
    }
    const float *panel = panel_of(w, i, &width, &column);
    for (size_t k = 0; k < w->n_in; k++)
        row[k] = panel[k * width + column];
}

void matrix_widen(const matrix *w, size_t first, size_t n, float *columns)
{
    const uint16_t *outputs = output_of(w, first);
    for (size_t k = 0; k < w->n_in; k++) {
        for (size_t j = 0; j < n; j++)
            columns[k * n + j] = convert_bits((uint32_t)outputs[input_at(k) + 2 * j] << 16);
    }
}
