/* lane.c - page tables. */
#include "alloc/lane.h"

#include "alloc/mem.h"

#include <assert.h>
#include <string.h>

kvp_status kvpi_lane_reserve(kvpi_lane *lane, const kvp_mem *mem, uint32_t n)
{
    if (n <= lane->capacity)
        return KVP_OK;
    uint32_t capacity = lane->capacity ? lane->capacity : 8;
    while (capacity < n)
        capacity = capacity > UINT32_MAX / 2 ? n : capacity * 2;
    kvpi_entry *entries;
    kvp_status status = kvpi_alloc(mem, capacity * sizeof *entries, "page table", &entries);
    if (status)
        return status;
    if (lane->n_entries)
        memcpy(entries, lane->entries, lane->n_entries * sizeof *entries);
    kvpi_free(mem, lane->entries, lane->capacity * sizeof *entries);
    lane->entries = entries;
    lane->capacity = capacity;
    return KVP_OK;
}

void kvpi_lane_fini(kvpi_lane *lane, const kvp_mem *mem)
{
    kvpi_free(mem, lane->entries, lane->capacity * sizeof *lane->entries);
    *lane = (kvpi_lane){0};
}

kvpi_entry *kvpi_lane_open_entry(const kvpi_lane *lane, uint32_t page_tokens)
{
    if (!lane->n_entries)
        return NULL;
    kvpi_entry *last = &lane->entries[lane->n_entries - 1];
    return last->n_valid < page_tokens ? last : NULL;
}

kvpi_entry *kvpi_lane_push(kvpi_lane *lane, uint32_t page)
{
    assert(lane->n_entries < lane->capacity);
    kvpi_entry *e = &lane->entries[lane->n_entries++];
    *e = (kvpi_entry){.first_position = lane->n_tokens, .page = page};
    return e;
}

uint32_t kvpi_lane_find(const kvpi_lane *lane, uint64_t position)
{
    uint32_t low = 0, high = lane->n_entries;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        const kvpi_entry *e = &lane->entries[mid];
        if (e->first_position + e->n_valid > position)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

void kvpi_lane_remove(kvpi_lane *lane, uint32_t begin, uint32_t end)
{
    assert(begin <= end && end <= lane->n_entries);
    memmove(lane->entries + begin, lane->entries + end,
            (lane->n_entries - end) * sizeof *lane->entries);
    lane->n_entries -= end - begin;
}

const char *kvpi_lane_check(const kvpi_lane *lane, uint32_t page_tokens)
{
    for (uint32_t i = 0; i < lane->n_entries; i++) {
        const kvpi_entry *e = &lane->entries[i];
        bool is_last = i + 1 == lane->n_entries;
        if (e->first_position % page_tokens || (i && e->first_position <= e[-1].first_position))
            return "L1: entries out of order";
        if (e->n_valid > page_tokens || (!is_last && e->n_valid != page_tokens))
            return "L2: a page that is not full before the last";
        if (is_last && lane->n_tokens != e->first_position + e->n_valid)
            return "L3: the lane's length is not that of its last page";
    }
    if (!lane->n_entries && lane->n_tokens)
        return "L3: tokens without a page";
    return NULL;
}
