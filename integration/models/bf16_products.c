/* bf16_products.c - oneDNN's inner products of bf16, by shape.
 *
 * Invariants:
 *  1. Primitives belong to shapes, not to matrices, and are shared by all lanes; memory objects and
 *     streams belong to one lane (thread) each. */
#include "integration/models/bf16_products.h"

#include <dnnl.h>
#include <stdlib.h>

/* One lane's view of a product. */
typedef struct handles {
    dnnl_memory_t x, w, y, scratch;
} handles;

struct bf16_product {
    size_t n_in, width;
    unsigned log2_rows;
    dnnl_primitive_t primitive;
    handles *lanes; /* [n_lanes] */
    size_t scratch_bytes;
};

struct bf16_products {
    uint32_t n_lanes;
    dnnl_engine_t engine;
    dnnl_stream_t *streams; /* [n_lanes] */
    bf16_product *products; /* [n_products] */
    size_t n_products, capacity;
};

/* ---- life ------------------------------------------------------------------------------------ */

bool bf16_products_work_here(void)
{
    unsigned isa = (unsigned)dnnl_get_effective_cpu_isa();
    unsigned bf16 = (unsigned)dnnl_cpu_isa_avx512_core_bf16;
    return (isa & bf16) == bf16;
}

static kvp_status check(dnnl_status_t status, const char *what)
{
    if (status == dnnl_success)
        return KVP_OK;
    if (status == dnnl_out_of_memory)
        return kvp_fail(KVP_E_NOMEM, "out of memory: oneDNN, %s", what);
    return kvp_fail(KVP_E_UNSUPPORTED, "oneDNN cannot do %s here (status %d)", what, (int)status);
}

static kvp_status open_streams(bf16_products *b)
{
    kvp_status status = check(dnnl_engine_create(&b->engine, dnnl_cpu, 0), "a CPU engine");
    for (uint32_t i = 0; i < b->n_lanes && !status; i++)
        status = check(dnnl_stream_create(&b->streams[i], b->engine, dnnl_stream_default_flags),
                       "a stream");
    return status;
}

kvp_status bf16_products_open(uint32_t n_lanes, bf16_products **out)
{
    bf16_products *b = calloc(1, sizeof *b);
    if (b)
        b->streams = calloc(n_lanes, sizeof *b->streams);
    if (!b || !b->streams) {
        free(b);
        return kvp_fail(KVP_E_NOMEM, "out of memory: matrix products");
    }
    b->n_lanes = n_lanes;
    kvp_status status = open_streams(b);
    if (status) {
        bf16_products_close(b);
        return status;
    }
    *out = b;
    return KVP_OK;
}

static void destroy_memory(dnnl_memory_t memory)
{
    if (memory)
        dnnl_memory_destroy(memory);
}

static void fini_product(bf16_product *p, uint32_t n_lanes)
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

void bf16_products_close(bf16_products *b)
{
    if (!b)
        return;
    for (size_t i = 0; i < b->n_products; i++)
        fini_product(&b->products[i], b->n_lanes);
    free(b->products);
    for (uint32_t i = 0; i < b->n_lanes; i++) {
        if (b->streams[i])
            dnnl_stream_destroy(b->streams[i]);
    }
    free(b->streams);
    if (b->engine)
        dnnl_engine_destroy(b->engine);
    free(b);
}

/* ---- shapes ---------------------------------------------------------------------------------- */

typedef struct descriptions {
    dnnl_memory_desc_t x, w, y, scratch;
} descriptions;

static kvp_status describe(const bf16_product *p, dnnl_format_tag_t weights, descriptions *d)
{
    const int64_t rows = (int64_t)1 << p->log2_rows;
    const int64_t n_in = (int64_t)p->n_in, width = (int64_t)p->width;
    const dnnl_dims_t x = {rows, n_in}, w = {width, n_in}, y = {rows, width};
    kvp_status status =
        check(dnnl_memory_desc_init_by_tag(&d->x, 2, x, dnnl_bf16, dnnl_ab), "a bf16 input");
    if (!status)
        status =
            check(dnnl_memory_desc_init_by_tag(&d->w, 2, w, dnnl_bf16, weights), "bf16 weights");
    if (!status)
        status = check(dnnl_memory_desc_init_by_tag(&d->y, 2, y, dnnl_f32, dnnl_ab), "an output");
    return status;
}

