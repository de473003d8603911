/* tier_disk.c - the disk tier: slots of one size in a swap file, moved by a disk engine.
 *
 * Slot i lies at KVPI_SWAP_HEADER_BYTES + i * slot_bytes. Which slots are in use is known in memory
 * only; the number of slots grows with the file, up to what fits into budget_bytes together with
 * the header.
 *
 * Invariants
 *   1. used[] and full[] cover `capacity` slots, a multiple of 4096 (unless none); bits of slots
 *      that the file does not have yet are clear.
 *   2. A bit of full[] is set exactly when its word of used[] has no clear bit.
 *   3. n_used <= n_slots <= max_slots, and the file has room for n_slots.
 *
 * Locks: `grow_lock` (the file's size; held across fallocate) before `lock` (the rest; never held
 * across a system call). */
#include "tiers/tier.h"

#include <assert.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#include "alloc/mem.h"
#include "tiers/swap_file.h"

#define WORD_SLOTS 64u
#define MAX_SLOTS (UINT32_MAX - 1) /* page descriptors keep 32 bits */
#define MIN_CAPACITY ((uint64_t)WORD_SLOTS * WORD_SLOTS)

typedef struct tier_disk {
    kvp_tier base;
    const kvp_mem *mem;
    size_t slot_bytes;
    uint64_t max_slots;
    bool is_unlimited;
    kvp_disk *disk;

    pthread_mutex_t grow_lock;
    kvpi_swap_file file;

    pthread_mutex_t lock;
    uint64_t *used; /* bitmap of capacity slots */
    uint64_t *full; /* bitmap of capacity / 64 words of used[] */
    uint64_t capacity, n_slots, n_used, peak_used;
    uint64_t cursor; /* where the search for a free slot starts: after the last one handed out */
} tier_disk;

/* ---- the bitmap (lock held) -------------------------------------------------------------------*/

static size_t bitmap_bytes(uint64_t capacity)
{
    return (size_t)(capacity / 8 + capacity / 8 / WORD_SLOTS);
}

static void set_bit(tier_disk *t, uint64_t slot)
{
    uint64_t word = slot / WORD_SLOTS;
    t->used[word] |= (uint64_t)1 << slot % WORD_SLOTS;
    if (t->used[word] == UINT64_MAX)
        t->full[word / WORD_SLOTS] |= (uint64_t)1 << word % WORD_SLOTS;
}

static void clear_bit(tier_disk *t, uint64_t slot)
{
    uint64_t word = slot / WORD_SLOTS;
    t->used[word] &= ~((uint64_t)1 << slot % WORD_SLOTS);
    t->full[word / WORD_SLOTS] &= ~((uint64_t)1 << word % WORD_SLOTS);
}

/* The first clear bit of map[] in [from, n_bits), or n_bits. */
static uint64_t first_clear(const uint64_t *map, uint64_t from, uint64_t n_bits)
{
    uint64_t below = ((uint64_t)1 << from % WORD_SLOTS) - 1; /* bits not asked for */
    for (uint64_t word = from / WORD_SLOTS; word * WORD_SLOTS < n_bits; word++, below = 0) {
        uint64_t clear = ~(map[word] | below);
        if (clear) {
            uint64_t bit = word * WORD_SLOTS + (uint64_t)__builtin_ctzll(clear);
            return bit < n_bits ? bit : n_bits;
        }
    }
    return n_bits;
}

/* The first free slot in [from, n_slots), or n_slots. */
static uint64_t free_slot_from(const tier_disk *t, uint64_t from)
{
    uint64_t n_words = (t->n_slots + WORD_SLOTS - 1) / WORD_SLOTS;
    uint64_t word_end = (from / WORD_SLOTS + 1) * WORD_SLOTS;
    uint64_t n = word_end < t->n_slots ? word_end : t->n_slots;
    uint64_t slot = from < n ? first_clear(t->used, from, n) : n;
    if (slot < n || n == t->n_slots)
        return slot < n ? slot : t->n_slots;
    uint64_t word = first_clear(t->full, word_end / WORD_SLOTS, n_words);
    if (word == n_words)
        return t->n_slots;
    word_end = (word + 1) * WORD_SLOTS;
    slot = first_clear(t->used, word * WORD_SLOTS, word_end);
    assert(slot < word_end); /* invariant 2 */
    return slot < t->n_slots ? slot : t->n_slots;
}

/* Next fit: pages written one after another lie one after another. */
static bool take_slot(tier_disk *t, kvp_slot *out)
{
    if (t->n_used == t->n_slots)
        return false;
    uint64_t slot = free_slot_from(t, t->cursor);
    if (slot == t->n_slots)
        slot = free_slot_from(t, 0);
    assert(slot < t->n_slots);
    set_bit(t, slot);
    t->cursor = slot + 1;
    t->n_used++;
    if (t->n_used > t->peak_used)
        t->peak_used = t->n_used;
    *out = slot;
    return true;
}

