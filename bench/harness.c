/* harness.c - owns the options, the samples and the report of a benchmark.
 *
 * Invariants
 *   1. Cases are reported in the order of making; a case without samples is left out.
 *   2. Under --json stdout has exactly one object; a figure that does not exist is null. */
#define _GNU_SOURCE 1
#include "harness.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#ifndef KVP_COMMIT
#define KVP_COMMIT "unknown"
#endif

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "bench: out of memory\n");
        exit(1);
    }
    return p;
}

/* ---- time and numbers -------------------------------------------------------------------------*/

uint64_t bench_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t bench_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t bench_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 0x2545F4914F6CDD1Du;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The samples are kept sorted from the first question on; bench_add() only appends. */
static const double *sorted(const bench_case *c)
{
    qsort(c->samples, c->n, sizeof *c->samples, compare_doubles);
    return c->samples;
}

double bench_min(const bench_case *c)
{
    return c->n ? sorted(c)[0] : NAN;
}

double bench_median(const bench_case *c)
{
    if (!c->n)
        return NAN;
    const double *s = sorted(c);
    return c->n % 2 ? s[c->n / 2] : (s[c->n / 2 - 1] + s[c->n / 2]) / 2;
}

double bench_p95(const bench_case *c)
{
    return c->n ? sorted(c)[(c->n * 95 + 99) / 100 - 1] : NAN;
}

/* ---- options ----------------------------------------------------------------------------------*/

static void print_help(const bench_spec *spec)
{
    printf("usage: bench_%s [options]\n%s\n\n", spec->name, spec->summary);
    printf("  --json[=FILE]     one JSON object on stdout instead of the table; or in FILE, beside "
           "it\n"
           "  --reps N          samples per case (default 5)\n"
           "  --quick           small sizes: only shows that everything runs\n"
           "  --dir DIR         scratch folder for files (default $TMPDIR or /var/tmp)\n"
           "  --filter TEXT     only cases whose name contains TEXT\n"
           "  --help            this text\n");
    for (size_t i = 0; i < BENCH_MAX_OPTIONS && spec->options[i].name; i++) {
        const bench_option *o = &spec->options[i];
        int width = 16 - (int)strlen(o->name);
        printf("  %s %-*s %s (default %s)\n", o->name, width < 0 ? 0 : width, o->meta, o->help,
               o->value);
    }
    if (spec->details)
        printf("\n%s", spec->details);
    printf("\nEnvironment: KVP_COMMIT overrides the commit that the JSON names.\n");
}

static bool usage(const bench_spec *spec, const char *what, const char *arg, int *exit_code)
{
    fprintf(stderr, "bench_%s: %s '%s'; see --help\n", spec->name, what, arg);
    *exit_code = 2;
    return true;
}

static bool parse_number(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || end == text || *end || strchr(text, '-'))
        return false;
    *out = v;
    return true;
}

/* Where the value of `name` goes, or NULL if there is no such option. */
static const char **own_option(bench *b, const char *name)
{
    for (size_t i = 0; i < BENCH_MAX_OPTIONS && b->spec->options[i].name; i++)
        if (!strcmp(b->spec->options[i].name, name))
            return &b->values[i];
    return NULL;
}

bool bench_init(bench *b, const bench_spec *spec, int argc, char **argv, int *exit_code)
{
    const char *tmp = getenv("TMPDIR");
    *b = (bench){.spec = spec, .reps = 5, .dir = tmp && *tmp ? tmp : "/var/tmp"};
    b->end = &b->first;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], **to = own_option(b, a), *reps = NULL;
        if (!strcmp(a, "--help")) {
            print_help(spec);
            *exit_code = 0;
            return true;
        }
        if (!strcmp(a, "--json") || !strcmp(a, "--quick")) {
            *(a[2] == 'j' ? &b->json : &b->quick) = true;
            continue;
        }
        if (!strncmp(a, "--json=", 7) && a[7]) {
            b->file = a + 7;
            continue;
        }
        if (!strcmp(a, "--reps"))
            to = &reps;
        else if (!strcmp(a, "--dir"))
            to = &b->dir;
        else if (!strcmp(a, "--filter"))
            to = &b->filter;
        if (!to)
            return usage(spec, "unknown option", a, exit_code);
        if (++i == argc)
            return usage(spec, "no value after", a, exit_code);
        *to = argv[i];
        uint64_t n = 0;
        if (reps && (!parse_number(reps, &n) || n == 0 || n > 100000))
            return usage(spec, "--reps wants a number from 1 to 100000, not", reps, exit_code);
        if (reps)
            b->reps = (uint32_t)n;
    }
    return false;
}

const char *bench_option_str(const bench *b, const char *name)
{
    for (size_t i = 0; i < BENCH_MAX_OPTIONS && b->spec->options[i].name; i++)
        if (!strcmp(b->spec->options[i].name, name))
            return b->values[i] ? b->values[i] : b->spec->options[i].value;
    return NULL;
}

