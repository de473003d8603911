/* pager.h - the pager's state, and what its files offer each other.
 *
 *   pager.c     open, close, plan of RAM        frames.c    the frame ledger: reservations
 *   account.c   who is charged for what         victims.c   whose page leaves
 *   budget.c    groups and their budgets        resize.c    budgets change (drain.c: of RAM)
 *   state.c     a page's state changes           check.c     every invariant (check_accounts.c)
 *   fault.c     make a page resident, pin it    transfer.c  bytes on the way, by completions
 *   progress.c  submit, reap, wait              reclaim.c   victims, demotion, watermarks
 *   scan.c      stream over a layer             readahead.c what will be asked for next
 *   rows.c      append: rows into open pages    sequence.c  create, fork, truncate, evict
 *   pin.c       pins for callers                ticket.c    the same, asynchronous
 *   view.c      what callers see of a page      linear.c    pages as an address range
 *   prefix.c    what sequences have in common   advise.c    hints of the caller
 *   mass.c      attention mass, to the policies stats.c     counters
 *   digest.c    what is known of pages that are elsewhere
 *   parallel.c  whose threads compute           pressure.c  who waited how long
 *   ready.c     who encodes and decodes
 *
 * Lock order: kvp_pager.lock, then zram_lock, then locks that backends and workers keep to
 * themselves. It is never held while bytes move or while anybody waits: a fault is a transfer, and
 * whoever needs progress calls kvpi_wait(), which finishes whatever has completed, or reaps, or
 * sleeps until another thread has done so.
 *
 * Invariants (kvp_pager_check), and those of account.h
 *  G1  held <= n_frames: a reservation is granted only if it can be honoured.
 *  G2  held + stuck <= n_frames, where stuck = dirty pages without a promised place below: a holder
 *      always finds a frame to take, at the latest when what is in flight has landed. The same
 *      holds in every account, min of accounts below it included (B2).
 *  G3  pinned or loading pages, and those of the read-ahead window <= held + faults that nobody
 *      waits for any more.
 *  G4  In a RAM policy: exactly the resident pages that are neither pinned nor in the window. In a
 *      zram policy: exactly the pages with a zram copy that is not MOVING. */
#ifndef KVPI_TIERS_PAGER_H
#define KVPI_TIERS_PAGER_H

#include "alloc/page.h"
#include "alloc/region.h"
#include "alloc/seq.h"
#include "kvpager.h"
#include "tiers/account.h"
#include "tiers/codec.h"
#include "tiers/codec_habit.h"
#include "tiers/digest.h"
#include "tiers/pool.h"
#include "tiers/tier.h"

#include <pthread.h>

#define KVPI_MIN_FRAMES 3u      /* workspace, the page in use, and one on its way */
#define KVPI_MAX_TRANSFERS 112u /* in flight at once */
#define KVPI_MAX_AHEAD 80u      /* of those: at most so many prefetches */
#define KVPI_MAX_UNITS 4u
#define KVPI_MAX_WRITE_ERRORS 3u /* in a row: after that the disk takes no more pages */

/* A staging buffer with codec contexts: what encoding or decoding one page needs. */
typedef struct kvpi_unit {
    kvpi_codec *codec;
    void *staging; /* slot_bytes */
    struct kvpi_unit *next;
} kvpi_unit;

typedef enum kvpi_transfer_kind {
    KVPI_PROMOTE,     /* zram or disk to a frame */
    KVPI_DEMOTE_ZRAM, /* a frame, encoded, to zram: a CPU job */
    KVPI_DEMOTE_DISK, /* a frame, raw, to disk */
    KVPI_MIGRATE,     /* zram to disk, without recompression */
} kvpi_transfer_kind;

