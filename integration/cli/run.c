/* run.c - the token loop of generate and compare. */
#include "integration/cli/run.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "integration/cli/interrupt.h"

#define TIE_MARGIN 1e-3f /* of the two highest logits */

typedef struct run {
    const session *session;
    const run_watcher *watcher;
    context *context;
    sampler *sampler;
    XXH3_state_t *hash;
    float *logits; /* [n_vocab] of the last token */
    int32_t *text; /* input, then the new tokens */
    run_result *result;
} run;

const char *stop_reason_name(stop_reason reason)
{
    static const char *const names[] = {[STOP_LENGTH] = "length",
                                        [STOP_EOS] = "eos",
                                        [STOP_CONTEXT] = "context",
                                        [STOP_INTERRUPTED] = "interrupted"};
    return names[reason];
}

double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Called by the model after each layer; false ends the call. */
static bool watch_forward(void *opaque, size_t done, size_t total)
{
    run *r = opaque;
    if (r->watcher->step)
        r->watcher->step(r->watcher->opaque, r->context, r->result->n_new,
                         total ? (double)done / (double)total : 1, false);
    return !interrupted();
}

/* New tokens that the text may get: with `stop`, text and new tokens together fill the context. */
static size_t token_limit(const session *s, stop_reason *at_limit)
{
    uint64_t limit = s->options->n_new;
    *at_limit = STOP_LENGTH;
    if (s->rule.roll == 0 && s->rule.n_ctx - s->n_tokens < limit) {
        limit = s->rule.n_ctx - s->n_tokens;
        *at_limit = STOP_CONTEXT;
    }
    return (size_t)limit;
}

/* Memory for a run grows with what is produced: -n may be far more than ever comes. */
static kvp_status grow(run *r, size_t *capacity)
{
    if (r->result->n_new < *capacity)
        return KVP_OK;
    size_t wanted = *capacity ? 2 * *capacity : 256;
    size_t n_text = r->session->n_tokens + wanted;
    void *text = realloc(r->text, n_text * sizeof *r->text);
    r->text = text ? text : r->text;
    void *tokens = text ? realloc(r->result->tokens, wanted * sizeof *r->result->tokens) : NULL;
    r->result->tokens = tokens ? tokens : r->result->tokens;
    void *margins =
        tokens ? realloc(r->result->margins, wanted * sizeof *r->result->margins) : NULL;
    r->result->margins = margins ? margins : r->result->margins;
    if (!margins)
        return kvp_fail(KVP_E_NOMEM, "out of memory for %zu tokens", n_text);
    *capacity = wanted;
    return KVP_OK;
}

/* Choose the next token from the logits and tell. */
static kvp_status take_token(run *r)
{
    run_result *result = r->result;
    const model_info *info = r->session->info;
    XXH3_64bits_update(r->hash, r->logits, info->n_vocab * sizeof *r->logits);
    int32_t id;
    float margin;
    kvp_status status = sampler_next(r->sampler, r->logits, &id, &margin);
    if (status)
        return status;
    result->tokens[result->n_new] = id;
    result->margins[result->n_new] = margin;
    const run_result *follow = r->watcher->follow;
    assert(!follow || result->n_new < follow->n_new);
    r->text[r->session->n_tokens + result->n_new] = follow ? follow->tokens[result->n_new] : id;
    result->n_new++;
    return r->watcher->token ? r->watcher->token(r->watcher->opaque, id) : KVP_OK;
}

static kvp_status decode_step(run *r)
{
    kvp_status status =
        context_extend(r->context, r->text, r->session->n_tokens + r->result->n_new, r->logits, 1);
    r->result->n_decoded += !status;
    return status;
}

static bool is_end(const run *r)
{
    const run_result *result = r->result;
    const session *s = r->session;
    return !s->options->ignore_eos && result->n_new &&
           model_is_eos(s->info, r->text[s->n_tokens + result->n_new - 1]);
}

