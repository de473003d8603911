/* attend.c - kvp_attend(): checks a call, chooses its path, and knows which query sees which keys.
 *
 * A row is a function of its inputs and its role alone:
 * 1. The path depends on the role and on the geometry of the layer, never on threads, timing, where
 *    pages lie, or how many queries there are.
 * 2. A page is cut into blocks of KVPI_BLOCK_KEYS keys from its first one on, of which a row sees
 *    the first so many. Blocks are folded into the row's state in the order of keys: in decoding
 *    into that of their segment (KVP_SEGMENT_PAGES pages by their index in the lane), and segments
 *    in order into the row's; in prefill into the row's at once.
 * 3. What happens inside of a block is kernels.h's. */
#include "attention/attend.h"

#include <math.h>
#include <string.h>

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

void kvpi_plan_finish_row(const kvpi_plan *plan, size_t query, size_t head, float m, float l)
{
    const kvp_attend_args *args = plan->args;
    float *out = kvpi_plan_out(plan, query, head);
    if (args->m) {
        args->m[query * args->n_heads + head] = m;
        args->l[query * args->n_heads + head] = l;
        return;
    }
    kvp_partial_finish(&(kvp_partial){&m, &l, out}, plan->info.kind.v_width);
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

/* What is wanted to be known of a block under one row. */
static void note_block(const kvpi_plan *plan, const kvp_page_view *page, const kvpi_row_set *set,
                       size_t row_no, const kvpi_row *row)
{
    size_t query, head;
    locate(plan, set, row_no, &query, &head);
    if (plan->args->page_mass)
        kvpi_mass_add(plan, query, head, page->index, row->block_m, row->block_l);
    if (!row->block_o)
        return;
    float m = row->block_m, l = row->block_l;
    kvp_partial whole = kvpi_page_partial(plan, query, head, page->index);
    if (row->block_o != whole.o) {
        plan->kernels->merge(&whole, &(kvp_partial){&m, &l, row->block_o}, plan->info.kind.v_width);
        return;
    }
    *whole.m = m;
    *whole.l = l;
}

/* A block under rows [first, first + n) of the set. Partials of a page's first block are made in
 * their place; those of others one by one in `spare`, to be merged. */
static void attend_block(const kvpi_plan *plan, const kvp_page_view *page, const kvpi_keys *keys,
                         const kvpi_row_set *set, size_t first, size_t n, kvpi_row *rows,
                         float *spare)
{
    const bool wants_partials = plan->args->pages.m;
    const size_t step = wants_partials && spare ? 1 : n;
    for (size_t r = 0; r < n; r += step) {
        for (size_t i = r; i < r + step && wants_partials; i++) {
            size_t query, head;
            locate(plan, set, first + i, &query, &head);
            rows[i].block_o = spare ? spare : kvpi_page_partial(plan, query, head, page->index).o;
        }
        plan->kernels->attend[page->dtype](keys, rows + r, step);
        for (size_t i = r; i < r + step && (wants_partials || plan->args->page_mass); i++)
            if (rows[i].n_visible)
                note_block(plan, page, set, first + i, &rows[i]);
    }
}

void kvpi_attend_plane(const kvpi_plan *plan, const kvp_page_view *page, const kvpi_row_set *set,
                       size_t first, size_t n, const kvpi_state *state)
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
        attend_block(plan, page, &keys, set, first, n, rows, at ? state->block : NULL);
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

/* What may be asked for beside the output. */
static kvp_status check_extras(const kvp_attend_args *args)
{
    const kvp_partial *pages = &args->pages;
    if (args->role != KVP_DECODE && args->role != KVP_PREFILL)
        return kvp_fail(KVP_E_INVALID, "kvp_attend: role is %d, neither KVP_DECODE nor KVP_PREFILL",
                        (int)args->role);
    if (!args->m != !args->l)
        return kvp_fail(KVP_E_INVALID, "kvp_attend: of m and l, %s is NULL: give both or none",
                        args->m ? "l" : "m");
    if (!pages->m != !pages->l || !pages->m != !pages->o)
        return kvp_fail(KVP_E_INVALID, "kvp_attend: give pages.m, pages.l and pages.o, or none");
    if (pages->m && args->role != KVP_DECODE)
        return kvp_fail(KVP_E_INVALID, "kvp_attend: partials of pages are for KVP_DECODE");
    return KVP_OK;
}

static kvp_status check_args(const kvp_attend_args *args, const kvp_layer_info *info)
{
    const kvp_layer_kind *kind = &info->kind;
    if (kind->dtype == KVP_OPAQUE)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "kvp_attend: the layer is opaque: only the caller knows what its bytes "
                        "mean; pin or scan its pages");
    if (info->lookup.has_opaque_v)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "kvp_attend: the layer's V are bytes of the caller's: kvp_search() finds "
                        "them by their keys");
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
    return check_extras(args);
}

