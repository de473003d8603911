/* kvpager/prefix.h - sequences that begin alike share the pages of what they have in common.
 *
 *     kvp_prefix_cache_open(pager, NULL, 1 << 20, &cache);
 *     kvp_prefix_get(cache, salt, tokens, n, &seq, &n_found);     how much of it is there already
 *     ... append tokens[n_found ..] ...
 *     kvp_prefix_put(cache, salt, tokens, n, seq);                for those who come after
 *
 * A prefix is found by a 128-bit hash (XXH3) chained over its blocks of page_tokens token ids, from
 * a root of the pager's fingerprint and the caller's salt; the ids themselves are compared on every
 * hit, so a collision is a miss. Different salts never share: give tenants salts of their own.
 * Where they have groups (kvpager/budget.h), give each a cache of its own: its group pays for it.
 *
 * Where KV comes from shows in its last bits: a prefix that was computed in other chunks than the
 * caller would have used gives results as good, not the same bits.
 *
 * Threads: any call at any time, but for close; kvp_prefix_put() is a call on its sequence, and may
 * wait for room in a budget: a thread that has a scan open closes it first (kvpager/scan.h). */
#ifndef KVPAGER_PREFIX_H
#define KVPAGER_PREFIX_H

#include "kvpager.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvp_prefix_cache kvp_prefix_cache;

/* group: that all sequences of the cache are in; NULL: in none but the pager. max_tokens: that are
 * remembered; the prefixes used longest ago go first. Their pages take room in the tiers, and in
 * the group's budget, as those of any sequence do. Errors: KVP_E_INVALID, KVP_E_NOMEM. */
KVP_API KVP_NODISCARD kvp_status kvp_prefix_cache_open(kvp_pager *pager, kvp_group *group,
                                                       uint64_t max_tokens,
                                                       kvp_prefix_cache **cache);
/* Forgets everything; before the pager is closed. NULL does nothing. */
KVP_API void kvp_prefix_cache_close(kvp_prefix_cache *cache);

/* A new sequence (the caller's, to be destroyed) in the cache's group, with the longest prefix of
 * tokens[n_tokens] that is known: whole pages, *n_found tokens, possibly 0. Reads no page. Errors:
 * KVP_E_NOMEM. */
KVP_API KVP_NODISCARD kvp_status kvp_prefix_get(kvp_prefix_cache *cache, uint64_t salt,
                                                const int32_t *tokens, uint64_t n_tokens,
                                                kvp_seq **seq, uint64_t *n_found);
/* Remember the sealed pages of `seq`, whose first n_tokens tokens these are; the sequence goes on
 * as it is. What is longer than the cache is remembered in part. Errors: KVP_E_RANGE the sequence
 * has fewer tokens, or pages of it were evicted; KVP_E_INVALID it is in another group;
 * KVP_E_NOMEM. */
KVP_API KVP_NODISCARD kvp_status kvp_prefix_put(kvp_prefix_cache *cache, uint64_t salt,
                                                const int32_t *tokens, uint64_t n_tokens,
                                                const kvp_seq *seq);
/* Forget the prefixes used longest ago until no more than max_tokens are left: when the pager
 * reports KVP_E_NOSPACE, for instance. cache NULL: nothing. */
KVP_API void kvp_prefix_trim(kvp_prefix_cache *cache, uint64_t max_tokens);

typedef struct kvp_prefix_stats {
    uint64_t n_gets, n_hits; /* a hit: at least one page was found */
    uint64_t tokens_asked, tokens_found;
    uint64_t n_prefixes, n_tokens; /* remembered now */
    uint64_t n_forgotten;          /* prefixes, for want of room */
} kvp_prefix_stats;

/* cache NULL: all 0. */
KVP_API void kvp_prefix_cache_stats(kvp_prefix_cache *cache, kvp_prefix_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
