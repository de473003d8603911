/* linear.c - code that knows nothing of pages reads the cache of a head as one array.
 *
 * foreign_attend() stands for such code, a BLAS or somebody's kernel: it takes K and V as
 * contiguous rows. Linear views give it that in a fraction of the memory. Its results are compared
 * with kvp_attend().
 * Exit status 1 if they differ, 77 where the kernel has no userfaultfd for us. */
#include <kvpager.h>

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N_HEADS = 4, DIM = 64, N_TOKENS = 20000, CHUNK = 500 };

static void check(kvp_status status)
{
    if (!status)
        return;
    fprintf(stderr, "linear: %s\n", kvp_error());
    exit(status == KVP_E_UNSUPPORTED ? 77 : 1);
}

/* out = softmax(scale * K q) V. Shapes: k, v [n][DIM], q, out [DIM]; scores is room for n. */
static void foreign_attend(const float *k, const float *v, size_t n, const float *q, float *scores,
                           float *out)
{
    float max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) {
        scores[i] = 0;
        for (size_t d = 0; d < DIM; d++)
            scores[i] += k[i * DIM + d] * q[d];
        scores[i] *= 0.125f;
        max = fmaxf(max, scores[i]);
    }
    for (size_t d = 0; d < DIM; d++)
        out[d] = 0;
    for (size_t i = 0; i < n; i++) {
        float p = expf(scores[i] - max);
        sum += p;
        for (size_t d = 0; d < DIM; d++)
            out[d] += p * v[i * DIM + d];
    }
    for (size_t d = 0; d < DIM; d++)
        out[d] /= sum;
}

static void fill(float *x, size_t n)
{
    static uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) / (float)(1u << 23) - 1;
    }
}

static kvp_linear open_view(kvp_seq *seq, uint32_t head, kvp_plane plane)
{
    kvp_linear view;
    kvp_linear_args args = {.kv_head = head, .plane = plane, .max_bytes = 512u << 10};
    check(kvp_linear_open(seq, &args, &view));
    return view;
}

int main(void)
{
    static float k[CHUNK * N_HEADS * DIM], v[CHUNK * N_HEADS * DIM], scores[N_TOKENS];
    float q[N_HEADS * DIM], theirs[N_HEADS * DIM], mine[DIM], worst = 0;
    kvp_config cfg = kvp_config_default();
    cfg.geometry =
        (kvp_geometry){.n_layers = 1, .n_kv_heads = N_HEADS, .head_dim = DIM, .dtype = KVP_F32};
    cfg.ram_bytes = 5u << 20;    /* for 39 MiB of KV */
    cfg.linear_bytes = 1u << 20; /* of those: for views */
    cfg.disk_bytes = KVP_UNLIMITED;

    kvp_pager *pager;
    kvp_seq *seq;
    check(kvp_pager_open(&cfg, &pager));
    check(kvp_seq_create(pager, &seq));
    for (int t = 0; t < N_TOKENS; t += CHUNK) {
        fill(k, CHUNK * N_HEADS * DIM);
        fill(v, CHUNK * N_HEADS * DIM);
        check(kvp_seq_append(seq, 0, k, v, CHUNK));
    }
    fill(q, N_HEADS * DIM);
    kvp_attend_args args = {
        .q = q, .out = theirs, .n_queries = 1, .n_heads = N_HEADS, .scale = 0.125f};
    check(kvp_attend(seq, 0, &args));

    for (uint32_t head = 0; head < N_HEADS; head++) {
        kvp_linear keys = open_view(seq, head, KVP_PLANE_K);
        kvp_linear values = open_view(seq, head, KVP_PLANE_V);
        foreign_attend(keys.base, values.base, keys.n_rows, q + head * DIM, scores, mine);
        kvp_linear_close(&keys);
        kvp_linear_close(&values);
        for (size_t d = 0; d < DIM; d++) {
            float difference = fabsf(mine[d] - theirs[head * DIM + d]);
            if (!(difference <= 1e-5f)) { /* so that NaN fails */
                fprintf(stderr, "linear: head %" PRIu32 ": %g here, %g by kvp_attend()\n", head,
                        (double)mine[d], (double)theirs[head * DIM + d]);
                return 1;
            }
            worst = fmaxf(worst, difference);
        }
    }
    kvp_stats stats = {.size = sizeof stats};
    check(kvp_pager_stats(pager, &stats));
    kvp_pager_close(pager);
    printf("largest difference from kvp_attend() %.1e; RAM %" PRIu64 " of %" PRIu64
           " KiB at most; %" PRIu64 " touches of what was not there\n",
           (double)worst, stats.ram_peak_bytes >> 10, stats.ram_budget_bytes >> 10,
           stats.linear_faults);
    return stats.linear_evictions > 0 && stats.major_faults > 0 ? 0 : 1;
}