typedef struct kvpi_transfer {
    kvp_io io; /* io.owner is this transfer */
    kvpi_transfer_kind kind;
    kvpi_lower lower; /* promote: source; demote: destination */
    uint32_t page;
    kvpi_page *pg;   /* its descriptor, which never moves */
    kvpi_unit *unit; /* NULL: none needed */
    kvp_status status;
    bool needs_sum;   /* demote: the page has no checksum yet */
    bool is_tried;    /* demote to zram: to be compressed, if it can be */
    bool needs_fetch; /* migrate: the blob is not in the unit's staging buffer yet */
    /* encoded result of a demotion to zram */
    size_t stored_bytes;
    uint64_t stored_sum, raw_sum;
    kvp_slot slot;
    kvpi_codec_id codec;
    kvp_group *account; /* demotion to zram: who has claimed slot_bytes there for it */
    struct kvpi_transfer *next;
} kvpi_transfer;

typedef struct kvpi_linears kvpi_linears;

struct kvp_pager {
    pthread_mutex_t lock;
    pthread_cond_t progress; /* something landed, or frames were given back */

    kvp_config cfg;                   /* resolved: no NULLs; cfg.mem is `mem` below */
    kvp_mem user_mem, mem, table_mem; /* mem and table_mem count what goes through them */
    kvp_env env;
    kvpi_geometry geometry;
    uint64_t store_id, next_serial;
    uint32_t next_seq_id;
    kvp_seq *seqs;
    kvp_seq **chains; /* [n_chains], a power of two; by number */
    uint32_t n_chains, n_seqs;
    kvpi_page_table pages;
    kvpi_digests digests;

    kvp_tier *ram, *lower[KVPI_N_LOWER]; /* lower: NULL where there is no such tier */
    kvp_placement_node *frame_nodes;     /* [max_frames], of RAM policies */

    kvp_group *root;                            /* the account that all are in */
    kvp_group **accounts;                       /* by number; NULL: free */
    uint32_t accounts_capacity, accounts_taken; /* all numbers below that are taken */
    kvp_group *resized;                         /* whose budget is being changed; NULL: nobody's */
    kvp_tier_id resized_tier;
    kvpi_quota resized_from; /* what it was */

    /* the frame ledger, in frames */
    uint32_t n_frames, max_frames; /* the budget, and what was reserved at open */
    uint64_t max_ram_bytes;        /* at open */
    uint32_t held;                 /* reservations */
    uint32_t held_user;            /* of those: views, which only the caller ends */
    uint32_t n_dirty;              /* resident pages without a valid copy below */
    uint32_t n_homeless;           /* of those: without a disk slot of their own */
    uint32_t n_admitted;           /* pages about to be both: admitted, not there yet */
    uint64_t promised;             /* disk slots that are sure to be had */
    bool is_making_room;           /* the disk tier is: who waits should reap */
    uint64_t n_backed;             /* of those: for pages that need one */

    kvpi_transfer transfers[KVPI_MAX_TRANSFERS];
    kvpi_transfer *free_transfers, *ready_first, **ready_end;
    kvpi_region staging; /* the units' buffers */
    kvpi_unit units[KVPI_MAX_UNITS], *free_units;
    uint32_t n_units;
    kvpi_habit *habits;                 /* [lanes]; NULL: there is no zram */
    uint32_t n_transfers;               /* not free */
    kvp_io *outbox_first, **outbox_end; /* for the disk tier, which does not have them yet */
    uint32_t n_outbox;
    uint32_t n_in_flight;  /* at the disk tier */
    uint32_t n_submitting; /* of those: being handed over by a thread, without the lock */
    uint32_t n_finishing;  /* being finished by a thread, without the lock */
    bool has_reaper;

    /* read-ahead: pages that were fetched, or are on their way, before anybody asked for them, in
     * the order in which they will probably be used */
    struct {
        uint32_t page;
        uint32_t scan_no; /* how many scans had been opened */
    } ahead[KVPI_MAX_AHEAD];
    uint32_t n_ahead, scan_no;
    uint32_t max_ahead, max_run; /* the window, and what may go beyond it to end a request */
    kvp_seq *ahead_seq;          /* whose outlook is followed; NULL: nobody's */