/* ---- growing (grow_lock held) -----------------------------------------------------------------*/

static kvp_status grow_bitmap(tier_disk *t, uint64_t n_slots)
{
    uint64_t capacity = t->capacity ? t->capacity : MIN_CAPACITY;
    while (capacity < n_slots)
        capacity *= 2;
    if (capacity == t->capacity)
        return KVP_OK;
    uint64_t *fresh;
    kvp_status s = kvpi_alloc(t->mem, bitmap_bytes(capacity), "the map of swap slots", &fresh);
    if (s)
        return s;
    pthread_mutex_lock(&t->lock);
    uint64_t *old = t->used;
    uint64_t *full = fresh + capacity / WORD_SLOTS;
    size_t old_capacity = (size_t)t->capacity;
    if (old) {
        memcpy(fresh, old, old_capacity / 8);
        memcpy(full, t->full, old_capacity / 8 / WORD_SLOTS);
    }
    t->used = fresh;
    t->full = full;
    t->capacity = capacity;
    pthread_mutex_unlock(&t->lock);
    kvpi_free(t->mem, old, bitmap_bytes(old_capacity));
    return KVP_OK;
}

/* n_slots <= max_slots. */
static kvp_status grow_to(tier_disk *t, uint64_t n_slots)
{
    kvp_status s = grow_bitmap(t, n_slots);
    if (!s)
        s = kvpi_swap_file_grow(&t->file, KVPI_SWAP_HEADER_BYTES + n_slots * t->slot_bytes);
    if (s)
        return s;
    uint64_t in_file = (t->file.size_bytes - KVPI_SWAP_HEADER_BYTES) / t->slot_bytes;
    pthread_mutex_lock(&t->lock);
    t->n_slots = in_file < t->capacity ? in_file : t->capacity;
    pthread_mutex_unlock(&t->lock);
    return KVP_OK;
}

static kvp_status disk_full(const tier_disk *t)
{
    return kvp_fail(KVP_E_NOSPACE, "the disk budget of %llu bytes is used up",
                    (unsigned long long)t->file.max_bytes);
}

static kvp_status disk_reserve(kvp_tier *tier, uint64_t n)
{
    tier_disk *t = (tier_disk *)tier;
    pthread_mutex_lock(&t->grow_lock);
    pthread_mutex_lock(&t->lock);
    uint64_t n_used = t->n_used, n_slots = t->n_slots;
    pthread_mutex_unlock(&t->lock);
    kvp_status s = KVP_OK;
    if (n > t->max_slots - n_used)
        s = disk_full(t);
    else if (n_used + n > n_slots)
        s = grow_to(t, n_used + n);
    pthread_mutex_unlock(&t->grow_lock);
    return s;
}

/* ---- slots ------------------------------------------------------------------------------------*/

static bool try_take(tier_disk *t, kvp_slot *out)
{
    pthread_mutex_lock(&t->lock);
    bool ok = take_slot(t, out);
    pthread_mutex_unlock(&t->lock);
    return ok;
}

static kvp_status disk_slot_alloc(kvp_tier *tier, size_t size_bytes, kvp_slot *out)
{
    tier_disk *t = (tier_disk *)tier;
    assert(size_bytes <= t->slot_bytes);
    (void)size_bytes;
    while (!try_take(t, out)) { /* again and again: what was grown may go to another thread */
        kvp_status s = disk_reserve(tier, 1);
        if (s)
            return s;
    }
    return KVP_OK;
}

static void disk_slot_free(kvp_tier *tier, kvp_slot slot)
{
    tier_disk *t = (tier_disk *)tier;
    pthread_mutex_lock(&t->lock);
    assert(slot < t->n_slots);
    assert(t->used[slot / WORD_SLOTS] >> slot % WORD_SLOTS & 1);
    clear_bit(t, slot);
    t->n_used--;
    pthread_mutex_unlock(&t->lock);
}

static void disk_usage(kvp_tier *tier, kvp_tier_usage *out)
{
    tier_disk *t = (tier_disk *)tier;
    pthread_mutex_lock(&t->lock);
    out->slots_used = t->n_used;
    out->slots_free = t->is_unlimited ? UINT64_MAX : t->max_slots - t->n_used;
    out->bytes_used = t->n_used * t->slot_bytes;
    out->bytes_peak = t->peak_used * t->slot_bytes;
    pthread_mutex_unlock(&t->lock);
}

/* ---- transfers --------------------------------------------------------------------------------*/

