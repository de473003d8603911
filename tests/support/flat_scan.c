/* flat_scan.c - kv_source.h and kvpager/scan.h over flat arrays: a test double for the pager that
 * shares no code with it. Rows that hold no token are NaN, so that a kernel which reads them into
 * its result is found out. */
#include "tests/support/kv_source.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/round.h"

#define MAX_THREADS 16u

struct kvp_pager {
    uint32_t n_threads;
    bool runs_backwards;
};

struct kvp_seq {
    kvp_pager pager;
    kv_source source;
    uint32_t n_groups, n_slots; /* n_slots: pages per lane ever */
    size_t page_bytes, k_bytes;
    char *pages;      /* [n_groups][n_slots][page_bytes] */
    bool *is_evicted; /* [n_slots] */
    atomic_uint_fast64_t fail_in;
};

struct kvp_scan {
    kvp_seq *seq;
    kvp_scan_args args;
    uint32_t n_parts;
    void *workspace;
    size_t workspace_bytes;
    pthread_mutex_t lock; /* claiming */
    pthread_cond_t claimed;
    uint64_t next_item;
    uint32_t *slots;  /* [n_visited] pages of a lane that are visited */
    uint32_t *starts; /* [n_segments + 1] into slots */
    uint32_t n_visited, n_segments;
    struct {
        kvp_scan_item item;
        uint32_t next, start;
    } parts[KVP_SCAN_MAX_PARTS];
};

static void *must_alloc(size_t n)
{
    void *p = aligned_alloc(64, (n + 127) / 64 * 64);
    assert(p);
    return p;
}

/* ---- the sequence ---------------------------------------------------------------------------- */

static uint32_t heads_in(const kvp_seq *seq, uint32_t group)
{
    uint32_t rest = seq->source.kind.n_kv_heads - group * seq->source.page_heads;
    return rest < seq->source.page_heads ? rest : seq->source.page_heads;
}

static uint32_t tokens_in(const kvp_seq *seq, uint32_t slot)
{
    size_t rest = seq->source.n_tokens - (size_t)slot * seq->source.page_tokens;
    return rest < seq->source.page_tokens ? (uint32_t)rest : seq->source.page_tokens;
}

static char *page_at(const kvp_seq *seq, uint32_t group, uint32_t slot)
{
    return seq->pages + ((size_t)group * seq->n_slots + slot) * seq->page_bytes;
}

/* One plane of a page: rows of `head` from token `first` on, NaN after the last token. */
static void fill_plane(const kvp_seq *seq, char *plane, const float *rows, uint32_t width,
                       uint32_t head, uint32_t slot)
{
    const kv_source *s = &seq->source;
    for (uint32_t t = 0; t < s->page_tokens; t++) {
        const float *row =
            rows + (((size_t)slot * s->page_tokens + t) * s->kind.n_kv_heads + head) * width;
        for (uint32_t c = 0; c < width; c++)
            store_element(plane, (size_t)t * width + c, s->kind.dtype,
                          t < tokens_in(seq, slot) ? row[c] : NAN);
    }
}

static void fill_page(const kvp_seq *seq, uint32_t group, uint32_t slot)
{
    const kv_source *s = &seq->source;
    const size_t e = kvp_dtype_bytes(s->kind.dtype);
    char *page = page_at(seq, group, slot);
    for (uint32_t h = 0; h < heads_in(seq, group); h++) {
        uint32_t head = group * s->page_heads + h;
        fill_plane(seq, page + (size_t)h * s->page_tokens * s->kind.k_width * e, s->k,
                   s->kind.k_width, head, slot);
        fill_plane(seq, page + seq->k_bytes + (size_t)h * s->page_tokens * s->kind.v_width * e,
                   s->v, s->kind.v_width, head, slot);
    }
}

