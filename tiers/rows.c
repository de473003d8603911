/* rows.c - append: rows into open pages.
 *
 * A page is written while it is pinned and nothing else touches it. A page that other sequences
 * share is not written to: the rows go to a copy of it. If anything fails, the lanes of the layer
 * are truncated to where they were: no failed append leaves a lane longer than before. */
#include "tiers/checksum.h"
#include "tiers/convert.h"
#include "tiers/digest.h"
#include "tiers/pager.h"
#include "tiers/trace.h"

#include <assert.h>
#include <string.h>

/* What one append needs to know of its layer. */
typedef struct append {
    kvp_pager *p;
    kvp_seq *seq;
    uint32_t layer;
    const kvpi_layer *l;
    kvp_rows rows; /* strides resolved */
} append;

static kvpi_lane *lane_of(const append *a, uint32_t group)
{
    return &a->seq->lanes[a->l->lane_base + group];
}

/* Where the rows of one head go or come from. */
typedef struct plane {
    char *to;
    const char *from;
    size_t width, to_stride, from_stride;
    kvp_dtype to_dtype, from_dtype;
} plane;

static bool copy_plane(const plane *pl, uint32_t n)
{
    size_t src_bytes = pl->width * kvp_dtype_bytes(pl->from_dtype);
    if (pl->from_stride == src_bytes) /* dense: in one go */
        return kvpi_convert(pl->to, pl->to_dtype, pl->from, pl->from_dtype, pl->width * n);
    for (uint32_t i = 0; i < n; i++)
        if (!kvpi_convert(pl->to + i * pl->to_stride, pl->to_dtype, pl->from + i * pl->from_stride,
                          pl->from_dtype, pl->width))
            return false;
    return true;
}

/* The planes of one group's page, K then V. */
typedef struct planes {
    uint32_t n_heads, first_head;
    size_t k_plane, v_plane, k_row, v_row; /* bytes in the page */
    char *k, *v;
} planes;

static planes page_planes(const append *a, uint32_t group, void *frame)
{
    size_t tokens = a->p->geometry.page_tokens;
    planes s = {.n_heads = kvpi_layer_group_heads(a->l, group),
                .first_head = group * a->l->page_heads,
                .k_row = kvpi_layer_k_row(a->l),
                .v_row = kvpi_layer_v_row(a->l)};
    s.k_plane = s.k_row * tokens;
    s.v_plane = s.v_row * tokens;
    s.k = frame;
    s.v = s.k + s.n_heads * s.k_plane;
    return s;
}

/* Rows [first, first + n) of the page from tokens [token, token + n) of the append. */
static bool copy_rows(const append *a, const planes *s, uint32_t first, size_t token, uint32_t n)
{
    const char *k = a->rows.k, *v = a->rows.v;
    const bool is_opaque = a->l->lookup.has_opaque_v;
    for (uint32_t h = 0; h < s->n_heads; h++) {
        size_t head = s->first_head + h;
        plane pk = {.to = s->k + h * s->k_plane + first * s->k_row,
                    .from = k + token * a->rows.k_token_stride + head * a->rows.k_head_stride,
                    .width = a->l->k_width,
                    .to_stride = s->k_row,
                    .from_stride = a->rows.k_token_stride,
                    .to_dtype = a->l->dtype,
                    .from_dtype = a->rows.dtype};
        plane pv = {.to = s->v + h * s->v_plane + first * s->v_row,
                    .from = v + token * a->rows.v_token_stride + head * a->rows.v_head_stride,
                    .width = a->l->v_width,
                    .to_stride = s->v_row,
                    .from_stride = a->rows.v_token_stride,
                    .to_dtype = is_opaque ? KVP_OPAQUE : a->l->dtype,
                    .from_dtype = is_opaque ? KVP_OPAQUE : a->rows.dtype};
        if (!copy_plane(&pk, n) || !copy_plane(&pv, n))
            return false;
    }
    return true;
}

