/* bench_alloc.c - what an allocator of fixed-size blocks costs: the slot pool beside general
 * allocators and the two lock-free classics.
 *
 * Every measurement runs in a process of its own (worker.c), with the allocator in question
 * preloaded; allocators take turns, so that noise hits all alike. Nothing here links the library,
 * which would bring its jemalloc along. */
#define _GNU_SOURCE 1
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/alloc/plot.h"
#include "bench/alloc/results.h"
#include "bench/alloc/worker.h"

static void report(const bench *b);

static const bench_spec spec = {
    .name = "alloc",
    .summary = "ns per alloc+free pair of fixed-size blocks, each allocator in its own process",
    .details =
        "lifo: free what was just allocated. random: replace one of 2,048 held blocks. burst:\n"
        "allocate 512, free them in the same order. cross: one thread allocates, another frees;\n"
        "the queue between them is shown alone too. No block is touched. Local patterns are timed\n"
        "by CPU time, cross by the clock; of several threads the slowest counts. Cycles are those\n"
        "of a calibration loop run before every sample. waste: memory taken beyond that asked\n"
        "for. fragmentation: the same after a million random steps; adjacent: how many of the\n"
        "next 256 blocks lie right behind the one before.\n",
    .options = {{"--sizes", "LIST", "KiB per block", "4,16,64,256,2048"},
                {"--threads", "N", "1, 2, 4 ... N threads; 0: as many as CPUs", "0"},
                {"--ms", "N", "milliseconds per sample", "20"},
                {"--svg", "FILE", "draw ns per pair over the size, with gnuplot", ""}},
    .report = report};

const bench_alloc_kind bench_alloc_kinds[BENCH_ALLOC_KINDS] = {
    {"pool", "slot pool", "pool", NULL, "-", NULL, NULL},
    {"glibc", "glibc malloc", "malloc", NULL, "-", NULL, NULL},
    {"jemalloc", "jemalloc", "malloc", "libjemalloc.so.2", "mallctl", NULL, "libjemalloc2"},
    {"jemalloc_tuned", "jemalloc, tuned", "malloc", "libjemalloc.so.2", "mallctl",
     "MALLOC_CONF=tcache_max:4194304", "libjemalloc2"},
    {"mimalloc", "mimalloc", "malloc", "libmimalloc.so.2", "mi_version", NULL, "libmimalloc2.0"},
    {"tcmalloc", "tcmalloc", "malloc", "libtcmalloc_minimal.so.4",
     "MallocExtension_GetNumericProperty", NULL, "libtcmalloc-minimal4"},
    {"treiber", "Treiber stack", "treiber", NULL, "-", NULL, NULL},
    {"bitmap", "atomic bitmap", "bitmap", NULL, "-", NULL, NULL},
    {"nothing", "(the queue alone)", "nothing", NULL, "-", NULL, NULL},
};

static bench_alloc_results results;
static bool is_missing[BENCH_ALLOC_KINDS];

/* ---- one worker -------------------------------------------------------------------------------*/

/* In the child: become the worker. */
static void exec_worker(const bench_alloc_kind *k, const bench_alloc_case *c, uint64_t ms, int out)
{
    char bytes[32], threads[16], time_ms[24];
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    snprintf(bytes, sizeof bytes, "%zu", c->block_bytes);
    snprintf(threads, sizeof threads, "%u", c->n_threads);
    snprintf(time_ms, sizeof time_ms, "%llu", (unsigned long long)ms);
    dup2(out, STDOUT_FILENO);
    dup2(nowhere, STDERR_FILENO); /* the loader complains about what it cannot preload */
    if (k->preload)
        setenv("LD_PRELOAD", k->preload, 1);
    if (k->environment)
        putenv((char *)(uintptr_t)k->environment);
    execl("/proc/self/exe", "bench_alloc", "--worker", k->source, k->probe, c->pattern, bytes,
          threads, time_ms, (char *)NULL);
    _exit(127);
}

/* Its exit code; what it printed is in `text`. */
static int run_worker(const bench_alloc_kind *k, const bench_alloc_case *c, uint64_t ms, char *text,
                      size_t size)
{
    int ends[2], wait_status;
    size_t n = 0;
    if (pipe2(ends, O_CLOEXEC))
        return -1;
    pid_t pid = fork();
    if (pid == 0)
        exec_worker(k, c, ms, ends[1]);
    close(ends[1]);
    for (ssize_t got; n + 1 < size && (got = read(ends[0], text + n, size - n - 1)) > 0;)
        n += (size_t)got;
    text[n] = '\0';
    close(ends[0]);
    if (pid < 0 || waitpid(pid, &wait_status, 0) < 0)
        return -1;
    return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1;
}

/* ---- measuring --------------------------------------------------------------------------------*/

static bool is_timed(const bench_alloc_case *c)
{
    return strcmp(c->pattern, "waste") != 0 && strcmp(c->pattern, "fragmentation") != 0;
}

static void new_entry(bench *b, bench_alloc_case *c, size_t kind)
{
    const char *name = bench_alloc_kinds[kind].name;
    char text[96];
    snprintf(text, sizeof text, "%s_%zuk_%ut_%s", c->pattern, c->block_bytes >> 10, c->n_threads,
             name);
    if (!bench_wants(b, text) || is_missing[kind] ||
        (!strcmp(name, "nothing") && strcmp(c->pattern, "cross") != 0))
        return;
    bench_case *e = c->entries[kind] = bench_case_new(b, text, is_timed(c) ? "ns" : "fraction");
    bench_param_num(e, "KiB", (double)(c->block_bytes >> 10));
    bench_param_num(e, "threads", c->n_threads);
    if (kind > 0 && c->entries[0] && is_timed(c))
        bench_versus(e, c->entries[0]);
}

