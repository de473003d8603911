/* bench_decode_paged.c - a decode step with KV larger than RAM, against what is possible.
 *
 * No model: per layer a row is appended and attended, then as many bytes are summed as a layer has
 * weights. The same steps run over a pager that holds all KV in RAM and over one that holds a
 * fraction, turn by turn with reads of a bare io_uring loop. The bound is
 *
 *     max(step all in RAM, (KV - budget) / raw bandwidth)
 *
 * with the raw bandwidth at its best over block sizes and depths, in the same repetition. */
#include "harness.h"
#include "raw_read.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvpager.h"

static const bench_spec spec = {
    .name = "decode_paged",
    .summary = "ms of a decode step, KV in RAM against KV under a budget, and the bound",
    .details = "The defaults have the shape of SmolLM2-135M with float32 weights.",
    .options = {{"--tokens", "N", "tokens of context", "7900"},
                {"--layers", "N", "layers of 3 KV heads of 64 floats, 9 query heads, f16", "30"},
                {"--budget", "N", "RAM is KV / N", "4"},
                {"--layer-kib", "N", "weights of a layer that a step reads", "13830"},
                {"--head-kib", "N", "weights that it reads after the last layer", "110592"},
                {"--steps", "N", "decode steps in a sample", "4"},
                {"--threads", "N", "threads that compute", "2"}},
};

#define KV_HEADS 3u
#define HEADS 9u
#define DIM 64u
#define PAGE_BYTES (2 * 64 * KV_HEADS * DIM * 2)
#define CHUNK 256u
#define MAX_LAYERS 128u

/* One way to keep the KV. */
typedef struct contender {
    kvp_pager *pager;
    kvp_seq *seq;
    float out[HEADS * DIM]; /* of the last attention, compared between contenders */
} contender;

typedef struct work {
    bench *b;
    uint32_t n_layers, budget, n_steps;
    uint64_t n_tokens, kv_bytes;
    size_t layer_bytes, head_bytes;
    kvp_pool *pool;
    char *weights; /* [n_layers * layer_bytes + head_bytes] */
    contender ram, paged;
    uint64_t random;
} work;

static double die(const char *what)
{
    fprintf(stderr, "bench_decode_paged: %s: %s\n", what, kvp_error());
    exit(1);
}

static void must(kvp_status status, const char *what)
{
    if (status)
        die(what);
}

/* ---- what a step computes ---------------------------------------------------------------------*/

typedef struct stream {
    const char *from;
    size_t bytes;
} stream;

#define PIECE ((size_t)256 << 10)

typedef float lanes __attribute__((vector_size(64)));

static void sum_piece(void *arg, size_t i)
{
    const stream *s = arg;
    size_t left = s->bytes - i * PIECE, n = (left < PIECE ? left : PIECE) / sizeof(lanes);
    const lanes *p = (const lanes *)(s->from + i * PIECE);
    lanes sum[4] = {0};
    for (size_t j = 0; j + 4 <= n; j += 4)
        for (size_t k = 0; k < 4; k++)
            sum[k] += p[j + k];
    bench_keep(sum);
}

/* Read weights as a matrix product of one row does: once, in pieces that threads share. */
static void read_weights(const work *w, size_t offset, size_t bytes)
{
    stream s = {w->weights + offset, bytes};
    kvp_pool_run(w->pool, (bytes + PIECE - 1) / PIECE, sum_piece, &s);
}

static void make_rows(work *w, float *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        rows[i] = (float)(bench_random(&w->random) >> 40) / (float)(1 << 23) - 1.0f;
}

static void append(contender *c, uint32_t layer, const float *rows, size_t n)
{
    must(kvp_seq_append(c->seq, layer, rows, rows + n * KV_HEADS * DIM, n), "append");
}

static void attend(contender *c, uint32_t layer, const float *q)
{
    kvp_attend_args args = {
        .q = q, .out = c->out, .n_queries = 1, .n_heads = HEADS, .scale = 0.125f};
    must(kvp_attend(c->seq, layer, &args), "attend");
}

