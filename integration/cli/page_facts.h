/* page_facts.h - what pages take of RAM and disk, as the pager itself says. */
#ifndef KVPAGER_CLI_PAGE_FACTS_H
#define KVPAGER_CLI_PAGE_FACTS_H

#include "kvpager.h"

/* What a pager tells about pages. */
typedef struct page_facts {
    uint64_t n_lanes, n_frames, slot_bytes;
    uint32_t page_tokens;
    uint64_t least_stored_bytes; /* of a full page when it is compressed */
    bool has_zram;               /* compressed pages may go to disk */
} page_facts;

/* Of a pager that is opened for this alone, and touches no file. Errors: as kvp_pager_open(), but
 * for those of the disk. */
KVP_NODISCARD kvp_status page_facts_learn(const kvp_config *cfg, page_facts *facts);

/* Pages that its frames have room for: all but those for pages on their way. */
uint64_t page_facts_room(uint64_t n_frames);
/* Pages, of n_pages, that its frames have no room for. */
uint64_t page_facts_overflow(const page_facts *facts, uint64_t n_pages);
/* The fewest bytes of disk that take n_pages; a disk takes at least one. */
uint64_t page_facts_disk(const page_facts *facts, uint64_t n_pages);

/* The fewest bytes of RAM that hold n_pages if there is no tier below, and the fewest that the
 * configuration's pager opens with. */
KVP_NODISCARD kvp_status page_facts_ram(const kvp_config *cfg, uint64_t n_pages, uint64_t *bytes);
KVP_NODISCARD kvp_status page_facts_least_ram(const kvp_config *cfg, uint64_t *bytes);

/* Where the swap file lies or would: the file if it is there already, or its folder. */
const char *page_facts_swap_place(const char *swap, char *folder, size_t n);
/* Bytes that are free there, those of the file itself included; UINT64_MAX: unknown. */
uint64_t page_facts_free_bytes(const char *place);

#endif
