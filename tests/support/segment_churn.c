/* segment_churn.c - see segment_churn.h.
 *
 * 32 sequences take turns, a burst of pages each. A sequence's length when it dies is drawn from
 * Zipf's law: most are short, few are very long. One in four begins as a fork of another. When more
 * than a limit is in use, the sequence nearest to its end dies early; the limit follows from the
 * part that is to be in use on the mean. */
#include "segment_churn.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/mem.h"
#include "tiers/segments.h"

#define N_SEQS 32u
#define N_LENGTHS 64u /* of Zipf's law */
#define MAX_LIMIT 0.97
#define GAIN 2e-4 /* of the limit, for each page */

typedef struct sequence {
    uint32_t *pages; /* records */
    uint32_t n, end;
} sequence;

typedef struct churn {
    const segment_churn_spec *spec;
    segment_churn_result *r;
    kvpi_segments s;
    sequence seqs[N_SEQS];
    uint8_t *refs; /* by record */
    uint32_t max_pages, page_step;
    uint64_t seed, n_records;
    double sum_utilisation, limit;
    bool is_counting;
} churn;

static uint32_t draw(churn *c, uint32_t below)
{
    c->seed = c->seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(c->seed >> 33) % below;
}

/* 1 .. N_LENGTHS, i with probability 1 / i. */
static uint32_t draw_zipf(churn *c)
{
    double sum = 0, at = draw(c, 1u << 24) / (double)(1u << 24);
    for (uint32_t i = 1; i <= N_LENGTHS; i++)
        sum += 1.0 / i;
    for (uint32_t i = 1; i < N_LENGTHS; i++) {
        at -= 1.0 / i / sum;
        if (at < 0)
            return i;
    }
    return N_LENGTHS;
}

static double in_use(const churn *c)
{
    return (double)c->s.n_used / (double)(c->s.n_units - c->spec->segment_units);
}

/* ---- records ----------------------------------------------------------------------------------*/

static void clean(churn *c, uint32_t segment)
{
    kvpi_segment *seg = kvpi_segment_at(&c->s, segment);
    kvpi_segments_clean_begin(&c->s, segment);
    while (seg->first != KVPI_NONE) {
        uint32_t first = seg->first; /* by place, as the cleaner does */
        for (uint32_t i = first; i != KVPI_NONE; i = kvpi_segments_at(&c->s, i)->next)
            if (kvpi_segments_at(&c->s, i)->at.unit < kvpi_segments_at(&c->s, first)->at.unit)
                first = i;
        kvpi_extent to = kvpi_segments_move_begin(&c->s, first);
        kvpi_segments_moved(&c->s, first, &to);
        c->r->units_moved += c->is_counting ? to.n_units : 0;
    }
    kvpi_segments_clean_end(&c->s, segment);
    c->r->n_cleaned += c->is_counting;
}

static bool add_page(churn *c, sequence *q)
{
    uint32_t victim, n = c->spec->least_units;
    n += draw(c, c->spec->slot_units - n + 1);
    while (!kvpi_segments_runs(&c->s) && (victim = kvpi_segments_victim(&c->s)) != KVPI_NONE)
        clean(c, victim);
    if (!kvpi_segments_alloc(&c->s, n, &q->pages[q->n])) {
        c->r->n_failed++;
        return false;
    }
    c->refs[q->pages[q->n++]] = 1;
    c->limit += (c->spec->utilisation - in_use(c)) * GAIN;
    c->limit = c->limit < MAX_LIMIT ? c->limit : MAX_LIMIT;
    if (c->is_counting) {
        c->r->units_written += n;
        c->n_records++;
        c->sum_utilisation += in_use(c);
    }
    return true;
}

static void drop_page(churn *c, uint32_t record)
{
    if (--c->refs[record] == 0)
        kvpi_segments_free(&c->s, record);
}

/* ---- sequences --------------------------------------------------------------------------------*/

static void die(churn *c, sequence *q)
{
    for (uint32_t i = 0; i < q->n; i++)
        drop_page(c, q->pages[i]);
    q->n = 0;
    c->r->n_deaths += c->is_counting;
}

static void begin(churn *c, sequence *q)
{
    const sequence *parent = &c->seqs[draw(c, N_SEQS)];
    q->end = draw_zipf(c) * c->page_step;
    if (draw(c, 4) || parent == q || !parent->n)
        return;
    uint32_t n = draw(c, parent->n);
    for (; q->n < n && c->refs[parent->pages[q->n]] < UINT8_MAX; q->n++) {
        q->pages[q->n] = parent->pages[q->n];
        c->refs[q->pages[q->n]]++;
        c->r->n_shared += c->is_counting;
    }
    q->end = q->end > q->n ? q->end : q->n + 1;
    c->r->n_forks += c->is_counting;
}

