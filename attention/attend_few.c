/* attend_few.c - attention of few queries (decode): bound by reading K and V once.
 *
 * The unit of work is a scan item: the pages of one lane in one segment. Threads claim items; each
 * item yields a partial (m, l, o) per row, and partials are merged in item order into args->out,
 * whatever the order in which they are finished. Partials lie in a ring of slots in the scan's
 * workspace; item i uses slot i % n_slots. What one workspace does not hold goes in several passes,
 * of fewer queries each.
 *
 * Passes of several sequences are under way together, a wave: a thread takes part in one after the
 * other, as long as there is something to claim. A wave ends early where a scan would have to wait
 * for frames, since the frames that are missing may be the wave's own.
 *
 * Invariants
 * 1. A part may claim item i only while i < n_merged + n_slots: its slot is free. It takes a ticket
 *    for that first; n_tickets counts claims begun, so no claim can return a higher index.
 * 2. Item n_merged is always in the hands of a part that runs (a part holds one item at a time and
 *    waits only before claiming), so waiting parts are always woken; also if a caller's
 *    parallel_for runs the parts one after another.
 *
 * `lock` is innermost, and is held for merging but never while pages are faulted in. */
#include "attention/attend.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define MAX_SLOTS 16u /* more than threads can be ahead of one another */
#define MESSAGE_BYTES 512

/* The workspace: state of the lane that is being merged, then slots. In floats. */
typedef struct layout {
    size_t max_rows; /* of a lane */
    size_t o_stride; /* of a row of partials: v_width, rounded up to whole vectors */
    size_t slot;     /* from a slot to the next: m, l [max_rows], o [max_rows + 1][o_stride]; the
                        last row is for a block alone (kvpi_state) */
    size_t merged;   /* m[max_rows], l[max_rows] */
    size_t n_slots;
} layout;

/* A pass over the pages of one layer of a sequence. */
typedef struct few {
    const kvpi_plan *plan;
    size_t first_query, n_queries;
    kvp_scan *scan;
    layout at;
    float *workspace;
    uint64_t n_items;
    atomic_uint n_joined; /* parts taken by threads */

    pthread_mutex_t lock; /* everything below */
    pthread_cond_t moved; /* n_merged or failed changed */
    uint64_t n_tickets, n_merged;
    kvp_scan_item finished[MAX_SLOTS]; /* by slot; n_pages 0: not finished */
    kvp_status status;                 /* of the first failure */
    char message[MESSAGE_BYTES];
    atomic_bool has_failed; /* also read without the lock */
} few;

typedef struct wave {
    few passes[KVPI_WAVE];
    size_t n;
} wave;

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static layout make_layout(const kvpi_plan *plan, size_t n_queries, size_t n_slots)
{
    layout at = {.max_rows = plan->info.page_heads * plan->heads_per_kv * n_queries};
    at.o_stride = round_up(plan->info.kind.v_width, 16);
    at.slot = round_up(2 * at.max_rows, 16) + (at.max_rows + 1) * at.o_stride;
    at.merged = round_up(at.max_rows * 2, 16);
    at.n_slots = n_slots;
    return at;
}

static size_t layout_bytes(const layout *at)
{
    return (at->merged + at->n_slots * at->slot) * sizeof(float);
}

static float *slot_of(const few *f, uint64_t item)
{
    return f->workspace + f->at.merged + item % f->at.n_slots * f->at.slot;
}

static kvpi_state state_in(const few *f, float *slot, size_t first_row)
{
    return (kvpi_state){
        .m = slot + first_row,
        .l = slot + f->at.max_rows + first_row,
        .o = slot + round_up(2 * f->at.max_rows, 16) + first_row * f->at.o_stride,
        .o_stride = f->at.o_stride,
        .block = slot + f->at.slot - f->at.o_stride,
    };
}

/* ---- computing an item ----------------------------------------------------------------------- */

static size_t rows_per_head(const few *f)
{
    return f->plan->heads_per_kv * f->n_queries;
}

static void attend_page(const few *f, float *slot, const kvp_page_view *page)
{
    const size_t n_rows = rows_per_head(f);
    const bool is_small =
        page->n_heads * n_rows <= KVPI_BLOCK_ROWS && page->n_valid <= KVPI_BLOCK_KEYS;
    for (size_t h = 0; h < page->n_heads; h++) {
        kvpi_row_set set = {.first_query = f->first_query,
                            .n_queries = f->n_queries,
                            .n_heads = f->plan->heads_per_kv,
                            .kv_head = page->first_head + h};
        kvpi_state state = state_in(f, slot, h * n_rows);
        if (is_small) {
            kvpi_attend_page(f->plan, page, &set, n_rows, &state);
            return;
        }
        for (size_t row = 0; row < n_rows; row += KVPI_BLOCK_ROWS) {
            size_t n = n_rows - row < KVPI_BLOCK_ROWS ? n_rows - row : KVPI_BLOCK_ROWS;
            kvpi_attend_plane(f->plan, page, &set, row, n, &state);
        }
    }
}