    kvp_scan *scans, *free_scans;
    uint32_t n_scans, n_open_scans;
    uint32_t last_seq, last_layer; /* of the scan closed last; UINT32_MAX: others were open */
    uint32_t n_waiting;            /* threads that wait for a reservation */
    kvpi_linears *linears;         /* NULL: no RAM for linear views */
    kvp_pool *own_pool;            /* NULL: cfg.pool is the caller's, or parallel_for is used */
    kvpi_help help;                /* with transfers that are ready */

    kvp_seq *wanted, *last_wanted; /* those of which something is to be fetched (advise.c) */

    kvp_ticket *tickets, *last_ticket; /* open ones */
    uint32_t ticket_round;
    pthread_mutex_t ticket_lock; /* before `lock`: starting the thread */
    int event_fd;                /* -1: nobody has asked for it */
    void *ticket_thread;
    bool stop_tickets;

    pthread_mutex_t zram_lock;               /* leaf: every call into the zram tier */
    uint64_t max_zram_bytes, max_disk_bytes; /* at open */
    uint64_t max_slots;                      /* of the disk, likewise; KVP_UNLIMITED: no limit */
    uint32_t n_zram_jobs; /* demotions to zram under way: each may need slot_bytes */
    uint32_t n_writing;   /* pages WRITING */
    bool zram_is_full;    /* an encoded page did not fit, and nothing has left since */

    struct {                                            /* who waits now (pressure.c) */
        uint32_t n_stalled, n_stalled_for[KVP_N_TIERS]; /* threads */
        uint32_t n_inside, n_working;
        uint64_t since_ns; /* the figures above are as they are; only while somebody waits */
    } pressure;
    uint32_t n_left; /* pages that have left RAM, modulo 2^32 */

    uint32_t write_errors;           /* in a row */
    int write_errno, read_errno;     /* of the last failed transfers */
    char disk_full[256];             /* why the disk gave no more slots */
    kvp_stats stats;                 /* counters only; the rest is filled in on request */
    uint64_t fixed_bytes;            /* charged to RAM beside frames: metadata of frames */
    uint64_t staging_bytes;          /* likewise; and cfg.linear_bytes */
    uint64_t mem_bytes, table_bytes; /* held through `mem` and `table_mem` now (atomic) */
};

/* ---- pager.c ---- */

/* What is charged to RAM, with n_frames in use. */
static inline uint64_t kvpi_ram_charged(const kvp_pager *p, uint32_t n_frames)
{
    return p->fixed_bytes + p->staging_bytes + p->cfg.linear_bytes +
           (uint64_t)n_frames * p->geometry.slot_bytes;
}
void kvpi_log(const kvp_pager *p, kvp_log_level level, const char *message);
/* Frames that a RAM budget of so many bytes has, as the pager was opened. */
uint32_t kvpi_frames_in(const kvp_pager *p, uint64_t bytes);
/* What any RAM budget must hold. Without a disk the frames that a ring needs cannot hold pages that
 * have nowhere else to go. */
static inline uint32_t kvpi_min_frames(const kvp_pager *p)
{
    return KVPI_MIN_FRAMES + !p->cfg.disk_bytes;
}

/* ---- frames.c: all with the lock held ---- */

/* What a reservation is for. */
typedef struct kvpi_claim {
    kvp_group *account;    /* NULL: the root */
    uint32_t n_min, n_max; /* frames */
    uint32_t n_new; /* pages about to be dirty without a place below: counted in n_admitted until
                       kvpi_admitted() */
    kvp_group *new_account; /* who will be charged for those: `account` (NULL) or one above it */
    bool is_user;           /* a view's: only the caller ends it */
    bool waits_for_views;   /* views may end meanwhile; others would wait for them for ever */
} kvpi_claim;

/* Reserve, at once or not at all, waiting for others to give theirs back. Room for new pages is
 * made by promising disk slots or demoting to zram. deadline 0: do not wait (KVP_E_AGAIN). Errors:
 * KVP_E_NOSPACE (the message names the group that has no room), KVP_E_IO, KVP_E_TIMEOUT. */
