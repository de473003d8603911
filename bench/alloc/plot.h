/* plot.h - bench_alloc's results as a picture. */
#ifndef BENCH_ALLOC_PLOT_H
#define BENCH_ALLOC_PLOT_H

#include "bench/alloc/results.h"

/* An SVG: ns per pair over the size, a panel per pattern. gnuplot draws it; without it: a note. */
void bench_alloc_plot(bench *b, const bench_alloc_results *r, const char *path);

#endif
