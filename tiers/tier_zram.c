/* tier_zram.c - compressed RAM: blobs of any size, under a hard cap.
 *
 * A blob is a chain of pieces whose sizes are powers of two (see blob.h): 8 KiB each while that
 * much is left, then smaller ones until at most 1/64 of the blob is wasted. Each piece starts with
 * the link to the next; a link is the piece's address with the logarithm of its size in the low
 * bits, which alignment leaves free. A slot is the link to the first piece, so there is no table,
 * and a blob costs what its pieces cost.
 *
 * Losing design: one allocation per blob. jemalloc's classes waste up to 20 % of a 44 KiB blob.
 *
 * Threads: any call at any time, except open and close; not two on the same slot. */
#include "tiers/tier.h"

#include "alloc/mem.h"
#include "alloc/region.h"
#include "tiers/blob.h"
#include "tiers/done_queue.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

typedef uintptr_t piece_link; /* 0: none */
#define LOG_MASK ((piece_link)15)

typedef struct piece {
    piece_link next;
    unsigned char bytes[];
} piece;

typedef struct tier_zram {
    kvp_tier tier;
    const kvp_mem *mem;
    kvpi_blob_heap *heap;
    uint64_t max_bytes;          /* the budget of open */
    atomic_uint_fast64_t n_used; /* blobs */
    kvpi_done_queue done;
} tier_zram;

/* ---- pieces ---- */

static piece *piece_of(piece_link l)
{
    return (piece *)(l & ~LOG_MASK);
}

/* Of the whole piece, its link included. */
static size_t piece_bytes(piece_link l)
{
    return (size_t)1 << (l & LOG_MASK);
}

static size_t payload_bytes(piece_link l)
{
    return piece_bytes(l) - sizeof(piece);
}

static size_t power_above(size_t n)
{
    return n <= KVPI_BLOB_MIN_BYTES ? KVPI_BLOB_MIN_BYTES
                                    : (size_t)1 << (64 - __builtin_clzll(n - 1));
}

/* The size of the next piece of a blob of which `left` bytes have none yet. */
static size_t choose_piece(size_t left, size_t max_waste_bytes)
{
    size_t n = left + sizeof(piece);
    if (n >= KVPI_BLOB_MAX_BYTES)
        return KVPI_BLOB_MAX_BYTES;
    size_t above = power_above(n);
    return above - n <= max_waste_bytes || above == KVPI_BLOB_MIN_BYTES ? above : above / 2;
}

/* A piece of n bytes, or half of the largest size: when memory is fragmented, single OS pages are
 * what is left. 0: no room. */
static piece_link alloc_piece(tier_zram *t, size_t n)
{
    piece *p = kvpi_blob_alloc(t->heap, n);
    if (!p && n == KVPI_BLOB_MAX_BYTES) {
        n /= 2;
        p = kvpi_blob_alloc(t->heap, n);
    }
    if (!p)
        return 0;
    assert(((piece_link)p & LOG_MASK) == 0);
    p->next = 0;
    return (piece_link)p | (piece_link)__builtin_ctzll(n);
}

static void free_chain(tier_zram *t, piece_link l)
{
    while (l) {
        piece *p = piece_of(l);
        piece_link next = p->next;
        kvpi_blob_free(t->heap, p, piece_bytes(l));
        l = next;
    }
}

/* 0: no room. */
static piece_link alloc_chain(tier_zram *t, size_t size_bytes)
{
    size_t max_waste_bytes = size_bytes / 64;
    piece_link first = 0, *tail = &first;
    for (size_t left = size_bytes ? size_bytes : 1; left > 0;) {
        piece_link l = alloc_piece(t, choose_piece(left, max_waste_bytes));
        if (!l) {
            free_chain(t, first);
            return 0;
        }
        *tail = l;
        tail = &piece_of(l)->next;
        left -= left < payload_bytes(l) ? left : payload_bytes(l);
    }
    return first;
}

/* ---- tier ---- */

static kvp_status zram_open(const kvp_tier_config *cfg, kvp_tier **out)
{
    tier_zram *t = NULL;
    uint64_t cap_bytes =
        cfg->budget_bytes == KVP_UNLIMITED ? kvpi_machine_bytes() : cfg->budget_bytes;
    kvp_status status = kvpi_alloc(cfg->mem, sizeof *t, "the compressed RAM tier", &t);
    if (status)
        return status;
    status = kvpi_blob_heap_open(cfg->mem, cap_bytes, &t->heap);
    if (status) {
        kvpi_free(cfg->mem, t, sizeof *t);
        return status;
    }
    t->tier.ops = &kvpi_tier_zram;
    t->mem = cfg->mem;
    t->max_bytes = cap_bytes;
    kvpi_done_queue_init(&t->done);
    *out = &t->tier;
    return KVP_OK;
}

