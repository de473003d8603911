/* matmul.c - products with weight matrices: rows are packed, then threads share the panels.
 *
 * A task takes some panels (columns of outputs), one after the other, each under all rows: weights
 * come from memory once, and stay in the L2 cache for the next rows of a prefill. Which thread
 * computes a column, and next to which other rows, changes no bit (products.h).
 *
 * These are own kernels because none of oneDNN's products has rows that do not depend on m: sgemm
 * adds up what is left over from its steps of rows in another order, and inner products are made
 * for a number of rows. They cost nothing: bench_products prints both. */
#include "integration/models/matmul.h"

#include <stdlib.h>
#include <string.h>

#include "integration/least.h"
#include "integration/models/products.h"

/* Enough for balance with a busy neighbour; tasks are long enough to be streams. */
#define TASKS_PER_THREAD ((size_t)8)

struct matmul {
    kvp_pool *pool;
    const products *products;
    unsigned char *x; /* packed rows, tile after tile */
    size_t x_bytes;
};

/* One call of matmul_apply(). */
typedef struct job {
    const matmul *mm;
    const matrix *w;
    const product_kernel *kernel;
    const float *x;
    size_t m, depth, panels_per_task;
    float *y;
} job;

/* ---- life ------------------------------------------------------------------------------------ */

kvp_status matmul_open(kvp_pool *pool, model_isa isa, matmul **out)
{
    matmul *mm = calloc(1, sizeof *mm);
    if (!mm)
        return kvp_fail(KVP_E_NOMEM, "out of memory: matrix products");
    mm->pool = pool;
    mm->products = products_for(isa);
    *out = mm;
    return KVP_OK;
}

void matmul_close(matmul *mm)
{
    if (!mm)
        return;
    free(mm->x);
    free(mm);
}

size_t matmul_scratch_bytes(const matmul *mm)
{
    return mm->x_bytes;
}

kvp_status matmul_reserve(matmul *mm, const matrix *w, size_t m)
{
    size_t bytes = m * matrix_depth(w) * mm->products->kernels[w->dtype].packed_bytes;
    bytes = (bytes + 63) & ~(size_t)63;
    if (bytes <= mm->x_bytes)
        return KVP_OK;
    void *x = aligned_alloc(64, bytes);
    if (!x)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes for %zu rows of a matrix product",
                        bytes, m);
    free(mm->x);
    mm->x = x;
    mm->x_bytes = bytes;
    return KVP_OK;
}

/* ---- tasks ----------------------------------------------------------------------------------- */

static size_t tile_rows(const job *j, size_t row)
{
    return least(j->mm->products->tile_rows, j->m - row);
}

static unsigned char *packed_rows(const job *j, size_t row)
{
    return j->mm->x + row * j->depth * j->kernel->packed_bytes;
}

static void pack_tile(void *arg, size_t index)
{
    const job *j = arg;
    size_t row = index * j->mm->products->tile_rows;
    j->kernel->pack(j->x + row * j->w->n_in, j->w->n_in, j->depth, tile_rows(j, row),
                    packed_rows(j, row));
}

/* All rows under a panel of which only `width` columns are outputs. */
static void multiply_last(const job *j, product_tile t, size_t width)
{
    float part[PRODUCT_MAX_ROWS * MATRIX_PANEL], *y = t.y;
    t.y = part;
    t.y_stride = MATRIX_PANEL;
    for (size_t row = 0, n; row < j->m; row += n) {
        n = tile_rows(j, row);
        t.x = packed_rows(j, row);
        j->kernel->multiply(&t, n);
        for (size_t r = 0; r < n; r++)
            memcpy(y + (row + r) * j->w->n_out, part + r * MATRIX_PANEL, width * sizeof *y);
    }
}

static void multiply_panel(const job *j, size_t index)
{
    float bias[MATRIX_PANEL] = {0};
    size_t at = index * MATRIX_PANEL, width = least(MATRIX_PANEL, j->w->n_out - at);
    if (j->w->bias)
        memcpy(bias, j->w->bias + at, width * sizeof *bias);
    product_tile t = {.panel = matrix_panel(j->w, index),
                      .depth = j->depth,
                      .bias = bias,
                      .y = j->y + at,
                      .y_stride = j->w->n_out};
    if (width < MATRIX_PANEL) {
        multiply_last(j, t, width);
        return;
    }
    for (size_t row = 0, n; row < j->m; row += n, t.y += n * t.y_stride) {
        n = tile_rows(j, row);
        t.x = packed_rows(j, row);
        j->kernel->multiply(&t, n);
    }
}

static void multiply_panels(void *arg, size_t index)
{
    const job *j = arg;
    size_t first = index * j->panels_per_task;
    size_t end = least(first + j->panels_per_task, matrix_panels(j->w));
    for (size_t i = first; i < end; i++)
        multiply_panel(j, i);
}

kvp_status matmul_apply(matmul *mm, const matrix *w, const float *x, size_t m, float *y)
{
    kvp_status status = matmul_reserve(mm, w, m);
    if (status || !m)
        return status;
    size_t n_panels = matrix_panels(w), n_tasks = kvp_pool_threads(mm->pool) * TASKS_PER_THREAD;
    job j = {.mm = mm,
             .w = w,
             .kernel = &mm->products->kernels[w->dtype],
             .x = x,
             .m = m,
             .depth = matrix_depth(w),
             .panels_per_task = (n_panels + n_tasks - 1) / n_tasks,
             .y = y};
    size_t n_tiles = (m + mm->products->tile_rows - 1) / mm->products->tile_rows;
    kvp_pool_run(mm->pool, n_tiles, pack_tile, &j);
    kvp_pool_run(mm->pool, (n_panels + j.panels_per_task - 1) / j.panels_per_task, multiply_panels,
                 &j);
    return KVP_OK;
}