static kvp_status attend_item(few *f, uint32_t part, const kvp_scan_item *item)
{
    float *slot = slot_of(f, item->index);
    memset(slot, 0, f->at.slot * sizeof *slot);
    for (size_t row = 0; row < f->at.max_rows; row++)
        slot[row] = -INFINITY;
    kvp_page_view pages[KVP_SEGMENT_PAGES];
    for (uint32_t done = 0, n; done < item->n_pages && !atomic_load(&f->has_failed); done += n) {
        kvp_status status = kvp_scan_next_run(f->scan, part, KVP_SEGMENT_PAGES, pages, &n);
        if (status)
            return status;
        for (uint32_t i = 0; i < n; i++)
            attend_page(f, slot, &pages[i]);
    }
    return KVP_OK;
}

/* ---- merging --------------------------------------------------------------------------------- */

static void merge_item(few *f, const kvp_scan_item *item)
{
    const kvpi_plan *plan = f->plan;
    const size_t v_width = plan->info.kind.v_width, n_rows = rows_per_head(f);
    kvpi_state state = state_in(f, slot_of(f, item->index), 0);
    for (size_t row = 0; row < item->n_heads * n_rows; row++) {
        size_t query = f->first_query + row % n_rows / plan->heads_per_kv;
        size_t head =
            (item->first_head + row / n_rows) * plan->heads_per_kv + row % plan->heads_per_kv;
        float *m = f->workspace + row, *l = f->workspace + f->at.max_rows + row;
        plan->kernels->merge(
            &(kvp_partial){m, l, kvpi_plan_out(plan, query, head)},
            &(kvp_partial){state.m + row, state.l + row, state.o + row * state.o_stride}, v_width);
        if (item->ends_group) {
            kvpi_plan_finish_row(plan, query, head, *m, *l);
            *m = -INFINITY;
            *l = 0;
        }
    }
}

/* ---- parts ----------------------------------------------------------------------------------- */

/* The right to claim one item: wait for a free slot. False: no items are left, or a part failed. */
static bool take_ticket(few *f)
{
    pthread_mutex_lock(&f->lock);
    while (!f->has_failed && f->n_tickets < f->n_items &&
           f->n_tickets >= f->n_merged + f->at.n_slots)
        pthread_cond_wait(&f->moved, &f->lock);
    bool may_claim = !f->has_failed && f->n_tickets < f->n_items;
    f->n_tickets += may_claim;
    pthread_mutex_unlock(&f->lock);
    return may_claim;
}

/* Hand in a finished item, and merge all that are next in order. */
static void deposit(few *f, const kvp_scan_item *item)
{
    pthread_mutex_lock(&f->lock);
    assert(item->index >= f->n_merged && item->index < f->n_merged + f->at.n_slots);
    f->finished[item->index % f->at.n_slots] = *item;
    kvp_scan_item *next = &f->finished[f->n_merged % f->at.n_slots];
    while (next->n_pages && !f->has_failed) {
        merge_item(f, next);
        next->n_pages = 0;
        next = &f->finished[++f->n_merged % f->at.n_slots];
    }
    pthread_cond_broadcast(&f->moved);
    pthread_mutex_unlock(&f->lock);
}

/* Keep the first failure, with its text: kvp_error() is this thread's. */
static void fail(few *f, kvp_status status)
{
    pthread_mutex_lock(&f->lock);
    if (!f->has_failed) {
        f->status = status;
        snprintf(f->message, sizeof f->message, "%s", kvp_error());
        f->has_failed = true;
    }
    pthread_cond_broadcast(&f->moved);
    pthread_mutex_unlock(&f->lock);
}

static void run_part(void *arg, size_t part)
{
    few *f = arg;
    while (take_ticket(f)) {
        kvp_scan_item item;
        kvp_status status = kvp_scan_claim(f->scan, (uint32_t)part, &item);
        assert(status || item.n_pages > 0);
        if (!status)
            status = attend_item(f, (uint32_t)part, &item);
        if (status) {
            fail(f, status);
            return;
        }
        deposit(f, &item);
    }
}

/* ---- passes ---------------------------------------------------------------------------------- */

/* As many of n_left queries as `bytes` hold, with a slot for each thread and one more; f->n_queries
 * is 0 if not even one fits with two slots. One would do for one thread, but which path is taken
 * may not depend on threads. */
static void fit_workspace(few *f, size_t n_left, uint32_t n_threads, size_t bytes)
{
    size_t n = n_left, n_slots = n_threads + 1 < MAX_SLOTS ? n_threads + 1 : MAX_SLOTS;
    layout at = make_layout(f->plan, n, n_slots);
    while (n > 1 && layout_bytes(&at) > bytes)
        at = make_layout(f->plan, --n, n_slots);
    n_slots = MAX_SLOTS;
    do
        at = make_layout(f->plan, n, n_slots--);
    while (n_slots > 0 && layout_bytes(&at) > bytes);
    f->at = at;
    f->n_queries = at.n_slots >= 2 ? n : 0;
}

static void start_pass(few *f)
{
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->moved, NULL);
    f->n_items = kvp_scan_items(f->scan);
    for (size_t row = 0; row < f->at.max_rows; row++) {
        f->workspace[row] = -INFINITY;
        f->workspace[f->at.max_rows + row] = 0;
    }
}

