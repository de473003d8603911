/* matmul.c - products with weight matrices, through oneDNN; the only file that includes it.
 *
 * A product is cut into strips of output columns, whose width depends on the matrix alone; each is
 * computed by single-threaded oneDNN calls and is one task of the pool. So the number of threads
 * does not change a bit of the result, and no OpenMP team is ever started (pool.c says why).
 *
 * float32: dnnl_sgemm, panel by panel (matrix.c). Inner-product primitives on weights in oneDNN's
 * own layout are no faster, and slower for up to 8 rows.
 *
 * bf16, where the CPU multiplies bf16: inner-product primitives (24 to 29 GB/s of half the bytes).
 * They are made for a fixed number of rows: m is cut into powers of two, so a few primitives per
 * shape, made once, serve every m without padding. Elsewhere strips are widened to float, block by
 * block, and sgemm does the rest.
 *
 * Invariants:
 *  1. Primitives belong to shapes, not to matrices, and are shared by all lanes; memory objects and
 *     scratch belong to one lane (thread) each.
 *  2. Every lane's scratch holds a strip of y, then what primitives ask for. */
#include "integration/models/matmul.h"

#include <assert.h>
#include <dnnl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "integration/models/convert.h"

/* From libgomp, which Debian's oneDNN runs on. Declared here: clang does not find gcc's omp.h, and
 * nothing else of OpenMP is used. Both concern the calling thread only. */
void omp_set_num_threads(int n);
int omp_get_max_threads(void);

#define MAX_LOG2_ROWS 7u /* the largest piece of a bf16 product: 128 rows */
#define WIDEN_ELEMENTS ((size_t)64 << 10)

/* One lane's view of a bf16 product. */
typedef struct handles {
    dnnl_memory_t x, w, y, scratch;
} handles;

/* A bf16 product of 2^log2_rows rows with strips of one shape. */
typedef struct product {
    size_t n_in, width;
    unsigned log2_rows;
    dnnl_primitive_t primitive;
    handles *lanes; /* [n_lanes] */
    size_t scratch_bytes;
} product;

struct matmul {
    kvp_pool *pool;
    uint32_t n_lanes;
    bool has_bf16; /* the CPU multiplies bf16 */
    dnnl_engine_t engine;
    dnnl_stream_t *streams; /* [n_lanes] */
    product *products;      /* [n_products] */
    size_t n_products, products_capacity;
    uint16_t *x; /* [x_elements] input rows as bf16 */
    size_t x_elements;
    unsigned char *scratch; /* [n_lanes][lane_bytes] */
    size_t lane_bytes;
};

/* One call of matmul_apply(), or one piece of it. */
typedef struct job {
    matmul *mm;
    const matrix *w;
    const float *x;
    size_t m;
    float *y;
    const product *whole, *last; /* bf16: of full strips, and of the last one */
    atomic_int status;           /* a dnnl_status_t */
} job;

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

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
    return min_size(width < 128 ? 128 : min_size(width, 512), w->n_out);
}

static size_t n_strips(const matrix *w)
{
    return (w->n_out + strip_width(w) - 1) / strip_width(w);
}

/* ---- life ------------------------------------------------------------------------------------ */

static kvp_status check(dnnl_status_t status, const char *what)
{
    if (status == dnnl_success)
        return KVP_OK;
    if (status == dnnl_out_of_memory)
        return kvp_fail(KVP_E_NOMEM, "out of memory: oneDNN, %s", what);
    return kvp_fail(KVP_E_UNSUPPORTED, "oneDNN cannot do %s here (status %d)", what, (int)status);
}

static kvp_status open_streams(matmul *mm)
{
    kvp_status status = check(dnnl_engine_create(&mm->engine, dnnl_cpu, 0), "a CPU engine");
    for (uint32_t i = 0; i < mm->n_lanes && !status; i++)
        status = check(dnnl_stream_create(&mm->streams[i], mm->engine, dnnl_stream_default_flags),
                       "a stream");
    return status;
}

kvp_status matmul_open(kvp_pool *p, matmul **out)
{
    matmul *mm = calloc(1, sizeof *mm);
    if (mm)
        mm->streams = calloc(kvp_pool_threads(p), sizeof *mm->streams);
    if (!mm || !mm->streams) {
        free(mm);
        return kvp_fail(KVP_E_NOMEM, "out of memory: matrix products");
    }
    mm->pool = p;
    mm->n_lanes = kvp_pool_threads(p);
    unsigned isa = (unsigned)dnnl_get_effective_cpu_isa();
    unsigned bf16 = (unsigned)dnnl_cpu_isa_avx512_core_bf16;
    mm->has_bf16 = (isa & bf16) == bf16;
    kvp_status status = open_streams(mm);
    if (status) {
        matmul_close(mm);
        return status;
    }
    *out = mm;
    return KVP_OK;
}

