/* decoder_weights.c - the tensors of a decoder: one walk over them, done three times.
 *
 * The first pass checks the files (so a lying config fails before memory is taken), the second lays
 * the tensors out in one block, the third converts them into it, on all threads, and lets go of
 * each one's part of the mapping. */
#include "integration/models/tensor_walk.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGN_BYTES ((size_t)64)
#define LOAD_ROWS ((size_t)48)
#define PART_BYTES ((size_t)2 << 20)
#define MAX_KNOWN 40

typedef struct loader {
    tensor_walk walk;
    const weights_source *source;
    kvp_pool *pool;
    unsigned char *block;
    size_t used; /* bytes of the block that are laid out */
    /* Names that the first pass called for: within layer 0, and outside the layers. */
    char known[MAX_KNOWN][TENSOR_NAME_BYTES];
    size_t n_known;
} loader;

static kvp_status walk(loader *l, decoder_weights *w, kvp_status (*visit)(void *, const weight *))
{
    l->walk.visit = visit;
    l->walk.opaque = l;
    return tensor_walk_run(&l->walk, w);
}

/* ---- first pass: is it there? ---------------------------------------------------------------- */

static const char *config_name(const loader *l)
{
    return tensor_walk_is_gguf(&l->walk) ? "the metadata" : "config.json";
}

static void print_shape(char *text, size_t n, uint32_t rank, const uint64_t *shape)
{
    size_t used = (size_t)snprintf(text, n, "[");
    for (uint32_t i = 0; i < rank && used < n; i++)
        used += (size_t)snprintf(text + used, n - used, "%s%llu", i ? ", " : "",
                                 (unsigned long long)shape[i]);
    if (used < n)
        snprintf(text + used, n - used, "]");
}

/* Any other would turn every logit into NaN. */
static kvp_status check_rope_dividers(const loader *l, const tensor *t)
{
    float *dividers = malloc((size_t)t->n_elements * sizeof *dividers);
    kvp_status status = KVP_OK;
    if (!dividers)
        return kvp_fail(KVP_E_NOMEM, "out of memory: loading tensor \"%s\"", t->name);
    weights_read_rows(t, 0, 1, dividers);
    for (uint64_t i = 0; i < t->n_elements && !status; i++) {
        if (!isfinite(dividers[i]) || dividers[i] <= 0)
            status = kvp_fail(KVP_E_CORRUPT,
                              "%s: tensor \"%s\": element %llu, which divides a frequency, is %g; "
                              "it must be above 0: fetch the file again",
                              l->source->path, t->name, (unsigned long long)i, (double)dividers[i]);
    }
    free(dividers);
    return status;
}

static kvp_status check_weight(void *opaque, const weight *w)
{
    loader *l = opaque;
    const char *path = l->source->path, *part;
    const tensor *t = weights_find(l->source->weights, w->name);
    unsigned long layer;
    if (!t)
        return kvp_fail(KVP_E_INVALID, "%s: tensor \"%s\", which %s calls for, is missing", path,
                        w->name, config_name(l));
    bool is_same = t->rank == w->rank;
    for (uint32_t i = 0; i < w->rank && is_same; i++)
        is_same = t->shape[i] == w->shape[i];
    if (!is_same) {
        char has[192], wants[64];
        print_shape(has, sizeof has, t->rank, t->shape);
        print_shape(wants, sizeof wants, w->rank, w->shape);
        return kvp_fail(KVP_E_INVALID, "%s: tensor \"%s\" has the shape %s; %s calls for %s", path,
                        w->name, has, config_name(l), wants);
    }
    if (!t->is_readable)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: tensor \"%s\" is %s; F32, F16, BF16, and in GGUF Q8_0, Q4_0, Q4_1, "
                        "Q4_K and Q6_K are supported",
                        path, w->name, t->dtype);
    part = tensor_walk_layer_part(&l->walk, w->name, &layer);
    if ((!part || layer == 0) && l->n_known < MAX_KNOWN)
        snprintf(l->known[l->n_known++], sizeof l->known[0], "%s", part ? part : w->name);
    return strcmp(w->name, TENSOR_ROPE_DIVIDERS) == 0 ? check_rope_dividers(l, t) : KVP_OK;
}

static bool is_known(const loader *l, const char *name)
{
    for (size_t i = 0; i < l->n_known; i++) {
        if (strcmp(name, l->known[i]) == 0)
            return true;
    }
    for (const char *const *ignored = l->walk.names->ignored; *ignored; ignored++) {
        if (strcmp(name, *ignored) == 0)
            return true;
    }
    return false;
}

