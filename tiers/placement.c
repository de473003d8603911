/* placement.c - finds placement policies. */
#include "kvpager/placement.h"

#include <string.h>

static const kvp_placement_ops *const policies[] = {
    &kvp_placement_sticky, &kvp_placement_lru,     &kvp_placement_lfu,
    &kvp_placement_clock,  &kvp_placement_s3_fifo, &kvp_placement_attention_mass,
};

const kvp_placement_ops *kvp_placement_at(size_t i)
{
    return i < sizeof policies / sizeof policies[0] ? policies[i] : NULL;
}

const kvp_placement_ops *kvp_placement_find(const char *name)
{
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++)
        if (strcmp(policies[i]->name, name) == 0)
            return policies[i];
    return NULL;
}