/* Invariant P6: what is not a token is zero. */
static void zero_rows(const planes *s, uint32_t begin, uint32_t end)
{
    for (uint32_t h = 0; h < s->n_heads && begin < end; h++) {
        memset(s->k + h * s->k_plane + begin * s->k_row, 0, (end - begin) * s->k_row);
        memset(s->v + h * s->v_plane + begin * s->v_row, 0, (end - begin) * s->v_row);
    }
}

static kvp_status fail_not_finite(const append *a)
{
    return kvp_fail(KVP_E_RANGE, "layer %u: a K or V value is not finite in the pages' dtype%s",
                    a->layer,
                    a->l->dtype == KVP_F16 ? " (f16 ends at 65504): use bf16 or f32 pages" : "");
}

/* ---- the page that is written: with the lock held ---- */

static kvp_status wait_until_still(kvp_pager *p, const kvpi_page *page)
{
    while (kvpi_page_is(page, KVPI_PAGE_WRITING | KVPI_PAGE_MOVING)) {
        kvp_status status = kvpi_wait(p, KVP_FOREVER);
        if (status)
            return status;
    }
    return KVP_OK;
}

/* The page that is written, and the one that it is to be a copy of. */
typedef struct target {
    uint32_t page, source; /* source: pinned; KVP_PAGE_NONE: the page itself has the earlier rows */
    kvpi_page *pg, *source_pg;
    uint32_t n_valid;
} target;

/* Bring the open page back, alone for us, its copies below given up. */
static kvp_status reopen_page(const append *a, uint32_t page)
{
    kvp_pager *p = a->p;
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    kvp_status status = kvpi_fault_in(a->seq, page, KVP_FOREVER);
    if (status)
        return status;
    status = wait_until_still(p, pg);
    if (status) {
        kvpi_unpin(p, page);
        return status;
    }
    kvpi_set_flags(p, page, 0, KVPI_PAGE_SEALED); /* truncated since it was sealed */
    kvpi_page_invalidate(p, page);
    return KVP_OK;
}

/* A resident, pinned page at `index` of the group's lane, in no page table yet. */
static kvp_status new_page(const append *a, uint32_t group, uint32_t index, uint32_t *page)
{
    kvp_pager *p = a->p;
    kvp_group *account = a->seq->account;
    uint32_t frame;
    kvp_status status = kvpi_frame_wait(p, account, &frame);
    if (!status && (status = kvpi_page_table_reserve(&p->pages, 1)))
        kvpi_frame_give(p, account, frame);
    if (status)
        return status;
    *page = kvpi_page_create(p, account);
    kvpi_page *pg = kvpi_page_at(&p->pages, *page);
    pg->index = index;
    pg->lane = (uint16_t)(a->l->lane_base + group);
    pg->frame = frame;
    pg->pins = 1;
    kvpi_trace(p, &(kvp_trace_event){.kind = KVP_TRACE_PAGE_NEW,
                                     .page = *page,
                                     .seq = a->seq->id,
                                     .lane = pg->lane,
                                     .lane_index = index});
    kvpi_set_flags(p, *page, KVPI_PAGE_RESIDENT, 0);
    return KVP_OK;
}

static kvp_status push_page(const append *a, uint32_t group, target *t)
{
    uint32_t page_tokens = a->p->geometry.page_tokens;
    kvpi_lane *lane = lane_of(a, group);
    if (lane->n_tokens / page_tokens >= KVPI_MAX_LANE_PAGES)
        return kvp_fail(KVP_E_RANGE, "append: a lane has at most %u pages", KVPI_MAX_LANE_PAGES);
    kvp_status status = kvpi_lane_reserve(lane, &a->p->table_mem, lane->n_entries + 1);
    if (!status)
        status = new_page(a, group, (uint32_t)(lane->n_tokens / page_tokens), &t->page);
    if (!status)
        kvpi_lane_push(lane, t->page, page_tokens);
    return status;
}

/* Copy on write: a page of our own takes the place of the shared one, which stays pinned until its
 * rows have been copied. */