KVP_NODISCARD kvp_status kvpi_hold(kvp_pager *p, const kvpi_claim *c, uint64_t deadline_ns,
                                   uint32_t *granted);
void kvpi_unhold(kvp_pager *p, kvp_group *account, uint32_t n, bool is_user);
/* The pages that a claim admitted are there and counted as what they are; or they will not be. */
void kvpi_admitted(kvp_pager *p, kvp_group *account, uint32_t n_new);
/* Make up to `n` more disk slots sure, at least one; false: there is no disk, or it is full. */
bool kvpi_promise(kvp_pager *p, uint32_t n);
/* A step towards a place below for pages of accounts in `top` that are stuck, so that the claim
 * fits; false: there is none to be made. */
bool kvpi_place_stuck(kvp_pager *p, kvp_group *top, const kvpi_claim *c);
/* A frame for the account, out of the caller's reservation: a free one, or a clean page's.
 * KVP_E_AGAIN: something was set in motion, wait; KVP_E_NOSPACE or KVP_E_IO: nothing can be done. A
 * prefetch gets no more than AGAIN; others take what read-ahead has, if there is nothing else. */
KVP_NODISCARD kvp_status kvpi_frame_take(kvp_pager *p, kvp_group *account, bool is_prefetch,
                                         uint32_t *frame);
/* The same, waiting. */
KVP_NODISCARD kvp_status kvpi_frame_wait(kvp_pager *p, kvp_group *account, uint32_t *frame);
void kvpi_frame_give(kvp_pager *p, kvp_group *account, uint32_t frame);
/* Drop a clean page of `scope`; false: there is none now. */
bool kvpi_frame_reclaim(kvp_pager *p, kvp_group *scope, const kvp_group *cause);
static inline void *kvpi_frame_addr(const kvp_pager *p, uint32_t frame)
{
    return kvpi_tier_addr(p->ram, frame);
}

/* The account, from this one up, that will be the first without a frame to take; *room: frames that
 * it still can have. */
kvp_group *kvpi_frame_scope(kvp_group *account, uint64_t *room);

/* ---- state.c: keeps ledger and policies in step; with the lock held ---- */

size_t kvpi_page_bytes(const kvp_pager *p, const kvpi_page *page);
void kvpi_pin(kvp_pager *p, uint32_t page); /* it is RESIDENT or LOADING */
void kvpi_unpin(kvp_pager *p, uint32_t page);
/* The content is about to change: copies below are stale from now on. Admission comes first. */
void kvpi_page_invalidate(kvp_pager *p, uint32_t page);
/* If it is resident, it leaves before all others until it is used again. */
void kvpi_cool(kvp_pager *p, uint32_t page);
/* To policies that want to know it. */
void kvpi_set_mass(kvp_pager *p, uint32_t page, float mass);
/* Change KVPI_PAGE_HOT, LOW or KEPT, and the page's place in the policies with it. */
void kvpi_rank(kvp_pager *p, uint32_t page, unsigned set, unsigned clear);
static inline void kvpi_set_hot(kvp_pager *p, uint32_t page, bool is_hot)
{
    kvpi_rank(p, page, is_hot ? KVPI_PAGE_HOT : 0, is_hot ? 0 : KVPI_PAGE_HOT);
}
/* The policies that the page belongs to: KVPI_PAGE_IN_..._POLICY (G4). */
unsigned kvpi_page_policies(const kvpi_page *page);
static inline uint64_t kvpi_page_first_position(const kvp_pager *p, const kvpi_page *page)
{
    return (uint64_t)page->index * p->geometry.page_tokens;
}
kvp_placement_page kvpi_page_describe(const kvp_pager *p, uint32_t page);
/* Drop a clean page's frame, so that `cause` gets room. */
void kvpi_page_evict(kvp_pager *p, uint32_t page, const kvp_group *cause);
/* A new page, in no tier yet, for the page table that is about to name it; room must have been
 * reserved. */
