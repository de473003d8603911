/* map.c - where the pages of a sequence are, drawn. */
#include "integration/cli/map.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LINE_COLUMNS 80u
#define MAX_DOTS 64u /* for text that is gone, however long it was */

char map_letter(const kvp_page_info *page)
{
    static const char letters[KVP_N_TIERS] = {
        [KVP_TIER_VRAM] = 'V', [KVP_TIER_RAM] = 'R', [KVP_TIER_ZRAM] = 'Z', [KVP_TIER_DISK] = 'D'};
    return page->is_lost ? '!' : letters[page->tier];
}

static void put(char c, char *row, size_t max, size_t *n)
{
    if (*n < max)
        row[*n] = c;
    (*n)++;
}

static void put_dots(uint64_t n_dots, char *row, size_t max, size_t *n)
{
    for (uint64_t i = 0; i < n_dots && i < MAX_DOTS; i++)
        put('.', row, max, n);
}

size_t map_row(const kvp_page_info *pages, size_t n_pages, uint32_t page_tokens,
               uint64_t n_forgotten, char *row, size_t max)
{
    size_t n = 0;
    put_dots(n_forgotten, row, max, &n);
    uint64_t position = 0;
    for (size_t i = 0; i < n_pages; i++) {
        if (pages[i].first_position > position)
            put_dots((pages[i].first_position - position) / page_tokens, row, max, &n);
        put(map_letter(&pages[i]), row, max, &n);
        position = pages[i].first_position + page_tokens;
    }
    return n;
}

static bool same_lane(const kvp_page_info *a, const kvp_page_info *b)
{
    return a->layer == b->layer && a->group == b->group;
}

static size_t lane_end(const kvp_page_info *pages, size_t n, size_t begin)
{
    size_t end = begin;
    while (end < n && same_lane(&pages[end], &pages[begin]))
        end++;
    return end;
}

static kvp_status take_infos(const context *c, kvp_page_info **infos, size_t *n)
{
    kvp_status status = kvp_seq_pages(c->seq, NULL, 0, n);
    if (status)
        return status;
    *infos = malloc((*n + 1) * sizeof **infos);
    if (!*infos)
        return kvp_fail(KVP_E_NOMEM, "out of memory for a map of %zu pages", *n);
    return kvp_seq_pages(c->seq, *infos, *n, n);
}

static kvp_status draw(page_map *map, const kvp_page_info *infos, size_t n, uint64_t n_forgotten)
{
    for (size_t i = 0, end; i < n; i = end, map->n_rows++) {
        end = lane_end(infos, n, i);
        size_t width = map_row(&infos[i], end - i, map->page_tokens, n_forgotten, NULL, 0);
        map->n_columns = width > map->n_columns ? width : map->n_columns;
    }
    map->cells = malloc(map->n_rows * map->n_columns + 1);
    map->labels = malloc((map->n_rows + 1) * sizeof *map->labels);
    if (!map->cells || !map->labels)
        return kvp_fail(KVP_E_NOMEM, "out of memory for a map of %zu pages", n);
    memset(map->cells, ' ', map->n_rows * map->n_columns);
    for (size_t i = 0, end, r = 0; i < n; i = end, r++) {
        end = lane_end(infos, n, i);
        map_row(&infos[i], end - i, map->page_tokens, n_forgotten, map->cells + r * map->n_columns,
                map->n_columns);
        snprintf(map->labels[r], sizeof *map->labels, "%" PRIu32 ".%" PRIu32, infos[i].layer,
                 infos[i].group);
    }
    return KVP_OK;
}

kvp_status map_take(const context *c, uint32_t page_tokens, page_map *map)
{
    *map = (page_map){.page_tokens = page_tokens};
    kvp_page_info *infos = NULL;
    size_t n = 0;
    kvp_status status = take_infos(c, &infos, &n);
    if (!status)
        status = draw(map, infos, n, c->start / page_tokens);
    free(infos);
    if (status)
        map_free(map);
    return status;
}

void map_free(page_map *map)
{
    free(map->cells);
    free(map->labels);
    *map = (page_map){0};
}

void map_print(const page_map *map, FILE *out)
{
    fprintf(out, "pages of %" PRIu32 " tokens, a row per lane (layer.heads): " MAP_LEGEND "\n",
            map->page_tokens);
    for (size_t r = 0; r < map->n_rows; r++)
        for (size_t at = 0; at < map->n_columns; at += LINE_COLUMNS) {
            size_t n = map->n_columns - at < LINE_COLUMNS ? map->n_columns - at : LINE_COLUMNS;
            fprintf(out, "%8s  %.*s\n", at ? "" : map->labels[r], (int)n,
                    map->cells + r * map->n_columns + at);
        }
}
