/* products_dnnl.c - oneDNN's inner product, as fast as it can be. */
#include "products_dnnl.h"

#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>

#include "limits.h"

/* From libgomp, which Debian's oneDNN runs on: clang does not find gcc's omp.h. */
void omp_set_num_threads(int n);

struct dnnl_product {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t primitive;
    dnnl_memory_t x, w, y;
    size_t weights_bytes, n_matrices;
    char *weights;
};

static void check(dnnl_status_t status)
{
    if (status == dnnl_success)
        return;
    fprintf(stderr, "bench_products: oneDNN: status %d\n", (int)status);
    exit(1);
}

dnnl_product *dnnl_product_new(size_t n_in, size_t n_out, size_t m, kvp_dtype dtype,
                               size_t n_matrices, uint32_t n_threads)
{
    const dnnl_data_type_t type = dtype == KVP_F32 ? dnnl_f32 : dnnl_bf16;
    const dnnl_dims_t x = {(int64_t)m, (int64_t)n_in}, w = {(int64_t)n_out, (int64_t)n_in},
                      y = {(int64_t)m, (int64_t)n_out};
    dnnl_memory_desc_t x_desc, w_desc, y_desc;
    dnnl_inner_product_desc_t desc;
    dnnl_primitive_desc_t made;
    if (dtype == KVP_F16)
        return NULL;
    omp_set_num_threads((int)n_threads);
    dnnl_product *p = calloc(1, sizeof *p);
    if (!p)
        exit(1);
    check(dnnl_engine_create(&p->engine, dnnl_cpu, 0));
    check(dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags));
    check(dnnl_memory_desc_init_by_tag(&x_desc, 2, x, type, dnnl_ab));
    check(dnnl_memory_desc_init_by_tag(&w_desc, 2, w, type, dnnl_format_tag_any));
    check(dnnl_memory_desc_init_by_tag(&y_desc, 2, y, dnnl_f32, dnnl_ab));
    check(dnnl_inner_product_forward_desc_init(&desc, dnnl_forward_inference, &x_desc, &w_desc,
                                               NULL, &y_desc));
    if (dnnl_primitive_desc_create(&made, &desc, NULL, p->engine, NULL) != dnnl_success) {
        dnnl_product_free(p);
        return NULL;
    }
    const dnnl_memory_desc_t *chosen = dnnl_primitive_desc_query_md(made, dnnl_query_weights_md, 0);
    p->weights_bytes = (dnnl_memory_desc_get_size(chosen) + 63) & ~(size_t)63;
    p->n_matrices = n_matrices;
    p->weights = limits_map(p->weights_bytes * n_matrices);
    for (size_t i = 0; i < p->weights_bytes * n_matrices; i += 4096)
        p->weights[i] = 1;
    check(dnnl_memory_create(&p->w, chosen, p->engine, DNNL_MEMORY_NONE));
    check(dnnl_memory_create(&p->x, &x_desc, p->engine, DNNL_MEMORY_NONE));
    check(dnnl_memory_create(&p->y, &y_desc, p->engine, DNNL_MEMORY_NONE));
    check(dnnl_primitive_create(&p->primitive, made));
    dnnl_primitive_desc_destroy(made);
    return p;
}

void dnnl_product_free(dnnl_product *p)
{
    if (!p)
        return;
    if (p->weights) {
        dnnl_primitive_destroy(p->primitive);
        dnnl_memory_destroy(p->x);
        dnnl_memory_destroy(p->w);
        dnnl_memory_destroy(p->y);
        limits_unmap(p->weights, p->weights_bytes * p->n_matrices);
    }
    dnnl_stream_destroy(p->stream);
    dnnl_engine_destroy(p->engine);
    free(p);
}

void dnnl_product_run(dnnl_product *p, size_t matrix, void *x, float *y)
{
    const dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, p->x}, {DNNL_ARG_WEIGHTS, p->w}, {DNNL_ARG_DST, p->y}};
    check(dnnl_memory_set_data_handle(p->x, x));
    check(dnnl_memory_set_data_handle(p->w, p->weights + matrix * p->weights_bytes));
    check(dnnl_memory_set_data_handle(p->y, y));
    check(dnnl_primitive_execute(p->primitive, p->stream, 3, args));
    check(dnnl_stream_wait(p->stream));
}
