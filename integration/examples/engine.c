/* engine.c - an inference engine with an attention kernel of its own, on kvpager's pages.
 *
 * Eight sequences take turns. A turn resumes a sequence: for each layer it appends the KV of new
 * tokens, pins the layer's pages and runs the engine's kernel over them. Between its turns a
 * sequence is parked. Nobody says so: the budget holds about two sequences, so the pager moves
 * the pages of those that wait to disk and brings them back when they are pinned.
 *
 * The kernel's results are compared with kvp_attend(). Exit status 1 if they differ, or if nothing
 * was moved. */
#include <kvpager.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    N_SEQS = 8,
    N_TURNS = 6,
    N_LAYERS = 2,
    N_KV_HEADS = 4,
    HEADS_PER_KV = 2, /* query heads that share a KV head */
    N_HEADS = N_KV_HEADS * HEADS_PER_KV,
    HEAD_DIM = 64,
    PROMPT_TOKENS = 150,
    TURN_TOKENS = 30,
    MAX_TOKENS = PROMPT_TOKENS + N_TURNS * TURN_TOKENS,
    MAX_PAGES = 64,
};

static const float scale = 0.125f; /* 1 / sqrt(HEAD_DIM) */
static const float tolerance = 1e-5f;

static void check(kvp_status status)
{
    if (status) {
        fprintf(stderr, "engine: %s\n", kvp_error());
        exit(1);
    }
}

/* Stands for a model: n pseudo-random numbers in [-1, 1), the same in every run. */
static void fill(float *x, size_t n)
{
    static uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) / (float)(1u << 23) - 1;
    }
}

/* The pages of one head group, in order of position. */
typedef struct lane {
    const kvp_page_view *pages;
    size_t n_pages;
} lane;

/* scores[i] = scale * q . k[i] over the pages of `l`; returns how many. */
static size_t score(const lane *l, uint32_t head, const float *q, float *scores)
{
    size_t n = 0;
    for (size_t p = 0; p < l->n_pages; p++) {
        const float *k = kvp_page_k(&l->pages[p], head);
        for (uint32_t row = 0; row < l->pages[p].n_valid; row++, k += HEAD_DIM) {
            float dot = 0;
            for (int d = 0; d < HEAD_DIM; d++)
                dot += q[d] * k[d];
            scores[n++] = scale * dot;
        }
    }
    return n;
}

static void softmax(float *x, size_t n)
{
    float max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        max = fmaxf(max, x[i]);
    for (size_t i = 0; i < n; i++)
        sum += x[i] = expf(x[i] - max);
    for (size_t i = 0; i < n; i++)
        x[i] /= sum;
}

/* out = sum of weights[i] * v[i]. */
static void mix(const lane *l, uint32_t head, const float *weights, float *out)
{
    for (int d = 0; d < HEAD_DIM; d++)
        out[d] = 0;
    for (size_t p = 0; p < l->n_pages; p++) {
        const float *v = kvp_page_v(&l->pages[p], head);
        for (uint32_t row = 0; row < l->pages[p].n_valid; row++, v += HEAD_DIM, weights++)
            for (int d = 0; d < HEAD_DIM; d++)
                out[d] += *weights * v[d];
    }
}

/* The engine's kernel: attention of the newest token to every token.
 * Shapes: q, out [N_HEADS][HEAD_DIM]. */
static void attend(kvp_seq *seq, uint32_t layer, const float *q, float *out)
{
    static float weights[MAX_TOKENS];
    kvp_page_view pages[MAX_PAGES];
    kvp_view view = {.pages = pages, .max_pages = MAX_PAGES};
    check(kvp_seq_pin(seq, layer, 0, kvp_seq_layer_length(seq, layer), KVP_FOREVER, &view));
    for (size_t group = 0; group < view.n_groups; group++) {
        size_t n_pages = view.n_pages / view.n_groups;
        lane l = {.pages = pages + group * n_pages, .n_pages = n_pages};
        for (uint32_t i = 0; i < l.pages->n_heads; i++) {
            uint32_t first = (l.pages->first_head + i) * HEADS_PER_KV;
            for (uint32_t h = first; h < first + HEADS_PER_KV; h++) {
                size_t n = score(&l, i, q + h * HEAD_DIM, weights);
                softmax(weights, n);
                mix(&l, i, weights, out + h * HEAD_DIM);
            }
        }
    }
    kvp_view_unpin(&view);
}

/* Resume `seq` for n tokens. Returns the largest difference from kvp_attend(), having checked it.
 */
static float take_turn(kvp_seq *seq, size_t n)
{
    static float k[MAX_TOKENS * N_KV_HEADS * HEAD_DIM], v[MAX_TOKENS * N_KV_HEADS * HEAD_DIM];
    float q[N_HEADS * HEAD_DIM], mine[N_HEADS * HEAD_DIM] = {0}, theirs[N_HEADS * HEAD_DIM];
    float difference = 0;
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        fill(k, n * N_KV_HEADS * HEAD_DIM);
        fill(v, n * N_KV_HEADS * HEAD_DIM);
        fill(q, N_HEADS * HEAD_DIM);
        check(kvp_seq_append(seq, layer, k, v, n));
        attend(seq, layer, q, mine);
        kvp_attend_args args = {
            .q = q, .out = theirs, .n_queries = 1, .n_heads = N_HEADS, .scale = scale};
        check(kvp_attend(seq, layer, &args));
        for (int i = 0; i < N_HEADS * HEAD_DIM; i++) {
            difference = fmaxf(difference, fabsf(mine[i] - theirs[i]));
            if (!(fabsf(mine[i] - theirs[i]) <= tolerance)) { /* so that NaN fails */
                fprintf(stderr, "engine: layer %" PRIu32 ": %g here, %g by kvp_attend()\n", layer,
                        (double)mine[i], (double)theirs[i]);
                exit(1);
            }
        }
    }
    return difference;
}

int main(void)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = N_LAYERS, .n_kv_heads = N_KV_HEADS, .head_dim = HEAD_DIM, .dtype = KVP_F32};
    cfg.ram_bytes = 3u << 20;
    cfg.disk_bytes = KVP_UNLIMITED;

    kvp_pager *pager;
    kvp_seq *seqs[N_SEQS];
    check(kvp_pager_open(&cfg, &pager));
    for (int s = 0; s < N_SEQS; s++)
        check(kvp_seq_create(pager, &seqs[s]));

    float worst = 0;
    for (int turn = 0; turn <= N_TURNS; turn++)
        for (int s = 0; s < N_SEQS; s++)
            worst = fmaxf(worst, take_turn(seqs[s], turn ? TURN_TOKENS : PROMPT_TOKENS));

    kvp_stats stats = {.size = sizeof stats};
    check(kvp_pager_stats(pager, &stats));
    kvp_pager_close(pager); /* and with it the sequences */
    printf("%d sequences of %d tokens: largest difference from kvp_attend() %.1e\n", N_SEQS,
           MAX_TOKENS, (double)worst);
    printf("RAM %" PRIu64 " of %" PRIu64 " KiB at most, disk %" PRIu64 " KiB; %" PRIu64
           " pages moved down, %" PRIu64 " faults\n",
           stats.ram_peak_bytes >> 10, stats.ram_budget_bytes >> 10, stats.disk_peak_bytes >> 10,
           stats.demotions, stats.major_faults);
    return stats.demotions > 0 && stats.major_faults > 0 ? 0 : 1;
}
