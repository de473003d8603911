/* matmul.c - products with weight matrices, through oneDNN; the only file that includes it.
 *
 * float32 goes through dnnl_sgemm on the weights as they lie. Measured (2 cores of an AVX-512 EPYC,
 * 33.9 GB/s read bandwidth, GPT-2's shapes): one row runs at 26 to 29 GB/s, 128 rows at 225
 * GFLOP/s; matmul primitives on weights reordered into oneDNN's own layout gained at most 7 % for
 * one row and nothing for many, so weights stay plain and the embedding table serves as output
 * matrix too.
 *
 * bf16 goes through inner-product primitives where the CPU multiplies bf16 (24 to 29 GB/s of half
 * the bytes, 330 to 410 GFLOP/s). They are made for a fixed number of rows: m is cut into powers of
 * two, so a few primitives per shape, made once, serve every m without padding. Elsewhere blocks of
 * weights are widened into scratch that fits a cache, and sgemm does the rest.
 *
 * Invariant: primitives belong to shapes, not to matrices; handles are set on each call. */
#include "integration/models/matmul.h"

#include <dnnl.h>
#include <stdlib.h>
#include <string.h>

#include "integration/models/convert.h"

/* From libgomp, which Debian's oneDNN runs on. Declared here: clang does not find gcc's omp.h, and
 * nothing else of OpenMP is used. */
void omp_set_num_threads(int n);
int omp_get_num_procs(void);

#define MAX_LOG2_ROWS 7u /* the largest piece of a bf16 product: 128 rows */
#define WIDEN_ELEMENTS ((size_t)128 << 10)

/* A bf16 product of 2^log2_rows rows with matrices of one shape. */
typedef struct product {
    size_t n_in, n_out;
    bool is_out_major;
    unsigned log2_rows;
    dnnl_primitive_t primitive;
    dnnl_memory_t x, w, y;
} product;

struct matmul {
    int n_threads;
    bool has_bf16; /* the CPU multiplies bf16 */
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    product *products; /* [n_products] */
    size_t n_products, products_capacity;
    void *scratch; /* x as bf16, or a block of weights as float */
    size_t scratch_bytes;
};

size_t matrix_elements(const matrix *w)
{
    return w->n_in * w->n_out;
}

size_t matrix_bytes(const matrix *w)
{
    return matrix_elements(w) * (w->is_bf16 ? sizeof(uint16_t) : sizeof(float));
}

void matrix_row(const matrix *w, size_t i, float *row)
{
    size_t width = w->is_out_major ? w->n_in : w->n_out;
    if (w->is_bf16)
        convert_bf16_to_f32((const uint16_t *)w->data + i * width, row, width);
    else
        memcpy(row, (const float *)w->data + i * width, width * sizeof *row);
}

/* ---- life ---------------------------------------------------------------------------------------
 */

static kvp_status check(dnnl_status_t status, const char *what)
{
    if (status == dnnl_success)
        return KVP_OK;
    if (status == dnnl_out_of_memory)
        return kvp_fail(KVP_E_NOMEM, "out of memory: oneDNN, %s", what);
    return kvp_fail(KVP_E_UNSUPPORTED, "oneDNN cannot do %s here (status %d)", what, (int)status);
}

kvp_status matmul_open(uint32_t n_threads, matmul **out)
{
    matmul *mm = calloc(1, sizeof *mm);
    if (!mm)
        return kvp_fail(KVP_E_NOMEM, "out of memory: matrix products");
    mm->n_threads = n_threads ? (int)(n_threads < 1024 ? n_threads : 1024) : omp_get_num_procs();
    unsigned isa = (unsigned)dnnl_get_effective_cpu_isa();
    unsigned bf16 = (unsigned)dnnl_cpu_isa_avx512_core_bf16;
    mm->has_bf16 = (isa & bf16) == bf16;
    kvp_status status = check(dnnl_engine_create(&mm->engine, dnnl_cpu, 0), "a CPU engine");
    if (!status)
        status = check(dnnl_stream_create(&mm->stream, mm->engine, dnnl_stream_default_flags),
                       "a stream");
    if (status) {
        matmul_close(mm);
        return status;
    }
    *out = mm;
    return KVP_OK;
}

static void fini_product(product *p)
{
    if (p->primitive)
        dnnl_primitive_destroy(p->primitive);
    if (p->x)
        dnnl_memory_destroy(p->x);
    if (p->w)
        dnnl_memory_destroy(p->w);
    if (p->y)
        dnnl_memory_destroy(p->y);
}

void matmul_close(matmul *mm)
{
    if (!mm)
        return;
    for (size_t i = 0; i < mm->n_products; i++)
        fini_product(&mm->products[i]);
    free(mm->products);
    free(mm->scratch);
    if (mm->stream)
        dnnl_stream_destroy(mm->stream);
    if (mm->engine)
        dnnl_engine_destroy(mm->engine);
    free(mm);
}

