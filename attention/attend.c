/* attend.c - kvp_attend(): checks a call, chooses its path, and knows which query sees which keys.
 *
 * The result is a function of the call and of the pages' contents alone:
 * 1. The path, and how queries are grouped, depend on the arguments and the geometry, never on
 *    threads, timing or where pages lie.
 * 2. Each row's softmax state meets the keys in page order; partials of segments are merged in
 *    segment order. */
#include "attention/attend.h"

#include <math.h>
#include <string.h>

/* Up to here segments are what threads share: rows of more queries keep a thread busy with a page.
 */
#define FEW_QUERIES 8u

/* ---- what a query sees ----------------------------------------------------------------------- */

uint64_t kvpi_plan_position(const kvpi_plan *plan, size_t query)
{
    const kvp_attend_args *args = plan->args;
    return args->positions ? args->positions[query] : plan->length - args->n_queries + query;
}

float *kvpi_plan_out(const kvpi_plan *plan, size_t query, size_t head)
{
    return plan->args->out + query * plan->out_stride + head * plan->info.kind.v_width;
}

bool kvpi_plan_range(const kvpi_plan *plan, size_t first, size_t n, kvp_scan_args *scan)
{
    const kvp_attend_args *args = plan->args;
    uint64_t lowest = kvpi_plan_position(plan, first);
    uint64_t highest = kvpi_plan_position(plan, first + n - 1);
    scan->end = highest < plan->length ? highest + 1 : plan->length;
    scan->begin = args->window && lowest >= args->window ? lowest - args->window + 1 : 0;
    scan->begin = scan->begin < scan->end ? scan->begin : scan->end;
    scan->sinks_end = args->window && args->sinks < scan->end ? args->sinks : 0;
    if (args->window && args->sinks >= scan->end)
        scan->sinks_end = scan->end;
    return scan->begin < scan->end || scan->sinks_end > 0;
}

/* Keys of a page that a query at p sees: the first so many. */
static uint32_t visible_keys(const kvpi_plan *plan, const kvp_page_view *page, uint64_t p)
{
    const kvp_attend_args *args = plan->args;
    if (page->n_valid == 0 || page->first_position > p)
        return 0;
    if (args->window && p >= args->window) {
        uint64_t last = page->first_position + page->n_valid - 1;
        if (last <= p - args->window && page->first_position >= args->sinks)
            return 0;
    }
    uint64_t before = p - page->first_position;
    return before < page->n_valid ? (uint32_t)before + 1 : page->n_valid;
}

/* ---- page mass ------------------------------------------------------------------------------- */

/* page_mass holds log sum exp(s) of the page while pages are visited, -inf for none. */

static float *page_mass_row(const kvpi_plan *plan, size_t query, size_t head)
{
    return plan->args->page_mass + (query * plan->args->n_heads + head) * plan->n_pages;
}

static void add_mass(float *mass, float m, float l)
{
    float lse = m + logf(l);
    if (*mass == -INFINITY)
        *mass = lse;
    else
        *mass = fmaxf(*mass, lse) + log1pf(expf(-fabsf(*mass - lse)));
}

static void normalise_mass(float *mass, size_t n_pages)
{
    float top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n_pages; i++)
        top = fmaxf(top, mass[i]);
    for (size_t i = 0; i < n_pages; i++) {
        mass[i] = mass[i] == -INFINITY ? 0 : expf(mass[i] - top);
        sum += mass[i];
    }
    for (size_t i = 0; i < n_pages && sum > 0; i++)
        mass[i] /= sum;
}

static void normalise_mass_of_query(void *arg, size_t query)
{
    const kvpi_plan *plan = arg;
    for (size_t head = 0; head < plan->args->n_heads; head++)
        normalise_mass(page_mass_row(plan, query, head), plan->n_pages);
}

/* ---- a page under some rows ------------------------------------------------------------------ */

/* The query and the query head of a row of the set. */
static void locate(const kvpi_plan *plan, const kvpi_row_set *set, size_t row, size_t *query,
                   size_t *head)
{
    *query = set->first_query + row / set->n_heads;
    *head = set->kv_head * plan->heads_per_kv + set->first_head + row % set->n_heads;
}

/* What a page is scored with. Of a lane's first pages, those that hold a sink may have a query of
 * their own; a row sees all of a page through one query, so that kernels need not know. */
static const float *queries_for(const kvp_attend_args *args, const kvp_page_view *page)
{
    bool holds_sink = page->first_position < args->sinks;
    return holds_sink && args->q_sinks ? args->q_sinks : args->q;
}

/* Fill in rows [first, first + n) of the set, and how many keys of the page each sees; returns how
 * many any of them sees. */