static void destroy_memory(dnnl_memory_t memory)
{
    if (memory)
        dnnl_memory_destroy(memory);
}

static void fini_product(product *p, uint32_t n_lanes)
{
    for (uint32_t i = 0; p->lanes && i < n_lanes; i++) {
        destroy_memory(p->lanes[i].x);
        destroy_memory(p->lanes[i].w);
        destroy_memory(p->lanes[i].y);
        destroy_memory(p->lanes[i].scratch);
    }
    free(p->lanes);
    if (p->primitive)
        dnnl_primitive_destroy(p->primitive);
}

void matmul_close(matmul *mm)
{
    if (!mm)
        return;
    for (size_t i = 0; i < mm->n_products; i++)
        fini_product(&mm->products[i], mm->n_lanes);
    free(mm->products);
    free(mm->scratch);
    free(mm->x);
    for (uint32_t i = 0; i < mm->n_lanes; i++) {
        if (mm->streams[i])
            dnnl_stream_destroy(mm->streams[i]);
    }
    free(mm->streams);
    if (mm->engine)
        dnnl_engine_destroy(mm->engine);
    free(mm);
}

size_t matmul_scratch_bytes(const matmul *mm)
{
    return mm->n_lanes * mm->lane_bytes + mm->x_elements * sizeof *mm->x;
}

/* ---- bf16 primitives ------------------------------------------------------------------------- */

typedef struct descriptions {
    dnnl_memory_desc_t x, w, y, scratch;
} descriptions;

static kvp_status describe(const product *p, descriptions *d)
{
    const int64_t rows = (int64_t)1 << p->log2_rows;
    const int64_t n_in = (int64_t)p->n_in, width = (int64_t)p->width;
    const dnnl_dims_t x = {rows, n_in}, w = {width, n_in}, y = {rows, width};
    kvp_status status =
        check(dnnl_memory_desc_init_by_tag(&d->x, 2, x, dnnl_bf16, dnnl_ab), "a bf16 input");
    if (!status)
        status =
            check(dnnl_memory_desc_init_by_tag(&d->w, 2, w, dnnl_bf16, dnnl_ab), "bf16 weights");
    if (!status)
        status = check(dnnl_memory_desc_init_by_tag(&d->y, 2, y, dnnl_f32, dnnl_ab), "an output");
    return status;
}

/* Scratch is the caller's: oneDNN's own belongs to the thread that makes the primitive. */
static kvp_status make_primitive(const matmul *mm, product *p, descriptions *d)
{
    static const char what[] = "bf16 products";
    dnnl_inner_product_desc_t desc;
    dnnl_primitive_attr_t attr;
    dnnl_primitive_desc_t made = NULL;
    kvp_status status = check(dnnl_primitive_attr_create(&attr), what);
    if (status)
        return status;
    status = check(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), what);
    if (!status)
        status = check(dnnl_inner_product_forward_desc_init(&desc, dnnl_forward_inference, &d->x,
                                                            &d->w, NULL, &d->y),
                       what);
    if (!status)
        status = check(dnnl_primitive_desc_create(&made, &desc, attr, mm->engine, NULL), what);
    if (!status) {
        d->scratch = *dnnl_primitive_desc_query_md(made, dnnl_query_scratchpad_md, 0);
        p->scratch_bytes = dnnl_memory_desc_get_size(&d->scratch);
        status = check(dnnl_primitive_create(&p->primitive, made), what);
    }
    if (made)
        dnnl_primitive_desc_destroy(made);
    dnnl_primitive_attr_destroy(attr);
    return status;
}

static kvp_status make_handles(const matmul *mm, const descriptions *d, handles *h)
{
    static const char what[] = "memory objects";
    kvp_status status = check(dnnl_memory_create(&h->x, &d->x, mm->engine, DNNL_MEMORY_NONE), what);
    if (!status)
        status = check(dnnl_memory_create(&h->w, &d->w, mm->engine, DNNL_MEMORY_NONE), what);
    if (!status)
        status = check(dnnl_memory_create(&h->y, &d->y, mm->engine, DNNL_MEMORY_NONE), what);
    if (!status)
        status =
            check(dnnl_memory_create(&h->scratch, &d->scratch, mm->engine, DNNL_MEMORY_NONE), what);
    return status;
}

