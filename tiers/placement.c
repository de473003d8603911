/* placement.c - finds placement policies by name. */
#include "kvpager/placement.h"

#include <string.h>

const kvp_placement_ops *kvp_placement_find(const char *name)
{
    static const kvp_placement_ops *const policies[] = {&kvp_placement_sticky, &kvp_placement_lru};
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++)
        if (strcmp(policies[i]->name, name) == 0)
            return policies[i];
    return NULL;
}
