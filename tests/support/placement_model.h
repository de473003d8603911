/* placement_model.h - a tier of a few frames that a placement policy reclaims, and nothing else.
 * Calls come as the pager makes them. */
#ifndef TESTS_PLACEMENT_MODEL_H
#define TESTS_PLACEMENT_MODEL_H

#include "kvpager/placement.h"

enum { MODEL_MAX_PAGES = 8192 };

typedef struct placement_model {
    kvp_placement *policy;
    const kvp_placement_ops *ops;
    kvp_placement_node nodes[MODEL_MAX_PAGES];
    uint32_t memories[MODEL_MAX_PAGES];
    bool is_resident[MODEL_MAX_PAGES];
    uint32_t n_frames, n_resident, n_hits, n_faults;
} placement_model;

/* kvp_placement_config.node and .memory of a model. */
kvp_placement_node *model_node(void *model, uint32_t page);
uint32_t *model_memory(void *model, uint32_t page);

placement_model *model_open(const kvp_placement_ops *ops, uint32_t n_frames, uint32_t group_pages);
void model_close(placement_model *m);

/* The policy's, for one that is resident or not: no frame is counted. */
void model_insert(placement_model *m, const kvp_placement_page *page);
void model_remove(placement_model *m, uint32_t page, kvp_removal why);
/* The first for KVP_PAGE_NONE. */
uint32_t model_victim(placement_model *m, uint32_t after);

/* Pin a page, which may take a victim's frame, and unpin it: as the pager does for every page of a
 * scan. */
void model_use(placement_model *m, const kvp_placement_page *page);
/* Use the pages of n_lanes lanes, lane after lane, numbered that way. */
void model_scan(placement_model *m, uint32_t n_lanes, uint32_t lane_pages);
/* The first victim loses its frame. */
uint32_t model_evict(placement_model *m);

#endif
