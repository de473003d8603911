/* belady.c - the optimum: of the pages that are there, the one that is used again last leaves.
 *
 * A page must be there to be used, and a new one to be written, so what is used always gets a
 * frame, as in the pager.
 *
 * Invariants
 *  1. The heap has exactly the pages that have a frame; at[] says where each one is in it.
 *  2. No page in the heap is used again later than the one above it. */
#include "integration/replay/replay.h"

#include <stdlib.h>

#define NEVER SIZE_MAX
#define NOWHERE UINT32_MAX

typedef struct belady {
    size_t *next_use; /* [n_ops] of the page of each op: the index of its next use */
    size_t *due;      /* [n_pages] next use of each page as of now */
    uint32_t *heap;   /* [n_frames] pages */
    uint32_t *at;     /* [n_pages] index in the heap; NOWHERE */
    uint32_t n, n_frames;
} belady;

static void free_belady(belady *b)
{
    free(b->next_use);
    free(b->due);
    free(b->heap);
    free(b->at);
}

static kvp_status alloc_belady(belady *b, const trace *t, uint32_t n_frames)
{
    b->n = 0;
    b->n_frames = n_frames < t->n_pages ? n_frames : t->n_pages + 1;
    b->next_use = malloc((t->n_ops + 1) * sizeof *b->next_use);
    b->due = malloc(((size_t)t->n_pages + 1) * sizeof *b->due);
    b->heap = malloc(((size_t)b->n_frames + 1) * sizeof *b->heap);
    b->at = malloc(((size_t)t->n_pages + 1) * sizeof *b->at);
    if (b->next_use && b->due && b->heap && b->at)
        return KVP_OK;
    return kvp_fail(KVP_E_NOMEM, "out of memory for the optimum of %zu events", t->n_ops);
}

/* ---- the future ---- */

/* From the end to the beginning; `due` has what has been seen. */
static void look_ahead(belady *b, const trace *t)
{
    for (uint32_t page = 0; page < t->n_pages; page++) {
        b->due[page] = NEVER;
        b->at[page] = NOWHERE;
    }
    for (size_t i = t->n_ops; i-- > 0;) {
        const trace_op *op = &t->ops[i];
        b->next_use[i] = b->due[op->page];
        if (op->kind == KVP_TRACE_PAGE_USED)
            b->due[op->page] = i;
        else if (op->kind == KVP_TRACE_PAGE_NEW || op->kind == KVP_TRACE_PAGE_FREED)
            b->due[op->page] = NEVER; /* the number was another page's before */
    }
}

/* ---- the heap ---- */

static void place(belady *b, uint32_t i, uint32_t page)
{
    b->heap[i] = page;
    b->at[page] = i;
}

static void sift_up(belady *b, uint32_t i, uint32_t page)
{
    for (; i > 0; i = (i - 1) / 2) {
        uint32_t above = b->heap[(i - 1) / 2];
        if (b->due[above] >= b->due[page])
            break;
        place(b, i, above);
    }
    place(b, i, page);
}

static void sift_down(belady *b, uint32_t i, uint32_t page)
{
    for (;;) {
        uint32_t below = 2 * i + 1;
        if (below >= b->n)
            break;
        if (below + 1 < b->n && b->due[b->heap[below + 1]] > b->due[b->heap[below]])
            below++;
        if (b->due[b->heap[below]] <= b->due[page])
            break;
        place(b, i, b->heap[below]);
        i = below;
    }
    place(b, i, page);
}

/* Its next use has changed. */
static void settle(belady *b, uint32_t page)
{
    sift_up(b, b->at[page], page);
    sift_down(b, b->at[page], page);
}

static void take_out(belady *b, uint32_t page)
{
    uint32_t i = b->at[page], last = b->heap[--b->n];
    b->at[page] = NOWHERE;
    if (last == page)
        return;
    place(b, i, last);
    settle(b, last);
}

static void put_in(belady *b, uint32_t page)
{
    if (b->n == b->n_frames)
        take_out(b, b->heap[0]);
    sift_up(b, b->n++, page);
}

/* ---- the present ---- */

static uint64_t play(belady *b, const trace *t)
{
    uint64_t n_hits = 0;
    for (size_t i = 0; i < t->n_ops; i++) {
        const trace_op *op = &t->ops[i];
        bool is_there = b->at[op->page] != NOWHERE;
        if (op->kind == KVP_TRACE_PAGE_FREED && is_there) {
            take_out(b, op->page);
        } else if (op->kind == KVP_TRACE_PAGE_USED || op->kind == KVP_TRACE_PAGE_NEW) {
            n_hits += is_there;
            b->due[op->page] = b->next_use[i];
            if (is_there)
                settle(b, op->page);
            else
                put_in(b, op->page);
        }
    }
    return n_hits;
}

kvp_status replay_optimum(const trace *t, uint32_t n_frames, uint64_t *n_hits)
{
    belady b;
    kvp_status status = alloc_belady(&b, t, n_frames);
    if (!status) {
        look_ahead(&b, t);
        *n_hits = play(&b, t);
    }
    free_belady(&b);
    return status;
}
