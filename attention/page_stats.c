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

static void normalise_query(void *arg, size_t query)
{
    const kvpi_plan *plan = arg;
    for (size_t head = 0; head < plan->args->n_heads; head++)
        plan->kernels->normalise(mass_row(plan, query, head), plan->n_pages);
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

void kvp_page_changes(const kvp_partial *pages, size_t n_pages, size_t v_width, const float *out,
                      float *changes)
{
    const kvpi_kernels *kernels = kvpi_kernels_find();
    if (!kernels)
        kernels = &kvpi_kernels_scalar;
    float top = -INFINITY;
    double all = 0; /* in float64: all but one page may be a small part of it */
    for (size_t i = 0; i < n_pages; i++)
        top = fmaxf(top, pages->m[i]);
    for (size_t i = 0; i < n_pages; i++) { /* at first, what a page weighs */
        changes[i] = pages->m[i] == -INFINITY ? 0 : pages->l[i] * expf(pages->m[i] - top);
        all += (double)changes[i];
    }
    for (size_t i = 0; i < n_pages; i++) {
        /* without: (all * out - mine * o / l) / rest; less out: mine * (out - o / l) / rest */
        const double mine = (double)changes[i], rest = all - mine;
        if (!(mine > 0))
            continue;
        const float inverse = rest > 0 ? 1 / pages->l[i] : 0;
        changes[i] = (float)(rest > 0 ? mine / rest : 1) *
                     kernels->distance(out, pages->o + i * v_width, inverse, v_width);
    }
}
