/* plot.c - feeds gnuplot. */
#define _GNU_SOURCE 1
#include "bench/alloc/plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const patterns[] = {"lifo", "random", "burst", "cross"};
static const char *const titles[] = {"last in, first out", "random replacement", "bursts of 512",
                                     "freed by another thread"};

/* The points of one line, as gnuplot's inline data; how many. */
static size_t write_points(FILE *f, const bench_alloc_results *r, const char *pattern, size_t kind)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        const bench_alloc_case *c = &r->cases[i];
        double ns = bench_alloc_median(c, kind);
        if (strcmp(c->pattern, pattern) != 0 || !isfinite(ns) ||
            c->n_threads != (strcmp(pattern, "cross") ? 1 : 2))
            continue;
        if (f)
            fprintf(f, "%zu %g\n", c->block_bytes >> 10, ns);
        n++;
    }
    return n;
}

static void write_panel(FILE *f, const bench_alloc_results *r, size_t panel)
{
    bool has_line = false;
    for (size_t kind = 0; kind < BENCH_ALLOC_KINDS; kind++) {
        if (!write_points(NULL, r, patterns[panel], kind))
            continue;
        fprintf(f, "$p%zu_%zu << EOD\n", panel, kind);
        write_points(f, r, patterns[panel], kind);
        fprintf(f, "EOD\n");
    }
    fprintf(f, "set title '%s'\nset key %s\n", titles[panel],
            panel == 3 ? "at screen 0.99,0.6" : "off");
    for (size_t kind = 0; kind < BENCH_ALLOC_KINDS; kind++) {
        if (!write_points(NULL, r, patterns[panel], kind))
            continue;
        fprintf(f, "%s $p%zu_%zu with linespoints lw %d pt %zu title '%s'", has_line ? "," : "plot",
                panel, kind, kind ? 1 : 3, kind + 4, bench_alloc_kinds[kind].label);
        has_line = true;
    }
    fprintf(f, "\n");
}

void bench_alloc_plot(bench *b, const bench_alloc_results *r, const char *path)
{
    if (system("command -v gnuplot >/dev/null 2>&1") != 0) {
        bench_note(b, "no %s: gnuplot is not here (Debian: apt-get install gnuplot-nox)", path);
        return;
    }
    if (strchr(path, '\'')) {
        bench_fail(b, "--svg %s: not with a quote in its name", path);
        return;
    }
    FILE *f = popen("gnuplot", "we");
    if (!f) {
        bench_fail(b, "cannot start gnuplot");
        return;
    }
    fprintf(f,
            "set terminal svg size 1100,760 background 'white'\nset output '%s'\n"
            "set logscale xy\nset xlabel 'KiB per block'\nset ylabel 'ns per alloc+free'\n"
            "set xtics (4,16,64,256,2048)\nset grid\nset multiplot layout 2,2 "
            "margins 0.07,0.83,0.09,0.95 spacing 0.08,0.14\n",
            path);
    for (size_t panel = 0; panel < 4; panel++)
        if (write_points(NULL, r, patterns[panel], 0))
            write_panel(f, r, panel);
    fprintf(f, "unset multiplot\n");
    if (pclose(f))
        bench_fail(b, "gnuplot could not draw %s", path);
}
