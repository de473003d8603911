/* trace.h - tells kvp_config.trace what happens to pages. Without one it is a branch. */
#ifndef KVPI_TIERS_TRACE_H
#define KVPI_TIERS_TRACE_H

#include "tiers/pager.h"

static inline void kvpi_trace(const kvp_pager *p, const kvp_trace_event *event)
{
    if (p->cfg.trace)
        p->cfg.trace(p->cfg.trace_opaque, event);
}

static inline void kvpi_trace_page(const kvp_pager *p, kvp_trace_kind kind, uint32_t page)
{
    kvpi_trace(p, &(kvp_trace_event){.kind = kind, .page = page});
}

#endif
