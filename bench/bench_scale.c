/* bench_scale.c - ns of CPU time per operation as sequences and KV grow, to a million and 1 TiB.
 *
 * The pager is the real one; its disk is simulated (tests/sim) and keeps no bytes: all KV is zero,
 * and a read gives zeros. What a fault verifies then is the checksum of a page of zeros under its
 * identity; that contents are right is for the tests. Waiting for the device takes no time, so what
 * is measured is the CPU's work: bookkeeping, and what has to be done to a page's bytes (zero a
 * frame, sum it). The latter does not depend on how much there is: `bytes` measures it alone.
 *
 * One population grows from level to level; operations hit random sequences. */
#define _GNU_SOURCE 1
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kvpager.h"
#include "tests/sim/sim.h"
#include "tiers/checksum.h"

#define PAGE_TOKENS 16u
#define WIDTH 64u /* of a head, in f16: 4 KiB per head and page */
#define MAX_LEVELS 8u

static const bench_spec spec = {
    .name = "scale",
    .summary = "ns of CPU time per operation against the number of sequences",
    .details = "append, truncate: a page. fork, destroy: a sequence with all its pages. fault: a\n"
               "page that is (almost always) not in RAM. failed: the same, and the disk fails.\n"
               "advise: that a page will be needed. stats: kvp_pager_stats().\n"
               "length: one look at a sequence, which is what the CPU's caches make of it; bytes:\n"
               "what append and fault do to the bytes of a page, without a pager.\n"
               "A million sequences of 16 pages take some 3 GiB of memory, and minutes.\n",
    .options = {{"--sequences", "N", "at most; each level has a tenth of the next", "1048576"},
                {"--pages", "N", "per sequence", "16"},
                {"--page-kib", "N", "4 to 1024; 4 shows the bookkeeping", "64"},
                {"--ram-pages", "N", "that RAM holds", "1024"},
                {"--ops", "N", "per sample", "2000"},
                {"--svg", "FILE", "draw it too (gnuplot)", ""}},
};

typedef enum op {
    APPEND,
    TRUNCATE,
    FORK,
    DESTROY,
    FAULT,
    FAILED,
    ADVISE,
    STATS,
    LENGTH,
    BYTES,
    N_OPS
} op;
static const char *const names[N_OPS] = {"append", "truncate", "fork",  "destroy", "fault",
                                         "failed", "advise",   "stats", "length",  "bytes"};

typedef struct scale {
    bench *b;
    sim world;
    kvp_pager *pager;
    kvp_seq **seqs, **forks; /* [n_max], [n_ops] */
    uint64_t n_seqs, n_max, n_pages;
    uint32_t n_ops, n_heads;
    uint64_t *picks; /* [n_ops]: sequences */
    uint64_t random;
    uint16_t *zeros; /* rows of all pages of a sequence */
    char *page;
    bench_case *cases[N_OPS][MAX_LEVELS];
    uint64_t level_seqs[MAX_LEVELS];
    uint32_t n_levels;
} scale;

/* Of this thread: nothing here waits, and what else the machine does is not counted. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void must(kvp_status status)
{
    if (!status)
        return;
    fprintf(stderr, "bench_scale: %s\n", kvp_error());
    exit(1);
}

static void *must_calloc(size_t n, size_t size)
{
    void *p = calloc(n, size);
    if (!p) {
        fprintf(stderr, "bench_scale: out of memory\n");
        exit(1);
    }
    return p;
}

/* ---- the population ---- */

static void append(scale *s, kvp_seq *seq, uint64_t n_pages)
{
    kvp_rows rows = {.k = s->zeros, .v = s->zeros, .dtype = KVP_F16};
    must(kvp_seq_append_rows(seq, 0, &rows, n_pages * PAGE_TOKENS));
}

static void grow_to(scale *s, uint64_t n)
{
    for (; s->n_seqs < n; s->n_seqs++) {
        must(kvp_seq_create(s->pager, &s->seqs[s->n_seqs]));
        append(s, s->seqs[s->n_seqs], s->n_pages);
    }
}

