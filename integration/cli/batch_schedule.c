/* batch_schedule.c - places, turns and steps.
 *
 * What is computed for a prompt depends on it alone: a row's result does not depend on those that
 * share its step. So the schedule, which depends on n_parallel and the budgets, changes no bit.
 *
 * Invariants
 *  1. turns[0 .. n_in_flight) are the places in use, in the order of their turns; the first
 *     n_together of them decode now. n_together is 0 only before a round begins.
 *  2. Between steps every prompt in flight has a token that was chosen and not fed yet. */
#include "integration/cli/batch_schedule.h"

#include <stdlib.h>
#include <string.h>

#include "integration/cli/generate.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/page_facts.h"

/* Steps of a round while others wait. Bringing back the KV of a round costs about as much as a few
 * steps: with 32 of them that is little, and nobody waits long. */
#define ROUND_STEPS 32u

typedef struct place {
    const batch_prompt *prompt; /* NULL: free */
    context context;
    text_run run;
    run_result result;
    bool is_cold; /* it waits, and the pager knows */
} place;

typedef struct schedule {
    const session *session;
    kvp_pager *pager;
    const batch_input *input;
    const batch_watcher *watcher;
    run_watcher reading; /* of each prompt's prefill */
    batch_counts *counts;
    size_t next; /* prompt to start */
    size_t n_places;
    place *places; /* [n_places] */
    place **turns; /* [n_places]: invariant 1 */
    size_t n_in_flight, n_together;
    uint32_t steps_left; /* of the round */
    context_step *steps; /* [n_places] */
    model_item *items;   /* [n_places] */
    float *logits;       /* [n_places][n_vocab] */
    uint64_t n_frames;   /* that prompts may fill together */
} schedule;

static void tell(schedule *d)
{
    d->counts->n_in_flight = d->n_in_flight;
    d->counts->n_together = d->n_together;
    if (d->watcher->step)
        d->watcher->step(d->watcher->opaque, d->counts);
}

static void watch_reading(void *opaque, const context *c, size_t n_new, double fraction, bool quiet)
{
    (void)c, (void)n_new, (void)fraction, (void)quiet;
    tell(opaque);
}

/* ---- places ---- */

/* The place of turns[i] is free. */
static void leave(schedule *d, size_t i)
{
    place *p = d->turns[i];
    text_run_fini(&p->run);
    run_result_fini(&p->result);
    context_fini(&p->context);
    *p = (place){0};
    memmove(&d->turns[i], &d->turns[i + 1], (d->n_in_flight - i - 1) * sizeof(place *));
    d->n_in_flight--;
    d->n_together -= i < d->n_together;
}

static size_t prompt_of(const schedule *d, size_t i)
{
    return (size_t)(d->turns[i]->prompt - d->input->prompts);
}

/* turns[i] has its result. */
static kvp_status finish(schedule *d, size_t i)
{
    place *p = d->turns[i];
    text_run_end(&p->run);
    d->counts->n_finished++;
    d->counts->n_decoded += p->result.n_decoded;
    kvp_status status = d->watcher->finished(d->watcher->opaque, prompt_of(d, i), &p->result);
    p->result = (run_result){0};
    leave(d, i);
    return status;
}

/* turns[i] cannot go on. If the reason is in its tokens or numbers, it ends alone. */
static kvp_status give_up(schedule *d, size_t i, kvp_status status)
{
    if (status != KVP_E_RANGE && status != KVP_E_INVALID)
        return status;
    status = d->watcher->failed(d->watcher->opaque, prompt_of(d, i));
    leave(d, i);
    return status;
}

