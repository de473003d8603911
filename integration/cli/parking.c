/* parking.c - plays conversations that together have more KV than RAM may hold.
 *
 * One after the other, in an order drawn with a bias (some come back often), gets a turn: it is
 * announced (KVP_WILLNEED), the turn is computed, its last token has logits, the turn is taken back
 * so that all keep their length, and the conversation is parked (KVP_COLD). Histories are random
 * rows: what they are does not matter to the time. The first turn of each is computed before it is
 * ever parked; the logits of every later one must be the same. */
#include "integration/cli/parking.h"

#include <stdlib.h>
#include <string.h>

#include "integration/cli/interrupt.h"
#include "integration/cli/progress.h"
#include "integration/cli/run.h"
#include "integration/least.h"
#include "integration/models/fingerprint.h"
#include "integration/random.h"

#define FILL_TOKENS 256u /* appended at a time */

typedef struct conversation {
    kvp_seq *seq;
    uint64_t answer; /* hash of the logits before it was parked */
} conversation;

typedef struct parking {
    const session *session;
    const parking_options *options;
    parking_result *result;
    progress panel;
    conversation *conversations; /* [n_sessions] */
    kvp_page_info *pages;        /* [n_pages] of a history */
    size_t n_pages;
    int32_t *tokens; /* [n_history + n_turn] */
    float *logits;   /* [n_vocab] */
    float *rows;     /* [2][FILL_TOKENS] of keys and values */
    uint64_t random;
} parking;

static uint64_t row_width(const model_info *info)
{
    return (uint64_t)info->n_kv_heads * info->head_dim;
}

static uint64_t pages_of(uint64_t n_tokens, uint32_t page_tokens)
{
    return (n_tokens + page_tokens - 1) / page_tokens;
}

uint64_t parking_kv_bytes(const parking_options *o, const model_info *info, kvp_dtype dtype)
{
    uint64_t token_bytes = info->n_layers * row_width(info) * 2 * kvp_dtype_bytes(dtype);
    return o->n_sessions * o->n_history * token_bytes;
}

/* All of them, and one that is computed again. */
uint64_t parking_pages(const parking_options *o, uint32_t page_tokens)
{
    return o->n_sessions * pages_of(o->n_history, page_tokens) +
           pages_of(o->n_history + o->n_turn, page_tokens);
}

/* ---- making conversations ---- */

static kvp_status check_interrupt(void)
{
    return interrupted() ? kvp_fail(KVP_E_AGAIN, "interrupted") : KVP_OK;
}

static kvp_status fill_layer(parking *p, kvp_seq *seq, uint32_t layer)
{
    size_t width = row_width(p->session->info);
    float *k = p->rows, *v = p->rows + FILL_TOKENS * width;
    kvp_status status = KVP_OK;
    for (uint64_t at = 0, n; at < p->options->n_history && !status; at += n) {
        n = least(p->options->n_history - at, FILL_TOKENS);
        for (size_t i = 0; i < n * width; i++) {
            k[i] = random_float(&p->random);
            v[i] = random_float(&p->random);
        }
        status = kvp_seq_append(seq, layer, k, v, n);
        if (!status)
            status = check_interrupt();
    }
    return status;
}

static kvp_status make_history(parking *p, kvp_seq *seq)
{
    kvp_status status = KVP_OK;
    for (uint32_t layer = 0; layer < p->session->info->n_layers && !status; layer++)
        status = fill_layer(p, seq, layer);
    if (status || p->pages)
        return status;
    status = kvp_seq_pages(seq, NULL, 0, &p->n_pages);
    if (status)
        return status;
    p->pages = malloc(p->n_pages * sizeof *p->pages);
    return p->pages ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory for %zu pages", p->n_pages);
}

/* ---- turns ---- */

static bool go_on(void *opaque, size_t done, size_t total)
{
    (void)opaque, (void)done, (void)total;
    return !interrupted();
}

static kvp_status forward(parking *p, kvp_seq *seq, uint64_t n_tokens)
{
    const model_forward_args args = {.tokens = p->tokens,
                                     .n_tokens = n_tokens,
                                     .logits = p->logits,
                                     .n_logits = 1,
                                     .progress = go_on};
    kvp_status status = model_forward(p->session->model, seq, &args);
    return status ? status : check_interrupt();
}

