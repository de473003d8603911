/* bench_segments.c - what cleaning costs: bytes written for each that the user writes, where 32
 * sequences grow, fork and die whole, and where pages die at random. */
#include "harness.h"

#include <stdio.h>

#include "segment_churn.h"

#define BLOCK_BYTES 4096u

static const bench_spec spec = {
    .name = "segments",
    .summary = "write amplification of the swap file's segments",
    .details =
        "Places only, no bytes. Records of 36 to 64 KiB in segments of 2 MiB; the given part "
        "of the\nfile is in use all the time.\n",
    .options = {{"--file-mib", "N", "size of the file", "1024"},
                {"--capacities", "N", "how many times the file's size is written", "3"}},
};

typedef struct workload {
    const char *name;
    uint32_t burst; /* pages */
    bool is_uniform, fills_holes;
} workload;

static void run(bench *b, const workload *w, double utilisation)
{
    char name[64];
    uint64_t mib = b->quick ? 128 : bench_option_num(b, "--file-mib");
    segment_churn_spec s = {.n_segments = (uint32_t)(mib / 2),
                            .segment_units = (2u << 20) / BLOCK_BYTES,
                            .slot_units = (64u << 10) / BLOCK_BYTES,
                            .least_units = (36u << 10) / BLOCK_BYTES,
                            .burst = w->burst,
                            .utilisation = utilisation,
                            .capacities = (double)bench_option_num(b, "--capacities"),
                            .fills_holes = w->fills_holes,
                            .is_uniform = w->is_uniform,
                            .seed = 12};
    segment_churn_result r;
    snprintf(name, sizeof name, "%s_%.0f", w->name, utilisation * 100);
    if (!bench_wants(b, name))
        return;
    uint64_t begin = bench_cpu_ns();
    segment_churn(&s, &r);
    double us = (double)(bench_cpu_ns() - begin) / 1e3;
    bench_case *c = bench_case_new(b, name, "written");
    bench_param_num(c, "used", r.utilisation);
    bench_param_num(c, "cleaned", (double)r.n_cleaned);
    bench_param_num(c, "neighbours", r.neighbours);
    bench_param_num(c, "us_per_MiB", us / ((double)r.units_written * BLOCK_BYTES / (1 << 20)));
    bench_add(c, r.amplification);
    if (r.n_failed)
        bench_fail(b, "%s: no room for a record", name);
}

int main(int argc, char **argv)
{
    static const double used[] = {0.7, 0.8, 0.9};
    static const workload workloads[] = {
        {"sequences_swap", 16, false, true},
        {"random_swap", 16, true, true},
        {"sequences_log", 16, false, false},
        {"batches_log", 256, false, false}, /* 16 MiB at a time */
        {"random_log", 16, true, false},
    };
    bench b;
    int code;
    if (bench_init(&b, &spec, argc, argv, &code))
        return code;
    for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++)
        for (size_t k = 0; k < sizeof used / sizeof *used; k++)
            run(&b, &workloads[i], used[k]);
    return bench_finish(&b);
}
