/* run.c - the token loop of generate and compare, and its steps for those who have several. */
#include "integration/cli/run.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "integration/cli/interrupt.h"

#define TIE_MARGIN 1e-3f /* of the two highest logits */

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

/* ---- a text ---- */

kvp_status text_run_init(text_run *r, const session *s, context *c, const sampler_options *sampling)
{
    *r = (text_run){.session = s, .context = c};
    r->logits = malloc(s->info->n_vocab * sizeof *r->logits);
    r->hash = XXH3_createState();
    if (!r->logits || !r->hash)
        return kvp_fail(KVP_E_NOMEM, "out of memory for the logits of a text");
    return sampler_create(sampling, s->info->n_vocab, &r->sampler);
}

void text_run_fini(text_run *r)
{
    sampler_destroy(r->sampler);
    XXH3_freeState(r->hash);
    free(r->text);
    free(r->logits);
    *r = (text_run){0};
}

/* Memory grows with what is produced: -n may be far more than ever comes. */
static kvp_status make_room(text_run *r, size_t n)
{
    if (r->capacity - r->n_text >= n)
        return KVP_OK;
    size_t capacity = r->n_text + n + r->n_text / 2 + 256;
    int32_t *text = realloc(r->text, capacity * sizeof *text);
    if (!text)
        return kvp_fail(KVP_E_NOMEM, "out of memory for a text of %zu tokens", capacity);
    r->text = text;
    r->capacity = capacity;
    return KVP_OK;
}

kvp_status text_run_add(text_run *r, const int32_t *tokens, size_t n)
{
    kvp_status status = make_room(r, n);
    if (status || n == 0)
        return status;
    memcpy(r->text + r->n_text, tokens, n * sizeof *tokens);
    r->n_text += n;
    return KVP_OK;
}

/* ---- its continuation ---- */

/* Called by the model after each layer; false ends the call. */
static bool watch_forward(void *opaque, size_t done, size_t total)
{
    text_run *r = opaque;
    if (r->watcher->step)
        r->watcher->step(r->watcher->opaque, r->context, r->result->n_new,
                         total ? (double)done / (double)total : 1, false);
    return !interrupted();
}

kvp_status text_run_begin(text_run *r, uint64_t n_new, const run_watcher *watcher,
                          run_result *result)
{
    const window_rule *rule = &r->session->rule;
    *result = (run_result){.stop = STOP_INTERRUPTED}; /* until proven otherwise */
    kvp_status status = session_check_length(r->session, r->n_text);
    if (status)
        return status;
    r->watcher = watcher;
    r->result = result;
    r->n_limit = (size_t)n_new;
    r->at_limit = STOP_LENGTH;
    /* With `stop`, the text and what is new together fill the context. */
    if (rule->roll == 0 && rule->n_ctx - r->n_text < n_new) {
        r->n_limit = (size_t)(rule->n_ctx - r->n_text);
        r->at_limit = STOP_CONTEXT;
    }
    r->context->progress = watch_forward;
    r->context->progress_opaque = r;
    XXH3_64bits_reset(r->hash);
    return KVP_OK;
}

kvp_status text_run_prefill(text_run *r)
{
    double begin = now_seconds();
    uint64_t n_fed = r->context->n_fed;
    kvp_status status = context_extend(r->context, r->text, r->n_text, r->logits, 1);
    r->result->n_prefilled = r->context->n_fed - n_fed;
    r->result->seconds.prefill = now_seconds() - begin;
    return status;
}

static bool is_end(const text_run *r)
{
    return r->result->n_new && session_is_end(r->session, r->text[r->n_text - 1]);
}

bool text_run_is_over(text_run *r)
{
    run_result *result = r->result;
    result->stop = is_end(r) ? STOP_EOS : r->at_limit;
    if (result->stop == STOP_EOS || result->n_new >= r->n_limit)
        return true;
    result->stop = STOP_INTERRUPTED;
    return interrupted();
}

