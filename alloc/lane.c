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
        capacity = capacity > UINT32_MAX / 2 ? n : capacity + capacity / 2;
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
    uint32_t last = lane->n_entries - 1;
    return kvpi_lane_n_valid(lane, last, page_tokens) < page_tokens ? &lane->entries[last] : NULL;
}

void kvpi_lane_push(kvpi_lane *lane, uint32_t page, uint32_t page_tokens)
{
    assert(lane->n_entries < lane->capacity && lane->n_tokens % page_tokens == 0);
    assert(lane->n_tokens / page_tokens < UINT32_MAX);
    lane->entries[lane->n_entries++] =
        (kvpi_entry){.index = (uint32_t)(lane->n_tokens / page_tokens), .page = page};
}

void kvpi_lane_pop(kvpi_lane *lane, uint32_t page_tokens)
{
    lane->n_entries--;
    uint32_t last = lane->n_entries - 1;
    lane->n_tokens = lane->n_entries ? ((uint64_t)lane->entries[last].index + 1) * page_tokens : 0;
}

uint32_t kvpi_lane_find(const kvpi_lane *lane, uint64_t position, uint32_t page_tokens)
{
    if (position >= lane->n_tokens)
        return lane->n_entries;
    /* Where it is if no page behind it was evicted, or none before it: that spares the search, a
     * cache miss for each of its last steps. */
    uint32_t low = 0, high = lane->n_entries;
    uint64_t index = position / page_tokens;
    uint64_t from_end = lane->entries[high - 1].index - index + 1;
    if (from_end <= high && lane->entries[high - from_end].index == index)
        return (uint32_t)(high - from_end);
    if (index < high && lane->entries[index].index == index)
        return (uint32_t)index;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (kvpi_lane_end_position(lane, mid, page_tokens) > position)
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
    for (uint32_t i = 1; i < lane->n_entries; i++)
        if (lane->entries[i].index <= lane->entries[i - 1].index)
            return "L1: entries out of order";
    if (!lane->n_entries)
        return lane->n_tokens ? "L3: tokens without a page" : NULL;
    uint64_t first = kvpi_lane_first_position(lane, lane->n_entries - 1, page_tokens);
    if (lane->n_tokens < first || lane->n_tokens > first + page_tokens)
        return "L3: the lane's length is not that of its last page";
    return NULL;
}