static kvp_status init_product(const matmul *mm, product *p)
{
    descriptions d;
    p->lanes = calloc(mm->n_lanes, sizeof *p->lanes);
    if (!p->lanes)
        return kvp_fail(KVP_E_NOMEM, "out of memory: matrix products");
    kvp_status status = describe(p, &d);
    if (!status)
        status = make_primitive(mm, p, &d);
    for (uint32_t i = 0; i < mm->n_lanes && !status; i++)
        status = make_handles(mm, &d, &p->lanes[i]);
    if (status)
        fini_product(p, mm->n_lanes);
    return status;
}

static const product *find_product(const matmul *mm, size_t n_in, size_t width, unsigned log2_rows)
{
    for (size_t i = 0; i < mm->n_products; i++) {
        const product *p = &mm->products[i];
        if (p->n_in == n_in && p->width == width && p->log2_rows == log2_rows)
            return p;
    }
    return NULL;
}

static kvp_status add_product(matmul *mm, size_t n_in, size_t width, unsigned log2_rows)
{
    if (find_product(mm, n_in, width, log2_rows))
        return KVP_OK;
    if (mm->n_products == mm->products_capacity) {
        size_t capacity = mm->products_capacity ? mm->products_capacity * 2 : 16;
        product *products = realloc(mm->products, capacity * sizeof *products);
        if (!products)
            return kvp_fail(KVP_E_NOMEM, "out of memory: %zu matrix products", capacity);
        mm->products = products;
        mm->products_capacity = capacity;
    }
    product *p = &mm->products[mm->n_products];
    *p = (product){.n_in = n_in, .width = width, .log2_rows = log2_rows};
    kvp_status status = init_product(mm, p);
    if (!status)
        mm->n_products++;
    return status;
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
        status = add_product(mm, w->n_in, strip_width(w), i);
        if (!status)
            status = add_product(mm, w->n_in, last_width(w), i);
    }
    return status;
}

/* Rows of a strip that are widened at a time. */
static size_t widen_rows(const matrix *w)
{
    return WIDEN_ELEMENTS > w->n_in ? WIDEN_ELEMENTS / w->n_in : 1;
}

static size_t lane_bytes_needed(const matmul *mm, const matrix *w, size_t m)
{
    if (!mm->has_bf16)
        return round_up(widen_rows(w) * w->n_in * sizeof(float), 64);
    size_t extra = 0;
    for (size_t i = 0; i < mm->n_products; i++)
        extra = mm->products[i].scratch_bytes > extra ? mm->products[i].scratch_bytes : extra;
    return round_up(((size_t)1 << piece_of(m)) * strip_width(w) * sizeof(float), 64) +
           round_up(extra, 64);
}

static kvp_status reserve_scratch(matmul *mm, const matrix *w, size_t m)
{
    size_t bytes = lane_bytes_needed(mm, w, m);
    if (bytes > mm->lane_bytes) {
        void *scratch = aligned_alloc(64, bytes * mm->n_lanes);
        if (!scratch)
            return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes for matrix products", bytes);
        free(mm->scratch);
        mm->scratch = scratch;
        mm->lane_bytes = bytes;
    }
    size_t elements = round_up(((size_t)1 << piece_of(m)) * w->n_in, 32);
    if (mm->has_bf16 && elements > mm->x_elements) {
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
    kvp_status status = mm->has_bf16 ? reserve_products(mm, w, m) : KVP_OK;
    omp_set_num_threads(before);
    return status ? status : reserve_scratch(mm, w, m);
}

/* ---- strips: the tasks ----------------------------------------------------------------------- */

/* y[m][width], rows n_out apart, = x * these weights: [width][n_in], or [n_in][width]. */
static dnnl_status_t sgemm(const job *j, const float *weights, bool out_major, size_t width,
                           float *y)
{
    int64_t n_in = (int64_t)j->w->n_in, n_out = (int64_t)j->w->n_out, n = (int64_t)width;
    return dnnl_sgemm('N', out_major ? 'T' : 'N', (int64_t)j->m, n, n_in, 1.0f, j->x, n_in, weights,
                      out_major ? n_in : n, 0.0f, y, n_out);
}

static dnnl_status_t run_float(const job *j, size_t at, size_t width)
{
    dnnl_status_t status = dnnl_success;
    for (size_t end = at + width, n; at < end && status == dnnl_success; at += n) {
        n = min_size(MATRIX_PANEL, end - at);
        status = sgemm(j, (const float *)j->w->data + at * j->w->n_in, false, n, j->y + at);
    }
    return status;
}

static dnnl_status_t run_widened(const job *j, size_t at, size_t width)
{
    const matrix *w = j->w;
    float *block = (float *)(void *)(j->mm->scratch + kvp_pool_lane() * j->mm->lane_bytes);
    dnnl_status_t status = dnnl_success;
    for (size_t end = at + width, rows; at < end && status == dnnl_success; at += rows) {
        rows = min_size(end - at, widen_rows(w));
        convert_bf16_to_f32((const uint16_t *)w->data + at * w->n_in, block, rows * w->n_in);
        status = sgemm(j, block, true, rows, j->y + at);
    }
    return status;
}

static dnnl_status_t execute(const job *j, const product *p, uint16_t *weights, float *y)
{
    uint32_t lane = kvp_pool_lane();
    const handles *h = &p->lanes[lane];
    unsigned char *scratch =
        j->mm->scratch + (lane + 1) * j->mm->lane_bytes - round_up(p->scratch_bytes, 64);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, h->x},
                                    {DNNL_ARG_WEIGHTS, h->w},
                                    {DNNL_ARG_DST, h->y},
                                    {DNNL_ARG_SCRATCHPAD, h->scratch}};
    dnnl_status_t status = dnnl_memory_set_data_handle(h->x, j->mm->x);
    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(h->w, weights);
    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(h->y, y);
    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(h->scratch, scratch);
    if (status == dnnl_success)
        status = dnnl_primitive_execute(p->primitive, j->mm->streams[lane], 4, args);
    if (status == dnnl_success)
        status = dnnl_stream_wait(j->mm->streams[lane]);
    return status;
}