static kvp_status read_prompt(schedule *d, place *p)
{
    const session *s = d->session;
    sampler_options sampling = s->options->sampler;
    sampling.seed += p->prompt->index;
    kvp_status status = context_init(&p->context, s->model, d->pager, &s->rule);
    if (!status)
        status = text_run_init(&p->run, s, &p->context, &sampling);
    if (!status)
        status = text_run_add(&p->run, p->prompt->tokens, p->prompt->n_tokens);
    if (!status)
        status = text_run_begin(&p->run, s->options->n_new, &d->reading, &p->result);
    if (!status)
        status = text_run_prefill(&p->run);
    d->counts->seconds.prefill += p->result.seconds.prefill;
    d->counts->n_read_tokens += p->prompt->n_tokens;
    return status;
}

/* Choose the next token of turns[i]; if that was the last one, it finishes. */
static kvp_status choose(schedule *d, size_t i, const float *logits, bool *is_over)
{
    text_run *r = &d->turns[i]->run;
    kvp_status status = KVP_OK;
    if (!text_run_is_over(r)) {
        status = text_run_choose(r, logits);
        d->counts->n_chosen += !status;
    }
    *is_over = status || text_run_is_over(r);
    if (status)
        return give_up(d, i, status);
    return *is_over ? finish(d, i) : KVP_OK;
}

static place *free_place(const schedule *d)
{
    place *p = d->places;
    while (p->prompt)
        p++;
    return p;
}

/* Prompts take the free places, at the end of the turns. */
static kvp_status fill_places(schedule *d)
{
    kvp_status status = KVP_OK;
    for (; d->next < d->input->n && d->n_in_flight < d->n_places && !status; d->next++) {
        const batch_prompt *prompt = &d->input->prompts[d->next];
        bool is_over;
        if (prompt->error)
            continue;
        place *p = free_place(d);
        size_t i = d->n_in_flight++;
        p->prompt = prompt;
        d->turns[i] = p;
        d->counts->n_started++;
        status = read_prompt(d, p);
        status = status ? give_up(d, i, status) : choose(d, i, p->run.logits, &is_over);
    }
    return status;
}

/* ---- turns ---- */

/* Frames that a prompt's KV takes until the end of a round. */
static kvp_status count_frames(const schedule *d, const place *p, uint64_t *n_frames)
{
    size_t n_pages;
    kvp_status status = kvp_seq_pages(p->context.seq, NULL, 0, &n_pages);
    uint64_t n_lanes = n_pages / kvp_seq_page_count(p->context.seq, 0);
    *n_frames = n_pages + n_lanes * (ROUND_STEPS / d->session->page_tokens + 1);
    return status;
}

/* The KV of those who wait makes room for that of the others. */
static kvp_status advise(schedule *d)
{
    kvp_status status = KVP_OK;
    bool is_turn = false;
    for (size_t i = 0; i < d->n_in_flight && !status; i++) {
        place *p = d->turns[i];
        bool was_cold = p->is_cold;
        p->is_cold = i >= d->n_together;
        if (p->is_cold && !was_cold)
            status = kvp_seq_advise(p->context.seq, 0, UINT64_MAX, KVP_COLD);
        is_turn = is_turn || (was_cold && !p->is_cold);
    }
    d->counts->n_turns += is_turn;
    return status;
}

/* As many as fit together decode together, in the order of their turns; one always does. Those who
 * do already go on even if they have outgrown the budget, which is for the next round to see. */
static kvp_status gather(schedule *d)
{
    uint64_t n_taken = 0, n_frames;
    for (size_t i = 0; i < d->n_in_flight; i++) {
        kvp_status status = count_frames(d, d->turns[i], &n_frames);
        if (status)
            return status;
        n_taken += n_frames;
        if (i < d->n_together)
            continue;
        if (i > 0 && n_taken > d->n_frames)
            break;
        d->n_together = i + 1;
    }
    return advise(d);
}

/* The first of the turns goes behind all others. */
static void send_back(schedule *d)
{
    place *p = d->turns[0];
    memmove(&d->turns[0], &d->turns[1], (d->n_in_flight - 1) * sizeof(place *));
    d->turns[d->n_in_flight - 1] = p;
}