/* One worker's lines become samples. */
static void add_samples(bench_alloc_case *c, size_t kind, char *text)
{
    for (char *line = text, *rest; *line; line = rest) {
        char *end;
        double value = strtod(line, &end), second = strtod(end, &rest);
        if (end == line)
            break;
        bench_add(c->entries[kind], value);
        if (rest != end)
            c->second[kind] = second; /* of a timed one: ns per cycle; else: adjacent */
        if (rest != end && is_timed(c) && c->n_cycles[kind] < BENCH_ALLOC_MAX_CYCLES)
            c->cycles[kind][c->n_cycles[kind]++] = value / second;
        while (isspace((unsigned char)*rest))
            rest++;
    }
}

static void measure_one(bench *b, bench_alloc_case *c, size_t kind, uint64_t ms, bool is_warm_up)
{
    char text[1024];
    const bench_alloc_kind *k = &bench_alloc_kinds[kind];
    int code = run_worker(k, c, ms, text, sizeof text);
    if (code == WORKER_IS_MISSING && !is_missing[kind]) {
        is_missing[kind] = true;
        bench_note(b, "without %s: %s is not here (Debian: apt-get install %s)", k->label,
                   k->preload, k->package);
    } else if (code != 0 && code != WORKER_IS_MISSING) {
        bench_fail(b, "%s with %s: %s", c->pattern, k->label,
                   code == 1 ? "ran out of blocks, memory or threads" : "the worker failed");
    } else if (code == 0 && !is_warm_up) {
        add_samples(c, kind, text);
    }
}

static void measure(bench *b, const char *pattern, size_t block_bytes, uint32_t n_threads)
{
    uint64_t ms = b->quick ? 1 : bench_option_num(b, "--ms");
    if (results.n == BENCH_ALLOC_MAX_CASES || b->failed)
        return;
    bench_alloc_case *c = &results.cases[results.n++];
    *c = (bench_alloc_case){.pattern = pattern, .block_bytes = block_bytes, .n_threads = n_threads};
    for (size_t kind = 0; kind < BENCH_ALLOC_KINDS; kind++)
        new_entry(b, c, kind);
    uint32_t n_rounds = is_timed(c) ? b->reps : 1;
    for (uint32_t round = 0; round < n_rounds; round++)
        for (size_t kind = 0; kind < BENCH_ALLOC_KINDS && !b->failed; kind++)
            if (c->entries[kind])
                measure_one(b, c, kind, ms, false);
    for (size_t kind = 0; kind < BENCH_ALLOC_KINDS; kind++)
        if (c->entries[kind] && c->entries[kind]->n)
            bench_param_num(c->entries[kind], is_timed(c) ? "cycles" : "adjacent",
                            is_timed(c) ? bench_alloc_cycles(c, kind) : c->second[kind]);
}

/* 1, 2, 4 ... and the most. */
static uint32_t next_threads(uint32_t n, uint32_t most)
{
    return n < most && 2 * n > most ? most : 2 * n;
}

/* Everything about one size: every number of threads for the size that the bars are about. */
static void measure_size(bench *b, size_t kib, uint32_t max_threads)
{
    static const char *const local[] = {"lifo", "random", "burst"};
    uint32_t max_even = max_threads < 2 ? 2 : max_threads / 2 * 2;
    for (size_t i = 0; i < sizeof local / sizeof *local; i++)
        for (uint32_t n = 1; n <= max_threads; n = next_threads(n, max_threads))
            if (n == 1 || kib == BENCH_ALLOC_BAR_KIB)
                measure(b, local[i], kib << 10, n);
    for (uint32_t n = 2; n <= max_even; n = next_threads(n, max_even))
        if (n == 2 || kib == BENCH_ALLOC_BAR_KIB)
            measure(b, "cross", kib << 10, n);
    measure(b, "waste", kib << 10, 1);
    if (kib == BENCH_ALLOC_BAR_KIB)
        measure(b, "fragmentation", kib << 10, 1);
}

static void measure_all(bench *b)
{
    const char *list = bench_option_str(b, "--sizes");
    uint32_t max_threads = (uint32_t)bench_option_num(b, "--threads");
    if (max_threads == 0)
        max_threads = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    for (char *rest; *list && !b->failed; list = *rest == ',' ? rest + 1 : rest) {
        unsigned long kib = strtoul(list, &rest, 10);
        if (rest == list || (*rest && *rest != ',') || kib < 4 || kib > 1u << 20 ||
            (kib & (kib - 1)) || max_threads > 128) {
            bench_fail(b, "--sizes wants powers of two from 4, --threads at most 128");
            return;
        }
        measure_size(b, kib, max_threads);
    }
}

static void report(const bench *b)
{
    (void)b;
    bench_alloc_print(&results);
}

int main(int argc, char **argv)
{
    bench b;
    int code;
    if (argc > 1 && !strcmp(argv[1], "--worker"))
        return alloc_worker(argc - 2, argv + 2);
    if (bench_init(&b, &spec, argc, argv, &code))
        return code;
    measure_all(&b);
    const char *svg = bench_option_str(&b, "--svg");
    if (*svg && !b.failed)
        bench_alloc_plot(&b, &results, svg);
    return bench_finish(&b);
}