/* Primitives write a dense strip; several rows of it go through scratch to where they belong. */
static dnnl_status_t run_bf16(const job *j, size_t at, size_t width)
{
    const product *p = width == j->whole->width ? j->whole : j->last;
    uint16_t *weights = (uint16_t *)j->w->data + at * j->w->n_in;
    if (j->m == 1)
        return execute(j, p, weights, j->y + at);
    float *strip = (float *)(void *)(j->mm->scratch + kvp_pool_lane() * j->mm->lane_bytes);
    dnnl_status_t status = execute(j, p, weights, strip);
    for (size_t i = 0; i < j->m && status == dnnl_success; i++)
        memcpy(j->y + i * j->w->n_out + at, strip + i * width, width * sizeof *strip);
    return status;
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
    size_t at = index * strip_width(j->w), width = min_size(strip_width(j->w), j->w->n_out - at);
    int before = omp_get_max_threads();
    omp_set_num_threads(1);
    dnnl_status_t status = !j->w->is_bf16    ? run_float(j, at, width)
                           : j->mm->has_bf16 ? run_bf16(j, at, width)
                                             : run_widened(j, at, width);
    omp_set_num_threads(before);
    if (status != dnnl_success)
        atomic_store(&j->status, (int)status);
    else if (j->w->bias)
        add_bias(j, at, width);
}

static kvp_status run_job(job *j)
{
    atomic_init(&j->status, (int)dnnl_success);
    kvp_pool_run(j->mm->pool, n_strips(j->w), run_strip, j);
    return check((dnnl_status_t)atomic_load(&j->status), "a matrix product");
}

static kvp_status apply_bf16(const job *whole)
{
    const matrix *w = whole->w;
    kvp_status status = KVP_OK;
    for (size_t at = 0, rows; at < whole->m && !status; at += rows) {
        unsigned log2_rows = piece_of(whole->m - at);
        rows = (size_t)1 << log2_rows;
        convert_f32_to_bf16(whole->x + at * w->n_in, whole->mm->x, rows * w->n_in);
        job piece = {.mm = whole->mm,
                     .w = w,
                     .m = rows,
                     .y = whole->y + at * w->n_out,
                     .whole = find_product(whole->mm, w->n_in, strip_width(w), log2_rows),
                     .last = find_product(whole->mm, w->n_in, last_width(w), log2_rows)};
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
    return w->is_bf16 && mm->has_bf16 ? apply_bf16(&j) : run_job(&j);
}

/* Rows that oneDNN's kernels have in a step are alike, and those that are left over: from AVX2's
 * steps of 6, up to 3 that are left over are added up in another order. bf16 is cut into pieces. */
size_t matmul_fair_rows(const matmul *mm, const matrix *w, size_t m)
{
    size_t rows = m;
    if (w->is_bf16 && mm->has_bf16) {
        for (rows = 1; rows < m;)
            rows *= 2;
        return rows;
    }
    while (rows > 6 && rows % 6 >= 1 && rows % 6 <= 3)
        rows++;
    return rows;
}