static void zram_close(kvp_tier *tier)
{
    tier_zram *t = (tier_zram *)tier;
    kvpi_done_queue_fini(&t->done);
    kvpi_blob_heap_close(t->heap);
    kvpi_free(t->mem, t, sizeof *t);
}

static kvp_status zram_slot_alloc(kvp_tier *tier, size_t size_bytes, kvp_slot *out)
{
    tier_zram *t = (tier_zram *)tier;
    piece_link first = alloc_chain(t, size_bytes);
    if (!first)
        return KVP_E_NOSPACE; /* an answer that reclaim waits for: no message */
    atomic_fetch_add(&t->n_used, 1);
    *out = first;
    return KVP_OK;
}

static void zram_slot_free(kvp_tier *tier, kvp_slot slot)
{
    tier_zram *t = (tier_zram *)tier;
    free_chain(t, (piece_link)slot);
    atomic_fetch_sub(&t->n_used, 1);
}

static void copy(piece_link l, kvp_io_op op, unsigned char *buf, size_t len_bytes)
{
    for (size_t done = 0; done < len_bytes;) {
        assert(l); /* else the transfer is longer than the blob */
        piece *p = piece_of(l);
        size_t n = payload_bytes(l);
        if (n > len_bytes - done)
            n = len_bytes - done;
        if (op == KVP_IO_READ)
            memcpy(buf + done, p->bytes, n);
        else
            memcpy(p->bytes, buf + done, n);
        done += n;
        l = p->next;
    }
}

static kvp_status zram_submit(kvp_tier *tier, kvp_io *io)
{
    tier_zram *t = (tier_zram *)tier;
    for (kvp_io *next; io; io = next) {
        next = io->next;
        copy((piece_link)io->slot, io->op, io->buf, io->len_bytes);
        io->status = KVP_OK;
        io->native_error = 0;
        kvpi_done_queue_push(&t->done, io);
    }
    return KVP_OK;
}

static kvp_status zram_reap(kvp_tier *tier, uint64_t deadline_ns, kvp_io **done)
{
    (void)deadline_ns; /* whatever was submitted is done */
    *done = kvpi_done_queue_pop(&((tier_zram *)tier)->done);
    return KVP_OK;
}

static void zram_usage(kvp_tier *tier, kvp_tier_usage *out)
{
    tier_zram *t = (tier_zram *)tier;
    *out = (kvp_tier_usage){
        .slots_used = atomic_load(&t->n_used),
        .slots_free = UINT64_MAX,
        .bytes_used = kvpi_blob_used(t->heap),
        .bytes_peak = kvpi_blob_peak(t->heap),
        .bytes_over = kvpi_blob_over(t->heap),
    };
}

static kvp_status zram_set_budget(kvp_tier *tier, uint64_t budget_bytes)
{
    tier_zram *t = (tier_zram *)tier;
    if (budget_bytes == KVP_UNLIMITED)
        budget_bytes = t->max_bytes;
    if (budget_bytes > t->max_bytes)
        return kvp_fail(KVP_E_INVALID,
                        "a budget of %llu bytes of compressed RAM: it grows to the %llu of opening "
                        "and no further; open with more",
                        (unsigned long long)budget_bytes, (unsigned long long)t->max_bytes);
    kvpi_blob_set_cap(t->heap, budget_bytes);
    return KVP_OK;
}

static void zram_trim(kvp_tier *tier)
{
    (void)kvpi_blob_trim(((tier_zram *)tier)->heap);
}

const kvp_tier_ops kvpi_tier_zram = {
    .abi = KVP_TIER_ABI,
    .caps = KVP_CAP_VARIABLE,
    .name = "zram",
    .open = zram_open,
    .close = zram_close,
    .slot_alloc = zram_slot_alloc,
    .slot_free = zram_slot_free,
    .submit = zram_submit,
    .reap = zram_reap,
    .usage = zram_usage,
    .set_budget = zram_set_budget,
    .trim = zram_trim,
};
