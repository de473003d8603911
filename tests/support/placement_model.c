/* placement_model.c - a tier that a placement policy reclaims. */
#include "placement_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "alloc/mem.h"

kvp_placement_node *model_node(void *model, uint32_t page)
{
    assert_true(page < MODEL_MAX_PAGES);
    return &((placement_model *)model)->nodes[page];
}

uint32_t *model_memory(void *model, uint32_t page)
{
    assert_true(page < MODEL_MAX_PAGES);
    return &((placement_model *)model)->memories[page];
}

placement_model *model_open(const kvp_placement_ops *ops, uint32_t n_frames, uint32_t group_pages)
{
    placement_model *m = calloc(1, sizeof *m);
    kvp_placement_config cfg = {.mem = &kvpi_mem_default,
                                .node = model_node,
                                .memory = ops->remembers ? model_memory : NULL,
                                .opaque = m,
                                .group_pages = group_pages};
    m->ops = ops;
    m->n_frames = n_frames;
    assert_int_equal(ops->open(&cfg, &m->policy), KVP_OK);
    assert_ptr_equal(m->policy->ops, ops);
    return m;
}

void model_close(placement_model *m)
{
    m->ops->close(m->policy);
    free(m);
}

void model_insert(placement_model *m, const kvp_placement_page *page)
{
    m->ops->insert(m->policy, page);
}

void model_remove(placement_model *m, uint32_t page, kvp_removal why)
{
    m->ops->remove(m->policy, page, why);
    if (why == KVP_REMOVED_GONE) /* the next page in its frame finds what it left */
        assert_int_equal(m->nodes[page].key, 0);
}

uint32_t model_victim(placement_model *m, uint32_t after)
{
    return m->ops->victim(m->policy, after);
}

uint32_t model_evict(placement_model *m)
{
    uint32_t victim = model_victim(m, KVP_PAGE_NONE);
    assert_true(victim != KVP_PAGE_NONE && m->is_resident[victim]);
    model_remove(m, victim, KVP_REMOVED_GONE);
    m->is_resident[victim] = false;
    m->n_resident--;
    return victim;
}

void model_use(placement_model *m, const kvp_placement_page *page)
{
    kvp_placement_page used = *page;
    used.is_used = true;
    if (m->is_resident[page->page]) {
        m->n_hits++;
        model_remove(m, page->page, KVP_REMOVED_FOR_USE);
    } else {
        m->n_faults++;
        if (m->n_resident == m->n_frames)
            model_evict(m);
        m->is_resident[page->page] = true;
        m->n_resident++;
    }
    model_insert(m, &used);
}

void model_scan(placement_model *m, uint32_t n_lanes, uint32_t lane_pages)
{
    for (uint32_t lane = 0; lane < n_lanes; lane++)
        for (uint32_t i = 0; i < lane_pages; i++)
            model_use(m, &(kvp_placement_page){
                             .page = lane * lane_pages + i, .lane = lane, .lane_index = i});
}
