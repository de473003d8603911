/* flat_seq.h - what a sequence must be: its tokens in flat arrays, and which pages were evicted. */
#ifndef TESTS_SIM_FLAT_SEQ_H
#define TESTS_SIM_FLAT_SEQ_H

#include "tests/sim/script.h"

#define FLAT_MAX_PAGES SIM_MAX_TOKENS /* of one token at least */

typedef struct flat_layer {
    uint32_t salts[SIM_MAX_TOKENS]; /* tests/support/pattern.h */
    uint32_t length;
    bool is_gone[FLAT_MAX_PAGES]; /* evicted */
} flat_layer;

typedef struct flat_seq {
    flat_layer layers[SIM_LAYERS];
    uint32_t page_tokens;
} flat_seq;

uint32_t flat_page_count(const flat_seq *f, uint32_t layer); /* evicted ones included */
uint32_t flat_page_tokens(const flat_seq *f, uint32_t layer, uint32_t page);
/* Is the page there, with a position in [0, sinks_end) or [begin, end)? */
bool flat_page_is_in(const flat_seq *f, uint32_t layer, uint32_t page, uint64_t sinks_end,
                     uint64_t begin, uint64_t end);
/* Pages that are there and hold a position in [begin, end); *first: the first of them. */
uint32_t flat_pages_in(const flat_seq *f, uint32_t layer, uint64_t begin, uint64_t end,
                       uint32_t *first);

/* Would the last token left in each layer be in a page that is there? */
bool flat_can_truncate(const flat_seq *f, uint64_t n);
void flat_truncate(flat_seq *f, uint64_t n);
void flat_evict(flat_seq *f, uint32_t layer, uint64_t begin, uint64_t end);

#endif