kvp_seq *kv_source_open(const kv_source *source)
{
    kvp_seq *seq = must_alloc(sizeof *seq);
    memset(seq, 0, sizeof *seq);
    seq->pager = (kvp_pager){source->n_threads, source->runs_backwards};
    seq->source = *source;
    const size_t rows = (size_t)source->page_heads * source->page_tokens;
    const size_t e = kvp_dtype_bytes(source->kind.dtype);
    seq->k_bytes = rows * source->kind.k_width * e;
    seq->page_bytes = seq->k_bytes + rows * source->kind.v_width * e;
    seq->n_groups = (source->kind.n_kv_heads + source->page_heads - 1) / source->page_heads;
    seq->n_slots = (uint32_t)((source->n_tokens + source->page_tokens - 1) / source->page_tokens);
    seq->pages = must_alloc(seq->n_groups * seq->n_slots * seq->page_bytes);
    seq->is_evicted = calloc(seq->n_slots + 1, 1);
    assert(seq->is_evicted);
    for (uint32_t group = 0; group < seq->n_groups; group++)
        for (uint32_t slot = 0; slot < seq->n_slots; slot++)
            fill_page(seq, group, slot);
    return seq;
}

void kv_source_close(kvp_seq *seq)
{
    free(seq->pages);
    free(seq->is_evicted);
    free(seq);
}

bool kv_source_fail_next(kvp_seq *seq, uint64_t n)
{
    atomic_store(&seq->fail_in, n);
    return true;
}

bool kv_source_major_faults(kvp_seq *seq, uint64_t *n)
{
    (void)seq;
    (void)n;
    return false;
}

kvp_pager *kvp_seq_pager(const kvp_seq *seq)
{
    return (kvp_pager *)&seq->pager;
}

uint64_t kvp_seq_layer_length(const kvp_seq *seq, uint32_t layer)
{
    (void)layer;
    return seq->source.n_tokens;
}

uint32_t kvp_seq_page_count(const kvp_seq *seq, uint32_t layer)
{
    (void)layer;
    uint32_t n = seq->n_slots;
    for (uint32_t slot = 0; slot < seq->n_slots; slot++)
        n -= seq->is_evicted[slot];
    return n;
}

void kvp_seq_note_mass(kvp_seq *seq, uint32_t layer, const float *page_mass, size_t n_queries,
                       uint32_t n_heads)
{
    (void)seq, (void)layer, (void)page_mass, (void)n_queries, (void)n_heads;
}

kvp_status kvp_seq_layer_info(const kvp_seq *seq, uint32_t layer, kvp_layer_info *info)
{
    if (layer != 0)
        return kvp_fail(KVP_E_INVALID, "layer %u: there is one", layer);
    *info = (kvp_layer_info){.kind = seq->source.kind,
                             .page_tokens = seq->source.page_tokens,
                             .page_heads = seq->source.page_heads};
    return KVP_OK;
}

kvp_status kvp_seq_evict(kvp_seq *seq, uint32_t layer, uint64_t begin, uint64_t end)
{
    (void)layer;
    for (uint32_t slot = 0; slot + 1 < seq->n_slots; slot++) {
        uint64_t first = (uint64_t)slot * seq->source.page_tokens;
        if (first >= begin && first + seq->source.page_tokens <= end)
            seq->is_evicted[slot] = true;
    }
    return KVP_OK;
}

/* ---- the scan -------------------------------------------------------------------------------- */

static bool is_visited(const kvp_seq *seq, const kvp_scan_args *args, uint32_t slot)
{
    uint64_t first = (uint64_t)slot * seq->source.page_tokens;
    uint64_t end = first + tokens_in(seq, slot);
    return !seq->is_evicted[slot] &&
           (first < args->sinks_end || (first < args->end && end > args->begin));
}

static void cut_into_segments(kvp_scan *scan)
{
    uint32_t last = UINT32_MAX;
    for (uint32_t slot = 0; slot < scan->seq->n_slots; slot++) {
        if (!is_visited(scan->seq, &scan->args, slot))
            continue;
        if (slot / KVP_SEGMENT_PAGES != last)
            scan->starts[scan->n_segments++] = scan->n_visited;
        last = slot / KVP_SEGMENT_PAGES;
        scan->slots[scan->n_visited++] = slot;
    }
    scan->starts[scan->n_segments] = scan->n_visited;
}