static kvp_status make_room_for_result(run_result *result)
{
    if (result->n_new < result->capacity)
        return KVP_OK;
    size_t wanted = result->capacity ? 2 * result->capacity : 256;
    int32_t *tokens = realloc(result->tokens, wanted * sizeof *tokens);
    result->tokens = tokens ? tokens : result->tokens;
    float *margins = tokens ? realloc(result->margins, wanted * sizeof *margins) : NULL;
    result->margins = margins ? margins : result->margins;
    if (!margins)
        return kvp_fail(KVP_E_NOMEM, "out of memory for %zu new tokens", wanted);
    result->capacity = wanted;
    return KVP_OK;
}

kvp_status text_run_choose(text_run *r, const float *logits)
{
    run_result *result = r->result;
    int32_t id;
    float margin;
    XXH3_64bits_update(r->hash, logits, r->session->info->n_vocab * sizeof *r->logits);
    kvp_status status = make_room_for_result(result);
    if (!status)
        status = sampler_next(r->sampler, logits, &id, &margin);
    if (status)
        return status;
    result->tokens[result->n_new] = id;
    result->margins[result->n_new] = margin;
    const run_result *follow = r->watcher->follow;
    assert(!follow || result->n_new < follow->n_new);
    status = text_run_add(r, follow ? &follow->tokens[result->n_new] : &id, 1);
    if (status)
        return status;
    result->n_new++;
    return r->watcher->token ? r->watcher->token(r->watcher->opaque, id) : KVP_OK;
}

void text_run_end(text_run *r)
{
    r->result->logits_xxh3 = XXH3_64bits_digest(r->hash);
    r->result->restarts = r->context->restarts;
    r->result->window_start = r->context->start;
    r->context->progress = NULL;
}

/* Invariant: r->logits are those of the text's last token. */
static kvp_status decode(text_run *r)
{
    while (!text_run_is_over(r)) {
        kvp_status status = KVP_OK;
        if (r->result->n_new) {
            status = context_extend(r->context, r->text, r->n_text, r->logits, 1);
            r->result->n_decoded += !status;
        }
        if (!status)
            status = text_run_choose(r, r->logits);
        if (status)
            return status;
        if (r->watcher->step)
            r->watcher->step(r->watcher->opaque, r->context, r->result->n_new, 1, true);
    }
    return KVP_OK;
}

kvp_status text_run_continue(text_run *r, uint64_t n_new, const run_watcher *watcher,
                             run_result *result)
{
    kvp_status status = text_run_begin(r, n_new, watcher, result);
    if (status)
        return status;
    status = text_run_prefill(r);
    double prefilled = now_seconds();
    if (!status)
        status = decode(r);
    result->seconds.decode = now_seconds() - prefilled;
    text_run_end(r);
    /* The model stops with an error when the watcher tells it to. */
    if (status && interrupted()) {
        result->stop = STOP_INTERRUPTED;
        status = KVP_OK;
    }
    return status;
}

window_feed run_feed(const window_rule *rule, uint64_t n, uint64_t n_new)
{
    uint64_t fed_back = n_new ? n_new - 1 : 0;
    uint64_t end = fed_back < UINT64_MAX - n ? n + fed_back : UINT64_MAX;
    if (rule->roll == 0 && end > rule->n_ctx)
        end = rule->n_ctx;
    return (window_feed){.first = n, .step = 1, .end = end};
}

kvp_status run_generate(const session *s, context *c, const run_watcher *watcher,
                        run_result *result)
{
    text_run r;
    *result = (run_result){0};
    kvp_status status = text_run_init(&r, s, c, &s->options->sampler);
    if (!status)
        status = text_run_add(&r, s->tokens, s->n_tokens);
    if (!status)
        status = text_run_continue(&r, s->options->n_new, watcher, result);
    text_run_fini(&r);
    return status;
}

bool run_is_same(const run_result *a, const run_result *b)
{
    return a->n_new == b->n_new && a->logits_xxh3 == b->logits_xxh3 &&
           (a->n_new == 0 || memcmp(a->tokens, b->tokens, a->n_new * sizeof *a->tokens) == 0);
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