static kvp_status make_plan(kvp_seq *seq, uint32_t layer, const kvp_attend_args *args,
                            kvpi_plan *plan)
{
    if (!seq)
        return kvp_fail(KVP_E_INVALID, "kvp_attend: seq is NULL");
    *plan = (kvpi_plan){.seq = seq, .layer = layer, .args = args};
    kvp_status status = kvp_seq_layer_info(seq, layer, &plan->info);
    if (status)
        return status;
    const kvp_layer_kind *kind = &plan->info.kind;
    status = check_args(args, &plan->info);
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
    for (size_t i = 0; args->m && i < args->n_queries * args->n_heads; i++) {
        args->m[i] = -INFINITY;
        args->l[i] = 0;
    }
    if (args->page_mass)
        kvpi_mass_clear(plan);
    if (args->pages.m)
        kvpi_page_partials_clear(plan);
}

/* The items of the role that have queries, as plans. */
static kvp_status plan_items(const kvp_attend_item *items, size_t n, kvp_attend_role role,
                             kvpi_plan *plans, size_t *n_plans)
{
    *n_plans = 0;
    for (size_t i = 0; i < n; i++) {
        kvpi_plan plan;
        kvp_status status = make_plan(items[i].seq, items[i].layer, &items[i].args, &plan);
        if (!status && plan.pager != kvp_seq_pager(items[0].seq))
            status = kvp_fail(KVP_E_INVALID, "kvp_attend_batch: sequences of two pagers");
        if (status)
            return status;
        if (items[i].args.role == role && items[i].args.n_queries > 0)
            plans[(*n_plans)++] = plan;
    }
    return KVP_OK;
}

/* What decodes, together; then the others, one after another. */
static kvp_status attend_items(const kvp_attend_item *items, size_t n)
{
    kvpi_plan plans[KVPI_WAVE];
    for (kvp_attend_role role = KVP_DECODE; role <= KVP_PREFILL; role++) {
        size_t n_plans;
        kvp_status status = plan_items(items, n, role, plans, &n_plans);
        for (size_t i = 0; i < n_plans && !status; i++)
            clear_results(&plans[i]);
        if (!status && role == KVP_DECODE)
            status = kvpi_attend_few(plans, n_plans);
        for (size_t i = 0; i < n_plans && !status && role == KVP_PREFILL; i++)
            status = kvpi_attend_many(&plans[i]);
        for (size_t i = 0; i < n_plans && !status; i++)
            if (plans[i].args->page_mass)
                kvpi_mass_finish(&plans[i]);
        if (status)
            return status;
    }
    return KVP_OK;
}

kvp_status kvp_attend_batch(const kvp_attend_item *items, size_t n_items)
{
    kvp_status status = KVP_OK;
    if (n_items && !items)
        return kvp_fail(KVP_E_INVALID, "kvp_attend_batch: items is NULL");
    for (size_t i = 0, n; i < n_items && !status; i += n) {
        n = n_items - i < KVPI_WAVE ? n_items - i : KVPI_WAVE;
        status = attend_items(items + i, n);
    }
    return status;
}

kvp_status kvp_attend(kvp_seq *seq, uint32_t layer, const kvp_attend_args *args)
{
    if (!args)
        return kvp_fail(KVP_E_INVALID, "kvp_attend: args is NULL");
    return attend_items(&(kvp_attend_item){.seq = seq, .layer = layer, .args = *args}, 1);
}
