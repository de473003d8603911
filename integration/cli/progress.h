/* progress.h - on a terminal, a panel at its bottom: one progress line and, if wanted, the page
 * map. Text scrolls above it. Elsewhere nothing is drawn. */
#ifndef KVPAGER_CLI_PROGRESS_H
#define KVPAGER_CLI_PROGRESS_H

#include <stdbool.h>

#include "integration/cli/map.h"

typedef struct progress {
    bool is_active;
    unsigned screen_rows, panel_rows; /* panel_rows 0: not drawn yet */
    double drawn_at;                  /* seconds; 0: never */
} progress;

void progress_init(progress *p);
/* Is it time to draw again? Never when inactive. */
bool progress_is_due(const progress *p);
/* map: NULL, or what to draw under the line. */
void progress_draw(progress *p, const page_map *map, const char *format, ...) KVP_PRINTF(3, 4);
/* Remove the panel; the cursor is where text goes on. */
void progress_fini(progress *p);

#endif