uint64_t bench_option_num(const bench *b, const char *name)
{
    const char *text = bench_option_str(b, name);
    uint64_t n = 0;
    if (!text || !parse_number(text, &n)) {
        fprintf(stderr, "bench_%s: %s wants a number, not '%s'\n", b->spec->name, name,
                text ? text : "");
        exit(2);
    }
    return n;
}

/* ---- cases ------------------------------------------------------------------------------------*/

bench_case *bench_case_new(bench *b, const char *name, const char *unit)
{
    bench_case *c = must(calloc(1, sizeof *c));
    snprintf(c->name, sizeof c->name, "%s", name);
    c->unit = unit;
    *b->end = c;
    b->end = &c->next;
    return c;
}

void bench_param(bench_case *c, const char *key, const char *text)
{
    if (c->n_params == BENCH_MAX_PARAMS)
        return;
    c->params[c->n_params].key = key;
    snprintf(c->params[c->n_params++].text, sizeof c->params[0].text, "%s", text);
}

void bench_param_num(bench_case *c, const char *key, double value)
{
    char text[48];
    if (c->n_params == BENCH_MAX_PARAMS)
        return;
    snprintf(text, sizeof text, "%.10g", value);
    c->params[c->n_params].is_number = isfinite(value);
    bench_param(c, key, text);
}

void bench_versus(bench_case *c, const bench_case *baseline)
{
    c->baseline = baseline;
}

bool bench_wants(const bench *b, const char *name)
{
    return !b->filter || strstr(name, b->filter);
}

void bench_add(bench_case *c, double sample)
{
    if (c->n == c->capacity) {
        c->capacity = c->capacity ? 2 * c->capacity : 16;
        c->samples = must(realloc(c->samples, c->capacity * sizeof *c->samples));
    }
    c->samples[c->n++] = sample;
}

void bench_run(const bench *b, bench_case *c, double (*sample)(void *arg), void *arg)
{
    sample(arg);
    for (uint32_t i = 0; i < b->reps; i++)
        bench_add(c, sample(arg));
}

static char *format_text(const char *format, va_list args)
{
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    return must(text);
}

void bench_note(bench *b, const char *format, ...)
{
    va_list args;
    if (b->n_notes == sizeof b->notes / sizeof *b->notes)
        return;
    va_start(args, format);
    b->notes[b->n_notes++] = format_text(format, args);
    va_end(args);
}

void bench_fail(bench *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = format_text(format, args);
    va_end(args);
    fprintf(stderr, "bench_%s: %s\n", b->spec->name, text);
    free(text);
    b->failed = true;
}

/* ---- the machine ------------------------------------------------------------------------------*/

typedef struct machine {
    char cpu[96], kernel[160], disk[160], commit[64];
    long n_cpus;
} machine;

static void copy_text(char *to, size_t n, const char *from)
{
    snprintf(to, n, "%.*s", (int)strcspn(from, "\n"), from);
}

