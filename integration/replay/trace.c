/* trace.c - a trace in memory: checked as it grows, so that whoever replays it need not. */
#include "integration/replay/trace.h"

#include <stdlib.h>
#include <string.h>

#ifndef TRACE_MAX_OPS
#define TRACE_MAX_OPS ((size_t)1 << 28) /* 2 GiB of them */
#endif
#define SPARE_NUMBERS ((uint64_t)65536) /* pagers number pages densely: so much room is enough */

kvp_status trace_init(trace *t, const char *name)
{
    *t = (trace){.name = strdup(name), .group_pages = 1};
    return t->name ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory for a trace");
}

void trace_free(trace *t)
{
    free(t->name);
    free(t->ops);
    free(t->places);
    free(t->is_live);
    *t = (trace){0};
}

/* Room for item n of an array; what is new is zero. */
static kvp_status reserve(void *array, size_t *capacity, size_t n, size_t item_bytes)
{
    void *items;
    if (n < *capacity)
        return KVP_OK;
    size_t larger = n + n / 2 + 1024;
    memcpy(&items, array, sizeof items);
    items = realloc(items, larger * item_bytes);
    if (!items)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes of a trace", larger * item_bytes);
    memset((char *)items + *capacity * item_bytes, 0, (larger - *capacity) * item_bytes);
    memcpy(array, &items, sizeof items);
    *capacity = larger;
    return KVP_OK;
}

static kvp_status push(trace *t, trace_op op)
{
    if (t->n_ops == TRACE_MAX_OPS)
        return kvp_fail(KVP_E_CORRUPT, "more than %zu events: record a shorter run",
                        (size_t)TRACE_MAX_OPS);
    kvp_status status = reserve(&t->ops, &t->ops_capacity, t->n_ops, sizeof *t->ops);
    if (!status)
        t->ops[t->n_ops++] = op;
    return status;
}

kvp_status trace_add_new(trace *t, uint32_t page, uint32_t lane, uint32_t lane_index)
{
    if (page >= SPARE_NUMBERS + 2 * (uint64_t)t->n_new)
        return kvp_fail(KVP_E_CORRUPT, "page %u is created, but there were only %zu so far", page,
                        t->n_new);
    kvp_status status = reserve(&t->is_live, &t->live_capacity, page, sizeof *t->is_live);
    if (!status)
        status = reserve(&t->places, &t->places_capacity, t->n_new, sizeof *t->places);
    if (status)
        return status;
    if (t->is_live[page])
        return kvp_fail(KVP_E_CORRUPT, "page %u is created, but it is there already", page);
    status = push(t, (trace_op){.page = page,
                                .kind = KVP_TRACE_PAGE_NEW,
                                .number = (uint32_t)t->n_new & 0xfffffffu});
    if (status)
        return status;
    t->places[t->n_new++] = (trace_place){lane, lane_index};
    t->is_live[page] = true;
    t->n_pages = page < t->n_pages ? t->n_pages : page + 1;
    t->peak_live = ++t->n_live > t->peak_live ? t->n_live : t->peak_live;
    return KVP_OK;
}

kvp_status trace_add(trace *t, kvp_trace_kind kind, uint32_t page, uint32_t number)
{
    if (page >= t->n_pages || !t->is_live[page])
        return kvp_fail(KVP_E_CORRUPT, "page %u is not there", page);
    kvp_status status =
        push(t, (trace_op){.page = page, .kind = (unsigned)kind & 15u, .number = number & 63u});
    if (status)
        return status;
    t->n_uses += kind == KVP_TRACE_PAGE_USED;
    if (kind == KVP_TRACE_PAGE_FREED) {
        t->is_live[page] = false;
        t->n_live--;
    }
    return KVP_OK;
}
