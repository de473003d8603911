/* prefix.c - sequences that begin alike: what was put is kept as a fork, and found through a table
 * of its blocks.
 *
 * A fork costs page-table entries only, and keeps pages alive by their reference counts; so the
 * cache is a set of parked sequences, and a hit is a fork of one of them, cut to what is common.
 *
 * Invariants, under `lock`
 *  X1  Each node of the table names the parked sequence used last of those that have its block. So
 *      the one used longest ago can go with its nodes, and no other is cut off from its beginning.
 *  X2  n_nodes of a parked sequence counts the nodes that name it; one without any is not kept.
 *      What several have in common has one node, and counts once.
 *
 * Lock order: `lock`, then the pager's. */
#include "kvpager/prefix.h"

#include <pthread.h>
#include <string.h>

#include "alloc/mem.h"
#include "tiers/account.h"
#include "tiers/checksum.h"
#include "tiers/pager.h"

typedef struct parked {
    kvp_seq *seq;
    uint64_t salt;
    int32_t *tokens; /* [n_blocks * page_tokens] */
    uint64_t n_blocks;
    uint64_t n_nodes;
    struct parked *older, *newer; /* by last use */
} parked;

/* One block of a prefix. */
typedef struct node {
    kvpi_hash128 hash; /* of everything up to its end */
    parked *owner;     /* NULL: an empty place of the table */
    uint64_t block;
} node;

struct kvp_prefix_cache {
    kvp_pager *pager;
    kvp_group *group;
    uint64_t max_tokens;
    pthread_mutex_t lock;
    node *nodes; /* open addressing, linear probing; [capacity], a power of two */
    uint64_t capacity, n_nodes;
    parked *oldest, *newest;
    kvp_prefix_stats stats;
};

/* ---- hashes ---- */

static kvpi_hash128 root_of(const kvp_prefix_cache *c, uint64_t salt)
{
    const uint64_t root[] = {c->pager->cfg.fingerprint, salt};
    return kvpi_hash_chain((kvpi_hash128){0}, root, sizeof root);
}

/* The hash of the block behind what has this hash. */
static kvpi_hash128 extend(const kvp_prefix_cache *c, kvpi_hash128 before, const int32_t *block)
{
    return kvpi_hash_chain(before, block, c->pager->geometry.page_tokens * sizeof *block);
}

/* ---- the table ---- */

/* Its node, or the empty place where it belongs. */
static node *find(const kvp_prefix_cache *c, kvpi_hash128 hash)
{
    uint64_t i = hash.low & (c->capacity - 1);
    while (c->nodes[i].owner &&
           (c->nodes[i].hash.low != hash.low || c->nodes[i].hash.high != hash.high))
        i = (i + 1) & (c->capacity - 1);
    return &c->nodes[i];
}

/* Close the gap: whatever was moved on because of it moves back. */
static void remove_node(kvp_prefix_cache *c, node *gone)
{
    const uint64_t mask = c->capacity - 1;
    uint64_t i = (uint64_t)(gone - c->nodes);
    c->n_nodes--;
    for (uint64_t j = (i + 1) & mask; c->nodes[j].owner; j = (j + 1) & mask) {
        uint64_t home = c->nodes[j].hash.low & mask;
        if (((j - home) & mask) >= ((j - i) & mask)) {
            c->nodes[i] = c->nodes[j];
            i = j;
        }
    }
    c->nodes[i].owner = NULL;
}

static kvp_status make_room(kvp_prefix_cache *c, uint64_t n_more)
{
    if ((c->n_nodes + n_more) * 2 <= c->capacity)
        return KVP_OK;
    uint64_t capacity = c->capacity;
    while ((c->n_nodes + n_more) * 2 > capacity)
        capacity *= 2;
    kvp_prefix_cache bigger = {.capacity = capacity};
    kvp_status status = kvpi_alloc(&c->pager->table_mem, capacity * sizeof *bigger.nodes,
                                   "the table of prefixes", &bigger.nodes);
    if (status)
        return status;
    for (uint64_t i = 0; i < c->capacity; i++)
        if (c->nodes[i].owner)
            *find(&bigger, c->nodes[i].hash) = c->nodes[i];
    kvpi_free(&c->pager->table_mem, c->nodes, c->capacity * sizeof *c->nodes);
    c->nodes = bigger.nodes;
    c->capacity = capacity;
    return KVP_OK;
}

/* ---- parked sequences ---- */

static void link_newest(kvp_prefix_cache *c, parked *p)
{
    p->older = c->newest;
    p->newer = NULL;
    *(c->newest ? &c->newest->newer : &c->oldest) = p;
    c->newest = p;
}

static void unlink_parked(kvp_prefix_cache *c, parked *p)
{
    *(p->older ? &p->older->newer : &c->oldest) = p->newer;
    *(p->newer ? &p->newer->older : &c->newest) = p->older;
}

