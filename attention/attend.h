/* attend.h - what the two paths of kvp_attend() share: the plan of a call, which keys a query sees,
 * a page under some rows, statistics of pages. */
#ifndef KVPI_ATTENTION_ATTEND_H
#define KVPI_ATTENTION_ATTEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attention/kernels.h"
#include "kvpager.h"

/* A call to kvp_attend(), checked and with its defaults filled in. */
typedef struct kvpi_plan {
    kvp_seq *seq;
    kvp_pager *pager;
    uint32_t layer;
    const kvp_attend_args *args;
    kvp_layer_info info;
    const kvpi_kernels *kernels;
    uint64_t length;             /* of the layer, in tokens */
    size_t n_pages;              /* of a row of page_mass */
    size_t heads_per_kv;         /* query heads that share a KV head */
    size_t q_stride, out_stride; /* floats */
} kvpi_plan;

/* Query heads [first_head, first_head + n_heads) of KV head `kv_head` and queries
 * [first_query, first_query + n_queries), numbered query by query: rows that share keys. */
typedef struct kvpi_row_set {
    size_t first_query, n_queries;
    size_t first_head, n_heads; /* first_head: within the KV head's query heads */
    size_t kv_head;             /* of the layer */
} kvpi_row_set;

/* Where the softmax state of a row set lies: [n_queries * n_heads] each. */
typedef struct kvpi_state {
    float *m, *l;
    float *o;        /* [rows][o_stride], or NULL: in args->out */
    size_t o_stride; /* floats */
    float *block;    /* [o_stride], for partials of pages of several blocks; NULL: not needed */
} kvpi_state;

uint64_t kvpi_plan_position(const kvpi_plan *plan, size_t query);
float *kvpi_plan_out(const kvpi_plan *plan, size_t query, size_t head);
/* Pages that queries [first, first + n) may see; false: they see none. */
bool kvpi_plan_range(const kvpi_plan *plan, size_t first, size_t n, kvp_scan_args *scan);
/* A row's state is complete: divide its output, or hand m and l to the caller. */
void kvpi_plan_finish_row(const kvpi_plan *plan, size_t query, size_t head, float m, float l);

/* Let rows [first, first + n) of `set`, n <= KVPI_BLOCK_ROWS, attend one plane of a page. */
void kvpi_attend_plane(const kvpi_plan *plan, const kvp_page_view *page, const kvpi_row_set *set,
                       size_t first, size_t n, const kvpi_state *state);

/* Let all rows attend a page of one block: n rows of each of its planes (`set`: the first one's),
 * n_heads * n <= KVPI_BLOCK_ROWS; state: plane by plane. The same bits as plane by plane, but K and
 * V are read in the order in which they lie in memory: one stream, which hardware prefetchers
 * follow (12/12x64, f16, one Zen 4 core from DRAM: 23 GB/s, plane by plane 20). */
void kvpi_attend_page(const kvpi_plan *plan, const kvp_page_view *page, const kvpi_row_set *set,
                      size_t n, const kvpi_state *state);

/* Sequences under way at a time, at most. */
#define KVPI_WAVE 32u

/* Decoding: threads take segments, whose partials are merged in order. One pager. */
kvp_status kvpi_attend_few(const kvpi_plan *plans, size_t n_plans);
/* Any number of queries: page by page, threads share the rows. */
kvp_status kvpi_attend_many(const kvpi_plan *plan);

/* ---- statistics of pages ---- */

void kvpi_mass_clear(const kvpi_plan *plan);
/* Attention over some keys of a page: l = sum exp(s - m). */
void kvpi_mass_add(const kvpi_plan *plan, size_t query, size_t head, uint32_t page, float m,
                   float l);
/* All pages have been visited: to what args->page_mass promises, and on to the pager. */
void kvpi_mass_finish(kvpi_plan *plan);

void kvpi_page_partials_clear(const kvpi_plan *plan);
kvp_partial kvpi_page_partial(const kvpi_plan *plan, size_t query, size_t head, uint32_t page);

#endif
