/* flat_seq.c - sequences as flat arrays. */
#include "tests/sim/flat_seq.h"

#include <string.h>

uint32_t flat_page_count(const flat_seq *f, uint32_t layer)
{
    return (f->layers[layer].length + f->page_tokens - 1) / f->page_tokens;
}

uint32_t flat_page_tokens(const flat_seq *f, uint32_t layer, uint32_t page)
{
    uint32_t left = f->layers[layer].length - page * f->page_tokens;
    return left < f->page_tokens ? left : f->page_tokens;
}

bool flat_page_is_in(const flat_seq *f, uint32_t layer, uint32_t page, uint64_t sinks_end,
                     uint64_t begin, uint64_t end)
{
    uint64_t first = (uint64_t)page * f->page_tokens;
    if (page >= flat_page_count(f, layer) || f->layers[layer].is_gone[page])
        return false;
    return first < sinks_end || (first < end && first + flat_page_tokens(f, layer, page) > begin);
}

uint32_t flat_pages_in(const flat_seq *f, uint32_t layer, uint64_t begin, uint64_t end,
                       uint32_t *first)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < flat_page_count(f, layer); i++)
        if (flat_page_is_in(f, layer, i, 0, begin, end) && n++ == 0)
            *first = i;
    return n;
}

bool flat_can_truncate(const flat_seq *f, uint64_t n)
{
    for (uint32_t i = 0; i < SIM_LAYERS; i++)
        if (n && n < f->layers[i].length && f->layers[i].is_gone[(n - 1) / f->page_tokens])
            return false;
    return true;
}

void flat_truncate(flat_seq *f, uint64_t n)
{
    for (uint32_t i = 0; i < SIM_LAYERS; i++) {
        flat_layer *l = &f->layers[i];
        l->length = n < l->length ? (uint32_t)n : l->length;
        uint32_t n_pages = flat_page_count(f, i);
        memset(l->is_gone + n_pages, 0, (FLAT_MAX_PAGES - n_pages) * sizeof l->is_gone[0]);
    }
}

/* The last page stays. */
void flat_evict(flat_seq *f, uint32_t layer, uint64_t begin, uint64_t end)
{
    for (uint32_t page = 0; page + 1 < flat_page_count(f, layer); page++) {
        uint64_t first = (uint64_t)page * f->page_tokens;
        if (first >= begin && first + f->page_tokens <= end)
            f->layers[layer].is_gone[page] = true;
    }
}
