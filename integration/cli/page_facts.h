/* page_facts.h - what the pages of a configuration take, as the pager itself says. */
#ifndef KVPAGER_CLI_PAGE_FACTS_H
#define KVPAGER_CLI_PAGE_FACTS_H

#include "kvpager.h"

typedef struct page_facts {
    uint64_t n_lanes, n_frames, slot_bytes;
    uint32_t page_tokens;
} page_facts;

KVP_NODISCARD kvp_status page_facts_of(kvp_pager *pager, uint32_t n_layers, page_facts *facts);
/* The same of a pager that is opened for this alone. */
KVP_NODISCARD kvp_status page_facts_learn(const kvp_config *cfg, page_facts *facts);

/* The fewest bytes of RAM that hold n_pages, if there is no tier below. */
KVP_NODISCARD kvp_status page_facts_ram(const kvp_config *cfg, uint64_t n_pages, uint64_t *bytes);
/* The fewest that the configuration's pager opens with. */
KVP_NODISCARD kvp_status page_facts_least_ram(const kvp_config *cfg, uint64_t *bytes);
/* The fewest bytes of disk that take what n_frames do not hold of n_pages. */
uint64_t page_facts_disk(const page_facts *facts, uint64_t n_pages);

#endif
