/* plot.h - curves as an SVG file. */
#ifndef KVPAGER_RECALL_PLOT_H
#define KVPAGER_RECALL_PLOT_H

#include <stddef.h>

#include "kvpager/status.h"

typedef struct plot_curve {
    const char *name;
    const double *y; /* [n] finite */
} plot_curve;

typedef struct plot {
    const char *title, *x_label, *y_label;
    const double *x; /* [n] finite, ascending */
    size_t n;        /* at least 2 */
    const plot_curve *curves;
    size_t n_curves; /* up to 9 */
} plot;

/* Write the file, whole or not at all. Errors: KVP_E_IO, KVP_E_NOMEM. */
KVP_NODISCARD kvp_status plot_write(const char *path, const plot *p);

#endif
