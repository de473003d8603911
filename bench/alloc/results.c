/* results.c - the tables and the bars. */
#include "bench/alloc/results.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the kinds that are general allocators. */
#define FIRST_GENERAL 1
#define LAST_GENERAL 5

const bench_alloc_case *bench_alloc_find(const bench_alloc_results *r, const char *pattern,
                                         size_t kib, uint32_t n_threads)
{
    for (size_t i = 0; i < r->n; i++)
        if (!strcmp(r->cases[i].pattern, pattern) && r->cases[i].block_bytes == kib << 10 &&
            r->cases[i].n_threads == n_threads)
            return &r->cases[i];
    return NULL;
}

double bench_alloc_median(const bench_alloc_case *c, size_t kind)
{
    return c && c->entries[kind] && c->entries[kind]->n ? bench_median(c->entries[kind]) : NAN;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_alloc_cycles(const bench_alloc_case *c, size_t kind)
{
    double sorted[BENCH_ALLOC_MAX_CYCLES];
    size_t n = c->n_cycles[kind];
    if (!n)
        return NAN;
    memcpy(sorted, c->cycles[kind], n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_doubles);
    return sorted[n / 2];
}

/* ---- tables -----------------------------------------------------------------------------------*/

static void print_number(double value, const char *format)
{
    char text[24] = "-";
    if (isfinite(value))
        snprintf(text, sizeof text, format, value);
    printf(" %12s", text);
}

/* Three digits, whatever the size. */
static const char *format_of(double value)
{
    return value < 10 ? "%.2f" : value < 100 ? "%.1f" : "%.0f";
}

/* Every timed case of one size: a row per allocator, ns and cycles. */
static void print_size(const bench_alloc_results *r, size_t kib)
{
    const bench_alloc_case *columns[32];
    size_t n = 0;
    for (size_t i = 0; i < r->n && n < 32; i++)
        if (r->cases[i].block_bytes == kib << 10)
            columns[n++] = &r->cases[i];
    printf("%-18s", "");
    for (size_t i = 0; i < n; i++) {
        char head[32];
        bool is_share = strcmp(columns[i]->pattern, "waste") == 0 ||
                        strcmp(columns[i]->pattern, "fragmentation") == 0;
        snprintf(head, sizeof head, is_share ? "%.12s" : "%.7s %uT", columns[i]->pattern,
                 columns[i]->n_threads);
        printf(" %12s", !strcmp(head, "fragmentatio") ? "fragmented" : head);
    }
    printf("\n");
    for (size_t kind = 0; kind < BENCH_ALLOC_KINDS; kind++) {
        printf("%-18s", bench_alloc_kinds[kind].label);
        for (size_t i = 0; i < n; i++) {
            double value = bench_alloc_median(columns[i], kind);
            bool is_share =
                columns[i]->entries[kind] && !strcmp(columns[i]->entries[kind]->unit, "fraction");
            print_number(is_share ? 100 * value : value, is_share ? "%.2f %%" : format_of(value));
        }
        printf("\n");
    }
}

/* ns per cycle of the calibration loops, and how far samples lie apart. */
static void print_noise(const bench_alloc_results *r)
{
    double spread[BENCH_ALLOC_MAX_CASES], fastest = INFINITY, slowest = 0;
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        const bench_alloc_case *c = &r->cases[i];
        if (!c->entries[0] || !c->n_cycles[0])
            continue;
        spread[n++] = bench_p95(c->entries[0]) / bench_min(c->entries[0]);
        for (size_t kind = 0; kind < BENCH_ALLOC_KINDS; kind++)
            if (c->n_cycles[kind] && c->second[kind] > 0) {
                fastest = c->second[kind] < fastest ? c->second[kind] : fastest;
                slowest = c->second[kind] > slowest ? c->second[kind] : slowest;
            }
    }
    if (!n)
        return;
    qsort(spread, n, sizeof *spread, compare_doubles);
    printf("\nnoise: the slot pool's p95 is %.2f times its minimum in the median case, %.2f at "
           "worst; a cycle took %.3f to %.3f ns\n",
           spread[n / 2], spread[n - 1], fastest, slowest);
}

