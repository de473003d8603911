/* map.h - a page map: one character per page, one row per lane. */
#ifndef KVPAGER_CLI_MAP_H
#define KVPAGER_CLI_MAP_H

#include <stdio.h>

#include "integration/cli/context.h"

#define MAP_LEGEND "R ram, Z compressed, D disk, . dropped"

/* R, Z, D, V; '!' for a page that is lost. */
char map_letter(const kvp_page_info *page);

/* Fill `row` (capacity `max`, no terminating 0) with a lane's pages, given in the order of
 * position: n_forgotten dots, then a letter per page, with dots where pages of page_tokens were
 * dropped in between; never more than 64 dots on end. Returns the characters that the whole row
 * has. */
size_t map_row(const kvp_page_info *pages, size_t n_pages, uint32_t page_tokens,
               uint64_t n_forgotten, char *row, size_t max);

typedef struct page_map {
    size_t n_rows, n_columns;
    char *cells;        /* [n_rows][n_columns], padded with spaces */
    char (*labels)[24]; /* [n_rows] */
    uint32_t page_tokens;
} page_map;

/* Where the pages of the context's sequence are now; text before the window counts as dropped. */
KVP_NODISCARD kvp_status map_take(const context *c, uint32_t page_tokens, page_map *map);
void map_free(page_map *map);
/* Print with a head line; long rows are broken. */
void map_print(const page_map *map, FILE *out);

#endif