/* The one that has the least left to write. */
static sequence *nearest_to_its_end(churn *c)
{
    sequence *best = NULL;
    for (uint32_t i = 0; i < N_SEQS; i++) {
        sequence *q = &c->seqs[i];
        if (q->n && (!best || q->end - q->n < best->end - best->n))
            best = q;
    }
    return best;
}

static void turn(churn *c, sequence *q)
{
    if (q->n >= q->end)
        die(c, q);
    if (!q->n)
        begin(c, q);
    for (uint32_t i = 0; i < c->spec->burst && q->n < q->end && q->n < c->max_pages; i++) {
        while (in_use(c) > c->limit)
            die(c, nearest_to_its_end(c));
        if (!add_page(c, q))
            return;
    }
}

/* One page for another, wherever they are. */
static void replace_pages(churn *c, sequence *all)
{
    for (uint32_t i = 0; i < c->spec->burst; i++) {
        while (in_use(c) > c->limit) {
            uint32_t k = draw(c, all->n);
            drop_page(c, all->pages[k]);
            all->pages[k] = all->pages[--all->n];
        }
        if (!add_page(c, all))
            return;
    }
}

static void look_at_neighbours(churn *c)
{
    uint64_t n = 0, n_near = 0;
    for (uint32_t k = 0; k < N_SEQS; k++)
        for (uint32_t i = 1; i < c->seqs[k].n; i++, n++) {
            const kvpi_extent *a = &kvpi_segments_at(&c->s, c->seqs[k].pages[i - 1])->at;
            const kvpi_extent *b = &kvpi_segments_at(&c->s, c->seqs[k].pages[i])->at;
            n_near += kvpi_segments_place(&c->s, a) + a->n_units == kvpi_segments_place(&c->s, b);
        }
    c->r->neighbours = n ? (double)n_near / (double)n : 0;
}

static void open_segments(churn *c)
{
    const segment_churn_spec *p = c->spec;
    kvpi_segments_config cfg = {.segment_units = p->segment_units,
                                .slot_units = p->slot_units,
                                .fills_holes = p->fills_holes,
                                .mem = &kvpi_mem_default};
    kvpi_segments_more more;
    uint64_t n_units = (uint64_t)p->n_segments * p->segment_units;
    c->max_pages = (uint32_t)(n_units / p->least_units);
    c->page_step = (uint32_t)(n_units / p->slot_units) / N_SEQS / 12 + 1;
    if (kvpi_segments_open(&cfg, &c->s) ||
        kvpi_segments_prepare(&c->s, n_units, c->max_pages, &more))
        abort();
    kvpi_segments_extend(&c->s, n_units, &more);
    kvpi_segments_finish(&c->s, &more);
    kvpi_segments_keep(&c->s, 0);
    c->refs = calloc(c->max_pages + 1024u, 1);
    for (uint32_t i = 0; i < N_SEQS; i++)
        c->seqs[i].pages = malloc((c->max_pages + 1) * sizeof *c->seqs[i].pages);
}

void segment_churn(const segment_churn_spec *spec, segment_churn_result *r)
{
    churn *c = calloc(1, sizeof *c);
    if (!c)
        abort();
    c->spec = spec;
    c->r = r;
    c->seed = spec->seed;
    c->limit = spec->utilisation;
    *r = (segment_churn_result){0};
    open_segments(c);
    uint64_t end = UINT64_MAX;
    for (uint32_t i = 0; c->s.clock < end && !r->n_failed; i = (i + 1) % N_SEQS) {
        if (!c->is_counting && c->s.clock >= 2 * c->s.n_units) {
            c->is_counting = true;
            end = c->s.clock + (uint64_t)(spec->capacities * (double)c->s.n_units);
        }
        if (spec->is_uniform)
            replace_pages(c, &c->seqs[0]);
        else
            turn(c, &c->seqs[i]);
    }
    look_at_neighbours(c);
    r->utilisation = c->sum_utilisation / (double)c->n_records;
    r->amplification = (double)(r->units_written + r->units_moved) / (double)r->units_written;
    for (uint32_t i = 0; i < N_SEQS; i++)
        free(c->seqs[i].pages);
    free(c->refs);
    kvpi_segments_close(&c->s);
    free(c);
}