/* Invariant: r->logits are those of the text's last token. */
static kvp_status decode(run *r, size_t limit, stop_reason at_limit)
{
    size_t capacity = 0;
    for (;;) {
        r->result->stop = is_end(r) ? STOP_EOS : at_limit;
        if (r->result->stop == STOP_EOS || r->result->n_new >= limit)
            return KVP_OK;
        r->result->stop = STOP_INTERRUPTED;
        if (interrupted())
            return KVP_OK;
        kvp_status status = grow(r, &capacity);
        if (!status && r->result->n_new)
            status = decode_step(r);
        if (!status)
            status = take_token(r);
        if (status)
            return status;
        if (r->watcher->step)
            r->watcher->step(r->watcher->opaque, r->context, r->result->n_new, 1, true);
    }
}

static kvp_status prefill_and_decode(run *r)
{
    stop_reason at_limit;
    size_t limit = token_limit(r->session, &at_limit);
    r->result->stop = STOP_INTERRUPTED; /* until proven otherwise */
    double begin = now_seconds();
    kvp_status status = context_extend(r->context, r->text, r->session->n_tokens, r->logits, 1);
    double prefilled = now_seconds();
    r->result->seconds.prefill = prefilled - begin;
    if (!status)
        status = decode(r, limit, at_limit);
    r->result->seconds.decode = now_seconds() - prefilled;
    /* The model stops with an error when the watcher tells it to. */
    if (status && interrupted()) {
        r->result->stop = STOP_INTERRUPTED;
        status = KVP_OK;
    }
    return status;
}

static kvp_status run_init(run *r)
{
    const session *s = r->session;
    r->logits = malloc(s->info->n_vocab * sizeof *r->logits);
    r->text = malloc((s->n_tokens + 1) * sizeof *r->text);
    r->hash = XXH3_createState();
    if (!r->logits || !r->text || !r->hash)
        return kvp_fail(KVP_E_NOMEM, "out of memory for %zu tokens", s->n_tokens);
    memcpy(r->text, s->tokens, s->n_tokens * sizeof *r->text);
    XXH3_64bits_reset(r->hash);
    return sampler_create(&s->options->sampler, s->info->n_vocab, &r->sampler);
}

static void run_fini(run *r)
{
    sampler_destroy(r->sampler);
    XXH3_freeState(r->hash);
    free(r->text);
    free(r->logits);
}

window_feed run_feed(const session *s)
{
    uint64_t n = s->n_tokens, fed_back = s->options->n_new ? s->options->n_new - 1 : 0;
    uint64_t end = fed_back < UINT64_MAX - n ? n + fed_back : UINT64_MAX;
    if (s->rule.roll == 0 && end > s->rule.n_ctx)
        end = s->rule.n_ctx;
    return (window_feed){.first = n, .step = 1, .end = end};
}

kvp_status run_generate(const session *s, context *c, const run_watcher *watcher,
                        run_result *result)
{
    *result = (run_result){0};
    run r = {.session = s, .watcher = watcher, .context = c, .result = result};
    c->progress = watch_forward;
    c->progress_opaque = &r;
    kvp_status status = run_init(&r);
    if (!status) {
        status = prefill_and_decode(&r);
        result->logits_xxh3 = XXH3_64bits_digest(r.hash);
        result->restarts = c->restarts;
        result->window_start = c->start;
    }
    c->progress = NULL;
    run_fini(&r);
    return status;
}

static bool is_tie(const run_result *a, const run_result *b, size_t i)
{
    return a->margins[i] < TIE_MARGIN || b->margins[i] < TIE_MARGIN;
}

run_differences run_compare(const run_result *a, const run_result *b)
{
    run_differences d = {0};
    size_t n = a->n_new < b->n_new ? a->n_new : b->n_new;
    for (size_t i = 0; i < n; i++) {
        if (a->tokens[i] == b->tokens[i])
            continue;
        if (is_tie(a, b, i))
            d.n_ties++;
        else if (d.n_others++ == 0)
            d.first = i;
    }
    if (a->n_new != b->n_new && d.n_others++ == 0)
        d.first = n;
    return d;
}

void run_result_fini(run_result *result)
{
    free(result->tokens);
    free(result->margins);
    *result = (run_result){0};
}
