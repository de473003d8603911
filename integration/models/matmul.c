/* matmul.c - products with weight matrices, through oneDNN.
 *
 * A product is cut into strips of output columns, whose width depends on the matrix alone; each is
 * computed by single-threaded oneDNN calls and is one task of the pool. So the number of threads
 * does not change a bit of the result, and no OpenMP team is ever started (pool.c says why).
 *
 * float32: dnnl_sgemm, panel by panel (matrix.c). Inner-product primitives on weights in oneDNN's
 * own layout are no faster, and slower for up to 8 rows.
 *
 * bf16, where the CPU multiplies bf16: inner-product primitives, whole panels.
 * They are made for a fixed number of rows: m is cut into powers of two, so a few primitives per
 * shape, made once, serve every m without padding. Elsewhere panels are widened to float, block by
 * block, and sgemm does the rest.
 *
 * Invariant: every lane's (thread's) scratch holds a strip of y, and at its end what primitives ask
 * for. */
#include "integration/models/matmul.h"

#include <dnnl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "integration/least.h"
#include "integration/models/bf16_products.h"
#include "integration/models/convert.h"

/* From libgomp, which Debian's oneDNN runs on. Declared here: clang does not find gcc's omp.h, and
 * nothing else of OpenMP is used. Both concern the calling thread only. */
void omp_set_num_threads(int n);
int omp_get_max_threads(void);

#define MAX_LOG2_ROWS 7u /* the largest piece of a bf16 product: 128 rows */
#define WIDEN_ELEMENTS ((size_t)64 << 10)

struct matmul {
    kvp_pool *pool;
    uint32_t n_lanes;
    bf16_products *bf16; /* NULL: the CPU does not multiply bf16 */
    uint16_t *x;         /* [x_elements] input rows as bf16 */
    size_t x_elements;
    unsigned char *scratch; /* [n_lanes][lane_bytes] */
    size_t lane_bytes;
    size_t extra_bytes; /* of these, what primitives ask for at most */
};

/* One call of matmul_apply(), or one piece of it. */
typedef struct job {
    matmul *mm;
    const matrix *w;
    const float *x;
    size_t m;
    float *y;
    const bf16_product *whole, *last; /* bf16: of full strips, and of the last one */
    atomic_int status;                /* a dnnl_status_t; 0: success */
} job;

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Columns of a strip. float: whole panels, at most 32 strips; bf16: about 16 strips, for balance,
 * that are 128 to 512 wide, for efficiency. */
static size_t strip_width(const matrix *w)
{
    if (!w->is_bf16)
        return round_up((w->n_out + 31) / 32, MATRIX_PANEL);
    size_t width = round_up(w->n_out / 16, 64);
    return least(width < 128 ? 128 : least(width, 512), w->n_out);
}

static size_t n_strips(const matrix *w)
{
    return (w->n_out + strip_width(w) - 1) / strip_width(w);
}

/* ---- life ------------------------------------------------------------------------------------ */

kvp_status matmul_open(kvp_pool *p, matmul **out)
{
    matmul *mm = calloc(1, sizeof *mm);
    if (!mm)
        return kvp_fail(KVP_E_NOMEM, "out of memory: matrix products");
    mm->pool = p;
    mm->n_lanes = kvp_pool_threads(p);
    if (bf16_products_work_here()) {
        kvp_status status = bf16_products_open(mm->n_lanes, &mm->bf16);
        if (status) {
            matmul_close(mm);
            return status;
        }
    }
    *out = mm;
    return KVP_OK;
}

void matmul_close(matmul *mm)
{
    if (!mm)
        return;
    bf16_products_close(mm->bf16);
    free(mm->scratch);
    free(mm->x);
    free(mm);
}

size_t matmul_scratch_bytes(const matmul *mm)
{
    return mm->n_lanes * mm->lane_bytes + mm->x_elements * sizeof *mm->x;
}

/* ---- reserve --------------------------------------------------------------------------------- */

/* The largest power of two that m has room for, up to a limit. */
static unsigned piece_of(size_t m)
{
    unsigned log2_rows = 0;
    while (log2_rows < MAX_LOG2_ROWS && (size_t)2 << log2_rows <= m)
        log2_rows++;
    return log2_rows;
}

