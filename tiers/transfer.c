/* transfer.c - bytes on the way between tiers: small state machines, resumed by completions.
 *
 *   promote from disk   submit -> reaped -> finish: verify, decode -> land: RESIDENT
 *   promote from zram                       finish: copy, verify, decode -> land
 *   demote to zram                          finish: sum, encode, store -> land: a copy below
 *   demote to disk     [finish: sum -> land] -> submit -> reaped -> land: a copy below
 *   migrate             finish: fetch, verify -> land -> submit -> reaped -> land: moved
 *
 * finish() is the CPU's part: checksums, encoding, decoding, copies in memory; ready.c has who does
 * it. */
#include "tiers/checksum.h"
#include "tiers/pager.h"

#include <assert.h>
#include <string.h>

/* ---- life of a transfer ---- */

kvpi_transfer *kvpi_transfer_get(kvp_pager *p, kvpi_transfer_kind kind, uint32_t page,
                                 bool with_unit)
{
    kvpi_transfer *t = p->free_transfers;
    if (!t || (with_unit && !p->free_units))
        return NULL;
    p->free_transfers = t->next;
    *t = (kvpi_transfer){.io = {.owner = t},
                         .kind = kind,
                         .page = page,
                         .pg = kvpi_page_at(&p->pages, page),
                         .slot = KVP_SLOT_NONE};
    if (with_unit) {
        t->unit = p->free_units;
        p->free_units = t->unit->next;
    }
    p->n_transfers++;
    return t;
}

static void put_transfer(kvp_pager *p, kvpi_transfer *t)
{
    if (t->unit) {
        t->unit->next = p->free_units;
        p->free_units = t->unit;
    }
    t->next = p->free_transfers;
    p->free_transfers = t;
    p->n_transfers--;
}

static size_t round_up(size_t n)
{
    return (n + KVP_IO_ALIGN - 1) / KVP_IO_ALIGN * KVP_IO_ALIGN;
}

static void land(kvp_pager *p, kvpi_transfer *t);

void kvpi_transfer_completed(kvp_pager *p, kvpi_transfer *t)
{
    t->status = t->io.status;
    if (t->kind == KVPI_PROMOTE)
        kvpi_transfer_ready(p, t);
    else
        land(p, t);
}

void kvpi_transfer_submit(kvp_pager *p, kvpi_transfer *t)
{
    t->io.len_bytes = round_up(t->io.len_bytes);
    t->io.next = NULL;
    *p->outbox_end = &t->io;
    p->outbox_end = &t->io.next;
    p->n_outbox++;
}

/* ---- finish: without the lock; the page's state keeps others off what is touched here ---- */

/* One copy to or from zram; its backend completes inside submit. */
static kvp_status zram_copy(kvp_pager *p, kvpi_transfer *t, kvp_io_op op, void *buf, size_t n)
{
    t->io = (kvp_io){.op = op, .slot = t->slot, .buf = buf, .len_bytes = n, .owner = t};
    kvp_io *done = NULL;
    pthread_mutex_lock(&p->zram_lock);
    kvp_status status = kvpi_tier_submit(p->lower[KVPI_ZRAM], &t->io);
    if (!status)
        status = kvpi_tier_reap(p->lower[KVPI_ZRAM], 0, &done);
    pthread_mutex_unlock(&p->zram_lock);
    assert(status || done == &t->io);
    return status ? status : t->io.status;
}

static kvp_status verify_stored(const kvpi_page *pg, const void *stored, uint64_t seed)
{
    uint64_t sum = kvpi_checksum_stored(stored, pg->form_bytes, pg->form_codec, seed);
    return sum == pg->form_sum ? KVP_OK : KVP_E_CORRUPT;
}

static kvpi_codec_shape page_shape(const kvp_pager *p, const kvpi_page *page)
{
    uint32_t layer;
    const kvpi_layer *l = kvpi_geometry_layer_of(&p->geometry, page->lane, &layer);
    return (kvpi_codec_shape){.dtype = l->dtype,
                              .n_heads = kvpi_layer_group_heads(l, page->lane - l->lane_base),
                              .n_tokens = p->geometry.page_tokens,
                              .k_width = l->k_width,
                              .v_width = l->v_width};
}

