/* window.c - the rule of text beyond the context. */
#include "integration/cli/window.h"

#include <assert.h>

uint64_t window_start(const window_rule *rule, uint64_t i)
{
    if (i < rule->n_ctx)
        return 0;
    assert(rule->roll >= 1 && rule->roll <= rule->n_ctx);
    uint64_t step = rule->n_ctx - rule->roll + 1;
    return ((i - rule->n_ctx) / step + 1) * step;
}

bool window_unreachable(const window_rule *rule, uint64_t position, uint64_t *begin, uint64_t *end)
{
    if (!rule->keep || position < rule->keep)
        return false;
    *begin = rule->sinks;
    *end = position - rule->keep + 1;
    return *begin < *end;
}