static void open_pager(scale *s, uint64_t page_kib, uint64_t ram_pages)
{
    const sim_device device = {
        .latency_ns = 80000, .bytes_per_s = 3000000000u, .n_channels = 16, .timeout_ns = 1};
    sim_init(&s->world, 1, &device);
    s->n_heads = (uint32_t)(page_kib / 4);
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = 1,
                                  .n_kv_heads = s->n_heads,
                                  .head_dim = WIDTH,
                                  .dtype = KVP_F16,
                                  .page_tokens = PAGE_TOKENS,
                                  .page_heads = s->n_heads};
    cfg.ram_bytes = ram_pages * ((page_kib << 10) + 32);
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.n_threads = 1;
    cfg.env = &s->world.env;
    must(kvp_pager_open(&cfg, &s->pager));
}

/* ---- samples: ns per operation, over n_ops of them ---- */

static void pick_sequences(scale *s)
{
    for (uint32_t i = 0; i < s->n_ops; i++)
        s->picks[i] = bench_random(&s->random) % s->n_seqs;
}

static kvp_seq *picked(const scale *s, uint32_t i)
{
    return s->seqs[s->picks[i]];
}

static void add_sample(scale *s, op which, uint32_t level, uint64_t start_ns)
{
    bench_add(s->cases[which][level], (double)(cpu_ns() - start_ns) / s->n_ops);
}

static void sample_append(scale *s, uint32_t level)
{
    uint64_t start_ns = cpu_ns();
    for (uint32_t i = 0; i < s->n_ops; i++)
        append(s, picked(s, i), 1);
    add_sample(s, APPEND, level, start_ns);
    start_ns = cpu_ns();
    for (uint32_t i = 0; i < s->n_ops; i++)
        must(kvp_seq_truncate(picked(s, i), kvp_seq_length(picked(s, i)) - PAGE_TOKENS));
    add_sample(s, TRUNCATE, level, start_ns);
}

static void sample_fork(scale *s, uint32_t level)
{
    uint64_t start_ns = cpu_ns();
    for (uint32_t i = 0; i < s->n_ops; i++)
        must(kvp_seq_fork(picked(s, i), &s->forks[i]));
    add_sample(s, FORK, level, start_ns);
    start_ns = cpu_ns();
    for (uint32_t i = 0; i < s->n_ops; i++)
        kvp_seq_destroy(s->forks[i]);
    add_sample(s, DESTROY, level, start_ns);
}

static kvp_status touch(scale *s, uint32_t i)
{
    kvp_page_view page;
    kvp_view view = {.pages = &page, .max_pages = 1};
    uint64_t token = bench_random(&s->random) % (s->n_pages * PAGE_TOKENS);
    kvp_status status = kvp_seq_pin(picked(s, i), 0, token, 1, KVP_FOREVER, &view);
    kvp_view_unpin(&view);
    return status;
}

static void sample_fault(scale *s, uint32_t level)
{
    uint64_t start_ns = cpu_ns();
    for (uint32_t i = 0; i < s->n_ops; i++)
        must(touch(s, i));
    add_sample(s, FAULT, level, start_ns);
}

/* Writes are not there to fail: nothing was appended since they all went out. */
static void sample_failed(scale *s, uint32_t level)
{
    uint32_t n_failed = 0, rate = s->world.device.rates[SIM_EIO];
    s->world.device.rates[SIM_EIO] = 65536;
    uint64_t start_ns = cpu_ns();
    for (uint32_t i = 0; i < s->n_ops; i++)
        n_failed += touch(s, i) == KVP_E_IO;
    add_sample(s, FAILED, level, start_ns);
    s->world.device.rates[SIM_EIO] = rate;
    if (n_failed < s->n_ops / 4)
        bench_fail(s->b, "only %u of %u faults failed", n_failed, s->n_ops);
}

static void sample_advise(scale *s, uint32_t level)
{
    uint64_t start_ns = cpu_ns();
    for (uint32_t i = 0; i < s->n_ops; i++)
        must(kvp_seq_advise(picked(s, i), 0, 1, KVP_WILLNEED));
    add_sample(s, ADVISE, level, start_ns);
    for (uint32_t i = 0; i < s->n_ops; i++)
        must(kvp_seq_advise(picked(s, i), 0, 1, KVP_DONTNEED));
}