static kvp_status verify_and_decode(kvp_pager *p, kvpi_transfer *t)
{
    const kvpi_page *pg = t->pg;
    void *frame = kvpi_frame_addr(p, t->pg->frame);
    size_t n = kvpi_page_bytes(p, t->pg);
    uint64_t seed = kvpi_page_seed(p, t->pg, t->pg->n_stored);
    if (pg->form_codec != KVPI_CODEC_RAW) {
        const void *stored = t->unit->staging;
        const kvpi_codec_shape shape = page_shape(p, pg);
        kvp_status status = verify_stored(pg, stored, seed);
        if (!status)
            status = kvpi_codec_decode(t->unit->codec, pg->form_codec, &shape, stored,
                                       pg->form_bytes, frame);
        if (status)
            return KVP_E_CORRUPT;
    }
    return kvpi_checksum_raw(frame, n, seed) == t->pg->raw_sum ? KVP_OK : KVP_E_CORRUPT;
}

static void finish_promote(kvp_pager *p, kvpi_transfer *t)
{
    if (t->lower == KVPI_ZRAM) {
        void *to = t->unit ? t->unit->staging : kvpi_frame_addr(p, t->pg->frame);
        t->status = zram_copy(p, t, KVP_IO_READ, to, t->pg->form_bytes);
    }
    if (!t->status)
        t->status = verify_and_decode(p, t);
}

static void sum_page(kvp_pager *p, kvpi_transfer *t)
{
    t->raw_sum = kvpi_checksum_raw(kvpi_frame_addr(p, t->pg->frame), kvpi_page_bytes(p, t->pg),
                                   kvpi_page_seed(p, t->pg, t->pg->n_stored));
}

static void finish_demote_zram(kvp_pager *p, kvpi_transfer *t)
{
    void *stored = t->unit->staging;
    const kvpi_codec_shape shape = page_shape(p, t->pg);
    const void *frame = kvpi_frame_addr(p, t->pg->frame);
    const kvpi_plan raw = {.codec = KVPI_CODEC_RAW};
    if (t->needs_sum)
        sum_page(p, t);
    if (t->is_tried)
        kvpi_codec_encode(t->unit->codec, &shape, frame, stored, &t->stored_bytes, &t->codec);
    else
        (void)kvpi_codec_encode_by(t->unit->codec, &shape, &raw, frame, stored, &t->stored_bytes);
    t->stored_sum = kvpi_checksum_stored(stored, t->stored_bytes, t->codec,
                                         kvpi_page_seed(p, t->pg, t->pg->n_stored));
    pthread_mutex_lock(&p->zram_lock);
    t->status = kvpi_tier_slot_alloc(p->lower[KVPI_ZRAM], t->stored_bytes, &t->slot);
    pthread_mutex_unlock(&p->zram_lock);
    if (!t->status)
        t->status = zram_copy(p, t, KVP_IO_WRITE, stored, t->stored_bytes);
}

/* Encoded bytes go to disk as they are, but not unverified. */
static void finish_fetch_blob(kvp_pager *p, kvpi_transfer *t)
{
    char *staging = t->unit->staging;
    uint32_t n = t->pg->form_bytes;
    t->status = zram_copy(p, t, KVP_IO_READ, staging, n);
    if (!t->status)
        t->status = verify_stored(t->pg, staging, kvpi_page_seed(p, t->pg, t->pg->n_stored));
    memset(staging + n, 0, round_up(n) - n);
}

static void finish(kvp_pager *p, kvpi_transfer *t)
{
    switch (t->kind) {
    case KVPI_PROMOTE:
        finish_promote(p, t);
        break;
    case KVPI_DEMOTE_ZRAM:
        finish_demote_zram(p, t);
        break;
    case KVPI_DEMOTE_DISK:
        sum_page(p, t);
        break;
    case KVPI_MIGRATE:
        finish_fetch_blob(p, t);
        break;
    }
}

/* ---- land: with the lock ---- */

