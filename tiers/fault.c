/* fault.c - bringing pages up. */
#include "tiers/pager.h"

#include <assert.h>
#include <string.h>

static kvp_status fail_page(const kvp_seq *seq, const kvpi_page *page)
{
    const kvp_pager *p = seq->pager;
    char name[160];
    kvpi_page_name(seq, page, name, sizeof name);
    if (page->error == KVP_E_CORRUPT)
        return kvp_fail(KVP_E_CORRUPT,
                        "%s failed its checksum: what was read back is not what was written; its "
                        "tokens must be computed again",
                        name);
    if (page->error == KVP_E_IO)
        return kvp_fail(KVP_E_IO, "%s could not be read: %s", name,
                        p->read_errno ? strerror(p->read_errno) : "short read");
    return kvp_fail((kvp_status)page->error, "%s could not be brought back: %s", name,
                    kvp_status_str((kvp_status)page->error));
}

static kvp_status fail_lost(const kvp_seq *seq, const kvpi_page *page)
{
    char name[160];
    kvpi_page_name(seq, page, name, sizeof name);
    return kvp_fail(KVP_E_LOST,
                    "%s is lost: it failed its checksum when it was read earlier; its tokens must "
                    "be computed again",
                    name);
}

/* Where to read from: memory before disk. */
static kvpi_lower source_of(const kvpi_page *page)
{
    assert(kvpi_page_is(page, KVPI_PAGE_COPIED));
    return kvpi_page_is(page, KVPI_PAGE_IN_ZRAM) ? KVPI_ZRAM : KVPI_DISK;
}

/* So many frames more, a power of two, and the page would still be there, had all been given up in
 * the order of their last use. One has just been given up for it. */
static void count_refault(kvp_pager *p, const kvpi_page *page)
{
    uint32_t n_frames = p->n_left - page->left_at, bucket = 0;
    while (bucket + 1 < KVP_REFAULT_BUCKETS && (UINT64_C(1) << bucket) < n_frames)
        bucket++;
    p->stats.refaults[bucket]++;
}

/* *has_frame: it is not for want of one that this has to wait. */
static kvp_status start(kvp_pager *p, uint32_t page, bool is_prefetch, bool *has_frame)
{
    *has_frame = true;
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    if (kvpi_page_is(pg, KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING))
        return KVP_OK;
    if (kvpi_page_is(pg, KVPI_PAGE_LOST))
        return KVP_E_LOST;
    /* Prefetches leave some for demand, and for writing. */
    if (!p->free_transfers || (is_prefetch && p->n_transfers >= KVPI_MAX_AHEAD))
        return KVP_E_AGAIN;
    uint32_t frame;
    kvp_group *account = kvpi_account_of(p, pg);
    kvp_status status = kvpi_frame_take(p, account, is_prefetch, &frame);
    *has_frame = !status;
    if (status)
        return status;
    /* Only now: taking a frame may have changed where the page's copies are. */
    kvpi_lower lower = source_of(pg);
    bool is_raw = pg->form_codec == KVPI_CODEC_RAW;
    kvpi_transfer *t = kvpi_transfer_get(p, KVPI_PROMOTE, page, !is_raw);
    if (!t) {
        kvpi_frame_give(p, account, frame);
        return KVP_E_AGAIN;
    }
    t->lower = lower;
    t->slot = kvpi_page_slot(pg, lower);
    count_refault(p, pg);
    pg->frame = frame;
    kvpi_set_flags(p, page, KVPI_PAGE_LOADING, 0);
    if (lower == KVPI_ZRAM) {
        kvpi_transfer_ready(p, t);
        return KVP_OK;
    }
    t->io = (kvp_io){.op = KVP_IO_READ,
                     .slot = t->slot,
                     .buf = is_raw ? kvpi_frame_addr(p, frame) : t->unit->staging,
                     .len_bytes = pg->form_bytes,
                     .owner = t};
    kvpi_transfer_submit(p, t);
    return KVP_OK;
}

kvp_status kvpi_fault_start(kvp_pager *p, uint32_t page, bool is_prefetch)
{
    bool has_frame;
    return start(p, page, is_prefetch, &has_frame);
}

kvp_status kvpi_fault_in(const kvp_seq *seq, uint32_t page, uint64_t deadline_ns)
{
    kvp_pager *p = seq->pager;
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    uint8_t errors_before = pg->n_errors;
    /* Begun by read-ahead, by others, or by us some time ago: if that fails, we try ourselves. */
    bool is_others = kvpi_page_is(pg, KVPI_PAGE_LOADING);
    bool is_counted = false; /* as one that found no frame */
    for (;;) {
        if (kvpi_page_is(pg, KVPI_PAGE_RESIDENT)) {
            kvpi_pin(p, page);
            if (kvpi_page_is(pg, KVPI_PAGE_AHEAD))
                kvpi_ahead_remove(p, page, true);
            return KVP_OK;
        }
        if (pg->n_errors != errors_before) {
            if (!is_others || kvpi_page_is(pg, KVPI_PAGE_LOST))
                return fail_page(seq, pg);
            is_others = false;
            errors_before = pg->n_errors;
        }
        bool has_frame;
        kvp_status status = start(p, page, false, &has_frame);
        if (status && status != KVP_E_AGAIN)
            return status == KVP_E_LOST ? fail_lost(seq, pg) : status;
        p->stats.direct_reclaims += !has_frame && !is_counted;
        is_counted = is_counted || !has_frame;
        status = kvpi_wait_for(p, page, deadline_ns);
        if (status && deadline_ns == 0) /* what had landed has been taken in */
            return kvp_fail(KVP_E_AGAIN, "the page is on its way");
        if (status && status != KVP_E_NOSPACE)
            return status;
    }
}