static void print_cycles(const bench_alloc_results *r)
{
    printf("\nslot pool, cycles per pair:");
    for (size_t i = 0; i < r->n; i++)
        if (r->cases[i].block_bytes == (size_t)BENCH_ALLOC_BAR_KIB << 10 && r->cases[i].n_cycles[0])
            printf(" %s %uT %.1f;", r->cases[i].pattern, r->cases[i].n_threads,
                   bench_alloc_cycles(&r->cases[i], 0));
    printf("\nadjacent after the random run:");
    const bench_alloc_case *f = bench_alloc_find(r, "fragmentation", BENCH_ALLOC_BAR_KIB, 1);
    for (size_t kind = 0; f && kind < BENCH_ALLOC_KINDS; kind++)
        if (f->entries[kind] && f->entries[kind]->n)
            printf(" %s %.0f %%;", bench_alloc_kinds[kind].label, 100 * f->second[kind]);
    printf("\n");
}

/* ---- bars -------------------------------------------------------------------------------------*/

static void print_bar(const char *what, double value, const char *relation, double bar)
{
    bool is_met = *relation == '<' ? value <= bar : value >= bar;
    if (isfinite(value))
        printf("  %-6s %-52s %8.2f (%s %g)\n", is_met ? "met" : "MISSED", what, value, relation,
               bar);
}

/* The fastest general allocator's median over the slot pool's, for the number of threads where it
 * comes nearest. */
static double lead(const bench_alloc_results *r, const char *pattern)
{
    double least = NAN;
    for (size_t i = 0; i < r->n; i++) {
        const bench_alloc_case *c = &r->cases[i];
        double best = NAN;
        if (strcmp(c->pattern, pattern) != 0 || c->block_bytes != BENCH_ALLOC_BAR_KIB << 10)
            continue;
        for (size_t kind = FIRST_GENERAL; kind <= LAST_GENERAL; kind++)
            best = fmin(best, bench_alloc_median(c, kind)); /* of a number and NAN: the number */
        least = fmin(least, best / bench_alloc_median(c, 0));
    }
    return least;
}

/* Local pairs are those of the first two: a burst goes through the depot, and has no bar in ns. */
static void print_bars(const bench_alloc_results *r)
{
    static const struct {
        const char *pattern;
        uint32_t n_threads;
        double ns; /* 0: no bar */
    } bars[] = {{"lifo", 1, 5}, {"random", 1, 5}, {"burst", 1, 0}, {"cross", 2, 60}};
    char what[96];
    printf("\nbars, %d KiB:\n", BENCH_ALLOC_BAR_KIB);
    for (size_t i = 0; i < sizeof bars / sizeof *bars; i++) {
        const char *pattern = bars[i].pattern;
        double ns = bench_alloc_median(
            bench_alloc_find(r, pattern, BENCH_ALLOC_BAR_KIB, bars[i].n_threads), 0);
        double ns_2 = bench_alloc_median(bench_alloc_find(r, pattern, BENCH_ALLOC_BAR_KIB, 2), 0);
        snprintf(what, sizeof what, "%s, ns per pair", pattern);
        if (bars[i].ns > 0)
            print_bar(what, ns, "<=", bars[i].ns);
        snprintf(what, sizeof what, "%s, 2 threads over 1", pattern);
        if (bars[i].n_threads == 1)
            print_bar(what, ns_2 / ns, "<=", 1.25);
        snprintf(what, sizeof what, "%s, fastest general allocator over the pool", pattern);
        print_bar(what, lead(r, pattern), ">=", 2);
    }
}

void bench_alloc_print(const bench_alloc_results *r)
{
    size_t last_bytes = 0;
    for (size_t i = 0; i < r->n; i++) {
        if (r->cases[i].block_bytes == last_bytes)
            continue;
        last_bytes = r->cases[i].block_bytes;
        printf("%s%zu KiB: median ns per pair; memory beyond that asked for\n", i ? "\n" : "",
               last_bytes >> 10);
        print_size(r, last_bytes >> 10);
    }
    print_cycles(r);
    print_noise(r);
    print_bars(r);
}