/* The copy that a transfer read is bad. Unless another transfer is reading it (and will find out
 * for itself), it goes; a page without any other is lost. */
static void copy_is_bad(kvp_pager *p, kvpi_transfer *t, unsigned reader)
{
    p->stats.checksum_failures++;
    if (!(t->lower == KVPI_ZRAM && kvpi_page_is(t->pg, reader)))
        kvpi_drop_copy(p, t->page, t->lower);
    if (!kvpi_page_is(t->pg, KVPI_PAGE_COPIED | KVPI_PAGE_RESIDENT))
        kvpi_set_flags(p, t->page, KVPI_PAGE_LOST, 0);
}

static void land_promote_failed(kvp_pager *p, kvpi_transfer *t)
{
    uint32_t frame = t->pg->frame;
    if (kvpi_page_is(t->pg, KVPI_PAGE_AHEAD))
        kvpi_ahead_remove(p, t->page, false);
    t->pg->error = (int8_t)t->status; /* before the state: invariant P2 */
    kvpi_set_flags(p, t->page, 0, KVPI_PAGE_LOADING);
    t->pg->left_at = p->n_left;
    kvpi_frame_give(p, kvpi_account_of(p, t->pg), frame);
    if (t->status == KVP_E_CORRUPT) {
        copy_is_bad(p, t, KVPI_PAGE_MOVING);
        if (kvpi_page_is(t->pg, KVPI_PAGE_COPIED) && !kvpi_page_is(t->pg, KVPI_PAGE_MOVING))
            return; /* whoever waits starts over with the copy that is left */
    } else {
        p->stats.io_errors++;
        p->read_errno = t->io.native_error;
    }
    t->pg->n_errors++;
}

static void land_promote(kvp_pager *p, kvpi_transfer *t)
{
    if (t->status) {
        land_promote_failed(p, t);
        return;
    }
    t->pg->error = 0;
    kvpi_set_flags(p, t->page, KVPI_PAGE_RESIDENT, KVPI_PAGE_LOADING);
    bool is_minor = t->lower == KVPI_ZRAM;
    *(is_minor ? &p->stats.minor_faults : &p->stats.major_faults) += 1;
    p->stats.bytes_read += is_minor ? 0 : t->io.len_bytes;
    p->stats.codecs[t->pg->form_codec].decoded += t->pg->form_codec != KVPI_CODEC_RAW;
    for (kvp_group *g = kvpi_account_of(p, t->pg); g; g = g->parent)
        *(is_minor ? &g->minor_faults : &g->major_faults) += 1;
}

static void end_zram_job(kvp_pager *p, kvpi_transfer *t)
{
    p->n_zram_jobs--;
    kvpi_account_claim(t->account, KVP_TIER_ZRAM, -(int64_t)p->geometry.slot_bytes);
    kvpi_account_unref(t->account);
}

static void count_encoded(kvp_pager *p, const kvpi_transfer *t)
{
    size_t n = kvpi_page_bytes(p, t->pg);
    kvp_codec_stats *c = &p->stats.codecs[t->codec];
    c->pages++;
    c->raw_bytes += n;
    c->stored_bytes += t->stored_bytes;
    p->stats.codec_raw_bytes += n;
    p->stats.codec_stored_bytes += t->stored_bytes;
    p->stats.codec_untried += !t->is_tried;
}

static void land_demote_zram(kvp_pager *p, kvpi_transfer *t)
{
    end_zram_job(p, t);
    if (t->is_tried)
        kvpi_habit_learn(&p->habits[t->pg->lane], t->codec != KVPI_CODEC_RAW);
    if (t->status) { /* no room: the page stays dirty */
        kvpi_set_flags(p, t->page, 0, KVPI_PAGE_WRITING);
        p->zram_is_full = true;
        return;
    }
    if (t->needs_sum)
        t->pg->raw_sum = t->raw_sum;
    kvpi_set_flags(p, t->page, KVPI_PAGE_SUMMED, KVPI_PAGE_WRITING);
    t->pg->form_sum = t->stored_sum;
    t->pg->form_bytes = (uint32_t)t->stored_bytes;
    t->pg->form_codec = (uint8_t)t->codec;
    kvpi_set_blob(p, t->page, t->slot);
    p->stats.demotions++;
    count_encoded(p, t);
}