static void sample_stats(scale *s, uint32_t level)
{
    kvp_stats stats = {.size = sizeof stats};
    uint64_t start_ns = cpu_ns();
    for (uint32_t i = 0; i < s->n_ops; i++)
        must(kvp_pager_stats(s->pager, &stats));
    add_sample(s, STATS, level, start_ns);
}

/* A load from a place that was not used lately. */
static void sample_length(scale *s, uint32_t level)
{
    uint64_t sum = 0, start_ns = cpu_ns();
    for (uint32_t i = 0; i < s->n_ops; i++) /* each depends on the one before */
        sum += kvp_seq_length(s->seqs[(s->picks[i] + (sum & 1)) % s->n_seqs]);
    bench_keep(&sum);
    add_sample(s, LENGTH, level, start_ns);
}

/* Zero a page and sum it, each in another part of memory. */
static void sample_bytes(scale *s, uint32_t level)
{
    size_t n = (size_t)s->n_heads << 12;
    uint64_t sum = 0, start_ns = cpu_ns();
    for (uint32_t i = 0; i < s->n_ops; i++) {
        char *page = s->page + i % 1024 * n;
        memset(page, 0, n);
        sum += kvpi_checksum_raw(page, n, i);
    }
    bench_keep(&sum);
    add_sample(s, BYTES, level, start_ns);
}

static void run_level(scale *s, uint32_t level)
{
    for (uint32_t rep = 0; rep <= s->b->reps; rep++) {
        if (rep == 1) /* the first one warmed up */
            for (uint32_t i = 0; i < N_OPS; i++)
                s->cases[i][level]->n = 0;
        pick_sequences(s);
        sample_append(s, level);
        sample_fork(s, level);
        sample_fault(s, level);
        sample_failed(s, level);
        sample_advise(s, level);
        sample_stats(s, level);
        pick_sequences(s);
        sample_length(s, level);
        sample_bytes(s, level);
    }
}

/* ---- what comes of it ---- */

/* p, if the cost grew as (number of sequences)^p between two levels. */
static double exponent(const scale *s, op which, uint32_t from, uint32_t to)
{
    double cost = bench_min(s->cases[which][to]) / bench_min(s->cases[which][from]);
    return log(cost) / log((double)s->level_seqs[to] / (double)s->level_seqs[from]);
}

/* Up to a few MiB of tables the caches hide what memory costs; where that is over, a cost that does
 * not depend on the size has an exponent of 0, a logarithm one below 0.1, a search one of 1. */
static void describe(scale *s, op which)
{
    uint32_t last = s->n_levels - 1;
    double from = bench_min(s->cases[which][0]), to = bench_min(s->cases[which][last]);
    double p = exponent(s, which, last - 1, last);
    bench_note(s->b,
               "%-8s %7.0f ns -> %7.0f ns, x %.2f; n^%.2f in all, n^%.2f in the last step: %s",
               names[which], from, to, to / from, exponent(s, which, 0, last), p,
               p < 0.1    ? "flat or logarithmic"
               : p < 0.35 ? "caches"
                          : "GROWS");
}

static void describe_all(scale *s)
{
    kvp_stats stats = {.size = sizeof stats};
    must(kvp_pager_stats(s->pager, &stats));
    uint64_t n_pages = stats.pages[KVP_TIER_RAM] + stats.pages[KVP_TIER_DISK];
    bench_note(s->b, "%llu pages of %zu KiB, %.3f TiB of KV; tables %.1f bytes per page",
               (unsigned long long)n_pages, stats.slot_bytes >> 10,
               (double)n_pages * (double)stats.slot_bytes / (double)(1ull << 40),
               (double)stats.table_bytes / (double)n_pages);
    for (uint32_t i = 0; i < N_OPS && s->n_levels > 1; i++)
        describe(s, (op)i);
}

