/* memory_arms.c - three passes of the model (another book, reset windows, rolling windows), and
 * searches of one memory that differ in what they may see. */
#include "integration/cli/memory_arms.h"

#include <math.h>
#include <stdlib.h>

#include "integration/cli/recall.h"
#include "integration/least.h"

static const struct {
    const char *name;
    uint64_t cap; /* tokens that the memory is limited to */
} table[N_ARMS] = {
    [ARM_RESET] = {"reset", 0},
    [ARM_ROLLING] = {"rolling", 0},
    [ARM_RECALL] = {"recall", UINT64_MAX},
    [ARM_OTHER] = {"other_book", 0},
    [ARM_WINDOW] = {"window_only", 0},
    [ARM_LAST_1K] = {"last_1024", 1024},
    [ARM_LAST_4K] = {"last_4096", 4096},
    [ARM_LAST_16K] = {"last_16384", 16384},
    [ARM_LAST_64K] = {"last_65536", 65536},
};

const char *arm_name(memory_arm arm)
{
    return table[arm].name;
}

double arm_mean(const arms *a, memory_arm arm, size_t first, size_t end)
{
    double sum = 0;
    for (size_t i = first; i < end; i++)
        sum += a->loss[arm][i];
    return sum / (double)(end - first);
}

/* ---- a pass ---------------------------------------------------------------------------------- */

typedef struct pass {
    arms *arms;
    const char *what;
    uint64_t skipped; /* tokens of the text before the first that is read */
} pass;

static bool watch(void *opaque, uint64_t n_read)
{
    const pass *p = opaque;
    return !p->arms->progress || p->arms->progress(p->arms->opaque, p->what, p->skipped + n_read);
}

static kvp_status take_other(void *opaque, const reading_rows *rows)
{
    const pass *p = opaque;
    return memory_add(p->arms->other, rows->hidden, rows->next, rows->n);
}

static kvp_status read_text(const pass *p, const int32_t *text, size_t n, const window_rule *rule,
                            kvp_status (*take)(void *, const reading_rows *))
{
    const reading r = {.session = p->arms->session,
                       .rule = *rule,
                       .text = text + p->skipped,
                       .n = n - p->skipped,
                       .wants_p = take != take_other,
                       .take = take,
                       .progress = watch,
                       .opaque = (void *)p};
    return reading_run(&r);
}

/* ---- arms without a memory ------------------------------------------------------------------- */

/* The place of row `row` in a->loss; false: it is not scored. */
static bool place_of(const arms *a, uint64_t row, size_t *place)
{
    *place = (size_t)(row - a->first);
    return row >= a->first;
}

static void score_alone(arms *a, memory_arm arm, uint64_t first, const reading_rows *rows)
{
    size_t at;
    for (size_t i = 0; i < rows->n; i++)
        if (place_of(a, first + i, &at))
            a->loss[arm][at] = -log(rows->p_model[i]);
}

static kvp_status take_reset(void *opaque, const reading_rows *rows)
{
    const pass *p = opaque;
    score_alone(p->arms, ARM_RESET, p->skipped + rows->first, rows);
    return KVP_OK;
}

/* A window that begins with the token that no longer fits into the one before. */
static kvp_status run_reset(arms *a)
{
    window_rule rule = a->session->rule;
    rule.roll = 1;
    const pass p = {a, "reset windows", window_start(&rule, a->first)};
    return read_text(&p, a->session->tokens, a->n_tokens, &rule, take_reset);
}

/* ---- arms with one --------------------------------------------------------------------------- */

static double mixed_loss(const memory *m, size_t row, int32_t token, double p_model)
{
    const recall_fit *fit = memory_get_fit(m);
    float best;
    if (!memory_best(m, row, &best))
        return -log(p_model);
    const double lambda = fit->lambda[recall_bucket(fit, best)];
    return -log((1 - lambda) * p_model + lambda * memory_probability(m, row, fit->theta, token));
}