static void free_parked(kvp_prefix_cache *c, parked *p)
{
    uint32_t page_tokens = c->pager->geometry.page_tokens;
    kvp_seq_destroy(p->seq);
    kvpi_free(&c->pager->table_mem, p->tokens, p->n_blocks * page_tokens * sizeof *p->tokens);
    kvpi_free(&c->pager->table_mem, p, sizeof *p);
}

/* The fork, and the tokens, of a sequence's first n_blocks blocks. */
static kvp_status park(kvp_prefix_cache *c, uint64_t salt, const int32_t *tokens, uint64_t n_blocks,
                       const kvp_seq *seq, parked **out)
{
    uint64_t n = n_blocks * c->pager->geometry.page_tokens;
    parked *p;
    kvp_status status = kvpi_alloc(&c->pager->table_mem, sizeof *p, "a prefix", &p);
    if (status)
        return status;
    p->salt = salt;
    p->n_blocks = n_blocks;
    status = kvpi_alloc(&c->pager->table_mem, n * sizeof *p->tokens, "a prefix", &p->tokens);
    if (!status)
        status = kvp_seq_fork(seq, &p->seq);
    if (!status)
        status = kvp_seq_truncate(p->seq, n);
    if (status) {
        free_parked(c, p);
        return status;
    }
    memcpy(p->tokens, tokens, n * sizeof *p->tokens);
    *out = p;
    return KVP_OK;
}

static void drop(kvp_prefix_cache *c, parked *p)
{
    unlink_parked(c, p);
    free_parked(c, p);
    c->stats.n_prefixes--;
}

static void forget_oldest(kvp_prefix_cache *c)
{
    parked *p = c->oldest;
    uint32_t page_tokens = c->pager->geometry.page_tokens;
    kvpi_hash128 hash = root_of(c, p->salt);
    for (uint64_t b = 0; b < p->n_blocks; b++) {
        hash = extend(c, hash, p->tokens + b * page_tokens);
        node *n = find(c, hash);
        if (n->owner == p)
            remove_node(c, n);
    }
    drop(c, p);
    c->stats.n_forgotten++;
}

static void trim(kvp_prefix_cache *c, uint64_t max_tokens)
{
    while (c->n_nodes * c->pager->geometry.page_tokens > max_tokens)
        forget_oldest(c);
}

/* It is the one used last, and the nodes of its blocks, which are there or find room, say so. */
static void touch(kvp_prefix_cache *c, parked *p)
{
    uint32_t page_tokens = c->pager->geometry.page_tokens;
    kvpi_hash128 hash = root_of(c, p->salt);
    for (uint64_t b = 0; b < p->n_blocks; b++) {
        hash = extend(c, hash, p->tokens + b * page_tokens);
        node *n = find(c, hash);
        parked *before = n->owner;
        if (before == p)
            continue;
        c->n_nodes += !before;
        *n = (node){.hash = hash, .owner = p, .block = b};
        p->n_nodes++;
        if (before && --before->n_nodes == 0)
            drop(c, before);
    }
    unlink_parked(c, p);
    link_newest(c, p);
}

/* The longest known prefix, in blocks, and who has it. */
static uint64_t look_up(const kvp_prefix_cache *c, uint64_t salt, const int32_t *tokens,
                        uint64_t n_tokens, parked **owner)
{
    uint32_t page_tokens = c->pager->geometry.page_tokens;
    kvpi_hash128 hash = root_of(c, salt);
    uint64_t n = 0;
    *owner = NULL;
    for (; (n + 1) * page_tokens <= n_tokens; n++) {
        const int32_t *block = tokens + n * page_tokens;
        hash = extend(c, hash, block);
        const node *found = find(c, hash);
        const parked *p = found->owner;
        uint64_t n_same = p == *owner ? n * page_tokens : 0; /* blocks compared before */
        if (!p || p->salt != salt || found->block != n ||
            memcmp(p->tokens + n_same, tokens + n_same,
                   ((n + 1) * page_tokens - n_same) * sizeof *tokens) != 0)
            break;
        *owner = found->owner;
    }
    return n;
}

/* ---- for callers ---- */

kvp_status kvp_prefix_get(kvp_prefix_cache *c, uint64_t salt, const int32_t *tokens,
                          uint64_t n_tokens, kvp_seq **seq, uint64_t *n_found)
{
    if (!c || !seq || !n_found || (n_tokens && !tokens))
        return kvp_fail(KVP_E_INVALID, "kvp_prefix_get: an argument is NULL");
    pthread_mutex_lock(&c->lock);
    parked *p;
    uint64_t n = look_up(c, salt, tokens, n_tokens, &p) * c->pager->geometry.page_tokens;
    kvp_status status = p ? kvp_seq_fork(p->seq, seq) : kvp_seq_create_in(c->group, seq);
    if (!status && p) {
        status = kvp_seq_truncate(*seq, n);
        touch(c, p);
    }
    if (!status) {
        *n_found = n;
        c->stats.n_gets++;
        c->stats.n_hits += n > 0;
        c->stats.tokens_asked += n_tokens;
        c->stats.tokens_found += n;
    }
    pthread_mutex_unlock(&c->lock);
    return status;
}