static void plot(const scale *s, const char *path)
{
    if (system("command -v gnuplot >/dev/null 2>&1") != 0) {
        bench_note(s->b, "no %s: gnuplot is not here (Debian: apt-get install gnuplot-nox)", path);
        return;
    }
    FILE *f = strchr(path, '\'') ? NULL : popen("gnuplot", "we");
    if (!f) {
        bench_fail(s->b, "cannot draw %s", path);
        return;
    }
    fprintf(f,
            "set terminal svg size 900,560 background 'white'\nset output '%s'\nset logscale xy\n"
            "set format x '10^{%%T}'\nset xlabel 'sequences of %llu pages'\n"
            "set ylabel 'ns per operation'\nset grid\nset key outside right\n",
            path, (unsigned long long)s->n_pages);
    for (uint32_t i = 0; i < N_OPS; i++) {
        fprintf(f, "$d%u << EOD\n", i);
        for (uint32_t level = 0; level < s->n_levels; level++)
            fprintf(f, "%llu %g\n", (unsigned long long)s->level_seqs[level],
                    bench_min(s->cases[i][level]));
        fprintf(f, "EOD\n");
    }
    for (uint32_t i = 0; i < N_OPS; i++)
        fprintf(f, "%s $d%u with linespoints lw 2 title '%s'", i ? "," : "plot", i, names[i]);
    fprintf(f, "\n");
    if (pclose(f))
        bench_fail(s->b, "gnuplot could not draw %s", path);
}

/* ---- main ---- */

static void make_levels(scale *s)
{
    uint64_t n = s->n_max;
    s->n_levels = 1;
    for (; n >= 10000 && s->n_levels < MAX_LEVELS; n /= 10)
        s->n_levels++;
    for (uint32_t i = s->n_levels; i-- > 0;)
        s->level_seqs[i] = i + 1 == s->n_levels ? s->n_max : s->level_seqs[i + 1] / 10;
    for (uint32_t i = 0; i < N_OPS; i++)
        for (uint32_t level = 0; level < s->n_levels; level++) {
            s->cases[i][level] = bench_case_new(s->b, names[i], "ns");
            bench_param_num(s->cases[i][level], "sequences", (double)s->level_seqs[level]);
        }
}

static void allocate(scale *s)
{
    s->seqs = must_calloc(s->n_max, sizeof *s->seqs);
    s->forks = must_calloc(s->n_ops, sizeof *s->forks);
    s->picks = must_calloc(s->n_ops, sizeof *s->picks);
    s->zeros = must_calloc(s->n_pages * PAGE_TOKENS * s->n_heads * WIDTH, sizeof *s->zeros);
    s->page = must_calloc(1024, (size_t)s->n_heads << 12);
}

int main(int argc, char **argv)
{
    bench b;
    int code;
    if (bench_init(&b, &spec, argc, argv, &code))
        return code;
    scale s = {.b = &b, .random = 1};
    uint64_t page_kib = bench_option_num(&b, "--page-kib");
    s.n_max = b.quick ? 10000 : bench_option_num(&b, "--sequences");
    s.n_pages = bench_option_num(&b, "--pages");
    s.n_ops = (uint32_t)bench_option_num(&b, "--ops");
    if (page_kib < 4 || page_kib > 1024 || page_kib % 4 || !s.n_pages || !s.n_ops ||
        s.n_max < 1000 || s.n_max > 100000000) {
        fprintf(stderr, "bench_scale: 1000 sequences at least, pages of 4 to 1024 KiB\n");
        return 2;
    }
    open_pager(&s, page_kib, bench_option_num(&b, "--ram-pages"));
    allocate(&s);
    make_levels(&s);
    for (uint32_t level = 0; level < s.n_levels; level++) {
        grow_to(&s, s.level_seqs[level]);
        run_level(&s, level);
    }
    describe_all(&s);
    if (*bench_option_str(&b, "--svg"))
        plot(&s, bench_option_str(&b, "--svg"));
    kvp_pager_close(s.pager);
    if (s.world.violation[0])
        bench_fail(&b, "disk: %s", s.world.violation);
    sim_fini(&s.world);
    free(s.seqs);
    free(s.forks);
    free(s.picks);
    free(s.zeros);
    free(s.page);
    return bench_finish(&b);
}