size_t matmul_scratch_bytes(const matmul *mm)
{
    return mm->scratch_bytes;
}

/* ---- bf16 primitives ----------------------------------------------------------------------------
 */

/* Descriptions of x, w and y: oneDNN writes an inner product's weights as [n_out][n_in]. */
static kvp_status describe(const product *p, dnnl_memory_desc_t *x, dnnl_memory_desc_t *w,
                           dnnl_memory_desc_t *y)
{
    int64_t rows = (int64_t)1 << p->log2_rows;
    int64_t n_in = (int64_t)p->n_in, n_out = (int64_t)p->n_out;
    const dnnl_dims_t x_dims = {rows, n_in}, w_dims = {n_out, n_in}, y_dims = {rows, n_out};
    dnnl_format_tag_t order = p->is_out_major ? dnnl_ab : dnnl_ba;
    kvp_status status =
        check(dnnl_memory_desc_init_by_tag(x, 2, x_dims, dnnl_bf16, dnnl_ab), "a bf16 input");
    if (!status)
        status =
            check(dnnl_memory_desc_init_by_tag(w, 2, w_dims, dnnl_bf16, order), "bf16 weights");
    if (!status)
        status =
            check(dnnl_memory_desc_init_by_tag(y, 2, y_dims, dnnl_f32, dnnl_ab), "a float output");
    return status;
}

static kvp_status make_primitive(const matmul *mm, product *p, const dnnl_memory_desc_t *x,
                                 const dnnl_memory_desc_t *w, const dnnl_memory_desc_t *y)
{
    dnnl_inner_product_desc_t desc;
    dnnl_primitive_desc_t primitive_desc;
    kvp_status status =
        check(dnnl_inner_product_forward_desc_init(&desc, dnnl_forward_inference, x, w, NULL, y),
              "bf16 products");
    if (!status)
        status = check(dnnl_primitive_desc_create(&primitive_desc, &desc, NULL, mm->engine, NULL),
                       "bf16 products");
    if (status)
        return status;
    status = check(dnnl_primitive_create(&p->primitive, primitive_desc), "bf16 products");
    dnnl_primitive_desc_destroy(primitive_desc);
    return status;
}

static kvp_status init_product(const matmul *mm, product *p)
{
    dnnl_memory_desc_t x, w, y;
    kvp_status status = describe(p, &x, &w, &y);
    if (!status)
        status = make_primitive(mm, p, &x, &w, &y);
    if (!status)
        status = check(dnnl_memory_create(&p->x, &x, mm->engine, DNNL_MEMORY_NONE), "an input");
    if (!status)
        status = check(dnnl_memory_create(&p->w, &w, mm->engine, DNNL_MEMORY_NONE), "weights");
    if (!status)
        status = check(dnnl_memory_create(&p->y, &y, mm->engine, DNNL_MEMORY_NONE), "an output");
    if (status)
        fini_product(p);
    return status;
}

static kvp_status find_product(matmul *mm, const matrix *w, unsigned log2_rows, product **out)
{
    for (size_t i = 0; i < mm->n_products; i++) {
        product *p = &mm->products[i];
        if (p->n_in == w->n_in && p->n_out == w->n_out && p->is_out_major == w->is_out_major &&
            p->log2_rows == log2_rows) {
            *out = p;
            return KVP_OK;
        }
    }
    if (mm->n_products == mm->products_capacity) {
        size_t capacity = mm->products_capacity ? mm->products_capacity * 2 : 16;
        product *products = realloc(mm->products, capacity * sizeof *products);
        if (!products)
            return kvp_fail(KVP_E_NOMEM, "out of memory: %zu matrix products", capacity);
        mm->products = products;
        mm->products_capacity = capacity;
    }
    product *p = &mm->products[mm->n_products];
    *p = (product){.n_in = w->n_in,
                   .n_out = w->n_out,
                   .is_out_major = w->is_out_major,
                   .log2_rows = log2_rows};
    kvp_status status = init_product(mm, p);
    if (status)
        return status;
    mm->n_products++;
    *out = p;
    return KVP_OK;
}

static kvp_status run_product(const matmul *mm, const product *p, const matrix *w, void *x,
                              float *y)
{
    kvp_status status = check(dnnl_memory_set_data_handle(p->x, x), "setting an input");
    if (!status)
        status = check(dnnl_memory_set_data_handle(p->w, w->data), "setting weights");
    if (!status)
        status = check(dnnl_memory_set_data_handle(p->y, y), "setting an output");
    const dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, p->x}, {DNNL_ARG_WEIGHTS, p->w}, {DNNL_ARG_DST, p->y}};
    if (!status)
        status = check(dnnl_primitive_execute(p->primitive, mm->stream, 3, args), "a bf16 product");
    if (!status)
        status = check(dnnl_stream_wait(mm->stream), "a bf16 product");
    return status;
}