static size_t last_width(const matrix *w)
{
    return w->n_out - (n_strips(w) - 1) * strip_width(w);
}

static kvp_status reserve_products(matmul *mm, const matrix *w, size_t m)
{
    kvp_status status = KVP_OK;
    for (unsigned i = 0; i <= piece_of(m) && !status; i++) {
        status = bf16_products_add(mm->bf16, w->n_in, strip_width(w), i);
        if (!status)
            status = bf16_products_add(mm->bf16, w->n_in, last_width(w), i);
    }
    return status;
}

/* Columns of a panel that are widened at a time. */
static size_t widen_columns(const matrix *w)
{
    size_t columns = WIDEN_ELEMENTS > w->n_in ? WIDEN_ELEMENTS / w->n_in : 1;
    return least(columns, MATRIX_PANEL_BF16);
}

/* What a lane needs at the beginning of its scratch. */
static size_t strip_bytes(const matmul *mm, const matrix *w, size_t m)
{
    size_t elements =
        mm->bf16 ? ((size_t)1 << piece_of(m)) * strip_width(w) : widen_columns(w) * w->n_in;
    return round_up(elements * sizeof(float), 64);
}

static kvp_status reserve_scratch(matmul *mm, const matrix *w, size_t m)
{
    size_t strip = strip_bytes(mm, w, m), had = mm->lane_bytes - mm->extra_bytes;
    size_t extra = mm->bf16 ? round_up(bf16_products_scratch_bytes(mm->bf16), 64) : 0;
    strip = strip > had ? strip : had;
    if (strip + extra > mm->lane_bytes) {
        void *scratch = aligned_alloc(64, (strip + extra) * mm->n_lanes);
        if (!scratch)
            return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes for matrix products",
                            strip + extra);
        free(mm->scratch);
        mm->scratch = scratch;
        mm->lane_bytes = strip + extra;
        mm->extra_bytes = extra;
    }
    size_t elements = round_up(((size_t)1 << piece_of(m)) * w->n_in, 32);
    if (mm->bf16 && elements > mm->x_elements) {
        void *x = aligned_alloc(64, elements * sizeof *mm->x);
        if (!x)
            return kvp_fail(KVP_E_NOMEM, "out of memory: %zu inputs of matrix products", elements);
        free(mm->x);
        mm->x = x;
        mm->x_elements = elements;
    }
    return KVP_OK;
}

kvp_status matmul_reserve(matmul *mm, const matrix *w, size_t m)
{
    if (!w->is_bf16 || !m)
        return KVP_OK;
    int before = omp_get_max_threads();
    omp_set_num_threads(1); /* primitives are made for a number of threads */
    kvp_status status = mm->bf16 ? reserve_products(mm, w, m) : KVP_OK;
    omp_set_num_threads(before);
    return status ? status : reserve_scratch(mm, w, m);
}

/* ---- strips: the tasks ----------------------------------------------------------------------- */

/* y[m][width], rows n_out apart, = x * weights [n_in][width]. */
static int sgemm(const job *j, const float *weights, size_t width, float *y)
{
    int64_t n_in = (int64_t)j->w->n_in, n_out = (int64_t)j->w->n_out, n = (int64_t)width;
    return (int)dnnl_sgemm('N', 'N', (int64_t)j->m, n, n_in, 1.0f, j->x, n_in, weights, n, 0.0f, y,
                           n_out);
}

static int run_float(const job *j, size_t at, size_t width)
{
    int failed = 0;
    for (size_t end = at + width, n; at < end && !failed; at += n) {
        n = least(MATRIX_PANEL, end - at);
        failed = sgemm(j, (const float *)j->w->data + at * j->w->n_in, n, j->y + at);
    }
    return failed;
}

static int run_widened(const job *j, size_t at, size_t width)
{
    const matrix *w = j->w;
    float *block = (float *)(void *)(j->mm->scratch + kvp_pool_lane() * j->mm->lane_bytes);
    int failed = 0;
    for (size_t end = at + width, n; at < end && !failed; at += n) {
        size_t rest_of_panel = MATRIX_PANEL_BF16 - at % MATRIX_PANEL_BF16;
        n = least(least(widen_columns(w), rest_of_panel), end - at);
        matrix_widen(w, at, n, block);
        failed = sgemm(j, block, n, j->y + at);
    }
    return failed;
}

