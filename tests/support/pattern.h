/* pattern.h - KV whose every element is known from where it belongs: what a page must hold can be
 * computed, so nothing else needs to be remembered. Exact in f16, bf16 and f32. */
#ifndef KVP_TESTS_PATTERN_H
#define KVP_TESTS_PATTERN_H

#include "kvpager.h"

#include <stdbool.h>

/* A token's content comes from its salt: tokens appended again after a truncate get another one. */

/* Element d of head h of the token's K (is_v false) or V. */
float pattern_value(uint32_t salt, bool is_v, uint32_t head, uint32_t d);
/* Dense float32 rows for n tokens: k [n][heads][k_width], v [n][heads][v_width]. */
void pattern_rows(const kvp_layer_kind *kind, const uint32_t *salts, size_t n, float *k, float *v);
/* The same for opaque rows, whose bytes are arbitrary. */
void pattern_bytes(const kvp_layer_kind *kind, const uint32_t *salts, size_t n, void *k, void *v);
/* Append those tokens to a layer of that kind; k and v are room for their rows. */
kvp_status pattern_append(kvp_seq *seq, uint32_t layer, const kvp_layer_kind *kind,
                          const uint32_t *salts, size_t n, float *k, float *v);
/* Does the page hold the tokens salts[first_position .. + n_valid)? */
bool pattern_page_ok(const kvp_page_view *page, const uint32_t *salts);

/* xorshift64*: deterministic random numbers for tests. */
uint64_t pattern_random(uint64_t *state);

#endif
