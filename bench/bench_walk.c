/* bench_walk.c - what it takes to find a page: from its place in the page table to its frame.
 *
 * Through the library's own page table, descriptors and walk (alloc/), at sizes whose pages need
 * not be there: 1 M pages of 64 KiB would be 64 GiB. walk_* visit them as a scan does, lookup_*
 * find the one that holds a position. kvp_seq_pages, which does more than walking, is the public
 * way to visit them; its pager also says what a page costs in tables. */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/geometry.h"
#include "alloc/lane.h"
#include "alloc/mem.h"
#include "alloc/page.h"
#include "alloc/walk.h"
#include "kvpager.h"

#define PAGE_TOKENS 64u
#define N_LOOKUPS (1u << 20)

static const bench_spec spec = {
    .name = "walk",
    .summary = "ns of CPU time per page to find its frame: page table, descriptor",
    .details =
        "walk: in order. lookup: at random positions, 1 M of them. _table: only to the entry in\n"
        "the page table; the others go on to the page's descriptor, which has the frame. _lanes:\n"
        "the pages of 30 lanes that grew together, so that descriptors of neighbours lie apart;\n"
        "_gap: a page table that has lost its middle. seq_pages: the public kvp_seq_pages().\n"
        "Bars at 1 M pages: walk 8 ns, lookup 40 ns; 96 bytes of tables per page.\n",
    .options = {{"--pages", "N", "pages", "1048576"},
                {"--public-pages", "N", "pages of the pager, 4 KiB each", "65536"}},
};

/* A layer's page table over descriptors that have frames. */
typedef struct table {
    kvpi_geometry geometry;
    kvpi_page_table pages;
    kvpi_lane lane;
    uint32_t *positions; /* [N_LOOKUPS], in pages */
    bool only_table;
} table;

static const kvp_geometry one_layer = {
    .n_layers = 1, .n_kv_heads = 1, .head_dim = 64, .dtype = KVP_F16, .page_tokens = PAGE_TOKENS};

/* A lane of n pages, with other lanes' descriptors between them. */
static bool build(table *t, uint32_t n, uint32_t n_lanes)
{
    *t = (table){0};
    kvpi_page_table_init(&t->pages, 1, &kvpi_mem_default);
    if (kvpi_geometry_init(&t->geometry, &one_layer, &kvpi_mem_default) ||
        kvpi_page_table_reserve(&t->pages, n * n_lanes) ||
        kvpi_lane_reserve(&t->lane, &kvpi_mem_default, n) ||
        kvpi_alloc(&kvpi_mem_default, N_LOOKUPS * sizeof *t->positions, "positions", &t->positions))
        return false;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < n_lanes; k++) {
            uint32_t page = kvpi_page_new(&t->pages);
            kvpi_page_at(&t->pages, page)->frame = i;
            if (k == 0)
                kvpi_lane_push(&t->lane, page, PAGE_TOKENS);
        }
        t->lane.n_tokens += PAGE_TOKENS;
    }
    return true;
}

static void draw_positions(table *t)
{
    uint64_t seed = 20240607;
    for (uint32_t i = 0; i < N_LOOKUPS; i++)
        t->positions[i] = t->lane.entries[bench_random(&seed) % t->lane.n_entries].index;
}

static void tear_down(table *t)
{
    kvpi_free(&kvpi_mem_default, t->positions, N_LOOKUPS * sizeof *t->positions);
    kvpi_lane_fini(&t->lane, &kvpi_mem_default);
    kvpi_page_table_fini(&t->pages);
    kvpi_geometry_fini(&t->geometry, &kvpi_mem_default);
}

/* The frame of an entry's page, which is the page's place in the lane. */
static uint32_t find_frame(const table *t, uint32_t entry)
{
    const kvpi_entry *e = &t->lane.entries[entry];
    return t->only_table ? e->index : kvpi_page_at(&t->pages, e->page)->frame;
}

static double walk(void *arg)
{
    table *t = arg;
    kvpi_walk w = {.layer = &t->geometry.layers[0],
                   .lanes = &t->lane,
                   .end = UINT64_MAX,
                   .page_tokens = PAGE_TOKENS,
                   .segment_pages = 16};
    uint64_t sum = 0, n = 0, start_ns = bench_cpu_ns();
    for (kvpi_cursor c = {0}; kvpi_walk_settle(&w, &c); c.entry++, n++)
        sum += find_frame(t, c.entry);
    uint64_t ns = bench_cpu_ns() - start_ns;
    bench_keep(&sum);
    return n == t->lane.n_entries ? (double)ns / (double)n : NAN;
}