kvp_status kvp_scan_open(kvp_seq *seq, const kvp_scan_args *args, kvp_scan **out)
{
    assert(args->max_parts >= 1 && args->max_parts <= KVP_SCAN_MAX_PARTS);
    kvp_scan *scan = must_alloc(sizeof *scan);
    memset(scan, 0, sizeof *scan);
    scan->seq = seq;
    scan->args = *args;
    scan->n_parts = args->max_parts;
    size_t frame = (seq->page_bytes + 4095) / 4096 * 4096;
    scan->workspace_bytes = args->workspace_bytes < frame ? args->workspace_bytes : frame;
    if (scan->workspace_bytes < 4096)
        scan->workspace_bytes = 4096;
    scan->workspace = must_alloc(scan->workspace_bytes);
    memset(scan->workspace, 0xff, scan->workspace_bytes); /* NaN: nobody may count on zeros */
    scan->slots = must_alloc(seq->n_slots * sizeof *scan->slots);
    scan->starts = must_alloc((seq->n_slots + 1) * sizeof *scan->starts);
    cut_into_segments(scan);
    pthread_mutex_init(&scan->lock, NULL);
    pthread_cond_init(&scan->claimed, NULL);
    *out = scan;
    return KVP_OK;
}

void kvp_scan_close(kvp_scan *scan)
{
    if (!scan)
        return;
    pthread_cond_destroy(&scan->claimed);
    pthread_mutex_destroy(&scan->lock);
    free(scan->workspace);
    free(scan->slots);
    free(scan->starts);
    free(scan);
}

uint32_t kvp_scan_parts(const kvp_scan *scan)
{
    return scan->n_parts;
}

uint64_t kvp_scan_items(const kvp_scan *scan)
{
    return (uint64_t)scan->n_segments * scan->seq->n_groups;
}

uint32_t kvp_scan_pages(const kvp_scan *scan, uint32_t group)
{
    (void)group;
    return scan->n_visited;
}

void *kvp_scan_workspace(kvp_scan *scan, size_t *bytes)
{
    *bytes = scan->workspace_bytes;
    return scan->workspace;
}

kvp_status kvp_scan_claim(kvp_scan *scan, uint32_t part, kvp_scan_item *item)
{
    assert(part < scan->n_parts);
    pthread_mutex_lock(&scan->lock);
    uint64_t index = scan->next_item;
    scan->next_item += index < kvp_scan_items(scan);
    pthread_cond_broadcast(&scan->claimed);
    pthread_mutex_unlock(&scan->lock);
    *item = (kvp_scan_item){.index = index};
    if (index == kvp_scan_items(scan))
        return KVP_OK;

    uint32_t segment = (uint32_t)(index % scan->n_segments);
    item->group = (uint32_t)(index / scan->n_segments);
    item->first_head = item->group * scan->seq->source.page_heads;
    item->n_heads = heads_in(scan->seq, item->group);
    item->n_pages = scan->starts[segment + 1] - scan->starts[segment];
    item->ends_group = segment + 1 == scan->n_segments;
    scan->parts[part].item = *item;
    scan->parts[part].start = scan->starts[segment];
    scan->parts[part].next = 0;
    return KVP_OK;
}

static bool is_failure_due(kvp_seq *seq)
{
    uint_fast64_t left = atomic_load(&seq->fail_in);
    while (left && !atomic_compare_exchange_weak(&seq->fail_in, &left, left - 1))
        continue;
    return left == 1;
}

/* Hold an even item back until the item after the next is claimed: the next is finished then. */
static void let_next_item_pass(kvp_scan *scan, uint64_t item)
{
    pthread_mutex_lock(&scan->lock);
    while (item % 2 == 0 && item + 2 < kvp_scan_items(scan) && scan->next_item < item + 3)
        pthread_cond_wait(&scan->claimed, &scan->lock);
    pthread_mutex_unlock(&scan->lock);
}