/* What a layer has that this forward would leave out changes the model: an error. In a folder,
 * tensors outside the layers (a tied head, heads of other tasks) do not; a GGUF file has only what
 * its forward needs. */
static kvp_status check_extra(const loader *l, const tensor *t)
{
    unsigned long layer = 0;
    const char *part = tensor_walk_layer_part(&l->walk, t->name, &layer);
    bool is_strict = tensor_walk_is_gguf(&l->walk) || strcmp(t->name, "lm_head.bias") == 0;
    if ((part || is_strict) && !is_known(l, part ? part : t->name))
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: tensor \"%.100s\" is not part of %s%s",
                        l->source->path, t->name, part ? "a layer of " : "",
                        l->source->arch->model_type);
    if (part && layer >= l->source->config->n_layers)
        return kvp_fail(KVP_E_INVALID, "%s: tensor \"%.100s\" contradicts %s, which has %u layers",
                        l->source->path, t->name, config_name(l), l->source->config->n_layers);
    return KVP_OK;
}

static kvp_status check_files(loader *l, decoder_weights *w)
{
    const weights *files = l->source->weights;
    kvp_status status = walk(l, w, check_weight);
    for (size_t i = 0; i < weights_count(files) && !status; i++)
        status = check_extra(l, weights_at(files, i));
    return status;
}

/* ---- second pass: where ---------------------------------------------------------------------- */

/* With no block yet, this only adds up. Of an array or matrix in parts, the first part takes the
 * room. */
static kvp_status place_weight(void *opaque, const weight *w)
{
    loader *l = opaque;
    if (w->first)
        return KVP_OK;
    size_t bytes = w->matrix ? matrix_bytes(w->matrix) : w->n_floats * sizeof(float);
    if (l->block && w->matrix)
        w->matrix->data = l->block + l->used;
    else if (l->block)
        *w->floats = (float *)(void *)(l->block + l->used);
    l->used += (bytes + ALIGN_BYTES - 1) & ~(ALIGN_BYTES - 1);
    return KVP_OK;
}

static kvp_status allocate(loader *l, decoder_weights *w)
{
    kvp_status status = walk(l, w, place_weight);
    w->real_bytes = l->used;
    if (!status && l->source->hollow_layers) {
        l->walk.n_layers = l->source->hollow_layers;
        l->used = 0;
        status = walk(l, w, place_weight);
    }
    if (status)
        return status;
    size_t bytes = l->used;
    void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes of weights: %s", bytes,
                        strerror(errno));
    (void)madvise(block, bytes, MADV_HUGEPAGE); /* a hint: fewer TLB misses while streaming */
    w->block = l->block = block;
    w->block_bytes = bytes;
    l->used = 0;
    return walk(l, w, place_weight);
}

/* ---- third pass: what ------------------------------------------------------------------------ */

/* The row of the file that becomes row i. */
static uint64_t source_row(const loader *l, const weight *w, uint64_t i)
{
    uint64_t dim = l->source->config->head_dim, half = dim / 2, at = i % dim;
    if (!w->is_interleaved)
        return i;
    return i - at + (at < half ? 2 * at : 2 * (at - half) + 1);
}

static kvp_status load_floats(const loader *l, const weight *w, const tensor *t)
{
    float *to = *w->floats + w->first;
    if (!w->is_interleaved) {
        weights_read_rows(t, 0, w->rank == 1 ? 1 : w->shape[0], to);
        return KVP_OK;
    }
    float *from = malloc(w->shape[0] * sizeof *from);
    if (!from)
        return kvp_fail(KVP_E_NOMEM, "out of memory: loading tensor \"%s\"", w->name);
    weights_read_rows(t, 0, 1, from);
    for (uint64_t i = 0; i < w->shape[0]; i++)
        to[i] = from[source_row(l, w, i)];
    free(from);
    return KVP_OK;
}

/* A matrix on its way. Threads share it out in parts of about PART_BYTES: if several touched a new
 * huge page at a time, the kernel would clear it for each of them. A part goes in portions of
 * LOAD_ROWS through a buffer that stays in cache. */
typedef struct matrix_job {
    const loader *l;
    const weight *w;
    const tensor *t;
    float *buffers;        /* [threads][LOAD_ROWS][width] */
    size_t part_rows;      /* a multiple of LOAD_ROWS */
    atomic_bool overflows; /* f16 does not hold a weight */
} matrix_job;

static bool fits_f16(const float *rows, size_t n)
{
    bool fits = true;
    for (size_t i = 0; i < n; i++)
        fits = fits && (fabsf(rows[i]) <= 65504 || !isfinite(rows[i]));
    return fits;
}