static kvp_status replace_page(const append *a, uint32_t group, kvpi_entry *e, target *t)
{
    kvp_pager *p = a->p;
    uint32_t source = e->page, page;
    kvp_status status = kvpi_fault_in(a->seq, source, KVP_FOREVER);
    if (status)
        return status;
    status = new_page(a, group, e->index, &page);
    if (status) {
        kvpi_unpin(p, source);
        return status;
    }
    kvpi_page_at(&p->pages, page)->n_stored = kvpi_page_at(&p->pages, source)->n_stored;
    p->stats.copies_on_write++;
    e->page = t->page = page;
    t->source = source;
    t->source_pg = kvpi_page_at(&p->pages, source);
    return KVP_OK;
}

/* What writing to the lane's next page takes. */
static kvpi_claim claim_for(const append *a, uint32_t group)
{
    const kvpi_entry *e = kvpi_lane_open_entry(lane_of(a, group), a->p->geometry.page_tokens);
    kvp_group *account = a->seq->account;
    kvpi_claim claim = {
        .account = account, .n_min = 1, .n_max = 1, .n_new = 1, .new_account = account};
    if (!e)
        return claim;
    const kvpi_page *pg = kvpi_page_at(&a->p->pages, e->page);
    if (pg->refs > 1) {
        claim.n_min = claim.n_max = 2; /* the page, and its copy */
        return claim;
    }
    /* Will it be dirty without a place below, and is it not counted so now? */
    bool is_counted = kvpi_page_is_dirty(pg) && !kvpi_page_is(pg, KVPI_PAGE_WRITING);
    claim.n_new = !kvpi_page_keeps_home(pg) && !is_counted;
    claim.new_account = kvpi_account_of(a->p, pg);
    return claim;
}

/* Frames, and admission where it is needed: waited for while holding nothing. */
static kvp_status reserve(const append *a, uint32_t group, kvpi_claim *claim)
{
    for (;;) {
        uint32_t granted;
        *claim = claim_for(a, group);
        kvp_status status = kvpi_hold(a->p, claim, KVP_FOREVER, &granted);
        if (status)
            return status;
        kvpi_claim now = claim_for(a, group); /* others went on while we waited */
        if (now.n_min == claim->n_min && now.n_new <= claim->n_new &&
            now.new_account == claim->new_account)
            return KVP_OK;
        kvpi_admitted(a->p, claim->new_account, claim->n_new);
        kvpi_unhold(a->p, claim->account, granted, false);
    }
}

/* What this sequence reads, it does not write to; and while it has a view of a page that others
 * share, it keeps its own reference. */
static kvp_status check_not_held(const append *a, const kvpi_lane *lane)
{
    if (!kvpi_lane_open_entry(lane, a->p->geometry.page_tokens))
        return KVP_OK;
    if (a->seq->trails[a->layer].n_open_pins)
        return kvp_fail(KVP_E_BUSY,
                        "the open page of sequence %u, layer %u is pinned: unpin its "
                        "view before appending",
                        a->seq->id, a->layer);
    if (kvpi_ticket_has(a->seq, a->layer, lane->n_entries - 1))
        return kvp_fail(KVP_E_BUSY, "append: a ticket of sequence %u, layer %u wants its open page",
                        a->seq->id, a->layer);
    return KVP_OK;
}

/* The page to write to: resident, pinned, and nobody else's. */
static kvp_status open_page(const append *a, uint32_t group, target *t)
{
    kvp_pager *p = a->p;
    kvpi_lane *lane = lane_of(a, group);
    kvpi_claim claim;
    kvp_status status = check_not_held(a, lane);
    if (!status)
        status = reserve(a, group, &claim);
    if (status)
        return status;
    kvpi_entry *e = kvpi_lane_open_entry(lane, p->geometry.page_tokens);
    *t = (target){.page = e ? e->page : KVP_PAGE_NONE, .source = KVP_PAGE_NONE};
    if (!e)
        status = push_page(a, group, t);
    else if (claim.n_min > 1)
        status = replace_page(a, group, e, t);
    else
        status = reopen_page(a, t->page);
    kvpi_admitted(p, claim.new_account, claim.n_new);
    if (status) {
        kvpi_unhold(p, claim.account, claim.n_min, false);
        return status;
    }
    t->pg = kvpi_page_at(&p->pages, t->page);
    t->n_valid = kvpi_lane_n_valid(lane, lane->n_entries - 1, p->geometry.page_tokens);
    return KVP_OK;
}