static void count_write(kvp_pager *p, const kvpi_transfer *t)
{
    if (t->status) {
        p->stats.io_errors++;
        p->write_errors += p->write_errors < KVPI_MAX_WRITE_ERRORS;
        p->write_errno = t->io.native_error;
    } else {
        p->write_errors = 0;
        p->stats.demotions++;
        p->stats.bytes_written += t->io.len_bytes;
    }
}

/* A slot that could not be written is not used again; the page gets another one, if there is any.
 */
static void replace_slot(kvp_pager *p, kvpi_transfer *t)
{
    kvp_slot slot;
    if (p->promised == p->n_backed && !kvpi_promise(p, 1))
        return;
    if (kvpi_tier_slot_alloc(p->lower[KVPI_DISK], p->geometry.slot_bytes, &slot))
        return;
    p->promised--;
    t->pg->disk_slot = (uint32_t)slot;
}

static void land_demote_disk(kvp_pager *p, kvpi_transfer *t)
{
    if (t->needs_sum) {
        t->needs_sum = false;
        t->pg->raw_sum = t->raw_sum;
        kvpi_set_flags(p, t->page, KVPI_PAGE_SUMMED, 0);
        kvpi_transfer_submit(p, t);
        return;
    }
    count_write(p, t);
    if (t->status)
        replace_slot(p, t);
    t->pg->form_bytes = (uint32_t)kvpi_page_bytes(p, t->pg);
    t->pg->form_codec = KVPI_CODEC_RAW;
    kvpi_set_copy(p, t->page, KVPI_DISK, t->pg->disk_slot, !t->status);
    kvpi_set_flags(p, t->page, 0, KVPI_PAGE_WRITING);
    put_transfer(p, t);
}

static void migrate_submit(kvp_pager *p, kvpi_transfer *t)
{
    t->needs_fetch = false;
    t->io = (kvp_io){.op = KVP_IO_WRITE,
                     .slot = t->pg->disk_slot,
                     .buf = t->unit->staging,
                     .len_bytes = t->pg->form_bytes,
                     .owner = t};
    kvpi_transfer_submit(p, t);
}

static void land_migrate(kvp_pager *p, kvpi_transfer *t)
{
    if (t->needs_fetch && !t->status) {
        migrate_submit(p, t);
        return;
    }
    if (!t->needs_fetch)
        count_write(p, t);
    if (!t->status)
        kvpi_set_copy(p, t->page, KVPI_DISK, t->pg->disk_slot, true);
    kvpi_set_flags(p, t->page, 0, KVPI_PAGE_MOVING);
    /* A fault that is reading the blob right now keeps it; it can move another time. */
    if (t->status == KVP_E_CORRUPT)
        copy_is_bad(p, t, KVPI_PAGE_LOADING);
    else if (!t->status && !kvpi_page_is(t->pg, KVPI_PAGE_LOADING))
        kvpi_drop_copy(p, t->page, KVPI_ZRAM);
    put_transfer(p, t);
}

/* The transfer is over, or on to its next step. */
static void land(kvp_pager *p, kvpi_transfer *t)
{
    switch (t->kind) {
    case KVPI_PROMOTE:
        land_promote(p, t);
        put_transfer(p, t);
        break;
    case KVPI_DEMOTE_ZRAM:
        land_demote_zram(p, t);
        put_transfer(p, t);
        break;
    case KVPI_DEMOTE_DISK:
        land_demote_disk(p, t);
        break;
    case KVPI_MIGRATE:
        land_migrate(p, t);
        break;
    }
    pthread_cond_broadcast(&p->progress);
}

void kvpi_transfer_step(kvp_pager *p, kvpi_transfer *t)
{
    p->n_finishing++;
    pthread_mutex_unlock(&p->lock);
    finish(p, t);
    pthread_mutex_lock(&p->lock);
    p->n_finishing--;
    land(p, t);
}
