/* attend_many.c - attention of many queries (prefill): bound by arithmetic.
 *
 * One part walks the pages in order, as many together as are resident; the rows that share their
 * planes are cut into groups, which threads take, each through all of these pages. (m, l) of each
 * row of the lane are in the workspace, o grows in args->out. If the workspace does not hold all
 * rows of a lane, several passes are made over the pages. */
#include "attention/attend.h"

#include <math.h>

#define ROW_BYTES (2 * sizeof(float)) /* m and l */

/* The rows of a pass: a box of planes of a page, queries, and query heads per KV head. */
typedef struct box {
    size_t first_plane, n_planes;
    size_t first_query, n_queries;
    size_t first_head, n_heads;
} box;

typedef struct many {
    const kvpi_plan *plan;
    kvp_scan *scan;
    box rows;
    float *m, *l;  /* [n_planes][n_queries][n_heads] */
    size_t n_rows; /* per plane */

    kvp_page_view pages[KVP_SEGMENT_PAGES]; /* the current ones */
    uint32_t n_pages;
    size_t first_row; /* the first that may see the first of them */
} many;

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static kvpi_row_set row_set(const many *p, size_t first_kv_head, size_t plane)
{
    return (kvpi_row_set){.first_query = p->rows.first_query,
                          .n_queries = p->rows.n_queries,
                          .first_head = p->rows.first_head,
                          .n_heads = p->rows.n_heads,
                          .kv_head = first_kv_head + p->rows.first_plane + plane};
}

static size_t planes_of(const many *p, size_t n_heads)
{
    return n_heads > p->rows.first_plane ? min(n_heads - p->rows.first_plane, p->rows.n_planes) : 0;
}

/* ---- pages ----------------------------------------------------------------------------------- */

static size_t groups_per_plane(const many *p)
{
    return (p->n_rows - p->first_row + KVPI_BLOCK_ROWS - 1) / KVPI_BLOCK_ROWS;
}

static void attend_group(void *arg, size_t task)
{
    many *p = arg;
    size_t plane = task / groups_per_plane(p);
    size_t row = p->first_row + task % groups_per_plane(p) * KVPI_BLOCK_ROWS;
    size_t n = min(p->n_rows - row, KVPI_BLOCK_ROWS);
    kvpi_row_set set = row_set(p, p->pages[0].first_head, plane);
    kvpi_state state = {.m = p->m + plane * p->n_rows, .l = p->l + plane * p->n_rows};
    for (uint32_t i = 0; i < p->n_pages; i++)
        kvpi_attend_plane(p->plan, &p->pages[i], &set, row, n, &state);
}