/* n more tokens are in the page, which has this checksum if that made it full. */
static void close_page(const append *a, uint32_t group, const target *t, uint32_t n, uint64_t sum)
{
    kvp_pager *p = a->p;
    lane_of(a, group)->n_tokens += n;
    t->pg->n_stored = (uint16_t)(t->n_valid + n);
    if (t->n_valid + n == p->geometry.page_tokens) {
        t->pg->raw_sum = sum;
        kvpi_set_flags(p, t->page, KVPI_PAGE_SEALED | KVPI_PAGE_SUMMED, 0);
        kvpi_digest_seal(p, t->page);
    }
    if (a->seq->hot_layer == a->layer)
        kvpi_set_hot(p, t->page, true);
    kvpi_unpin(p, t->page);
    kvpi_unhold(p, a->seq->account, 1, false);
    if (t->source != KVP_PAGE_NONE) {
        kvpi_unpin(p, t->source);
        kvpi_unhold(p, a->seq->account, 1, false);
        kvpi_page_release(p, t->source);
    }
    kvpi_reclaim_ahead(p, a->seq->account);
}

/* ---- append ---- */

/* The frame still holds some other page's bytes. */
static void fill_new_frame(const append *a, const target *t, void *frame)
{
    size_t n = kvpi_page_bytes(a->p, t->pg);
    if (t->source == KVP_PAGE_NONE)
        memset(frame, 0, n);
    else
        memcpy(frame, kvpi_frame_addr(a->p, t->source_pg->frame), n);
}

/* Write tokens [token, token + n) behind those that the page has; false: a value is not finite.
 * Without the lock: the page is pinned, and no transfer reads it. */
static bool write_rows(const append *a, uint32_t group, const target *t, size_t token, uint32_t n)
{
    void *frame = kvpi_frame_addr(a->p, t->pg->frame);
    planes s = page_planes(a, group, frame);
    if (t->pg->n_stored == 0 || t->source != KVP_PAGE_NONE)
        fill_new_frame(a, t, frame);
    bool ok = copy_rows(a, &s, t->n_valid, token, n);
    uint32_t end = t->n_valid + n;
    zero_rows(&s, ok ? end : t->n_valid, t->pg->n_stored > end ? t->pg->n_stored : end);
    return ok;
}

/* As many of the tokens as fit the lane's last page. */
static kvp_status append_some(const append *a, uint32_t group, size_t token, size_t n_left,
                              uint32_t *n_done)
{
    kvp_pager *p = a->p;
    target t = {0};
    kvpi_lock(p);
    kvp_status status = open_page(a, group, &t);
    kvpi_count_work(p, !status);
    uint32_t room = p->geometry.page_tokens - t.n_valid;
    uint32_t n = n_left < room ? (uint32_t)n_left : room;
    bool seals = !status && n == room;
    void *digest = seals && a->l->lookup.has_digests ? kvpi_digest_open(p, t.page) : NULL;
    kvpi_unlock(p);
    if (status)
        return status;

    bool ok = write_rows(a, group, &t, token, n);
    uint64_t sum = 0;
    if (ok && seals)
        sum = kvpi_checksum_raw(kvpi_frame_addr(p, t.pg->frame), kvpi_page_bytes(p, t.pg),
                                kvpi_page_seed(p, t.pg, p->geometry.page_tokens));
    if (ok && digest)
        kvpi_digest_make(a->l, group, p->geometry.page_tokens, kvpi_frame_addr(p, t.pg->frame),
                         digest);

    kvpi_lock(p);
    kvpi_count_work(p, -1);
    close_page(a, group, &t, ok ? n : 0, sum);
    kvpi_unlock(p);
    *n_done = n;
    return ok ? KVP_OK : fail_not_finite(a);
}