/* ---- the three ways -----------------------------------------------------------------------------
 */

/* The largest power of two that m has room for. */
static unsigned piece_of(size_t m)
{
    unsigned log2_rows = 0;
    while (log2_rows < MAX_LOG2_ROWS && (size_t)2 << log2_rows <= m)
        log2_rows++;
    return log2_rows;
}

static kvp_status apply_bf16(matmul *mm, const matrix *w, const float *x, size_t m, float *y)
{
    kvp_status status = KVP_OK;
    for (size_t rows; m && !status; m -= rows, x += rows * w->n_in, y += rows * w->n_out) {
        unsigned log2_rows = piece_of(m);
        rows = (size_t)1 << log2_rows;
        product *p;
        status = find_product(mm, w, log2_rows, &p);
        if (status)
            return status;
        convert_f32_to_bf16(x, mm->scratch, rows * w->n_in);
        status = run_product(mm, p, w, mm->scratch, y);
    }
    return status;
}

static kvp_status sgemm(const matrix *w, const float *weights, size_t n_in, size_t n_out,
                        const float *x, size_t m, float beta, float *y)
{
    int64_t weights_stride = (int64_t)(w->is_out_major ? w->n_in : w->n_out);
    return check(dnnl_sgemm('N', w->is_out_major ? 'T' : 'N', (int64_t)m, (int64_t)n_out,
                            (int64_t)n_in, 1.0f, x, (int64_t)w->n_in, weights, weights_stride, beta,
                            y, (int64_t)w->n_out),
                 "a float product");
}

/* Rows of the weights, as they lie, that one block of scratch takes. */
static size_t widen_rows(const matrix *w)
{
    size_t width = w->is_out_major ? w->n_in : w->n_out;
    return WIDEN_ELEMENTS > width ? WIDEN_ELEMENTS / width : 1;
}

static kvp_status apply_widened(matmul *mm, const matrix *w, const float *x, size_t m, float *y)
{
    size_t height = w->is_out_major ? w->n_out : w->n_in;
    size_t width = w->is_out_major ? w->n_in : w->n_out;
    kvp_status status = KVP_OK;
    for (size_t at = 0, rows; at < height && !status; at += rows) {
        rows = height - at < widen_rows(w) ? height - at : widen_rows(w);
        convert_bf16_to_f32((const uint16_t *)w->data + at * width, mm->scratch, rows * width);
        if (w->is_out_major) /* these rows make some columns of y */
            status = sgemm(w, mm->scratch, w->n_in, rows, x, m, 0.0f, y + at);
        else /* these rows add to all of y */
            status = sgemm(w, mm->scratch, rows, w->n_out, x + at, m, at ? 1.0f : 0.0f, y);
    }
    return status;
}

static void add_bias(const matrix *w, size_t m, float *y)
{
    for (size_t i = 0; i < m; i++, y += w->n_out) {
        for (size_t j = 0; j < w->n_out; j++)
            y[j] += w->bias[j];
    }
}

static size_t scratch_needed(const matmul *mm, const matrix *w, size_t m)
{
    if (!w->is_bf16)
        return 0;
    if (!mm->has_bf16)
        return widen_rows(w) * (w->is_out_major ? w->n_in : w->n_out) * sizeof(float);
    return ((size_t)1 << piece_of(m)) * w->n_in * sizeof(uint16_t);
}

kvp_status matmul_reserve(matmul *mm, const matrix *w, size_t m)
{
    omp_set_num_threads(mm->n_threads); /* primitives are made for a number of threads */
    size_t bytes = (scratch_needed(mm, w, m) + 63) & ~(size_t)63;
    if (bytes > mm->scratch_bytes) {
        void *scratch = aligned_alloc(64, bytes);
        if (!scratch)
            return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes for matrix products", bytes);
        free(mm->scratch);
        mm->scratch = scratch;
        mm->scratch_bytes = bytes;
    }
    kvp_status status = KVP_OK;
    for (unsigned i = 0; w->is_bf16 && mm->has_bf16 && i <= piece_of(m) && !status; i++) {
        product *p;
        status = find_product(mm, w, i, &p);
    }
    return status;
}

kvp_status matmul_apply(matmul *mm, const matrix *w, const float *x, size_t m, float *y)
{
    kvp_status status = matmul_reserve(mm, w, m);
    if (status || !m)
        return status;
    if (!w->is_bf16)
        status = sgemm(w, w->data, w->n_in, w->n_out, x, m, 0.0f, y);
    else if (mm->has_bf16)
        status = apply_bf16(mm, w, x, m, y);
    else
        status = apply_widened(mm, w, x, m, y);
    if (!status && w->bias)
        add_bias(w, m, y);
    return status;
}
