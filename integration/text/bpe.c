/* bpe.c - byte-pair merges of one word.
 *
 * The merge of lowest rank goes first, the leftmost among equals: the same result as applying the
 * merge list in order (Sennrich et al. 2016, arXiv 1508.07909). Candidates wait in a binary heap,
 * symbols in a doubly linked list, so a word of n bytes takes O(n log n), not O(n^2): a run of a
 * million letters is one word.
 *
 * Invariants:
 *  1. A heap entry is rank << 32 | position of the left symbol; it may be stale: then the pair at
 *     that position no longer has this merge's result, and the entry is dropped.
 *  2. The heap never holds more than 2 (n - 1) entries: n - 1 at the start, and each of at most
 *     n - 1 merges removes one and adds at most two. */
#include "integration/text/bpe.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

struct bpe_symbol {
    int32_t id;          /* -1: merged into its left neighbour */
    uint32_t prev, next; /* positions; NONE: end of the word */
};

kvp_status id_list_push(id_list *list, int32_t id)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        int32_t *ids = realloc(list->ids, capacity * sizeof *ids);
        if (!ids)
            return kvp_fail(KVP_E_NOMEM, "out of memory: a list of %zu token ids", capacity);
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->n++] = id;
    return KVP_OK;
}

/* ---- the table of merges --------------------------------------------------------------------- */

kvp_status bpe_init(bpe *b, size_t n_merges)
{
    size_t n_slots = 16;
    while (n_slots < 2 * n_merges)
        n_slots *= 2;
    *b = (bpe){.n_merges = n_merges, .mask = n_slots - 1, .unknown_id = -1};
    for (size_t i = 0; i < 256; i++)
        b->byte_ids[i] = -1;
    b->results = malloc((n_merges + 1) * sizeof *b->results);
    b->slots = malloc(n_slots * sizeof *b->slots);
    if (!b->results || !b->slots) {
        bpe_fini(b);
        return kvp_fail(KVP_E_NOMEM, "out of memory: a table of %zu merges", n_merges);
    }
    for (size_t i = 0; i < n_slots; i++)
        b->slots[i] = (bpe_slot){.rank = BPE_NO_RANK};
    return KVP_OK;
}

void bpe_fini(bpe *b)
{
    free(b->results);
    free(b->slots);
    b->results = NULL;
    b->slots = NULL;
}

/* The slot that holds this pair, or the empty one where it belongs. */
static bpe_slot *find_slot(const bpe *b, uint64_t pair)
{
    uint64_t hash = pair * 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio: Knuth, TAOCP 6.4 */
    size_t i = (size_t)(hash >> 32) & b->mask;
    while (b->slots[i].rank != BPE_NO_RANK && b->slots[i].pair != pair)
        i = (i + 1) & b->mask;
    return &b->slots[i];
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

void bpe_set_merge(bpe *b, size_t rank, int32_t left, int32_t right, int32_t result)
{
    assert(rank < b->n_merges);
    b->results[rank] = result;
    *find_slot(b, pair_of(left, right)) =
        (bpe_slot){.pair = pair_of(left, right), .rank = (uint32_t)rank};
}

static uint32_t rank_of(const bpe *b, int32_t left, int32_t right)
{
    return find_slot(b, pair_of(left, right))->rank;
}

/* ---- the heap of candidates ------------------------------------------------------------------ */

static void heap_push(uint64_t *heap, size_t *n, uint64_t entry)
{
    size_t i = (*n)++;
    for (; i > 0 && heap[(i - 1) / 2] > entry; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = entry;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n)
{
    uint64_t top = heap[0], last = heap[--*n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < *n; i = child) {
        if (child + 1 < *n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= last)
            break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

/* ---- one word -------------------------------------------------------------------------------- */

static kvp_status reserve(bpe_scratch *scratch, size_t n)
{
    if (n <= scratch->capacity)
        return KVP_OK;
    size_t capacity = n < 256 ? 256 : n;
    struct bpe_symbol *symbols = malloc(capacity * sizeof *symbols);
    uint64_t *heap = malloc(2 * capacity * sizeof *heap);
    if (!symbols || !heap) {
        free(symbols);
        free(heap);
        return kvp_fail(KVP_E_NOMEM, "out of memory: a word of %zu bytes", n);
    }
    bpe_scratch_fini(scratch);
    *scratch = (bpe_scratch){.symbols = symbols, .heap = heap, .capacity = capacity};
    return KVP_OK;
}

void bpe_scratch_fini(bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (bpe_scratch){0};
}

/* One symbol per byte, less what the vocabulary lacks; returns how many. */
static size_t fill_symbols(const bpe *b, struct bpe_symbol *symbols, const char *word, size_t n)
{
    size_t count = 0;
    bool was_unknown = false;
    for (size_t i = 0; i < n; i++) {
        int32_t id = b->byte_ids[(unsigned char)word[i]];
        bool is_unknown = id < 0;
        if (is_unknown)
            id = was_unknown && b->fuses_unknown ? -1 : b->unknown_id;
        was_unknown = is_unknown;
        if (id < 0)
            continue;
        symbols[count] = (struct bpe_symbol){
            .id = id, .prev = count ? (uint32_t)(count - 1) : NONE, .next = (uint32_t)(count + 1)};
        count++;
    }
    if (count)
        symbols[count - 1].next = NONE;
    return count;
}

/* Put the merge of the symbols at `left` and after it on the heap, if there is one. */
static void consider(const bpe *b, bpe_scratch *s, size_t *n_heap, uint32_t left)
{
    uint32_t right = left == NONE ? NONE : s->symbols[left].next;
    if (right == NONE)
        return;
    uint32_t rank = rank_of(b, s->symbols[left].id, s->symbols[right].id);
    if (rank != BPE_NO_RANK)
        heap_push(s->heap, n_heap, (uint64_t)rank << 32 | left);
}

static void merge_all(const bpe *b, bpe_scratch *s, size_t n)
{
    struct bpe_symbol *symbols = s->symbols;
    size_t n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++)
        consider(b, s, &n_heap, (uint32_t)i);
    while (n_heap) {
        assert(n_heap <= 2 * (n - 1));
        uint64_t entry = heap_pop(s->heap, &n_heap);
        uint32_t left = (uint32_t)entry, right = symbols[left].next;
        int32_t result = b->results[entry >> 32];
        if (symbols[left].id < 0 || right == NONE)
            continue;
        uint32_t rank = rank_of(b, symbols[left].id, symbols[right].id);
        if (rank == BPE_NO_RANK || b->results[rank] != result)
            continue;
        symbols[left].id = result;
        symbols[left].next = symbols[right].next;
        symbols[right].id = -1;
        if (symbols[left].next != NONE)
            symbols[symbols[left].next].prev = left;
        consider(b, s, &n_heap, symbols[left].prev);
        consider(b, s, &n_heap, left);
    }
}

kvp_status bpe_encode(const bpe *b, bpe_scratch *scratch, const char *word, size_t n, id_list *out)
{
    assert(n < NONE);
    kvp_status status = reserve(scratch, n);
    if (status)
        return status;
    n = fill_symbols(b, scratch->symbols, word, n);
    if (!n)
        return KVP_OK;
    merge_all(b, scratch, n);
    for (uint32_t i = 0; i != NONE && !status; i = scratch->symbols[i].next)
        status = id_list_push(out, scratch->symbols[i].id);
    return status;
}