static kvp_status take_turn(parking *p, conversation *c, double *seconds, uint64_t *answer)
{
    double begin = now_seconds();
    kvp_status status = kvp_seq_advise(c->seq, 0, UINT64_MAX, KVP_WILLNEED);
    if (!status)
        status = forward(p, c->seq, p->options->n_turn);
    *seconds = now_seconds() - begin;
    if (!status)
        status = kvp_seq_truncate(c->seq, p->options->n_history);
    *answer = fingerprint(p->logits, p->session->info->n_vocab * sizeof *p->logits, 0);
    return status;
}

static kvp_status park(conversation *c)
{
    return kvp_seq_advise(c->seq, 0, UINT64_MAX, KVP_COLD);
}

static kvp_status make_conversation(parking *p, conversation *c)
{
    double seconds;
    kvp_status status = kvp_seq_create(p->session->pager, &c->seq);
    if (!status)
        status = make_history(p, c->seq);
    if (!status)
        status = take_turn(p, c, &seconds, &c->answer);
    return status ? status : park(c);
}

static kvp_status make_conversations(parking *p)
{
    kvp_status status = KVP_OK;
    for (uint64_t i = 0; i < p->options->n_sessions && !status; i++) {
        if (progress_is_due(&p->panel))
            progress_draw(&p->panel, NULL, "conversation %llu of %llu is made and parked",
                          (unsigned long long)(i + 1), (unsigned long long)p->options->n_sessions);
        status = make_conversation(p, &p->conversations[i]);
    }
    return status;
}

/* ---- measuring ---- */

static void add_time(parking_times *t, double seconds)
{
    t->seconds[t->n++] = seconds;
}

static kvp_status take_stats(const parking *p, kvp_stats *stats)
{
    *stats = (kvp_stats){.size = sizeof *stats};
    return kvp_pager_stats(p->session->pager, stats);
}

static void add_costs(parking *p, const kvp_stats *before, const kvp_stats *after)
{
    parking_costs *c = &p->result->costs;
    c->minor_faults += after->minor_faults - before->minor_faults;
    c->major_faults += after->major_faults - before->major_faults;
    c->bytes_read += after->bytes_read - before->bytes_read;
    c->direct_reclaims += after->direct_reclaims - before->direct_reclaims;
    for (size_t i = 0; i < KVP_N_TIERS; i++) {
        c->stalls[i] += after->stalls[i] - before->stalls[i];
        c->stall_some_ns[i] += after->stall_some_ns[i] - before->stall_some_ns[i];
        c->stall_full_ns[i] += after->stall_full_ns[i] - before->stall_full_ns[i];
    }
}

static kvp_status add_pages(parking *p, conversation *c)
{
    kvp_status status = kvp_seq_pages(c->seq, p->pages, p->n_pages, &p->n_pages);
    for (size_t i = 0; i < p->n_pages && !status; i++)
        p->result->costs.pages[p->pages[i].tier]++;
    return status;
}

static kvp_status resume_parked(parking *p, conversation *c)
{
    kvp_stats before, after;
    double seconds = 0;
    uint64_t answer = 0;
    kvp_status status = add_pages(p, c);
    if (!status)
        status = take_stats(p, &before);
    if (!status)
        status = take_turn(p, c, &seconds, &answer);
    if (!status)
        status = take_stats(p, &after);
    if (status)
        return status;
    add_costs(p, &before, &after);
    add_time(&p->result->parked, seconds);
    p->result->n_different += answer != c->answer;
    return KVP_OK;
}

static kvp_status resume_again(parking *p, conversation *c)
{
    double seconds;
    uint64_t answer;
    kvp_status status = take_turn(p, c, &seconds, &answer);
    if (status)
        return status;
    add_time(&p->result->again, seconds);
    p->result->n_different += answer != c->answer;
    return KVP_OK;
}

static kvp_status compute_again(parking *p, double *seconds)
{
    kvp_seq *seq;
    kvp_status status = kvp_seq_create(p->session->pager, &seq);
    if (status)
        return status;
    double begin = now_seconds();
    status = forward(p, seq, p->options->n_history + p->options->n_turn);
    *seconds = now_seconds() - begin;
    kvp_seq_destroy(seq);
    return status;
}