/* Primitives write a dense strip; several rows of it go through scratch to where they belong. */
static int run_bf16(const job *j, size_t at, size_t width)
{
    const matmul *mm = j->mm;
    uint32_t lane = kvp_pool_lane();
    unsigned char *scratch = mm->scratch + lane * mm->lane_bytes;
    unsigned char *extra = scratch + mm->lane_bytes - mm->extra_bytes;
    float *y = j->y + at, *strip = j->m == 1 ? y : (float *)(void *)scratch;
    int failed =
        bf16_product_run(mm->bf16, width == strip_width(j->w) ? j->whole : j->last, lane, mm->x,
                         (uint16_t *)j->w->data + at * matrix_depth(j->w), strip, extra);
    for (size_t i = 0; i < j->m && strip != y && !failed; i++)
        memcpy(y + i * j->w->n_out, strip + i * width, width * sizeof *strip);
    return failed;
}

static void add_bias(const job *j, size_t at, size_t width)
{
    for (size_t i = 0; i < j->m; i++) {
        float *y = j->y + i * j->w->n_out + at;
        for (size_t k = 0; k < width; k++)
            y[k] += j->w->bias[at + k];
    }
}

static void run_strip(void *arg, size_t index)
{
    job *j = arg;
    size_t at = index * strip_width(j->w), width = least(strip_width(j->w), j->w->n_out - at);
    int before = omp_get_max_threads();
    omp_set_num_threads(1);
    int failed = !j->w->is_bf16 ? run_float(j, at, width)
                 : j->mm->bf16  ? run_bf16(j, at, width)
                                : run_widened(j, at, width);
    omp_set_num_threads(before);
    if (failed)
        atomic_store(&j->status, failed);
    else if (j->w->bias)
        add_bias(j, at, width);
}

static kvp_status run_job(job *j)
{
    atomic_init(&j->status, 0);
    kvp_pool_run(j->mm->pool, n_strips(j->w), run_strip, j);
    int failed = atomic_load(&j->status);
    return failed ? kvp_fail(KVP_E_NOMEM, "oneDNN: a matrix product failed (status %d)", failed)
                  : KVP_OK;
}

static kvp_status apply_bf16(const job *whole)
{
    const matrix *w = whole->w;
    kvp_status status = KVP_OK;
    for (size_t at = 0, rows; at < whole->m && !status; at += rows) {
        unsigned log2_rows = piece_of(whole->m - at);
        rows = (size_t)1 << log2_rows;
        convert_f32_to_bf16(whole->x + at * w->n_in, whole->mm->x, rows * w->n_in);
        job piece = {
            .mm = whole->mm,
            .w = w,
            .m = rows,
            .y = whole->y + at * w->n_out,
            .whole = bf16_products_find(whole->mm->bf16, w->n_in, strip_width(w), log2_rows),
            .last = bf16_products_find(whole->mm->bf16, w->n_in, last_width(w), log2_rows)};
        status = run_job(&piece);
    }
    return status;
}

kvp_status matmul_apply(matmul *mm, const matrix *w, const float *x, size_t m, float *y)
{
    kvp_status status = matmul_reserve(mm, w, m);
    if (status || !m)
        return status;
    job j = {.mm = mm, .w = w, .x = x, .m = m, .y = y};
    return w->is_bf16 && mm->bf16 ? apply_bf16(&j) : run_job(&j);
}

/* Rows that oneDNN's kernels have in a step are alike, and those that are left over: from AVX2's
 * steps of 6, up to 3 that are left over are added up in another order. bf16 is cut into pieces. */
size_t matmul_fair_rows(const matmul *mm, const matrix *w, size_t m)
{
    size_t rows = m;
    if (w->is_bf16 && mm->bf16) {
        for (rows = 1; rows < m;)
            rows *= 2;
        return rows;
    }
    while (rows > 6 && rows % 6 >= 1 && rows % 6 <= 3)
        rows++;
    return rows;
}