static kvp_status disk_submit(kvp_tier *tier, kvp_io *first)
{
    tier_disk *t = (tier_disk *)tier;
    for (kvp_io *io = first; io; io = io->next) {
        assert(io->len_bytes % KVP_IO_ALIGN == 0 && io->len_bytes <= t->slot_bytes);
        assert((uintptr_t)io->buf % KVP_IO_ALIGN == 0);
        io->disk = (kvp_disk_io){.op = io->op,
                                 .buf = io->buf,
                                 .len_bytes = io->len_bytes,
                                 .offset_bytes = KVPI_SWAP_HEADER_BYTES + io->slot * t->slot_bytes,
                                 .next = io->next ? &io->next->disk : NULL};
    }
    return t->disk->ops->submit(t->disk, &first->disk);
}

static kvp_status disk_reap(kvp_tier *tier, uint64_t deadline_ns, kvp_io **done)
{
    tier_disk *t = (tier_disk *)tier;
    kvp_disk_io *finished = NULL;
    kvp_status s = t->disk->ops->reap(t->disk, deadline_ns, &finished);
    if (s || !finished)
        return s;
    kvp_io *io = (kvp_io *)((char *)finished - offsetof(kvp_io, disk));
    io->status = finished->status;
    io->native_error = finished->native_error;
    *done = io;
    return KVP_OK;
}

static void disk_resize_range(kvp_tier *tier, void *base, size_t bytes)
{
    kvp_disk *disk = ((tier_disk *)tier)->disk;
    if (disk->ops->resize)
        disk->ops->resize(disk, base, bytes);
}

/* ---- open and close ---------------------------------------------------------------------------*/

static void disk_close(kvp_tier *tier)
{
    tier_disk *t = (tier_disk *)tier;
    t->disk->ops->close(t->disk);
    kvpi_swap_file_close(&t->file);
    kvpi_free(t->mem, t->used, bitmap_bytes(t->capacity));
    pthread_mutex_destroy(&t->lock);
    pthread_mutex_destroy(&t->grow_lock);
    kvpi_free(t->mem, t, sizeof *t);
}

static kvp_status open_engine(tier_disk *t, const kvp_tier_config *cfg)
{
    kvp_disk_config d = {.fd = t->file.fd,
                         .max_depth = cfg->max_depth,
                         .n_ranges = cfg->n_ranges,
                         .mem = cfg->mem,
                         .env = cfg->env,
                         .engine = cfg->engine};
    for (uint32_t i = 0; i < cfg->n_ranges; i++) {
        d.ranges[i].base = cfg->ranges[i].base;
        d.ranges[i].bytes = cfg->ranges[i].bytes;
    }
    return cfg->env->disk_open(cfg->env->opaque, &d, &t->disk);
}

static kvp_status disk_open(const kvp_tier_config *cfg, kvp_tier **out)
{
    uint64_t least = KVPI_SWAP_HEADER_BYTES + cfg->slot_bytes;
    uint64_t budget = cfg->budget_bytes < INT64_MAX ? cfg->budget_bytes : INT64_MAX;
    if (budget < least)
        return kvp_fail(KVP_E_BUDGET,
                        "the disk budget of %llu bytes is too small: needs at least %llu",
                        (unsigned long long)budget, (unsigned long long)least);
    tier_disk *t;
    kvp_status s = kvpi_alloc(cfg->mem, sizeof *t, "the disk tier", &t);
    if (s)
        return s;
    t->base.ops = &kvpi_tier_disk;
    t->mem = cfg->mem;
    t->slot_bytes = cfg->slot_bytes;
    t->max_slots = (budget - KVPI_SWAP_HEADER_BYTES) / cfg->slot_bytes;
    if (t->max_slots > MAX_SLOTS)
        t->max_slots = MAX_SLOTS;
    t->is_unlimited = cfg->budget_bytes >= INT64_MAX;
    s = kvpi_swap_file_open(cfg->path, cfg->slot_bytes, budget, cfg->mem, cfg->env, &t->file);
    if (s)
        goto fail_tier;
    s = open_engine(t, cfg);
    if (s)
        goto fail_file;
    pthread_mutex_init(&t->lock, NULL);
    pthread_mutex_init(&t->grow_lock, NULL);
    *out = &t->base;
    return KVP_OK;
fail_file:
    kvpi_swap_file_close(&t->file);
fail_tier:
    kvpi_free(cfg->mem, t, sizeof *t);
    return s;
}

const kvp_tier_ops kvpi_tier_disk = {
    .abi = KVP_TIER_ABI,
    .caps = KVP_CAP_ASYNC,
    .name = "disk",
    .open = disk_open,
    .close = disk_close,
    .slot_alloc = disk_slot_alloc,
    .slot_free = disk_slot_free,
    .submit = disk_submit,
    .reap = disk_reap,
    .usage = disk_usage,
    .reserve = disk_reserve,
    .resize_range = disk_resize_range,
};

const char *kvpi_tier_disk_engine(const kvp_tier *tier)
{
    assert(tier->ops == &kvpi_tier_disk);
    return ((const tier_disk *)tier)->disk->ops->name;
}