/* One token through all layers; the stream of random numbers decides what it holds. */
static void step(work *w, contender *c)
{
    float rows[2 * KV_HEADS * DIM], q[HEADS * DIM];
    for (uint32_t l = 0; l < w->n_layers; l++) {
        make_rows(w, rows, 2 * KV_HEADS * DIM);
        make_rows(w, q, HEADS * DIM);
        append(c, l, rows, 1);
        attend(c, l, q);
        read_weights(w, l * w->layer_bytes, w->layer_bytes);
    }
    read_weights(w, w->n_layers * w->layer_bytes, w->head_bytes);
}

/* ms per step, from the random state `seed`. */
static double run_steps(work *w, contender *c, uint64_t seed)
{
    w->random = seed;
    uint64_t start_ns = bench_now_ns();
    for (uint32_t i = 0; i < w->n_steps; i++)
        step(w, c);
    return (double)(bench_now_ns() - start_ns) / 1e6 / w->n_steps;
}

/* ---- setting up -------------------------------------------------------------------------------*/

static void open_contender(work *w, contender *c, uint64_t ram_bytes)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = w->n_layers, .n_kv_heads = KV_HEADS, .head_dim = DIM, .dtype = KVP_F16};
    cfg.pool = w->pool;
    cfg.ram_bytes = ram_bytes;
    cfg.disk_bytes = ram_bytes == KVP_UNLIMITED ? 0 : KVP_UNLIMITED;
    must(kvp_pager_open(&cfg, &c->pager), "opening a pager");
    must(kvp_seq_create(c->pager, &c->seq), "creating a sequence");
}

/* Layer by layer, as prefill does. */
static void fill(work *w, contender *c)
{
    float *rows = malloc(CHUNK * 2 * KV_HEADS * DIM * sizeof *rows);
    if (!rows)
        die("out of memory");
    w->random = 20260114;
    for (uint32_t l = 0; l < w->n_layers; l++)
        for (uint64_t t = 0; t < w->n_tokens; t += CHUNK) {
            size_t n = w->n_tokens - t < CHUNK ? (size_t)(w->n_tokens - t) : CHUNK;
            make_rows(w, rows, n * 2 * KV_HEADS * DIM);
            append(c, l, rows, n);
        }
    free(rows);
}

static void set_up(work *w)
{
    bench *b = w->b;
    w->n_layers = (uint32_t)bench_option_num(b, "--layers");
    w->n_tokens = b->quick ? 1000 : bench_option_num(b, "--tokens");
    w->budget = (uint32_t)bench_option_num(b, "--budget");
    w->n_steps = b->quick ? 1 : (uint32_t)bench_option_num(b, "--steps");
    w->layer_bytes = (b->quick ? 256 : bench_option_num(b, "--layer-kib")) << 10;
    w->head_bytes = (b->quick ? 256 : bench_option_num(b, "--head-kib")) << 10;
    if (!w->n_layers || w->n_layers > MAX_LAYERS || !w->n_tokens || !w->budget || !w->n_steps) {
        fprintf(stderr,
                "bench_decode_paged: layers (at most %u), tokens, budget and steps must be "
                "at least 1\n",
                MAX_LAYERS);
        exit(2);
    }
    w->kv_bytes = (w->n_tokens + 63) / 64 * PAGE_BYTES * w->n_layers;
    size_t n = w->n_layers * w->layer_bytes + w->head_bytes;
    w->weights = aligned_alloc(4096, (n + 4095) / 4096 * 4096);
    if (!w->weights)
        die("out of memory");
    memset(w->weights, 0, n);
    must(kvp_pool_open((uint32_t)bench_option_num(b, "--threads"), NULL, NULL, &w->pool),
         "threads");
    open_contender(w, &w->ram, KVP_UNLIMITED);
    open_contender(w, &w->paged, w->kv_bytes / w->budget);
    fill(w, &w->ram);
    fill(w, &w->paged);
}

/* ---- measuring --------------------------------------------------------------------------------*/