uint32_t kvpi_page_create(kvp_pager *p, kvp_group *account);
/* It is charged to another account: one above the one that has it, or below. */
void kvpi_page_move(kvp_pager *p, uint32_t page, kvp_group *to);
/* One more page table names the page. */
void kvpi_page_share(kvp_pager *p, uint32_t page);
/* A page table names the page no more. If it was the last, let go of everything that the page has;
 * waits (dropping the lock) until nothing of it is moving. */
void kvpi_page_release(kvp_pager *p, uint32_t page);
void kvpi_set_flags(kvp_pager *p, uint32_t page, unsigned set, unsigned clear);
/* The place of a copy, and whether the bytes there are the page's. */
void kvpi_set_copy(kvp_pager *p, uint32_t page, kvpi_lower lower, kvp_slot slot, bool is_valid);
void kvpi_drop_copy(kvp_pager *p, uint32_t page, kvpi_lower lower);
/* The page's form_bytes are in zram now. */
void kvpi_set_blob(kvp_pager *p, uint32_t page, kvp_slot blob);
/* Seed of the page's checksums with n_valid tokens in it. */
uint64_t kvpi_page_seed(const kvp_pager *p, const kvpi_page *page, uint32_t n_valid);
/* "the page with tokens 64..127 of sequence 3, layer 2, KV heads 0..3"; the sequence is the one
 * that asks: others may share the page. */
void kvpi_page_name(const kvp_seq *seq, const kvpi_page *page, char *buf, size_t n);

/* ---- fault.c ---- */

/* Start bringing a page up; it is LOADING when this returns KVP_OK. KVP_E_AGAIN: wait, then try
 * again; KVP_E_LOST (without a message); other errors are the budget's. */
KVP_NODISCARD kvp_status kvpi_fault_start(kvp_pager *p, uint32_t page, bool is_prefetch);
/* Make the page of `seq` resident and pin it, out of the caller's reservation. May drop the lock.
 * KVP_E_AGAIN, KVP_E_TIMEOUT: not yet, the fault goes on. */
KVP_NODISCARD kvp_status kvpi_fault_in(const kvp_seq *seq, uint32_t page, uint64_t deadline_ns);

/* ---- drain.c ---- */

/* Frames beyond n_frames are emptied, and their memory goes back to the system; or they are there
 * again. May drop the lock. Errors: KVP_E_TIMEOUT; KVP_E_NOSPACE views have some of them; then call
 * it with the old number. */
KVP_NODISCARD kvp_status kvpi_ram_resize(kvp_pager *p, uint32_t n_frames, uint64_t deadline_ns);

/* ---- readahead.c ---- */

/* As wide as n_frames allow. */
void kvpi_ahead_set_window(kvp_pager *p);
/* A scan of the layer begins, or ends. */
void kvpi_ahead_begin(kvp_seq *seq, uint32_t layer, const kvpi_walk *walk);
void kvpi_ahead_end(kvp_seq *seq, uint32_t layer);
/* The open scan has used what lies before this place. */
void kvpi_ahead_pass(kvp_seq *seq, kvpi_cursor used);
/* Fetch what is missing of the pages that ahead_seq will be asked for, then of those that will
 * probably be wanted next: as much as keeps the disk busy, or (nobody may call for a while) as the
 * window holds. */
void kvpi_ahead_fill(kvp_pager *p, bool to_the_brim);

/* n pages more, or less, of the account are in the window: counts and reserves their frames. */
void kvpi_ahead_charge(kvp_pager *p, kvp_group *account, int32_t n);
/* The page leaves the window: it is being used, or not. */
void kvpi_ahead_remove(kvp_pager *p, uint32_t page, bool is_used);
/* Give up the page in one of these states, of accounts in `scope`, that will be used last; false:
 * the window has none. */
bool kvpi_ahead_give_up(kvp_pager *p, const kvp_group *scope, unsigned state);