static void read_cpu(char *to, size_t n)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");
    copy_text(to, n, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (!strncmp(line, "model name", 10) && colon && colon[1]) {
            copy_text(to, n, colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

/* "ext4 on /dev/vda": the line of mountinfo whose device number is that of `dir`. */
static void read_disk(const char *dir, char *to, size_t n)
{
    struct stat st;
    char line[1024], type[32], source[96];
    copy_text(to, n, "unknown");
    FILE *f = stat(dir, &st) ? NULL : fopen("/proc/self/mountinfo", "re");
    while (f && fgets(line, sizeof line, f)) {
        unsigned major_number, minor_number;
        const char *dash = strstr(line, " - ");
        if (sscanf(line, "%*d %*d %u:%u", &major_number, &minor_number) == 2 &&
            makedev(major_number, minor_number) == st.st_dev && dash &&
            sscanf(dash, " - %31s %95s", type, source) == 2)
            snprintf(to, n, "%s on %s", type, source);
    }
    if (f)
        fclose(f);
}

static machine describe_machine(const char *dir)
{
    machine m = {.n_cpus = sysconf(_SC_NPROCESSORS_ONLN)};
    struct utsname u;
    const char *commit = getenv("KVP_COMMIT");
    read_cpu(m.cpu, sizeof m.cpu);
    read_disk(dir, m.disk, sizeof m.disk);
    copy_text(m.commit, sizeof m.commit, commit && *commit ? commit : KVP_COMMIT);
    copy_text(m.kernel, sizeof m.kernel, "unknown");
    if (!uname(&u))
        snprintf(m.kernel, sizeof m.kernel, "%s %s", u.sysname, u.release);
    return m;
}

/* ---- report -----------------------------------------------------------------------------------*/

static void print_cases(const bench *b)
{
    printf("%-30s %-44s %4s %10s %10s %10s  %-8s %s\n", "case", "parameters", "n", "min", "median",
           "p95", "unit", "ratio");
    for (const bench_case *c = b->first; c; c = c->next) {
        char params[256] = "";
        size_t used = 0;
        if (!c->n)
            continue;
        for (size_t i = 0; i < c->n_params && used < sizeof params; i++)
            used += (size_t)snprintf(params + used, sizeof params - used, "%s%s=%s", i ? " " : "",
                                     c->params[i].key, c->params[i].text);
        printf("%-30s %-44s %4zu %10.4g %10.4g %10.4g  %-8s", c->name, params, c->n, bench_min(c),
               bench_median(c), bench_p95(c), c->unit);
        if (c->baseline && c->baseline->n)
            printf(" %.2f x %s", bench_median(c) / bench_median(c->baseline), c->baseline->name);
        printf("\n");
    }
}

static void print_table(const bench *b, const machine *m)
{
    printf("bench_%s: %s\n%s (%ld CPUs), %s, %s, commit %s\n\n", b->spec->name, b->spec->summary,
           m->cpu, m->n_cpus, m->kernel, m->disk, m->commit);
    (b->spec->report ? b->spec->report : print_cases)(b);
    for (size_t i = 0; i < b->n_notes; i++)
        printf("%s%s\n", i ? "" : "\n", b->notes[i]);
}

static void json_string(FILE *f, const char *s)
{
    putc('"', f);
    for (; *s; s++) {
        unsigned char ch = (unsigned char)*s;
        if (ch == '"' || ch == '\\')
            fprintf(f, "\\%c", ch);
        else if (ch < 0x20)
            fprintf(f, "\\u%04x", ch);
        else
            putc(ch, f);
    }
    putc('"', f);
}

static void json_member(FILE *f, const char *key, const char *value)
{
    json_string(f, key);
    putc(':', f);
    json_string(f, value);
}

static void json_number(FILE *f, const char *key, double value)
{
    json_string(f, key);
    if (isfinite(value))
        fprintf(f, ":%.10g", value);
    else
        fprintf(f, ":null");
}

static void json_case(FILE *f, const bench_case *c)
{
    fprintf(f, "{");
    json_member(f, "name", c->name);
    fprintf(f, ",\"params\":{");
    for (size_t i = 0; i < c->n_params; i++) {
        if (i)
            putc(',', f);
        if (c->params[i].is_number) {
            json_string(f, c->params[i].key);
            fprintf(f, ":%s", c->params[i].text);
        } else {
            json_member(f, c->params[i].key, c->params[i].text);
        }
    }
    fprintf(f, "},");
    json_member(f, "unit", c->unit);
    fprintf(f, ",\"n\":%zu,", c->n);
    json_number(f, "min", bench_min(c));
    putc(',', f);
    json_number(f, "median", bench_median(c));
    putc(',', f);
    json_number(f, "p95", bench_p95(c));
    if (c->baseline && c->baseline->n) {
        putc(',', f);
        json_member(f, "baseline", c->baseline->name);
        putc(',', f);
        json_number(f, "ratio", bench_median(c) / bench_median(c->baseline));
    }
    fprintf(f, "}");
}

static void print_json(FILE *f, const bench *b, const machine *m)
{
    fprintf(f, "{");
    json_member(f, "bench", b->spec->name);
    fprintf(f, ",\"machine\":{");
    json_member(f, "cpu", m->cpu);
    fprintf(f, ",\"cpus\":%ld,", m->n_cpus);
    json_member(f, "kernel", m->kernel);
    putc(',', f);
    json_member(f, "disk", m->disk);
    fprintf(f, "},");
    json_member(f, "commit", m->commit);
    fprintf(f, ",\"quick\":%s,\"cases\":[", b->quick ? "true" : "false");
    bool comma = false;
    for (const bench_case *c = b->first; c; c = c->next) {
        if (!c->n)
            continue;
        fprintf(f, "%s", comma ? "," : "");
        comma = true;
        json_case(f, c);
    }
    fprintf(f, "],\"notes\":[");
    for (size_t i = 0; i < b->n_notes; i++) {
        fprintf(f, "%s", i ? "," : "");
        json_string(f, b->notes[i]);
    }
    fprintf(f, "]}\n");
}

static void write_json(bench *b, const machine *m)
{
    FILE *f = fopen(b->file, "we");
    if (f)
        print_json(f, b, m);
    if (!f || fclose(f))
        bench_fail(b, "cannot write %s: %s", b->file, strerror(errno));
}

int bench_finish(bench *b)
{
    machine m = describe_machine(b->dir);
    if (b->json)
        print_json(stdout, b, &m);
    else
        print_table(b, &m);
    if (b->file)
        write_json(b, &m);
    for (bench_case *c = b->first; c;) {
        bench_case *next = c->next;
        free(c->samples);
        free(c);
        c = next;
    }
    for (size_t i = 0; i < b->n_notes; i++)
        free(b->notes[i]);
    b->first = NULL;
    if (fflush(stdout) || ferror(stdout))
        return 1;
    return b->failed ? 1 : 0;
}