/* All pages of the first n tokens are there. */
static bool is_whole(const kvp_seq *seq, uint64_t n_blocks)
{
    for (uint32_t i = 0; i < seq->pager->geometry.n_lanes; i++) {
        const kvpi_lane *lane = &seq->lanes[i];
        if (lane->n_entries < n_blocks || lane->entries[n_blocks - 1].index != n_blocks - 1)
            return false;
    }
    return true;
}

kvp_status kvp_prefix_put(kvp_prefix_cache *c, uint64_t salt, const int32_t *tokens,
                          uint64_t n_tokens, const kvp_seq *seq)
{
    if (!c || !seq || (n_tokens && !tokens))
        return kvp_fail(KVP_E_INVALID, "kvp_prefix_put: an argument is NULL");
    uint32_t page_tokens = c->pager->geometry.page_tokens;
    if (kvpi_seq_group(seq) != c->group)
        return kvp_fail(
            KVP_E_INVALID,
            "kvp_prefix_put: the sequence is in \"%s\", the cache's are in \"%s\": open "
            "a cache for each group",
            kvpi_seq_group(seq)->name, c->group->name);
    if (n_tokens > kvp_seq_length(seq))
        return kvp_fail(KVP_E_RANGE, "kvp_prefix_put: %llu tokens, but the sequence has %llu",
                        (unsigned long long)n_tokens, (unsigned long long)kvp_seq_length(seq));
    uint64_t n_blocks = (n_tokens < c->max_tokens ? n_tokens : c->max_tokens) / page_tokens;
    if (!n_blocks)
        return KVP_OK;
    if (!is_whole(seq, n_blocks))
        return kvp_fail(KVP_E_RANGE, "kvp_prefix_put: pages of the prefix were evicted");
    pthread_mutex_lock(&c->lock);
    parked *p;
    kvp_status status = KVP_OK;
    if (look_up(c, salt, tokens, n_blocks * page_tokens, &p) < n_blocks) {
        trim(c, c->max_tokens - n_blocks * page_tokens);
        status = make_room(c, n_blocks);
        if (!status)
            status = park(c, salt, tokens, n_blocks, seq, &p);
        if (!status) {
            link_newest(c, p);
            c->stats.n_prefixes++;
        }
    }
    if (!status)
        touch(c, p);
    pthread_mutex_unlock(&c->lock);
    return status;
}

void kvp_prefix_trim(kvp_prefix_cache *c, uint64_t max_tokens)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    trim(c, max_tokens);
    pthread_mutex_unlock(&c->lock);
}

void kvp_prefix_cache_stats(kvp_prefix_cache *c, kvp_prefix_stats *stats)
{
    *stats = (kvp_prefix_stats){0};
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    *stats = c->stats;
    stats->n_tokens = c->n_nodes * c->pager->geometry.page_tokens;
    pthread_mutex_unlock(&c->lock);
}

kvp_status kvp_prefix_cache_open(kvp_pager *pager, kvp_group *group, uint64_t max_tokens,
                                 kvp_prefix_cache **out)
{
    if (!pager || !out)
        return kvp_fail(KVP_E_INVALID, "kvp_prefix_cache_open: an argument is NULL");
    if (group && group->pager != pager)
        return kvp_fail(KVP_E_INVALID, "kvp_prefix_cache_open: the group is in another pager");
    kvp_prefix_cache *c;
    kvp_status status = kvpi_alloc(&pager->table_mem, sizeof *c, "the cache of prefixes", &c);
    if (status)
        return status;
    c->pager = pager;
    c->group = group ? group : pager->root;
    c->max_tokens = max_tokens;
    c->capacity = 64;
    status = kvpi_alloc(&pager->table_mem, c->capacity * sizeof *c->nodes, "the table of prefixes",
                        &c->nodes);
    if (status) {
        kvpi_free(&pager->table_mem, c, sizeof *c);
        return status;
    }
    pthread_mutex_init(&c->lock, NULL);
    kvpi_lock(pager);
    kvpi_account_ref(c->group);
    kvpi_unlock(pager);
    *out = c;
    return KVP_OK;
}

void kvp_prefix_cache_close(kvp_prefix_cache *c)
{
    if (!c)
        return;
    const kvp_mem mem = c->pager->table_mem;
    trim(c, 0);
    kvpi_lock(c->pager);
    kvpi_account_unref(c->group);
    kvpi_unlock(c->pager);
    kvpi_free(&mem, c->nodes, c->capacity * sizeof *c->nodes);
    pthread_mutex_destroy(&c->lock);
    kvpi_free(&mem, c, sizeof *c);
}
