/* progress.c - owns the bottom rows of the terminal while something runs. They are kept out of the
 * terminal's scroll region (DECSTBM), so that text on stdout may scroll by without being drawn
 * over; the cursor is saved and restored around every drawing. */
#include "integration/cli/progress.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "integration/cli/interrupt.h"
#include "integration/cli/run.h"

#define INTERVAL_SECONDS 0.1
#define MIN_SCREEN_ROWS 8u

static unsigned screen_rows(unsigned *columns)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0)
        return 0;
    *columns = size.ws_col;
    return size.ws_row;
}

void progress_init(progress *p)
{
    const char *term = getenv("TERM");
    unsigned columns;
    *p = (progress){0};
    p->is_active = isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0 &&
                   screen_rows(&columns) >= MIN_SCREEN_ROWS;
}

bool progress_is_due(const progress *p)
{
    return p->is_active && now_seconds() - p->drawn_at >= INTERVAL_SECONDS;
}

static void format_erasure(const progress *p, char sequence[64])
{
    snprintf(sequence, 64, "\0337\033[r\033[%u;1H\033[J\0338", p->screen_rows - p->panel_rows + 1);
}

static void erase_panel(progress *p)
{
    if (!p->panel_rows)
        return;
    char sequence[64];
    format_erasure(p, sequence);
    fputs(sequence, stderr);
    p->panel_rows = 0;
    interrupt_set_farewell("");
}

/* Index (ESC D) goes down a row and keeps the column, scrolling at the end of the screen: so the
 * cursor is above the panel afterwards, where the text left it. */
static void make_panel(progress *p, unsigned rows, unsigned panel)
{
    for (unsigned i = 0; i < panel; i++)
        fputs("\033D", stderr);
    fprintf(stderr, "\033[%uA\0337\033[1;%ur\0338", panel, rows - panel);
    char sequence[64];
    p->screen_rows = rows;
    p->panel_rows = panel;
    format_erasure(p, sequence);
    interrupt_set_farewell(sequence);
}

/* The newest pages are at the end of a row; what does not fit is cut off at the beginning. */
static void draw_row(const page_map *map, size_t row, size_t room)
{
    const char *cells = map->cells + row * map->n_columns;
    bool is_cut = map->n_columns > room;
    size_t n = is_cut ? room - 1 : map->n_columns;
    fprintf(stderr, "%8s  %s%.*s", map->labels[row], is_cut ? "<" : "", (int)n,
            cells + map->n_columns - n);
}

static void draw_map(const progress *p, const page_map *map, unsigned columns)
{
    const unsigned label_columns = 10;
    size_t n_rows = p->panel_rows - 1;
    if (columns < label_columns + 2)
        return;
    for (size_t r = 0; r < n_rows; r++) {
        fprintf(stderr, "\033[%zu;1H\033[2K", p->screen_rows - n_rows + 1 + r);
        if (r + 1 == n_rows && map->n_rows > n_rows)
            fprintf(stderr, "     ...  %zu more lanes", map->n_rows - r);
        else if (r < map->n_rows)
            draw_row(map, r, columns - label_columns - 1);
    }
}

void progress_draw(progress *p, const page_map *map, const char *format, ...)
{
    unsigned columns = 0, rows = p->is_active ? screen_rows(&columns) : 0;
    if (rows < MIN_SCREEN_ROWS)
        return;
    fflush(stdout);
    if (interrupt_was_stopped())
        p->panel_rows = 0; /* erased before the stop */
    size_t wanted = 1 + (map ? map->n_rows : 0);
    unsigned panel = wanted < rows / 2 ? (unsigned)wanted : rows / 2;
    if (rows != p->screen_rows || panel > p->panel_rows) {
        erase_panel(p);
        make_panel(p, rows, panel);
    }
    char line[256];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fprintf(stderr, "\0337\033[%u;1H\033[2K%.*s", rows - p->panel_rows + 1,
            (int)(columns ? columns - 1 : 0), line);
    if (map)
        draw_map(p, map, columns);
    fputs("\0338", stderr);
    p->drawn_at = now_seconds();
}

void progress_fini(progress *p)
{
    fflush(stdout);
    erase_panel(p);
    p->is_active = false;
}
