/* attend_problem.c - problems for kvp_attend(), and attention computed in float64. Independent of
 * what it judges: it reads flat arrays, never pages. */
#include "tests/support/attend_problem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/support/kv_source.h"
#include "tests/support/round.h"

static uint64_t rng_state = PROBLEM_SEED;

static double uniform(void) /* [-1, 1), splitmix64 */
{
    uint64_t z = (rng_state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (double)((z ^ z >> 31) >> 11) * 0x1p-52 - 1;
}

void problem_seed(uint64_t seed)
{
    rng_state = seed;
}

/* ---- a case --------------------------------------------------------------------------- */

void *must_calloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    assert_non_null(p);
    return p;
}

static float *random_rows(size_t n, kvp_dtype dtype)
{
    float *x = must_calloc(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = round_to((float)uniform(), dtype);
    return x;
}

void problem_open(problem *p)
{
    const shape *s = &p->s;
    kv_source source = {
        .kind = {s->kv_heads, s->k_width, s->v_width, s->dtype},
        .page_tokens = s->page_tokens,
        .page_heads = s->page_heads,
        .n_tokens = s->n_tokens,
        .k = p->k,
        .v = p->v,
        .n_threads = s->n_threads,
        .runs_backwards = s->runs_backwards,
        .swaps_items = s->swaps_items,
        .ram_bytes = s->ram_bytes,
    };
    p->seq = kv_source_open(&source);
}

problem problem_make(shape s)
{
    s.kv_heads = s.kv_heads ? s.kv_heads : 2;
    s.group = s.group ? s.group : 1;
    s.k_width = s.k_width ? s.k_width : 64;
    s.v_width = s.v_width ? s.v_width : s.k_width;
    s.page_tokens = s.page_tokens ? s.page_tokens : 64;
    s.page_heads = s.page_heads ? s.page_heads : s.kv_heads;
    s.n_threads = s.n_threads ? s.n_threads : 2;
    problem p = {.s = s, .n_heads = (size_t)s.kv_heads * s.group};
    p.k = random_rows(s.n_tokens * s.kv_heads * s.k_width, s.dtype);
    p.v = random_rows(s.n_tokens * s.kv_heads * s.v_width, s.dtype);
    size_t q_stride = p.n_heads * s.k_width + s.stride_gap;
    size_t out_stride = p.n_heads * s.v_width + s.stride_gap;
    p.q = random_rows(s.n_queries * q_stride, KVP_F32);
    p.q_sinks = s.has_q_sinks ? random_rows(s.n_queries * q_stride, KVP_F32) : NULL;
    p.out = random_rows(s.n_queries * out_stride, KVP_F32);
    p.want = must_calloc(s.n_queries * out_stride, sizeof *p.want);
    problem_open(&p);
    p.n_pages = kvp_seq_page_count(p.seq, 0);
    p.mass = must_calloc(s.n_queries * p.n_heads * p.n_pages, sizeof *p.mass);
    p.want_mass = must_calloc(s.n_queries * p.n_heads * p.n_pages, sizeof *p.want_mass);
    p.args = (kvp_attend_args){
        .q = p.q,
        .out = p.out,
        .n_queries = s.n_queries,
        .n_heads = (uint32_t)p.n_heads,
        .scale = 1.0f / sqrtf((float)s.k_width),
        .role = s.n_queries > 8 ? KVP_PREFILL : KVP_DECODE,
        .q_stride = s.stride_gap ? q_stride : 0,
        .out_stride = s.stride_gap ? out_stride : 0,
        .positions = s.positions,
        .window = s.window,
        .sinks = s.sinks,
        .q_sinks = p.q_sinks,
        .page_mass = p.mass,
    };
    return p;
}

void problem_free(problem *p)
{
    kv_source_close(p->seq);
    free(p->k);
    free(p->v);
    free(p->q);
    free(p->q_sinks);
    free(p->out);
    free(p->mass);
    free(p->want);
    free(p->want_mass);
}

/* ---- the oracle ----------------------------------------------------------------------- */

/* The rule of attention.h, token by token: causal, and by whole pages inside the window. */
static bool sees(const shape *s, uint64_t position, size_t token)
{
    if (token > position || (token >= s->evict_begin && token < s->evict_end))
        return false;
    size_t first = token / s->page_tokens * s->page_tokens;
    size_t last = first + s->page_tokens - 1;
    last = last < s->n_tokens ? last : s->n_tokens - 1;
    return s->window == 0 || last + s->window > position || first < s->sinks;
}

/* Is a token scored with q_sinks? All of a page is, if any of it is a sink. */
static bool has_sink_query(const shape *s, size_t token)
{
    return s->has_q_sinks && token / s->page_tokens * s->page_tokens < s->sinks;
}

static uint64_t position_of(const shape *s, size_t query)
{
    return s->positions ? s->positions[query] : s->n_tokens - s->n_queries + query;
}

static void solve_row(const problem *p, size_t query, size_t head, double *score)
{
    const shape *s = &p->s;
    const size_t kv = head / s->group, n = s->n_tokens;
    const size_t q_at = query * (p->n_heads * s->k_width + s->stride_gap) + head * s->k_width;
    double *out = p->want + query * (p->n_heads * s->v_width + s->stride_gap) + head * s->v_width;
    double *mass = p->want_mass + (query * p->n_heads + head) * p->n_pages;
    double top = -INFINITY, sum = 0;
    for (size_t j = 0; j < n; j++) {
        const float *k = p->k + (j * s->kv_heads + kv) * s->k_width;
        const float *q = (has_sink_query(s, j) ? p->q_sinks : p->q) + q_at;
        double dot = 0;
        for (size_t d = 0; d < s->k_width; d++)
            dot += (double)q[d] * (double)k[d];
        score[j] = sees(s, position_of(s, query), j) ? dot * (double)p->args.scale : -INFINITY;
        top = fmax(top, score[j]);
    }
    for (size_t j = 0; j < n && top > -INFINITY; j++)
        sum += exp(score[j] - top);
    for (size_t j = 0; j < n && top > -INFINITY; j++) {
        double weight = exp(score[j] - top) / sum;
        mass[j / s->page_tokens] += weight;
        const float *v = p->v + (j * s->kv_heads + kv) * s->v_width;
        for (size_t c = 0; weight > 0 && c < s->v_width; c++)
            out[c] += weight * (double)v[c];
    }
}

void problem_solve(problem *p)
{
    double *score = must_calloc(p->s.n_tokens, sizeof *score);
    for (size_t i = 0; i < p->s.n_queries; i++)
        for (size_t h = 0; h < p->n_heads; h++)
            solve_row(p, i, h, score);
    free(score);
}

/* ---- running and comparing ------------------------------------------------------------ */

bool problem_use_isa(size_t i)
{
    static const char *const isas[PROBLEM_N_ISAS] = {"scalar", "avx2", "avx512"};
    setenv("KVP_ISA", isas[i], 1);
    return kvp_isa() != NULL;
}

void problem_run(problem *p)
{
    if (kvp_attend(p->seq, 0, &p->args))
        fail_msg("kvp_attend: %s", kvp_error());
}

static void assert_near(const float *got, const double *want, size_t n, double tolerance,
                        const char *what)
{
    for (size_t i = 0; i < n; i++) {
        double diff = fabs((double)got[i] - want[i]);
        bool ok = diff <= tolerance;
        if (!ok)
            fail_msg("%s[%zu] is %.9g, not %.9g (%s)", what, i, (double)got[i], want[i], kvp_isa());
    }
}

void problem_assert_solved(const problem *p)
{
    const shape *s = &p->s;
    const size_t row = p->n_heads * s->v_width, stride = row + s->stride_gap;
    for (size_t i = 0; i < s->n_queries; i++)
        assert_near(p->out + i * stride, p->want + i * stride, row, PROBLEM_TOLERANCE, "out");
    if (p->args.page_mass)
        assert_near(p->mass, p->want_mass, s->n_queries * p->n_heads * p->n_pages,
                    PROBLEM_TOLERANCE, "mass");
}

void problem_check(shape s)
{
    problem p = problem_make(s);
    problem_solve(&p);
    for (size_t i = 0; i < PROBLEM_N_ISAS; i++)
        for (kvp_attend_role role = KVP_DECODE; role <= KVP_PREFILL && problem_use_isa(i); role++) {
            p.args.role = role;
            problem_run(&p);
            problem_assert_solved(&p);
        }
    problem_free(&p);
}
