/* attend_few.c - attention of few queries (decode): bound by reading K and V once.
 *
 * The unit of work is a scan item: the pages of one lane in one segment. Threads claim items; each
 * item yields a partial (m, l, o) per row, and partials are merged in item order into args->out,
 * whatever the order in which they are finished. Partials lie in a ring of slots in the scan's
 * workspace; item i uses slot i % n_slots.
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
    size_t slot;     /* from a slot to the next: m[max_rows], l[max_rows], o[max_rows][o_stride] */
    size_t merged;   /* m[max_rows], l[max_rows] */
    size_t n_slots;
} layout;

typedef struct few {
    const kvpi_plan *plan;
    kvp_scan *scan;
    layout at;
    float *workspace;
    uint64_t n_items;

    pthread_mutex_t lock; /* everything below */
    pthread_cond_t moved; /* n_merged or failed changed */
    uint64_t n_tickets, n_merged;
    kvp_scan_item finished[MAX_SLOTS]; /* by slot; n_pages 0: not finished */
    kvp_status status;                 /* of the first failure */
    char message[MESSAGE_BYTES];
    atomic_bool has_failed; /* also read without the lock */
} few;

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static layout make_layout(const kvpi_plan *plan)
{
    layout at = {.max_rows = plan->info.page_heads * plan->heads_per_kv * plan->args->n_queries};
    at.o_stride = round_up(plan->info.kind.v_width, 8);
    at.slot = round_up(at.max_rows * (2 + at.o_stride), 16);
    at.merged = round_up(at.max_rows * 2, 16);
    at.n_slots = MAX_SLOTS;
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
        .o = slot + 2 * f->at.max_rows + first_row * f->at.o_stride,
        .o_stride = f->at.o_stride,
    };
}

/* ---- computing an item ----------------------------------------------------------------------- */

static size_t rows_per_head(const few *f)
{
    return f->plan->heads_per_kv * f->plan->args->n_queries;
}

static void attend_page(const few *f, float *slot, const kvp_page_view *page)
{
    const size_t n_rows = rows_per_head(f);
    for (size_t h = 0; h < page->n_heads; h++) {
        kvpi_row_set set = {.n_queries = f->plan->args->n_queries,
                            .n_heads = f->plan->heads_per_kv,
                            .kv_head = page->first_head + h};
        kvpi_state state = state_in(f, slot, h * n_rows);
        for (size_t row = 0; row < n_rows; row += KVPI_BLOCK_ROWS) {
            size_t n = n_rows - row < KVPI_BLOCK_ROWS ? n_rows - row : KVPI_BLOCK_ROWS;
            kvpi_attend_plane(f->plan, f->plan->kernels->attend[page->dtype], page, &set, row, n,
                              &state);
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

static void scale_into(float *out, const float *o, size_t n, float old_factor, float factor)
{
    for (size_t c = 0; c < n; c++)
        out[c] = out[c] * old_factor + o[c] * factor;
}

/* Fold a partial (m, l, o) into the merged state of its row, whose o is in args->out. */
static void merge_row(float *m, float *l, float *out, const kvpi_state *partial, size_t v_width)
{
    if (*partial->l == 0) /* saw no key; a NaN goes on */
        return;
    float top = fmaxf(*m, *partial->m);
    float old_factor = *m == -INFINITY ? 0 : expf(*m - top);
    float factor = expf(*partial->m - top);
    scale_into(out, partial->o, v_width, old_factor, factor);
    *l = *l * old_factor + *partial->l * factor;
    *m = top;
}

static void finish_row(float *m, float *l, float *out, size_t v_width)
{
    for (size_t c = 0; c < v_width && *l != 0; c++)
        out[c] /= *l;
    *m = -INFINITY;
    *l = 0;
}

static void merge_item(few *f, const kvp_scan_item *item)
{
    const kvpi_plan *plan = f->plan;
    const size_t v_width = plan->info.kind.v_width, n_rows = rows_per_head(f);
    float *slot = slot_of(f, item->index);
    for (size_t row = 0; row < item->n_heads * n_rows; row++) {
        size_t query = row % n_rows / plan->heads_per_kv;
        size_t head =
            (item->first_head + row / n_rows) * plan->heads_per_kv + row % plan->heads_per_kv;
        float *m = f->workspace + row, *l = f->workspace + f->at.max_rows + row;
        float *out = kvpi_plan_out(plan, query, head);
        kvpi_state partial = state_in(f, slot, row);
        merge_row(m, l, out, &partial, v_width);
        if (item->ends_group)
            finish_row(m, l, out, v_width);
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

static kvp_status run(few *f)
{
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->moved, NULL);
    f->n_items = kvp_scan_items(f->scan);
    uint32_t n_parts = kvp_scan_parts(f->scan);
    for (size_t row = 0; row < f->at.max_rows; row++) {
        f->workspace[row] = -INFINITY;
        f->workspace[f->at.max_rows + row] = 0;
    }
    if (f->n_items <= 1 || n_parts == 1)
        run_part(f, 0);
    else
        kvp_parallel_for(f->plan->pager, n_parts < f->n_items ? n_parts : f->n_items, run_part, f);
    pthread_cond_destroy(&f->moved);
    pthread_mutex_destroy(&f->lock);
    if (f->status)
        return kvp_fail(f->status, "%s", f->message);
    assert(f->n_merged == f->n_items);
    return KVP_OK;
}

kvp_status kvpi_attend_few(const kvpi_plan *plan, bool *is_done)
{
    few f = {.plan = plan, .at = make_layout(plan)};
    uint32_t n_threads = kvp_pager_threads(plan->pager);
    kvp_scan_args args = {
        .layer = plan->layer,
        .max_parts = n_threads < KVP_SCAN_MAX_PARTS ? n_threads : KVP_SCAN_MAX_PARTS,
        .workspace_bytes = layout_bytes(&f.at),
    };
    *is_done = true;
    if (!kvpi_plan_range(plan, 0, plan->args->n_queries, &args))
        return KVP_OK;
    kvp_status status = kvp_scan_open(plan->seq, &args, &f.scan);
    if (status)
        return status;

    size_t bytes;
    f.workspace = kvp_scan_workspace(f.scan, &bytes);
    while (f.at.n_slots && layout_bytes(&f.at) > bytes)
        f.at.n_slots--;
    /* One slot would do for one thread, but the path may not depend on the number of threads. */
    *is_done = f.at.n_slots >= 2;
    if (*is_done)
        status = run(&f);
    kvp_scan_close(f.scan);
    return status;
}