static kvp_status begin_round(schedule *d)
{
    bool others_wait = d->n_together < d->n_in_flight;
    for (size_t i = 0; others_wait && i < d->n_together; i++)
        send_back(d);
    d->n_together = 0;
    d->steps_left = ROUND_STEPS;
    return gather(d);
}

/* A token for each of those who decode. */
static kvp_status feed(schedule *d, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        place *p = d->turns[i];
        d->steps[i] =
            (context_step){.context = &p->context, .text = p->run.text, .end = p->run.n_text};
    }
    kvp_status status = context_step_all(d->steps, n, d->logits, d->items);
    d->counts->n_steps++;
    d->counts->most_together = n > d->counts->most_together ? n : d->counts->most_together;
    for (size_t i = 0; i < n && !status; i++)
        d->turns[i]->result.n_decoded++;
    return status;
}

static kvp_status step(schedule *d)
{
    size_t n = d->n_together;
    double begin = now_seconds();
    kvp_status status = feed(d, n);
    for (size_t i = 0, at = 0; i < n && !status; i++) {
        bool is_over; /* then the next one is at the same place of the turns */
        status = choose(d, at, d->steps[i].logits, &is_over);
        at += !is_over;
    }
    d->counts->seconds.decode += now_seconds() - begin;
    d->steps_left--;
    return status;
}

/* ---- all of it ---- */

static kvp_status run_all(schedule *d)
{
    kvp_status status = KVP_OK;
    while (!status && !interrupted()) {
        status = fill_places(d);
        if (status || d->n_in_flight == 0)
            break;
        status = d->n_together && d->steps_left ? gather(d) : begin_round(d);
        if (!status)
            status = step(d);
        tell(d);
    }
    /* The model stops with an error when it is told to. */
    if (interrupted())
        status = KVP_OK;
    while (d->n_in_flight && !status) {
        d->turns[0]->result.stop = STOP_INTERRUPTED;
        status = finish(d, 0);
    }
    return status;
}

static kvp_status learn_budget(schedule *d)
{
    kvp_stats stats = {.size = sizeof stats};
    kvp_status status = kvp_pager_stats(d->pager, &stats);
    d->n_frames = UINT64_MAX;
    if (stats.ram_budget_bytes != KVP_UNLIMITED)
        d->n_frames = page_facts_room(stats.n_frames);
    return status;
}

static kvp_status schedule_init(schedule *d)
{
    d->places = calloc(d->n_places, sizeof *d->places);
    d->turns = calloc(d->n_places, sizeof(place *));
    d->steps = calloc(d->n_places, sizeof *d->steps);
    d->items = calloc(d->n_places, sizeof *d->items);
    d->logits = malloc(d->n_places * d->session->info->n_vocab * sizeof *d->logits);
    if (!d->places || !d->turns || !d->steps || !d->items || !d->logits)
        return kvp_fail(KVP_E_NOMEM, "out of memory for %zu prompts in flight", d->n_places);
    return learn_budget(d);
}

static void schedule_fini(schedule *d)
{
    while (d->n_in_flight)
        leave(d, d->n_in_flight - 1);
    free(d->places);
    free(d->turns);
    free(d->steps);
    free(d->items);
    free(d->logits);
}

kvp_status batch_schedule_run(const session *s, kvp_pager *pager, const batch_input *input,
                              uint32_t n_parallel, const batch_watcher *watcher,
                              batch_counts *counts)
{
    *counts = (batch_counts){0};
    schedule d = {.session = s,
                  .pager = pager,
                  .input = input,
                  .watcher = watcher,
                  .counts = counts,
                  .n_places = n_parallel};
    d.reading = (run_watcher){.opaque = &d, .step = watch_reading};
    kvp_status status = schedule_init(&d);
    if (!status)
        status = run_all(&d);
    schedule_fini(&d);
    return status;
}