/* The first query of the box at or after `position`. */
static size_t first_query_at(const many *p, uint64_t position)
{
    size_t low = 0, high = p->rows.n_queries;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (kvpi_plan_position(p->plan, p->rows.first_query + mid) < position)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static void attend_pages(many *p)
{
    size_t n_planes = planes_of(p, p->pages[0].n_heads);
    p->first_row = first_query_at(p, p->pages[0].first_position) * p->rows.n_heads;
    kvp_parallel_for(p->plan->pager, n_planes * groups_per_plane(p), attend_group, p);
}

/* ---- a lane ---------------------------------------------------------------------------------- */

static void begin_lane(many *p)
{
    for (size_t row = 0; row < p->rows.n_planes * p->n_rows; row++) {
        p->m[row] = -INFINITY;
        p->l[row] = 0;
    }
}

static void finish_lane(many *p, const kvp_scan_item *item)
{
    for (size_t plane = 0; plane < planes_of(p, item->n_heads); plane++) {
        kvpi_row_set set = row_set(p, item->first_head, plane);
        for (size_t row = 0; row < p->n_rows; row++)
            kvpi_plan_finish_row(p->plan, set.first_query + row / set.n_heads,
                                 set.kv_head * p->plan->heads_per_kv + set.first_head +
                                     row % set.n_heads,
                                 p->m[plane * p->n_rows + row], p->l[plane * p->n_rows + row]);
    }
}

static kvp_status attend_items(many *p)
{
    begin_lane(p);
    for (;;) {
        kvp_scan_item item;
        kvp_status status = kvp_scan_claim(p->scan, 0, &item);
        if (status || item.n_pages == 0)
            return status;
        for (uint32_t done = 0; done < item.n_pages; done += p->n_pages) {
            status = kvp_scan_next_run(p->scan, 0, KVP_SEGMENT_PAGES, p->pages, &p->n_pages);
            if (status)
                return status;
            attend_pages(p);
        }
        if (item.ends_group) {
            finish_lane(p, &item);
            begin_lane(p);
        }
    }
}

/* ---- passes ---------------------------------------------------------------------------------- */

/* The box that starts at *at with as many rows of (m, l) as `capacity`: all planes, else all query
 * heads of some, then as many queries. */
static void size_box(const kvpi_plan *plan, size_t capacity, box *b)
{
    b->n_planes = min(plan->info.page_heads - b->first_plane, capacity);
    b->n_heads = min(plan->heads_per_kv - b->first_head, capacity / b->n_planes);
    size_t per_query = b->n_planes * b->n_heads;
    b->n_queries = min(plan->args->n_queries - b->first_query, capacity / per_query);
}

/* The next box in the order queries, heads, planes; false after the last. */
static bool next_box(const kvpi_plan *plan, box *b)
{
    b->first_query += b->n_queries;
    if (b->first_query < plan->args->n_queries)
        return true;
    b->first_query = 0;
    b->first_head += b->n_heads;
    if (b->first_head < plan->heads_per_kv)
        return true;
    b->first_head = 0;
    b->first_plane += b->n_planes;
    return b->first_plane < plan->info.page_heads;
}

/* Rows whose (m, l) fit one frame; never fewer than the workspace that every scan gives holds. */
static size_t expected_capacity(const kvpi_plan *plan)
{
    const kvp_layer_kind *kind = &plan->info.kind;
    size_t row = (size_t)(kind->k_width + kind->v_width) * kvp_dtype_bytes(kind->dtype);
    size_t page = (size_t)plan->info.page_tokens * plan->info.page_heads * row;
    return (page < 4096 ? 4096 : page) / ROW_BYTES;
}

/* Scan the pages once for the box that starts where *b does; its size is filled in. *capacity: rows
 * that fit the workspace; corrected if the scan gives less. */
static kvp_status run_pass(const kvpi_plan *plan, size_t *capacity, box *b)
{
    many p = {.plan = plan};
    size_box(plan, *capacity, b);
    size_t n_rows = b->n_planes * b->n_queries * b->n_heads;
    kvp_scan_args args = {
        .layer = plan->layer, .max_parts = 1, .workspace_bytes = n_rows * ROW_BYTES};
    if (!kvpi_plan_range(plan, b->first_query, b->n_queries, &args))
        return KVP_OK;
    kvp_status status = kvp_scan_open(plan->seq, &args, &p.scan);
    if (status)
        return status;

    size_t bytes;
    p.m = kvp_scan_workspace(p.scan, &bytes);
    if (bytes < n_rows * ROW_BYTES) {
        *capacity = bytes / ROW_BYTES;
        size_box(plan, *capacity, b);
    }
    p.rows = *b;
    p.n_rows = b->n_queries * b->n_heads;
    p.l = p.m + b->n_planes * p.n_rows;
    status = attend_items(&p);
    kvp_scan_close(p.scan);
    return status;
}

kvp_status kvpi_attend_many(const kvpi_plan *plan)
{
    box b = {0};
    size_t capacity = expected_capacity(plan);
    kvp_status status;
    do
        status = run_pass(plan, &capacity, &b);
    while (!status && next_box(plan, &b));
    return status;
}
