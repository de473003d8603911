/* context.c - feeds tokens to the model, in chunks where the rule says so, begins new windows and
 * frees pages that are out of reach.
 *
 * Invariant: the sequence holds text[start .. next) at positions 0 .. next - start - 1 (less what
 * retention freed). What calls are made depends only on the text and the rule, never on tiers. */
#include "integration/cli/context.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

#include "integration/cli/message.h"

#define ROWS_BYTES ((size_t)16 << 20) /* of logits at a time */
#define MAX_LOSSES 8                  /* in a row: after that the disk is beyond hope */

kvp_status context_init(context *c, model *m, kvp_pager *pager, const window_rule *rule)
{
    *c = (context){.model = m, .pager = pager, .rule = *rule};
    return kvp_seq_create(pager, &c->seq);
}

void context_fini(context *c)
{
    kvp_seq_destroy(c->seq);
    free(c->ends);
    free(c->hidden);
    c->hidden = NULL;
    c->ends = NULL;
    c->seq = NULL;
}

kvp_status context_want_hidden(context *c)
{
    const model_info *info = model_get_info(c->model);
    if (!c->hidden)
        c->hidden = malloc(context_max_rows(info) * info->d_model * sizeof *c->hidden);
    return c->hidden ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory for hidden states");
}

kvp_status context_use_memory(context *c, memory *m)
{
    c->memory = m;
    return context_want_hidden(c);
}

kvp_status context_restart(context *c, uint64_t start)
{
    kvp_seq_destroy(c->seq);
    c->seq = NULL;
    c->start = c->next = start;
    c->n_calls = 0;
    return kvp_seq_create(c->pager, &c->seq);
}

/* Progress of a call of context_extend(), of which the model sees chunks. */
typedef struct chunk_watch {
    const context *context;
    uint64_t before, chunk, all; /* tokens */
} chunk_watch;

static bool watch_chunk(void *opaque, size_t done, size_t total)
{
    const chunk_watch *w = opaque;
    return w->context->progress(w->context->progress_opaque, w->before * total + w->chunk * done,
                                w->all * total);
}

static kvp_status free_unreachable(context *c)
{
    uint64_t begin, end;
    if (!window_unreachable(&c->rule, c->next - c->start, &begin, &end))
        return KVP_OK;
    return kvp_seq_evict(c->seq, KVP_ALL_LAYERS, begin, end);
}

/* What the last n tokens of a call leave: [n][n_vocab] and [n][d_model], each NULL if it is not
 * wanted. */
typedef struct row_set {
    float *logits, *hidden;
    size_t n;
} row_set;

/* A call that feeds text[c->next .. stop), and leaves rows. */
static model_forward_args call_args(const context *c, const int32_t *text, uint64_t stop,
                                    row_set rows)
{
    return (model_forward_args){.tokens = text + c->next,
                                .n_tokens = stop - c->next,
                                .window = c->rule.keep,
                                .sinks = c->rule.sinks,
                                .shift = c->rule.shift,
                                .logits = rows.logits,
                                .n_logits = rows.logits ? rows.n : 0,
                                .hidden = rows.hidden,
                                .n_hidden = rows.hidden ? rows.n : 0};
}

static kvp_status remember(context *c, uint64_t end)
{
    if (c->n_calls == c->capacity) {
        size_t capacity = c->capacity ? 2 * c->capacity : 64;
        uint64_t *ends = realloc(c->ends, capacity * sizeof *ends);
        if (!ends)
            return kvp_fail(KVP_E_NOMEM, "out of memory for the calls of a text");
        c->ends = ends;
        c->capacity = capacity;
    }
    c->ends[c->n_calls++] = end;
    return KVP_OK;
}

/* It has come back. */
static kvp_status take_in(context *c, uint64_t end)
{
    c->n_fed += end - c->next;
    c->next = end;
    kvp_status status = remember(c, end);
    return status ? status : free_unreachable(c);
}

/* It has failed: what it left of its tokens goes. */
static kvp_status undo(context *c, kvp_status failure)
{
    kvp_status status = kvp_seq_truncate(c->seq, c->next - c->start);
    return status ? status : failure;
}

/* ---- KV that is lost ---- */

static bool is_loss(kvp_status status)
{
    return status == KVP_E_CORRUPT || status == KVP_E_LOST;
}