/* Half of the turns go to an eighth of the conversations. */
static conversation *next_conversation(parking *p)
{
    uint64_t n = p->options->n_sessions;
    bool is_frequent = random_next(&p->random) >> 63;
    return &p->conversations[random_next(&p->random) % (is_frequent ? (n + 7) / 8 : n)];
}

static kvp_status run_round(parking *p)
{
    double seconds;
    conversation *c = NULL;
    kvp_status status = compute_again(p, &seconds);
    if (!status)
        add_time(&p->result->computed, seconds);
    for (size_t i = 0; i < PARKING_TURNS && !status; i++) {
        c = next_conversation(p);
        status = resume_parked(p, c);
        if (!status && i + 1 == PARKING_TURNS)
            status = resume_again(p, c);
        if (!status)
            status = park(c);
    }
    return status;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void sort(parking_times *t)
{
    qsort(t->seconds, t->n, sizeof *t->seconds, compare_doubles);
}

static kvp_status measure(parking *p)
{
    parking_result *r = p->result;
    double seconds;
    kvp_status status = compute_again(p, &seconds); /* warms up */
    for (uint64_t i = 0; i < p->options->n_rounds && !status; i++) {
        progress_draw(&p->panel, NULL, "round %llu of %llu", (unsigned long long)(i + 1),
                      (unsigned long long)p->options->n_rounds);
        status = run_round(p);
    }
    sort(&r->computed);
    sort(&r->parked);
    sort(&r->again);
    return status;
}

/* ---- all of it ---- */

static bool has_room(parking_times *t, size_t n)
{
    t->seconds = malloc(n * sizeof *t->seconds);
    return t->seconds != NULL;
}

static kvp_status allocate(parking *p)
{
    const parking_options *o = p->options;
    const model_info *info = p->session->info;
    parking_result *r = p->result;
    p->conversations = calloc(o->n_sessions, sizeof *p->conversations);
    p->tokens = malloc((o->n_history + o->n_turn) * sizeof *p->tokens);
    p->logits = malloc(info->n_vocab * sizeof *p->logits);
    p->rows = malloc(2 * FILL_TOKENS * row_width(info) * sizeof *p->rows);
    if (!p->conversations || !p->tokens || !p->logits || !p->rows ||
        !has_room(&r->computed, o->n_rounds) || !has_room(&r->again, o->n_rounds) ||
        !has_room(&r->parked, o->n_rounds * PARKING_TURNS))
        return kvp_fail(KVP_E_NOMEM, "out of memory for %llu conversations",
                        (unsigned long long)o->n_sessions);
    for (uint64_t i = 0; i < o->n_history + o->n_turn; i++)
        p->tokens[i] = (int32_t)((random_next(&p->random) >> 32) % info->n_vocab);
    return KVP_OK;
}

static void fini(parking *p)
{
    for (uint64_t i = 0; p->conversations && i < p->options->n_sessions; i++)
        kvp_seq_destroy(p->conversations[i].seq);
    free(p->conversations);
    free(p->tokens);
    free(p->logits);
    free(p->rows);
    free(p->pages);
}

kvp_status parking_run(const session *s, const parking_options *o, parking_result *result)
{
    parking p = {.session = s, .options = o, .result = result, .random = RANDOM_SEED};
    kvp_stats stats;
    *result = (parking_result){.options = *o,
                               .kv_bytes = parking_kv_bytes(o, s->info, s->options->kv_dtype)};
    kvp_status status = take_stats(&p, &stats);
    if (!status)
        status = allocate(&p);
    if (status) {
        fini(&p);
        return status;
    }
    result->ram_bytes = stats.ram_budget_bytes;
    result->slot_bytes = stats.slot_bytes;
    progress_init(&p.panel);
    status = make_conversations(&p);
    if (!status)
        status = measure(&p);
    progress_fini(&p.panel);
    fini(&p);
    return status;
}

void parking_result_fini(parking_result *result)
{
    free(result->computed.seconds);
    free(result->parked.seconds);
    free(result->again.seconds);
    *result = (parking_result){0};
}
