/* page_stats.c - what a page had of a row's attention: its mass, and what the output would be
 * without it. */
#include "attention/attend.h"

#include <math.h>

/* ---- mass ------------------------------------------------------------------------------------ */

/* page_mass holds log sum exp(s) of the page while pages are visited, -INFINITY for none. */

static float *mass_row(const kvpi_plan *plan, size_t query, size_t head)
{
    return plan->args->page_mass + (query * plan->args->n_heads + head) * plan->n_pages;
}

void kvpi_mass_clear(const kvpi_plan *plan)
{
    size_t n = plan->args->n_queries * plan->args->n_heads * plan->n_pages;
    for (size_t i = 0; i < n; i++)
        plan->args->page_mass[i] = -INFINITY;
}

void kvpi_mass_add(const kvpi_plan *plan, size_t query, size_t head, uint32_t page, float m,
                   float l)
{
    float *mass = mass_row(plan, query, head) + page, lse = m + logf(l);
    if (*mass == -INFINITY)
        *mass = lse;
    else
        *mass = fmaxf(*mass, lse) + log1pf(expf(-fabsf(*mass - lse)));
}

static void normalise_row(float *mass, size_t n_pages)
{
    float top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n_pages; i++)
        top = fmaxf(top, mass[i]);
    for (size_t i = 0; i < n_pages; i++) {
        mass[i] = mass[i] == -INFINITY ? 0 : expf(mass[i] - top);
        sum += mass[i];
    }
    for (size_t i = 0; i < n_pages && sum > 0; i++)
        mass[i] /= sum;
}

static void normalise_query(void *arg, size_t query)
{
    const kvpi_plan *plan = arg;
    for (size_t head = 0; head < plan->args->n_heads; head++)
        normalise_row(mass_row(plan, query, head), plan->n_pages);
}

void kvpi_mass_finish(kvpi_plan *plan)
{
    const kvp_attend_args *args = plan->args;
    kvp_parallel_for(plan->pager, args->n_queries, normalise_query, plan);
    kvp_seq_note_mass(plan->seq, plan->layer, args->page_mass, args->n_queries, args->n_heads);
}

/* ---- partials of pages ----------------------------------------------------------------------- */

kvp_partial kvpi_page_partial(const kvpi_plan *plan, size_t query, size_t head, uint32_t page)
{
    const kvp_partial *pages = &plan->args->pages;
    size_t i = (query * plan->args->n_heads + head) * plan->n_pages + page;
    return (kvp_partial){pages->m + i, pages->l + i, pages->o + i * plan->info.kind.v_width};
}

void kvpi_page_partials_clear(const kvpi_plan *plan)
{
    const kvp_partial *pages = &plan->args->pages;
    size_t n = plan->args->n_queries * plan->args->n_heads * plan->n_pages;
    for (size_t i = 0; i < n; i++) {
        pages->m[i] = -INFINITY;
        pages->l[i] = 0;
    }
    for (size_t i = 0; i < n * plan->info.kind.v_width; i++)
        pages->o[i] = 0;
}

/* The row's keys, weighed relative to its largest score: in float64, for what is left without a
 * page may be a small part of the whole. */
static double weight(const kvp_partial *pages, size_t i, float top)
{
    return pages->m[i] == -INFINITY ? 0 : (double)pages->l[i] * exp((double)(pages->m[i] - top));
}

/* |a - b * factor|, in 8 sums, so that compilers use vectors. */
static float distance_of(const float *a, const float *b, float factor, size_t n)
{
    float sum[8] = {0}, all = 0;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t k = 0; k < 8; k++) {
            float d = a[i + k] - b[i + k] * factor;
            sum[k] += d * d;
        }
    for (; i < n; i++)
        sum[0] += (a[i] - b[i] * factor) * (a[i] - b[i] * factor);
    for (size_t k = 0; k < 8; k++)
        all += sum[k];
    return sqrtf(all);
}

void kvp_page_changes(const kvp_partial *pages, size_t n_pages, size_t v_width, const float *out,
                      float *changes)
{
    float top = -INFINITY;
    double all = 0;
    for (size_t i = 0; i < n_pages; i++)
        top = fmaxf(top, pages->m[i]);
    for (size_t i = 0; i < n_pages; i++)
        all += weight(pages, i, top);
    for (size_t i = 0; i < n_pages; i++) {
        /* without: (all * out - mine * o / l) / rest; less out: mine * (out - o / l) / rest */
        const double mine = weight(pages, i, top), rest = all - mine;
        const float inverse = rest > 0 && pages->l[i] > 0 ? 1 / pages->l[i] : 0;
        const float distance = distance_of(out, pages->o + i * v_width, inverse, v_width);
        changes[i] = mine > 0 ? (float)(rest > 0 ? mine / rest : 1) * distance : 0;
    }
}