/* Back to where a call ended, at or before token `first` of the sequence; to the beginning where
 * computing again would need tokens that retention has freed. */
static kvp_status rewind_to(context *c, uint64_t first)
{
    size_t n = c->rule.keep ? 0 : c->n_calls;
    while (n > 0 && c->ends[n - 1] - c->start > first)
        n--;
    c->n_calls = n;
    c->next = n ? c->ends[n - 1] : c->start;
    return kvp_seq_truncate(c->seq, c->next - c->start);
}

/* Compute again what is lost, by the same calls that had computed it, of which there were n_calls:
 * they leave the same bits. */
static kvp_status put_back(context *c, const int32_t *text, size_t n_calls)
{
    uint64_t first, n;
    kvp_status status = kvp_seq_lost(c->seq, &first, &n);
    if (!status && n) {
        status = rewind_to(c, first);
        complain("the KV of tokens %" PRIu64 " to %" PRIu64 " is lost: what came back from disk is "
                 "not what was written; computing again from token %" PRIu64,
                 c->start + first, c->start + first + n - 1, c->next);
    }
    while (c->n_calls < n_calls && !status) {
        const uint64_t end = c->ends[c->n_calls];
        const model_forward_args args = call_args(c, text, end, (row_set){0});
        c->n_put_back += end - c->next;
        status = model_forward(c->model, c->seq, &args);
        status = status ? undo(c, status) : take_in(c, end);
    }
    return status;
}

/* Whether the call that failed can be made once more, with what it lacked put back. */
static bool mend(context *c, const int32_t *text, kvp_status *status)
{
    const size_t n_calls = c->n_calls;
    for (uint32_t i = 0; i < MAX_LOSSES && is_loss(*status); i++)
        *status = put_back(c, text, n_calls);
    return *status == KVP_OK;
}

static kvp_status forward(context *c, const int32_t *text, uint64_t stop, chunk_watch *watch,
                          row_set rows)
{
    for (uint32_t n_losses = 0;; n_losses++) {
        model_forward_args args = call_args(c, text, stop, rows);
        args.progress = c->progress ? watch_chunk : NULL;
        args.progress_opaque = watch;
        kvp_status status = model_forward(c->model, c->seq, &args);
        if (!status)
            return take_in(c, stop);
        status = undo(c, status);
        if (n_losses == MAX_LOSSES || !mend(c, text, &status))
            return status;
    }
}

/* Feed text[c->next .. end) in chunks, which leaves rows. */
static kvp_status feed(context *c, const int32_t *text, uint64_t end, row_set rows)
{
    const uint64_t begin = c->next, first_row = end - rows.n;
    const model_info *info = model_get_info(c->model);
    kvp_status status = KVP_OK;
    while (!status && c->next < end) {
        uint64_t stop = window_stop(&c->rule, c->next, end);
        uint64_t row = c->next > first_row ? c->next : first_row;
        size_t n = stop > row ? stop - row : 0;
        chunk_watch watch = {c, c->next - begin, stop - c->next, end - begin};
        row_set part = {.n = n};
        if (n && rows.logits)
            part.logits = rows.logits + (row - first_row) * info->n_vocab;
        if (n && rows.hidden)
            part.hidden = rows.hidden + (row - first_row) * info->d_model;
        status = forward(c, text, stop, &watch, part);
    }
    return status;
}

static kvp_status extend(context *c, const int32_t *text, uint64_t end, row_set rows)
{
    assert(end > c->next);
    uint64_t start = window_start(&c->rule, end - 1);
    kvp_status status = KVP_OK;
    if (start != c->start || c->no_cache) {
        c->restarts += start != c->start;
        status = context_restart(c, start);
    }
    return status ? status : feed(c, text, end, rows);
}

/* ---- rows, and the memory that reads them ---- */

size_t context_max_rows(const model_info *info)
{
    size_t rows = ROWS_BYTES / (info->n_vocab * sizeof(float));
    return rows ? rows : 1;
}

/* Where a chunk that begins with row `first` ends: with the window that `first` is in. */
static uint64_t chunk_end(const context *c, uint64_t first, uint64_t end)
{
    uint64_t start = window_start(&c->rule, first);
    if (start != c->start)
        return first + 1; /* begins a window, in which the rows before it are no results */
    uint64_t stop = first + context_max_rows(model_get_info(c->model));
    stop = stop < start + c->rule.n_ctx ? stop : start + c->rule.n_ctx;
    return stop < end ? stop : end;
}