static kvp_status append_lane(const append *a, uint32_t group, size_t n_tokens)
{
    for (size_t done = 0; done < n_tokens;) {
        uint32_t n;
        kvp_status status = append_some(a, group, done, n_tokens - done, &n);
        if (status)
            return status;
        done += n;
    }
    return KVP_OK;
}

/* Strides that the caller left out. */
static void resolve_strides(kvp_rows *r, const kvpi_layer *l)
{
    size_t elt = kvp_dtype_bytes(r->dtype);
    if (!r->k_head_stride)
        r->k_head_stride = l->k_width * elt;
    if (!r->v_head_stride)
        r->v_head_stride = l->v_width * (l->lookup.has_opaque_v ? 1 : elt);
    if (!r->k_token_stride)
        r->k_token_stride = l->n_kv_heads * r->k_head_stride;
    if (!r->v_token_stride)
        r->v_token_stride = l->n_kv_heads * r->v_head_stride;
}

static kvp_status check_append(const kvp_seq *seq, uint32_t layer, const kvp_rows *rows,
                               size_t n_tokens)
{
    if (!seq)
        return kvp_fail(KVP_E_INVALID, "append: seq is NULL");
    if (layer >= seq->pager->geometry.n_layers)
        return kvp_fail(KVP_E_INVALID, "append: layer %u, but there are %u", layer,
                        seq->pager->geometry.n_layers);
    const kvpi_layer *l = &seq->pager->geometry.layers[layer];
    if (n_tokens && (!rows || !rows->k || (!rows->v && l->v_width)))
        return kvp_fail(KVP_E_INVALID, "append: k or v is NULL");
    if (n_tokens && !kvp_dtype_bytes(rows->dtype))
        return kvp_fail(KVP_E_INVALID, "append: unknown dtype %d", (int)rows->dtype);
    if (n_tokens && (rows->dtype == KVP_OPAQUE) != (l->dtype == KVP_OPAQUE))
        return kvp_fail(KVP_E_INVALID,
                        "append: layer %u is%s opaque, the rows are%s: give it kvp_rows of dtype "
                        "%s",
                        layer, l->dtype == KVP_OPAQUE ? "" : " not",
                        rows->dtype == KVP_OPAQUE ? "" : " not",
                        l->dtype == KVP_OPAQUE ? "KVP_OPAQUE" : "KVP_F32, KVP_F16 or KVP_BF16");
    if (n_tokens > UINT32_MAX)
        return kvp_fail(KVP_E_INVALID, "append: at most %u tokens at a time", UINT32_MAX);
    return KVP_OK;
}

kvp_status kvp_seq_append_rows(kvp_seq *seq, uint32_t layer, const kvp_rows *rows, size_t n_tokens)
{
    kvp_status status = check_append(seq, layer, rows, n_tokens);
    if (status || !n_tokens)
        return status;
    append a = {.p = seq->pager,
                .seq = seq,
                .layer = layer,
                .l = &seq->pager->geometry.layers[layer],
                .rows = *rows};
    if (!a.l->v_width) { /* nothing is read from there */
        a.rows.v = a.rows.k;
        a.rows.v_token_stride = a.rows.v_head_stride = 0;
    }
    resolve_strides(&a.rows, a.l);
    uint64_t before = kvp_seq_layer_length(seq, layer);
    kvpi_seq_fill(seq, layer, n_tokens);
    for (uint32_t g = 0; g < a.l->n_groups && !status; g++)
        status = append_lane(&a, g, n_tokens);
    if (status) {
        kvpi_lock(a.p);
        for (uint32_t g = 0; g < a.l->n_groups; g++)
            kvpi_lane_cut(a.p, seq, a.l->lane_base + g, before);
        kvpi_unlock(a.p);
    }
    kvpi_seq_filled(seq);
    return status;
}

kvp_status kvp_seq_append(kvp_seq *seq, uint32_t layer, const float *k, const float *v,
                          size_t n_tokens)
{
    return kvp_seq_append_rows(seq, layer, &(kvp_rows){.k = k, .v = v, .dtype = KVP_F32}, n_tokens);
}