static uint32_t ordinal(const kvp_seq *seq, uint32_t slot)
{
    uint32_t n = slot;
    for (uint32_t i = 0; i < slot; i++)
        n -= seq->is_evicted[i];
    return n;
}

kvp_status kvp_scan_next(kvp_scan *scan, uint32_t part, kvp_page_view *view)
{
    kvp_seq *seq = scan->seq;
    const kvp_scan_item *item = &scan->parts[part].item;
    assert(scan->parts[part].next < item->n_pages);
    uint32_t slot = scan->slots[scan->parts[part].start + scan->parts[part].next++];
    if (seq->source.swaps_items)
        let_next_item_pass(scan, item->index);
    if (is_failure_due(seq))
        return kvp_fail(KVP_E_IO, "page %u of group %u: injected failure", slot, item->group);
    const char *page = page_at(seq, item->group, slot);
    bool is_last = scan->parts[part].next == item->n_pages;
    uint32_t next = is_last ? 0 : scan->slots[scan->parts[part].start + scan->parts[part].next];
    *view = (kvp_page_view){
        .k = page,
        .v = page + seq->k_bytes,
        .first_position = (uint64_t)slot * seq->source.page_tokens,
        .n_valid = tokens_in(seq, slot),
        .index = ordinal(seq, slot),
        .first_head = item->first_head,
        .n_heads = item->n_heads,
        .page_tokens = seq->source.page_tokens,
        .k_width = seq->source.kind.k_width,
        .v_width = seq->source.kind.v_width,
        .dtype = seq->source.kind.dtype,
        .next = is_last ? NULL : page_at(seq, item->group, next),
    };
    return KVP_OK;
}

/* One to three pages: callers must not depend on how many. */
kvp_status kvp_scan_next_run(kvp_scan *scan, uint32_t part, uint32_t max, kvp_page_view *views,
                             uint32_t *n)
{
    uint32_t left = scan->parts[part].item.n_pages - scan->parts[part].next;
    uint32_t wanted = 1 + scan->parts[part].next % 3;
    wanted = wanted < max ? wanted : max;
    wanted = wanted < left ? wanted : left;
    kvp_status status = KVP_OK;
    for (*n = 0; *n < wanted && !status; *n += !status)
        status = kvp_scan_next(scan, part, &views[*n]);
    return status;
}

/* ---- threads --------------------------------------------------------------------------------- */

typedef struct tasks {
    void (*task)(void *arg, size_t i);
    void *arg;
    size_t n;
    atomic_size_t next;
} tasks;

static void *work(void *opaque)
{
    tasks *t = opaque;
    for (size_t i; (i = atomic_fetch_add(&t->next, 1)) < t->n;)
        t->task(t->arg, i);
    return NULL;
}

void kvp_parallel_for(kvp_pager *pager, size_t n_tasks, void (*task)(void *arg, size_t i),
                      void *arg)
{
    if (pager->runs_backwards) {
        for (size_t i = n_tasks; i-- > 0;)
            task(arg, i);
        return;
    }
    tasks t = {.task = task, .arg = arg, .n = n_tasks};
    pthread_t threads[MAX_THREADS];
    uint32_t n_extra = pager->n_threads < n_tasks ? pager->n_threads : (uint32_t)n_tasks;
    n_extra = n_extra ? n_extra - 1 : 0;
    assert(n_extra <= MAX_THREADS);
    for (uint32_t i = 0; i < n_extra; i++)
        if (pthread_create(&threads[i], NULL, work, &t))
            abort();
    work(&t);
    for (uint32_t i = 0; i < n_extra; i++)
        pthread_join(threads[i], NULL);
}

uint32_t kvp_pager_threads(const kvp_pager *pager)
{
    return pager->n_threads;
}