/* Rows [end - rows.n, end) of the text, which the memory reads, in order. */
static kvp_status extend_with_memory(context *c, const int32_t *text, uint64_t end, row_set rows)
{
    kvp_status status = extend(c, text, end, rows);
    if (status)
        return status;
    const memory_rows r = {.text = text + (end - rows.n),
                           .first = c->memory_first + end - rows.n,
                           .n = rows.n,
                           .hidden = rows.hidden,
                           .logits = rows.logits};
    return memory_read(c->memory, &r);
}

/* Rows before `end` that the memory has not read. */
static kvp_status catch_up(context *c, const int32_t *text, uint64_t end)
{
    uint64_t next = memory_next(c->memory);
    uint64_t first = next > c->memory_first ? next - c->memory_first : 0;
    kvp_status status = KVP_OK;
    while (!status && first < end) {
        uint64_t stop = chunk_end(c, first, end);
        status = extend_with_memory(c, text, stop, (row_set){NULL, c->hidden, stop - first});
        first = stop;
    }
    return status;
}

kvp_status context_extend(context *c, const int32_t *text, uint64_t end, float *logits,
                          size_t n_rows)
{
    const row_set rows = {logits, n_rows ? c->hidden : NULL, n_rows};
    if (!c->memory || !n_rows)
        return extend(c, text, end, rows);
    kvp_status status = catch_up(c, text, end - n_rows);
    return status ? status : extend_with_memory(c, text, end, rows);
}

static bool begins_a_window(const context_step *s)
{
    return window_start(&s->context->rule, s->end - 1) != s->context->start;
}

/* The steps that begin no window, of which `items` are the calls. */
static kvp_status forward_all(context_step *steps, size_t n, const model_item *items,
                              size_t n_items)
{
    model *m = steps[0].context->model;
    for (uint32_t n_losses = 0;; n_losses++) {
        kvp_status status = model_forward_batch(m, items, n_items);
        if (!is_loss(status) || n_losses == MAX_LOSSES)
            return status;
        for (size_t i = 0; i < n; i++) {
            if (begins_a_window(&steps[i]))
                continue;
            kvp_status failure = undo(steps[i].context, status);
            if (!mend(steps[i].context, steps[i].text, &failure))
                return failure;
        }
    }
}

/* The rows of the batch come first, so that their logits are one product. */
kvp_status context_step_all(context_step *steps, size_t n, float *logits, model_item *items)
{
    model *m = steps[0].context->model;
    const size_t n_vocab = model_get_info(m)->n_vocab;
    size_t n_items = 0;
    for (size_t i = 0; i < n; i++) {
        context_step *s = &steps[i];
        assert(s->end == s->context->next + 1 && !s->context->no_cache);
        if (begins_a_window(s))
            continue;
        s->logits = logits + n_items * n_vocab;
        items[n_items++] = (model_item){
            .seq = s->context->seq,
            .args = call_args(s->context, s->text, s->end, (row_set){s->logits, NULL, 1})};
    }
    kvp_status status = n_items ? forward_all(steps, n, items, n_items) : KVP_OK;
    size_t row = n_items;
    for (size_t i = 0; i < n && !status; i++) {
        context_step *s = &steps[i];
        if (!begins_a_window(s)) {
            status = take_in(s->context, s->end);
        } else {
            s->logits = logits + row++ * n_vocab;
            status = context_extend(s->context, s->text, s->end, s->logits, 1);
        }
    }
    return status;
}

kvp_status context_rows(context *c, const int32_t *text, uint64_t first, uint64_t end,
                        take_rows take, void *opaque)
{
    const model_info *info = model_get_info(c->model);
    float *logits = malloc(context_max_rows(info) * info->n_vocab * sizeof *logits);
    if (!logits)
        return kvp_fail(KVP_E_NOMEM, "out of memory for logits");
    kvp_status status = KVP_OK;
    while (!status && first < end) {
        uint64_t stop = chunk_end(c, first, end);
        status = context_extend(c, text, stop, logits, stop - first);
        if (!status)
            status = take(opaque, first, stop - first, logits);
        first = stop;
    }
    free(logits);
    return status;
}