static double look_up(void *arg)
{
    table *t = arg;
    uint64_t n_wrong = 0, start_ns = bench_cpu_ns();
    for (uint32_t i = 0; i < N_LOOKUPS; i++) {
        uint64_t position = (uint64_t)t->positions[i] * PAGE_TOKENS + 7;
        uint32_t entry = kvpi_lane_find(&t->lane, position, PAGE_TOKENS);
        n_wrong += find_frame(t, entry) != t->positions[i];
    }
    uint64_t ns = bench_cpu_ns() - start_ns;
    return n_wrong ? NAN : (double)ns / N_LOOKUPS;
}

static void measure_table(bench *b, const char *suffix, uint32_t n, uint32_t n_lanes)
{
    table t;
    char name[48];
    if (!build(&t, n, n_lanes)) {
        bench_fail(b, "%s", kvp_error());
        return;
    }
    t.only_table = !strcmp(suffix, "_table");
    if (!strcmp(suffix, "_gap"))
        kvpi_lane_remove(&t.lane, n / 8, n / 2);
    draw_positions(&t);
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s%s", i ? "lookup" : "walk", suffix);
        if (!bench_wants(b, name))
            continue;
        bench_case *c = bench_case_new(b, name, "ns");
        bench_param_num(c, "pages", n);
        bench_run(b, c, i ? look_up : walk, &t);
        if (!isfinite(bench_median(c)))
            bench_fail(b, "%s found other pages than it should", name);
    }
    tear_down(&t);
}

/* ---- the public way ---------------------------------------------------------------------------*/

typedef struct listing {
    kvp_seq *seq;
    kvp_page_info *infos;
    size_t n;
} listing;

static double list_pages(void *arg)
{
    listing *l = arg;
    size_t n = 0;
    uint64_t start_ns = bench_cpu_ns();
    kvp_status status = kvp_seq_pages(l->seq, l->infos, l->n, &n);
    uint64_t ns = bench_cpu_ns() - start_ns;
    return status || n != l->n ? NAN : (double)ns / (double)n;
}

/* A page holds one token, which makes it one OS page. */
static kvp_status fill(kvp_pager *pager, listing *l, uint32_t n)
{
    enum { DIM = 1024, ROWS = 64 };
    static float rows[ROWS * DIM];
    kvp_status status = kvp_seq_create(pager, &l->seq);
    for (uint32_t at = 0; at < n && !status; at += ROWS)
        status = kvp_seq_append(l->seq, 0, rows, rows, n - at < ROWS ? n - at : ROWS);
    l->n = n;
    return status;
}

static void measure_public(bench *b, uint32_t n)
{
    kvp_config cfg = kvp_config_default();
    kvp_pager *pager = NULL;
    listing l = {.infos = calloc(n, sizeof *l.infos)};
    kvp_stats stats = {.size = sizeof stats};
    cfg.geometry = (kvp_geometry){
        .n_layers = 1, .n_kv_heads = 1, .head_dim = 1024, .dtype = KVP_F16, .page_tokens = 1};
    kvp_status status = l.infos ? kvp_pager_open(&cfg, &pager) : KVP_E_NOMEM;
    if (!status)
        status = fill(pager, &l, n);
    if (!status)
        status = kvp_pager_stats(pager, &stats);
    if (status) {
        bench_fail(b, "%s", kvp_error());
    } else {
        bench_case *c = bench_case_new(b, "seq_pages", "ns");
        bench_param_num(c, "pages", n);
        bench_run(b, c, list_pages, &l);
        bench_note(b, "tables and descriptors: %.1f bytes per page (%llu for %u pages; bar 96)",
                   (double)stats.table_bytes / n, (unsigned long long)stats.table_bytes, n);
    }
    kvp_pager_close(pager);
    free(l.infos);
}

int main(int argc, char **argv)
{
    bench b;
    int code;
    if (bench_init(&b, &spec, argc, argv, &code))
        return code;
    uint64_t n = b.quick ? 4096 : bench_option_num(&b, "--pages");
    uint64_t n_public = b.quick ? 256 : bench_option_num(&b, "--public-pages");
    if (n < 16 || n > 1u << 26 || n_public < 1 || n_public > 1u << 22) {
        bench_fail(&b, "--pages wants 16 to 2^26, --public-pages 1 to 2^22");
        return bench_finish(&b);
    }
    measure_table(&b, "_table", (uint32_t)n, 1);
    measure_table(&b, "", (uint32_t)n, 1);
    measure_table(&b, "_gap", (uint32_t)n, 1);
    measure_table(&b, "_lanes", (uint32_t)n / 16, 30);
    if (bench_wants(&b, "seq_pages"))
        measure_public(&b, (uint32_t)n_public);
    return bench_finish(&b);
}