static size_t load_rows(const kvpi_plan *plan, const kvp_page_view *page, const kvpi_row_set *set,
                        size_t first, size_t n, const kvpi_state *state, kvpi_row *rows,
                        uint32_t *visible)
{
    size_t query, head, n_seen = 0;
    locate(plan, set, first, &query, &head);
    const float *q = queries_for(plan->args, page);
    const size_t first_head = set->kv_head * plan->heads_per_kv + set->first_head;
    for (size_t r = 0; r < n; r++) {
        if (r == 0 || head == first_head) /* a query's rows see the same */
            visible[r] = visible_keys(plan, page, kvpi_plan_position(plan, query));
        else
            visible[r] = visible[r - 1];
        n_seen = visible[r] > n_seen ? visible[r] : n_seen;
        rows[r] = (kvpi_row){
            .q = q + query * plan->q_stride + head * plan->info.kind.k_width,
            .o = state->o ? state->o + (first + r) * state->o_stride
                          : kvpi_plan_out(plan, query, head),
            .m = state->m[first + r],
            .l = state->l[first + r],
        };
        if (++head == first_head + set->n_heads) {
            head = first_head;
            query++;
        }
    }
    return n_seen;
}

/* Keys [at, at + n) of a plane, and those that come after them in the order of the scan. */
static kvpi_keys block_of(const kvpi_plan *plan, const kvp_page_view *page, uint32_t plane,
                          size_t at, size_t n)
{
    const size_t element = kvp_dtype_bytes(page->dtype);
    const size_t k_bytes = page->k_width * element, v_bytes = page->v_width * element;
    const char *k = kvp_page_k(page, plane), *v = kvp_page_v(page, plane);
    kvpi_keys keys = {.k = k + at * k_bytes,
                      .v = v + at * v_bytes,
                      .n = n,
                      .k_width = page->k_width,
                      .v_width = page->v_width,
                      .scale = plan->args->scale};
    if (at + n < page->n_valid) {
        keys.next_k = k + (at + n) * k_bytes;
        keys.next_v = v + (at + n) * v_bytes;
    } else if (plane + 1 < page->n_heads) {
        keys.next_k = kvp_page_k(page, plane + 1);
        keys.next_v = kvp_page_v(page, plane + 1);
    } else if (page->next) {
        keys.next_k = page->next;
        keys.next_v = (const char *)page->next + ((const char *)page->v - (const char *)page->k);
    }
    return keys;
}

static void add_masses(const kvpi_plan *plan, const kvp_page_view *page, const kvpi_row_set *set,
                       size_t first, size_t n, const kvpi_row *rows)
{
    for (size_t r = 0; r < n; r++) {
        size_t query, head;
        locate(plan, set, first + r, &query, &head);
        if (rows[r].n_visible)
            add_mass(page_mass_row(plan, query, head) + page->index, rows[r].block_m,
                     rows[r].block_l);
    }
}

void kvpi_attend_plane(const kvpi_plan *plan, kvpi_kernel kernel, const kvp_page_view *page,
                       const kvpi_row_set *set, size_t first, size_t n, const kvpi_state *state)
{
    kvpi_row rows[KVPI_BLOCK_ROWS];
    uint32_t visible[KVPI_BLOCK_ROWS];
    const size_t n_seen = load_rows(plan, page, set, first, n, state, rows, visible);
    for (size_t at = 0; at < n_seen; at += KVPI_BLOCK_KEYS) {
        size_t n_keys = n_seen - at < KVPI_BLOCK_KEYS ? n_seen - at : KVPI_BLOCK_KEYS;
        kvpi_keys keys =
            block_of(plan, page, (uint32_t)set->kv_head - page->first_head, at, n_keys);
        for (size_t r = 0; r < n; r++) {
            size_t rest = visible[r] > at ? visible[r] - at : 0;
            rows[r].n_visible = (uint32_t)(rest < n_keys ? rest : n_keys);
        }
        kernel(&keys, rows, n);
        if (plan->args->page_mass)
            add_masses(plan, page, set, first, n, rows);
    }
    for (size_t r = 0; r < n && n_seen; r++) {
        state->m[first + r] = rows[r].m;
        state->l[first + r] = rows[r].l;
    }
}

/* ---- the call -------------------------------------------------------------------------------- */