static void load_rows(matrix_job *j, size_t at, size_t n, float *rows)
{
    const weight *w = j->w;
    if (!w->is_interleaved)
        weights_read_rows(j->t, at, n, rows);
    for (size_t i = 0; i < n && w->is_interleaved; i++)
        weights_read_rows(j->t, source_row(j->l, w, at + i), 1, rows + i * (size_t)w->shape[1]);
    if (w->matrix->dtype == KVP_F16 && !fits_f16(rows, n * (size_t)w->shape[1]))
        atomic_store(&j->overflows, true);
    matrix_put(w->matrix, w->first + at, n, rows);
}

static void load_part(void *arg, size_t index)
{
    matrix_job *j = arg;
    size_t n_rows = (size_t)j->w->shape[0], at = index * j->part_rows;
    size_t end = n_rows - at < j->part_rows ? n_rows : at + j->part_rows;
    float *rows = j->buffers + kvp_pool_lane() * LOAD_ROWS * (size_t)j->w->shape[1];
    for (size_t n; at < end; at += n) {
        n = end - at < LOAD_ROWS ? end - at : LOAD_ROWS;
        load_rows(j, at, n, rows);
    }
}

static kvp_status load_matrix(const loader *l, const weight *w, const tensor *t)
{
    size_t portion = LOAD_ROWS * (size_t)w->shape[1];
    matrix_job j = {.l = l, .w = w, .t = t};
    j.buffers = malloc(kvp_pool_threads(l->pool) * portion * sizeof *j.buffers);
    if (!j.buffers)
        return kvp_fail(KVP_E_NOMEM, "out of memory: loading tensor \"%s\"", w->name);
    j.part_rows = (PART_BYTES / (portion * sizeof *j.buffers) + 1) * LOAD_ROWS;
    kvp_pool_run(l->pool, ((size_t)w->shape[0] + j.part_rows - 1) / j.part_rows, load_part, &j);
    free(j.buffers);
    if (atomic_load(&j.overflows))
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: tensor \"%s\" has weights beyond 65504, which f16 cannot hold: keep "
                        "weights as f32 or bf16",
                        l->source->path, w->name);
    return KVP_OK;
}

static kvp_status load_weight(void *opaque, const weight *w)
{
    loader *l = opaque;
    const tensor *t = weights_find(l->source->weights, w->name);
    kvp_status status = w->matrix ? load_matrix(l, w, t) : load_floats(l, w, t);
    weights_release(l->source->weights, t);
    return status;
}

/* Numbers of about the size of real ones, so that nothing overflows or becomes denormal. */
static kvp_status fill_weight(void *opaque, const weight *w)
{
    (void)opaque;
    uint32_t state = 1;
    size_t n = w->matrix ? LOAD_ROWS * (size_t)w->shape[1] : (w->first ? 0 : w->n_floats);
    float *numbers = w->matrix ? malloc(n * sizeof *numbers) : *w->floats;
    if (!numbers)
        return kvp_fail(KVP_E_NOMEM, "out of memory: filling tensor \"%s\"", w->name);
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        numbers[i] = ((float)(state >> 8) / (float)(1 << 24) - 0.5f) / 16;
    }
    if (!w->matrix)
        return KVP_OK;
    for (uint64_t at = 0; at < w->shape[0]; at += LOAD_ROWS)
        matrix_put(w->matrix, w->first + (size_t)at,
                   w->shape[0] - at < LOAD_ROWS ? (size_t)(w->shape[0] - at) : LOAD_ROWS, numbers);
    free(numbers);
    return KVP_OK;
}

/* ---- all of it ------------------------------------------------------------------------------- */

kvp_status decoder_weights_load(const weights_source *source, kvp_pool *pool, decoder_weights *out)
{
    uint32_t n_layers = source->config->n_layers;
    loader l = {.source = source, .pool = pool, .walk = tensor_walk_of(source)};
    decoder_weights w = {.layers = calloc(n_layers, sizeof *w.layers)};
    if (!w.layers)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %u layers", n_layers);
    kvp_status status = check_files(&l, &w);
    if (!status)
        status = allocate(&l, &w);
    if (!status)
        status = walk(&l, &w, source->hollow_layers ? fill_weight : load_weight);
    if (status) {
        decoder_weights_fini(&w);
        return status;
    }
    *out = w;
    return KVP_OK;
}

void decoder_weights_fini(decoder_weights *w)
{
    if (w->block)
        munmap(w->block, w->block_bytes);
    free(w->layers);
    *w = (decoder_weights){0};
}