/* The best of block sizes (a page, a group of neighbours, more) and depths. */
static double raw_bandwidth(raw_file *f, raw_shape *best)
{
    static const raw_shape shapes[] = {
        {PAGE_BYTES, 8},     {PAGE_BYTES, 16},     {PAGE_BYTES, 32},     {5 * PAGE_BYTES, 4},
        {5 * PAGE_BYTES, 8}, {5 * PAGE_BYTES, 16}, {20 * PAGE_BYTES, 2}, {20 * PAGE_BYTES, 4}};
    double top = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        double figure = raw_read(f, shapes[i]);
        if (figure > top) {
            top = figure;
            *best = shapes[i];
        }
    }
    return top;
}

static kvp_stats stats_of(const contender *c)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(c->pager, &s), "statistics");
    return s;
}

static void measure(work *w, raw_file *f)
{
    bench *b = w->b;
    bench_case *raw = bench_case_new(b, "raw", "GB/s");
    bench_case *ram = bench_case_new(b, "step_in_ram", "ms");
    bench_case *paged = bench_case_new(b, "step_paged", "ms");
    bench_case *bound = bench_case_new(b, "bound", "ms");
    bench_case *reached = bench_case_new(b, "bound_over_paged", "");
    bench_param_num(paged, "ram_of_kv", 1.0 / w->budget);
    bench_versus(paged, ram);
    raw_shape best = {0};
    kvp_stats before = {0};
    for (uint32_t rep = 0; rep <= b->reps; rep++) { /* the first warms up */
        double gb_s = raw_bandwidth(f, &best);
        double ram_ms = run_steps(w, &w->ram, rep + 1);
        before = stats_of(&w->paged);
        double paged_ms = run_steps(w, &w->paged, rep + 1);
        if (memcmp(w->ram.out, w->paged.out, sizeof w->ram.out))
            bench_fail(b, "the paged result differs from that in RAM");
        uint64_t absent = w->kv_bytes - w->kv_bytes / w->budget;
        double bound_ms = fmax(ram_ms, gb_s > 0 ? (double)absent / gb_s / 1e6 : 0);
        if (!rep)
            continue;
        bench_add(raw, gb_s);
        bench_add(ram, ram_ms);
        bench_add(paged, paged_ms);
        bench_add(bound, bound_ms);
        bench_add(reached, bound_ms / paged_ms);
    }
    kvp_stats after = stats_of(&w->paged);
    bench_note(b, "raw: best with blocks of %zu KiB, %u in flight", best.block_bytes >> 10,
               best.depth);
    bench_note(b, "KV %.1f MB, budget %.1f MB; read per step %.1f MB; %s",
               (double)w->kv_bytes / 1e6, (double)(w->kv_bytes / w->budget) / 1e6,
               (double)(after.bytes_read - before.bytes_read) / 1e6 / w->n_steps,
               after.disk_engine);
    uint64_t n_faults = after.major_faults - before.major_faults;
    uint64_t n_direct = after.direct_reclaims - before.direct_reclaims;
    bench_note(b, "faults per step %.1f, %.1f of them read ahead; %.3f %% found no clean frame",
               (double)n_faults / w->n_steps,
               (double)(after.prefetches - before.prefetches) / w->n_steps,
               n_faults ? 100.0 * (double)n_direct / (double)n_faults : 0.0);
}

int main(int argc, char **argv)
{
    bench b;
    int code;
    if (bench_init(&b, &spec, argc, argv, &code))
        return code;
    setenv("TMPDIR", b.dir, 1); /* where the swap file goes */
    work w = {.b = &b};
    set_up(&w);
    raw_file *f = raw_open(b.dir, b.quick ? (size_t)8 << 20 : (size_t)192 << 20);
    if (!f)
        bench_fail(&b, "no bare io_uring here: there is no bound to compare with");
    else if (!raw_is_direct(f))
        bench_note(&b, "no O_DIRECT in %s: these are figures of the page cache", b.dir);
    if (f)
        measure(&w, f);
    raw_close(f);
    kvp_pager_close(w.ram.pager);
    kvp_pager_close(w.paged.pager);
    kvp_pool_close(w.pool);
    free(w.weights);
    return bench_finish(&b);
}