static kvp_status check_positions(const kvpi_plan *plan)
{
    const kvp_attend_args *args = plan->args;
    if (!args->positions && args->n_queries > plan->length)
        return kvp_fail(KVP_E_RANGE,
                        "kvp_attend: %zu queries at the last positions of layer %u, which holds "
                        "%llu tokens",
                        args->n_queries, plan->layer, (unsigned long long)plan->length);
    for (size_t i = 1; args->positions && i < args->n_queries; i++)
        if (args->positions[i] < args->positions[i - 1])
            return kvp_fail(KVP_E_RANGE,
                            "kvp_attend: positions[%zu] is %llu, below positions[%zu] = %llu: they "
                            "must ascend",
                            i, (unsigned long long)args->positions[i], i - 1,
                            (unsigned long long)args->positions[i - 1]);
    return KVP_OK;
}

static kvp_status check_args(const kvp_attend_args *args, const kvp_layer_kind *kind)
{
    if (kind->dtype == KVP_OPAQUE)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "kvp_attend: the layer is opaque: only the caller knows what its bytes "
                        "mean; pin or scan its pages");
    if (args->n_heads == 0 || args->n_heads % kind->n_kv_heads != 0)
        return kvp_fail(KVP_E_INVALID,
                        "kvp_attend: n_heads is %u, not a multiple of the layer's %u KV heads",
                        args->n_heads, kind->n_kv_heads);
    if (!isfinite(args->scale))
        return kvp_fail(KVP_E_INVALID, "kvp_attend: scale is not finite");
    if (args->n_queries && (!args->q || !args->out))
        return kvp_fail(KVP_E_INVALID, "kvp_attend: %s is NULL", args->q ? "out" : "q");
    size_t q_row = (size_t)args->n_heads * kind->k_width;
    size_t out_row = (size_t)args->n_heads * kind->v_width;
    if (args->q_stride && args->q_stride < q_row)
        return kvp_fail(KVP_E_INVALID, "kvp_attend: q_stride is %zu floats, a query has %zu",
                        args->q_stride, q_row);
    if (args->out_stride && args->out_stride < out_row)
        return kvp_fail(KVP_E_INVALID, "kvp_attend: out_stride is %zu floats, an output has %zu",
                        args->out_stride, out_row);
    return KVP_OK;
}

static kvp_status make_plan(kvp_seq *seq, uint32_t layer, const kvp_attend_args *args,
                            kvpi_plan *plan)
{
    if (!seq || !args)
        return kvp_fail(KVP_E_INVALID, "kvp_attend: %s is NULL", seq ? "args" : "seq");
    *plan = (kvpi_plan){.seq = seq, .layer = layer, .args = args};
    kvp_status status = kvp_seq_layer_info(seq, layer, &plan->info);
    if (status)
        return status;
    const kvp_layer_kind *kind = &plan->info.kind;
    status = check_args(args, kind);
    if (status)
        return status;
    plan->kernels = kvpi_kernels_find();
    if (!plan->kernels)
        return KVP_E_UNSUPPORTED;
    plan->pager = kvp_seq_pager(seq);
    plan->length = kvp_seq_layer_length(seq, layer);
    plan->n_pages = kvp_seq_page_count(seq, layer);
    plan->heads_per_kv = args->n_heads / kind->n_kv_heads;
    plan->q_stride = args->q_stride ? args->q_stride : (size_t)args->n_heads * kind->k_width;
    plan->out_stride = args->out_stride ? args->out_stride : (size_t)args->n_heads * kind->v_width;
    return check_positions(plan);
}

/* What a row has that sees no key. */
static void clear_results(const kvpi_plan *plan)
{
    const kvp_attend_args *args = plan->args;
    for (size_t i = 0; i < args->n_queries; i++)
        memset(kvpi_plan_out(plan, i, 0), 0,
               (size_t)args->n_heads * plan->info.kind.v_width * sizeof(float));
    size_t n_masses = args->page_mass ? args->n_queries * args->n_heads * plan->n_pages : 0;
    for (size_t i = 0; i < n_masses; i++)
        args->page_mass[i] = -INFINITY;
}

kvp_status kvp_attend(kvp_seq *seq, uint32_t layer, const kvp_attend_args *args)
{
    kvpi_plan plan;
    kvp_status status = make_plan(seq, layer, args, &plan);
    if (status || args->n_queries == 0)
        return status;
    clear_results(&plan);

    bool is_done = false;
    if (args->n_queries <= FEW_QUERIES)
        status = kvpi_attend_few(&plan, &is_done);
    if (!status && !is_done)
        status = kvpi_attend_many(&plan);
    if (!status && args->page_mass)
        kvp_parallel_for(plan.pager, args->n_queries, normalise_mass_of_query, &plan);
    if (!status && args->page_mass)
        kvp_seq_note_mass(seq, layer, args->page_mass, args->n_queries, args->n_heads);
    return status;
}