/* ---- advise.c: with the lock held ---- */

/* Go on fetching what was said to be needed. */
void kvpi_wanted_fill(kvp_pager *p);
/* The sequence's tables are about to change, or to go: forget what is wanted of it. */
void kvpi_wanted_drop(kvp_seq *seq);

/* ---- transfer.c ---- */

/* A transfer for `page`, with a unit if asked for; NULL: none is free now. */
kvpi_transfer *kvpi_transfer_get(kvp_pager *p, kvpi_transfer_kind kind, uint32_t page,
                                 bool with_unit);
/* Put a prepared transfer into the outbox. If the disk tier refuses it, it lands and says why. */
void kvpi_transfer_submit(kvp_pager *p, kvpi_transfer *t);
/* Its I/O is over: a page that came in still needs the CPU, one that went out only bookkeeping. */
void kvpi_transfer_completed(kvp_pager *p, kvpi_transfer *t);
/* The CPU's part, without the lock, and what follows from it. */
void kvpi_transfer_step(kvp_pager *p, kvpi_transfer *t);

/* ---- ready.c ---- */

/* Queue a transfer whose next step needs only the CPU. */
void kvpi_transfer_ready(kvp_pager *p, kvpi_transfer *t);
/* Do one of those steps for whoever waits for `page` (or any); false: there is none for him. */
bool kvpi_ready_finish(kvp_pager *p, uint32_t page);
/* Whether there is more to encode or decode than who waits can do now; do one of those. */
bool kvpi_ready_is_spare(const kvp_pager *p);
bool kvpi_ready_finish_spare(kvp_pager *p);

/* ---- progress.c ---- */

void kvpi_lock(kvp_pager *p);
/* Hand the outbox to the disk tier, and unlock. */
void kvpi_unlock(kvp_pager *p);
/* Make progress: submit, or finish something that has landed, or reap, or sleep until someone else
 * has. Drops the lock meanwhile. KVP_E_NOSPACE: nothing is moving, waiting would be for ever;
 * KVP_E_TIMEOUT. */
KVP_NODISCARD kvp_status kvpi_wait(kvp_pager *p, uint64_t deadline_ns);
/* The same for whoever waits for `page`: while that is on its way, pages that others will read next
 * are theirs to verify. */
KVP_NODISCARD kvp_status kvpi_wait_for(kvp_pager *p, uint32_t page, uint64_t deadline_ns);
/* The same for the thread that carries on what others have asked for: nobody waits for it. */
KVP_NODISCARD kvp_status kvpi_wait_idle(kvp_pager *p);
/* For kvp_pager.help: what a worker of the pool does for those who wait. */
bool kvpi_help_out(void *pager);
/* Sleep until another thread has made progress, finished a transfer or given frames back. */
KVP_NODISCARD kvp_status kvpi_sleep(kvp_pager *p, uint64_t deadline_ns);
/* Take in what has completed, without waiting. */
void kvpi_poll(kvp_pager *p);
/* Wait until nothing is in flight. */
void kvpi_drain(kvp_pager *p);

/* ---- pin.c: with the lock held ---- */

/* Which pages: t->view has the caller's array; what is wrong with the request. */
KVP_NODISCARD kvp_status kvpi_pin_begin(kvp_ticket *t, kvp_seq *seq, uint32_t layer, uint64_t first,
                                        uint64_t n_tokens);
/* Bring them up; may drop the lock. KVP_OK: t->view is pinned. KVP_E_AGAIN, KVP_E_TIMEOUT: call
 * again, or abandon it, as after other errors. */
KVP_NODISCARD kvp_status kvpi_pin_advance(kvp_ticket *t, uint64_t deadline_ns);
/* Let go of what it has; faults go on. */
void kvpi_pin_abandon(kvp_ticket *t);

/* ---- ticket.c ---- */