/* Scratch is the caller's: oneDNN's own belongs to the thread that makes the primitive. */
static kvp_status make_primitive(const bf16_products *b, bf16_product *p, descriptions *d)
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
        status = check(dnnl_primitive_desc_create(&made, &desc, attr, b->engine, NULL), what);
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

/* The names of matrix.h's order, which AMX calls by another one, if it can read it at all. */
static dnnl_format_tag_t order_of_weights(size_t n_in)
{
    unsigned isa = (unsigned)dnnl_get_effective_cpu_isa();
    unsigned amx = (unsigned)dnnl_cpu_isa_avx512_core_amx;
    return (isa & amx) == amx && n_in % 32 == 0 ? dnnl_AB16b64a2b : dnnl_AB8b64a2b;
}

static kvp_status make_handles(const bf16_products *b, const descriptions *d, handles *h)
{
    static const char what[] = "memory objects";
    kvp_status status = check(dnnl_memory_create(&h->x, &d->x, b->engine, DNNL_MEMORY_NONE), what);
    if (!status)
        status = check(dnnl_memory_create(&h->w, &d->w, b->engine, DNNL_MEMORY_NONE), what);
    if (!status)
        status = check(dnnl_memory_create(&h->y, &d->y, b->engine, DNNL_MEMORY_NONE), what);
    if (!status)
        status =
            check(dnnl_memory_create(&h->scratch, &d->scratch, b->engine, DNNL_MEMORY_NONE), what);
    return status;
}

static kvp_status init_product(const bf16_products *b, bf16_product *p)
{
    descriptions d;
    p->lanes = calloc(b->n_lanes, sizeof *p->lanes);
    if (!p->lanes)
        return kvp_fail(KVP_E_NOMEM, "out of memory: matrix products");
    kvp_status status = describe(p, order_of_weights(p->n_in), &d);
    if (!status)
        status = make_primitive(b, p, &d);
    for (uint32_t i = 0; i < b->n_lanes && !status; i++)
        status = make_handles(b, &d, &p->lanes[i]);
    if (status)
        fini_product(p, b->n_lanes);
    return status;
}

const bf16_product *bf16_products_find(const bf16_products *b, size_t n_in, size_t width,
                                       unsigned log2_rows)
{
    for (size_t i = 0; i < b->n_products; i++) {
        const bf16_product *p = &b->products[i];
        if (p->n_in == n_in && p->width == width && p->log2_rows == log2_rows)
            return p;
    }
    return NULL;
}

kvp_status bf16_products_add(bf16_products *b, size_t n_in, size_t width, unsigned log2_rows)
{
    if (bf16_products_find(b, n_in, width, log2_rows))
        return KVP_OK;
    if (b->n_products == b->capacity) {
        size_t capacity = b->capacity ? b->capacity * 2 : 16;
        bf16_product *products = realloc(b->products, capacity * sizeof *products);
        if (!products)
            return kvp_fail(KVP_E_NOMEM, "out of memory: %zu matrix products", capacity);
        b->products = products;
        b->capacity = capacity;
    }
    bf16_product *p = &b->products[b->n_products];
    *p = (bf16_product){.n_in = n_in, .width = width, .log2_rows = log2_rows};
    kvp_status status = init_product(b, p);
    if (!status)
        b->n_products++;
    return status;
}

size_t bf16_products_scratch_bytes(const bf16_products *b)
{
    size_t bytes = 0;
    for (size_t i = 0; i < b->n_products; i++)
        bytes = b->products[i].scratch_bytes > bytes ? b->products[i].scratch_bytes : bytes;
    return bytes;
}

/* ---- one product ----------------------------------------------------------------------------- */

int bf16_product_run(const bf16_products *b, const bf16_product *p, uint32_t lane, uint16_t *x,
                     uint16_t *weights, float *y, void *scratch)
{
    const handles *h = &p->lanes[lane];
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, h->x},
                                    {DNNL_ARG_WEIGHTS, h->w},
                                    {DNNL_ARG_DST, h->y},
                                    {DNNL_ARG_SCRATCHPAD, h->scratch}};
    dnnl_status_t status = dnnl_memory_set_data_handle(h->x, x);
    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(h->w, weights);
    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(h->y, y);
    if (status == dnnl_success)
        status = dnnl_memory_set_data_handle(h->scratch, scratch);
    if (status == dnnl_success)
        status = dnnl_primitive_execute(p->primitive, b->streams[lane], 4, args);
    if (status == dnnl_success)
        status = dnnl_stream_wait(b->streams[lane]);
    return (int)status;
}
