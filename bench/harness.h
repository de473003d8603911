/* harness.h - what every benchmark shares: options, repetitions, order statistics, and the report
 * (a table, or one JSON object under --json).
 *
 *     static const bench_spec spec = {.name = "swap", .summary = "GB/s of the disk tier"};
 *     bench b;
 *     int code;
 *     if (bench_init(&b, &spec, argc, argv, &code))
 *         return code;                                   --help, or a usage error
 *     bench_case *raw = bench_case_new(&b, "read_raw", "GB/s");
 *     bench_param_num(raw, "depth", 8);
 *     bench_run(&b, raw, sample_raw, &arg);              one warm-up, then b.reps samples
 *     bench_case *tier = bench_case_new(&b, "read_tier", "GB/s");
 *     bench_versus(tier, raw);                           ratio of the medians in the report
 *     bench_run(&b, tier, sample_tier, &arg);
 *     return bench_finish(&b);
 *
 * Samples that alternate between cases (so that noise hits both alike) go in by bench_add(). Only
 * the thread that made the bench may call. */
#ifndef BENCH_HARNESS_H
#define BENCH_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BENCH_MAX_PARAMS 8
#define BENCH_MAX_OPTIONS 8

struct bench;

/* An option of one benchmark's own, "--name VALUE"; shown in --help. */
typedef struct bench_option {
    const char *name;  /* "--file-mib" */
    const char *meta;  /* "N" */
    const char *help;  /* one line */
    const char *value; /* the default, shown in --help; bench_option_str() has what was given */
} bench_option;

typedef struct bench_spec {
    const char *name;                        /* of the subject: "swap" */
    const char *summary;                     /* one line */
    const char *details;                     /* more lines for --help, or NULL */
    bench_option options[BENCH_MAX_OPTIONS]; /* up to the first without a name */
    void (*report)(const struct bench *b);   /* prints in place of the list of cases, or NULL */
} bench_spec;

typedef struct bench_case {
    char name[64];
    const char *unit; /* borrowed */
    struct {
        const char *key; /* borrowed */
        char text[48];
        bool is_number;
    } params[BENCH_MAX_PARAMS];
    size_t n_params;
    double *samples;
    size_t n, capacity;
    const struct bench_case *baseline; /* NULL: none */
    struct bench_case *next;
} bench_case;

typedef struct bench {
    const bench_spec *spec;
    uint32_t reps;      /* samples per case, >= 1 */
    bool json;          /* --json: nothing but one object on stdout */
    const char *file;   /* --json=FILE: the object goes there, beside the table; NULL: not */
    bool quick;         /* --quick: small sizes, to see that everything runs */
    const char *dir;    /* scratch folder for files */
    const char *filter; /* only cases whose name contains it; NULL: all */
    const char *values[BENCH_MAX_OPTIONS];
    bench_case *first, **end;
    char *notes[16];
    size_t n_notes;
    bool failed;
} bench;

/* Parse the options. True: main returns *exit_code (0 after --help, 2 after a usage error). */
bool bench_init(bench *b, const bench_spec *spec, int argc, char **argv, int *exit_code);
/* Print the report and free everything; returns the exit code (1 after bench_fail). */
int bench_finish(bench *b);

/* What was given for an option of the spec, or its default; exits with a message if a number was
 * wanted and is none. */
const char *bench_option_str(const bench *b, const char *name);
uint64_t bench_option_num(const bench *b, const char *name);

/* A case in the report, in the order of making; `name` is copied. Owns: the bench. */
bench_case *bench_case_new(bench *b, const char *name, const char *unit);
void bench_param(bench_case *c, const char *key, const char *text);
void bench_param_num(bench_case *c, const char *key, double value);
/* Report median(c) / median(baseline). Both in the same unit. */
void bench_versus(bench_case *c, const bench_case *baseline);
/* False: the case's name does not match --filter; skip its work. */
bool bench_wants(const bench *b, const char *name);

void bench_add(bench_case *c, double sample);
/* One discarded warm-up and b->reps samples, each what `sample` returns, in the case's unit. */
void bench_run(const bench *b, bench_case *c, double (*sample)(void *arg), void *arg);

double bench_min(const bench_case *c);
double bench_median(const bench_case *c);
double bench_p95(const bench_case *c); /* nearest rank */

/* A line under the table, "notes" in the JSON. */
void bench_note(bench *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Report an error on stderr and make bench_finish() return 1. */
void bench_fail(bench *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

uint64_t bench_now_ns(void);
/* CPU time of the calling thread: other work on the machine disturbs it less. */
uint64_t bench_cpu_ns(void);
/* A deterministic stream of numbers; *state must not be 0. */
uint64_t bench_random(uint64_t *state);
/* Keep the compiler from dropping the computation of *p. */
static inline void bench_keep(const void *p)
{
    __asm__ volatile("" : : "r"(p) : "memory");
}

#endif