void kvpi_tickets_open(kvp_pager *p);
void kvpi_tickets_close(kvp_pager *p);
/* Does an open ticket want this entry of the layer's lanes? With the lock held. */
bool kvpi_ticket_has(const kvp_seq *seq, uint32_t layer, uint32_t entry);

/* ---- pressure.c ---- */

/* Charge the time until now to who waits: before any of that changes. */
void kvpi_pressure_pass(kvp_pager *p);
/* The calling thread waits for the tier: RAM: for frames; zram: for bytes that others encode or
 * decode; disk: for I/O. KVPI_NO_STALL: nobody is held up by its waiting; it counts as being
 * elsewhere. */
#define KVPI_NO_STALL KVP_N_TIERS
void kvpi_stall_begin(kvp_pager *p, kvp_tier_id tier);
void kvpi_stall_end(kvp_pager *p, kvp_tier_id tier);
/* So many more threads compute with a page. */
void kvpi_count_work(kvp_pager *p, int32_t n);

/* ---- reclaim.c ---- */

/* Start writing this resident dirty page down. KVP_OK: it is on its way (WRITING), or zram's victim
 * is, which makes room for it. KVP_E_AGAIN: wait; KVP_E_NOSPACE, KVP_E_IO: no place for it. */
KVP_NODISCARD kvp_status kvpi_demote(kvp_pager *p, uint32_t page);
/* The first victim of `scope` that can be written down now is. KVP_E_NOSPACE: there is none. */
KVP_NODISCARD kvp_status kvpi_demote_one(kvp_pager *p, kvp_group *scope, const kvp_group *cause);
/* If a dirty page is among those that leave next for the account (the low watermark), start writing
 * down all of them up to the high watermark. */
void kvpi_demote_next(kvp_pager *p, kvp_group *account);
/* The same, ahead of need: also does the CPU's part, dropping the lock. */
void kvpi_reclaim_ahead(kvp_pager *p, kvp_group *account);
/* Start moving the first victim of `scope` from zram to disk. KVP_E_AGAIN: wait; KVP_E_NOSPACE,
 * KVP_E_IO: there is none, or no place for it. */
KVP_NODISCARD kvp_status kvpi_migrate_one(kvp_pager *p, kvp_group *scope, const kvp_group *cause);

/* ---- sequence.c ---- */

/* NULL: there is none (any more). With the lock held. */
kvp_seq *kvpi_seq_find(kvp_pager *p, uint32_t id);
/* All pages of a layer. */
kvpi_walk kvpi_seq_walk(const kvp_seq *seq, uint32_t layer);
/* n_tokens will be appended to the layer, or have been: pages of a layer that is being filled by
 * many tokens at a time are hot from their next use on, until another layer's turn comes, or all
 * layers have the same length. */
void kvpi_seq_fill(kvp_seq *seq, uint32_t layer, size_t n_tokens);
void kvpi_seq_filled(kvp_seq *seq);
/* Forget the lane's tokens from n on; with the lock held. */
void kvpi_lane_cut(kvp_pager *p, kvp_seq *seq, uint32_t lane, uint64_t n);

/* ---- check_accounts.c ---- */

KVP_NODISCARD kvp_status kvpi_check_accounts(kvp_pager *p);

/* ---- view.c ---- */

void kvpi_fill_view(kvp_pager *p, const kvp_seq *seq, uint32_t layer, uint32_t group,
                    uint32_t index, kvp_page_view *view);
/* The view's pages are pinned from now on; until it is unpinned. With the lock held. */
void kvpi_view_begin(kvp_view *view);

/* ---- linear.c ---- */

KVP_NODISCARD kvp_status kvpi_linears_open(kvp_pager *p);
void kvpi_linears_close(kvp_pager *p);
/* Their invariants; with the lock held. */
KVP_NODISCARD kvp_status kvpi_linears_check(const kvp_pager *p);

/* ---- scan.c ---- */

KVP_NODISCARD kvp_status kvpi_scans_open(kvp_pager *p);
void kvpi_scans_close(kvp_pager *p);

#endif
