/* plot.c - axes, lines and a legend, as SVG 1.1. Texts are the program's own: nothing is
 * escaped. */
#define _GNU_SOURCE
#include "integration/recall/plot.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WIDTH 760
#define HEIGHT 420
#define LEFT 70
#define RIGHT 590
#define TOP 40
#define BOTTOM 360
#define TICKS 5

/* Okabe and Ito's colours, which differ for everybody, and grey. */
static const char *const colours[] = {"#000000", "#e69f00", "#0072b2", "#d55e00", "#009e73",
                                      "#cc79a7", "#56b4e9", "#f0e442", "#888888"};

typedef struct range {
    double low, high;
} range;

static range range_of(const plot *p)
{
    range r = {INFINITY, -INFINITY};
    for (size_t c = 0; c < p->n_curves; c++) {
        for (size_t i = 0; i < p->n; i++) {
            r.low = fmin(r.low, p->curves[c].y[i]);
            r.high = fmax(r.high, p->curves[c].y[i]);
        }
    }
    const double margin = r.high > r.low ? 0.05 * (r.high - r.low) : 0.5;
    return (range){r.low - margin, r.high + margin};
}

static double x_at(const plot *p, double x)
{
    return LEFT + (RIGHT - LEFT) * (x - p->x[0]) / (p->x[p->n - 1] - p->x[0]);
}

static double y_at(range r, double y)
{
    return BOTTOM - (BOTTOM - TOP) * (y - r.low) / (r.high - r.low);
}

static void print_axes(FILE *f, const plot *p, range r)
{
    fprintf(f,
            "<text x=\"%d\" y=\"24\" font-size=\"15\">%s</text>\n"
            "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#444\"/>\n"
            "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n"
            "<text transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
            LEFT, p->title, LEFT, TOP, BOTTOM, RIGHT, (LEFT + RIGHT) / 2, BOTTOM + 40, p->x_label,
            (TOP + BOTTOM) / 2, p->y_label);
    for (int i = 0; i <= TICKS; i++) {
        double x = p->x[0] + (p->x[p->n - 1] - p->x[0]) * i / TICKS;
        double y = r.low + (r.high - r.low) * i / TICKS;
        fprintf(f,
                "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>\n"
                "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.2f</text>\n"
                "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/>\n",
                x_at(p, x), BOTTOM + 18, x, LEFT - 6, y_at(r, y) + 4, y, LEFT, y_at(r, y), RIGHT);
    }
}

static void print_curve(FILE *f, const plot *p, range r, size_t c)
{
    const char *colour = colours[c % (sizeof colours / sizeof *colours)];
    const int y = TOP + 10 + 22 * (int)c;
    fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", colour);
    for (size_t i = 0; i < p->n; i++)
        fprintf(f, "%s%.1f,%.1f", i ? " " : "", x_at(p, p->x[i]), y_at(r, p->curves[c].y[i]));
    fprintf(f,
            "\"/>\n<path d=\"M%d %dh24\" stroke=\"%s\" stroke-width=\"3\"/>"
            "<text x=\"%d\" y=\"%d\">%s</text>\n",
            RIGHT + 14, y, colour, RIGHT + 44, y + 4, p->curves[c].name);
}

static void print_plot(FILE *f, const plot *p)
{
    const range r = range_of(p);
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
            WIDTH, HEIGHT);
    print_axes(f, p, r);
    for (size_t c = 0; c < p->n_curves; c++)
        print_curve(f, p, r, c);
    fprintf(f, "</svg>\n");
}

kvp_status plot_write(const char *path, const plot *p)
{
    char *temporary;
    if (asprintf(&temporary, "%s.new", path) < 0)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %s", path);
    FILE *f = fopen(temporary, "we");
    if (f)
        print_plot(f, p);
    bool ok = f && !ferror(f);
    ok = f && fclose(f) == 0 && ok;
    ok = ok && rename(temporary, path) == 0;
    kvp_status status =
        ok ? KVP_OK
           : kvp_fail(KVP_E_IO, "%s: cannot write: %s; may the folder be written to?", path,
                      strerror(errno));
    if (f && !ok)
        unlink(temporary);
    free(temporary);
    return status;
}