/* What the arm's searches have cost, added to what they had. */
static kvp_status find(arms *a, memory_arm arm, const reading_rows *rows, const uint64_t *begins,
                       const uint64_t *ends)
{
    memory *m = arm == ARM_OTHER ? a->other : a->session->memory;
    arm_cost *cost = &a->costs[arm];
    recall_report before, after;
    kvp_status status = recall_report_take(m, &before);
    if (!status)
        status = memory_find(m, rows->hidden, rows->n, begins, ends);
    if (!status)
        status = recall_report_take(m, &after);
    if (status)
        return status;
    cost->searches += rows->n;
    cost->pages += after.counts.pages - before.counts.pages;
    cost->pages_skipped += after.counts.pages_skipped - before.counts.pages_skipped;
    cost->faults += after.stats.major_faults + after.stats.minor_faults -
                    before.stats.major_faults - before.stats.minor_faults;
    cost->bytes_read += after.stats.bytes_read - before.stats.bytes_read;
    return KVP_OK;
}

/* Where row `row` begins to see the memory. */
static uint64_t begin_of(const arms *a, memory_arm arm, uint64_t row)
{
    if (arm == ARM_WINDOW)
        return window_start(&a->session->rule, row);
    return row > table[arm].cap ? row - table[arm].cap : 0;
}

static kvp_status score_with(arms *a, memory_arm arm, const reading_rows *rows)
{
    uint64_t begins[MEMORY_ROWS], ends[MEMORY_ROWS];
    const memory *m = arm == ARM_OTHER ? a->other : a->session->memory;
    size_t at;
    for (size_t i = 0; i < rows->n; i++) {
        begins[i] = begin_of(a, arm, rows->first + i);
        ends[i] = rows->first + i;
    }
    kvp_status status =
        arm == ARM_OTHER ? find(a, arm, rows, NULL, NULL) : find(a, arm, rows, begins, ends);
    for (size_t i = 0; i < rows->n && !status; i++)
        if (place_of(a, rows->first + i, &at))
            a->loss[arm][at] = mixed_loss(m, i, rows->next[i], rows->p_model[i]);
    return status;
}

/* As long as nothing is beyond its cap, an arm is the same as that of everything. */
static void copy_from_recall(arms *a, memory_arm arm, const reading_rows *rows)
{
    size_t at;
    for (size_t i = 0; i < rows->n; i++)
        if (place_of(a, rows->first + i, &at))
            a->loss[arm][at] = a->loss[ARM_RECALL][at];
}

static kvp_status take_rolling(void *opaque, const reading_rows *rows)
{
    arms *a = ((const pass *)opaque)->arms;
    kvp_status status = memory_add(a->session->memory, rows->hidden, rows->next, rows->n);
    if (rows->first + rows->n <= a->first)
        return status;
    score_alone(a, ARM_ROLLING, rows->first, rows);
    for (memory_arm arm = ARM_RECALL; arm < N_ARMS && !status; arm++) {
        const bool is_capped = arm >= ARM_LAST_1K;
        if (is_capped && rows->first + rows->n <= table[arm].cap)
            copy_from_recall(a, arm, rows);
        else if (a->loss[arm])
            status = score_with(a, arm, rows);
    }
    return status;
}

/* ---- all of them ----------------------------------------------------------------------------- */

static kvp_status reserve(arms *a)
{
    for (size_t i = 0; i < N_ARMS; i++) {
        if (i == ARM_OTHER && !a->other)
            continue;
        a->loss[i] = calloc(a->n, sizeof *a->loss[i]);
        if (!a->loss[i])
            return kvp_fail(KVP_E_NOMEM, "out of memory for the losses of %zu tokens", a->n);
    }
    return KVP_OK;
}

kvp_status arms_run(arms *a, const int32_t *other_text, size_t n_other)
{
    const session *s = a->session;
    const pass other = {a, "the other book", 0}, rolling = {a, "rolling windows and memory", 0};
    kvp_status status = other_text ? recall_open(s, "other", &a->other) : KVP_OK;
    if (!status)
        status = reserve(a);
    if (!status && a->other)
        status = read_text(&other, other_text, n_other, &s->rule, take_other);
    if (!status)
        status = run_reset(a);
    return status ? status : read_text(&rolling, s->tokens, a->n_tokens, &s->rule, take_rolling);
}

void arms_fini(arms *a)
{
    for (size_t i = 0; i < N_ARMS; i++)
        free(a->loss[i]);
    memory_close(a->other);
    *a = (arms){0};
}