/* A pass over as many queries from `first` on as its workspace holds. If that is none, or on
 * failure, nothing is open. */
static kvp_status open_pass(few *f, const kvpi_plan *plan, size_t first, bool only_now)
{
    size_t n_left = plan->args->n_queries - first, bytes;
    uint32_t n_threads = kvp_pager_threads(plan->pager);
    *f = (few){.plan = plan, .first_query = first, .at = make_layout(plan, n_left, MAX_SLOTS)};
    kvp_scan_args args = {
        .layer = plan->layer,
        .max_parts = n_threads < KVP_SCAN_MAX_PARTS ? n_threads : KVP_SCAN_MAX_PARTS,
        .workspace_bytes = layout_bytes(&f->at),
        .only_now = only_now,
    };
    kvpi_plan_range(plan, first, n_left, &args);
    kvp_status status = kvp_scan_open(plan->seq, &args, &f->scan);
    if (status)
        return status;
    f->workspace = kvp_scan_workspace(f->scan, &bytes);
    fit_workspace(f, n_left, n_threads, bytes);
    if (f->n_queries)
        start_pass(f);
    else
        kvp_scan_close(f->scan);
    return KVP_OK;
}

static void close_pass(few *f)
{
    pthread_cond_destroy(&f->moved);
    pthread_mutex_destroy(&f->lock);
    kvp_scan_close(f->scan);
}

/* ---- waves ----------------------------------------------------------------------------------- */

/* One thread: a part of every pass that has one left. */
static void run_thread(void *arg, size_t thread)
{
    wave *w = arg;
    (void)thread;
    for (size_t i = 0; i < w->n; i++) {
        unsigned part = atomic_fetch_add(&w->passes[i].n_joined, 1);
        if (part < kvp_scan_parts(w->passes[i].scan))
            run_part(&w->passes[i], part);
    }
}

static kvp_status run_wave(wave *w)
{
    uint64_t n_items = 0;
    for (size_t i = 0; i < w->n; i++)
        n_items += w->passes[i].n_items;
    kvp_pager *pager = w->n ? w->passes[0].plan->pager : NULL;
    uint32_t n_threads = w->n ? kvp_pager_threads(pager) : 0;
    if (n_items <= 1 || n_threads == 1)
        run_thread(w, 0);
    else
        kvp_parallel_for(pager, n_threads < n_items ? n_threads : n_items, run_thread, w);
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < w->n; i++) {
        few *f = &w->passes[i];
        close_pass(f);
        if (f->status && !status)
            status = kvp_fail(f->status, "%s", f->message);
        assert(f->status || f->n_merged == f->n_items);
    }
    w->n = 0;
    return status;
}

static bool has_sequence(const wave *w, const kvp_seq *seq)
{
    bool found = false;
    for (size_t i = 0; i < w->n; i++)
        found = found || w->passes[i].plan->seq == seq;
    return found;
}

/* The geometry of the layer, and nothing else, says that partials do not fit the workspace. */
static kvp_status attend_otherwise(wave *w, const kvpi_plan *plan)
{
    kvp_status status = run_wave(w);
    if (status)
        return status;
    if (plan->args->pages.m)
        return kvp_fail(
            KVP_E_UNSUPPORTED,
            "kvp_attend: partials of pages: two of %zu heads of %u floats do not fit into "
            "a page; raise page_tokens, or lower page_heads",
            plan->info.page_heads * plan->heads_per_kv, plan->info.kind.v_width);
    return kvpi_attend_many(plan);
}

/* Queries of a plan from *first on join the wave, which may have to end before; *first moves on. */
static kvp_status add(wave *w, const kvpi_plan *plan, size_t *first)
{
    kvp_status status = KVP_OK;
    if (w->n == KVPI_WAVE || has_sequence(w, plan->seq))
        status = run_wave(w);
    if (status)
        return status;
    few *f = &w->passes[w->n];
    status = open_pass(f, plan, *first, w->n > 0);
    if (status && w->n > 0) {
        status = run_wave(w);
        f = &w->passes[0];
        if (!status)
            status = open_pass(f, plan, *first, false);
    }
    if (status)
        return status;
    w->n += f->n_queries > 0;
    *first += f->n_queries;
    if (f->n_queries)
        return KVP_OK;
    *first = plan->args->n_queries;
    return attend_otherwise(w, plan);
}

kvp_status kvpi_attend_few(const kvpi_plan *plans, size_t n_plans)
{
    wave w;
    w.n = 0;
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < n_plans && !status; i++) {
        kvp_scan_args range;
        size_t first = 0, n = plans[i].args->n_queries;
        bool has_keys = kvpi_plan_range(&plans[i], 0, n, &range);
        while (has_keys && first < n && !status)
            status = add(&w, &plans[i], &first);
    }
    if (!status)
        return run_wave(&w);
    for (size_t i = 0; i < w.n; i++) /* nothing has begun */
        close_pass(&w.passes[i]);
    return status;
}
