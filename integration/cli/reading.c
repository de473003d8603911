/* reading.c - rows of a text over windows, in pieces that a memory takes. */
#include "integration/cli/reading.h"

#include <math.h>

#include "integration/cli/score.h"
#include "integration/least.h"

typedef struct run {
    const reading *reading;
    context context;
} run;

static bool watch_forward(void *opaque, size_t done, size_t total)
{
    const run *r = opaque;
    (void)done, (void)total;
    return !r->reading->progress || r->reading->progress(r->reading->opaque, r->context.next);
}

static kvp_status take_chunk(void *opaque, uint64_t first, size_t n, const float *logits)
{
    const run *r = opaque;
    const reading *to = r->reading;
    const model_info *info = model_get_info(r->context.model);
    kvp_status status = KVP_OK;
    for (size_t i = 0, part; i < n && !status; i += part) {
        double p[MEMORY_ROWS];
        const int32_t *next = to->text + first + i + 1;
        part = least(n - i, MEMORY_ROWS);
        for (size_t j = 0; j < part && to->wants_p; j++)
            p[j] = exp(-score_nll(logits + (i + j) * info->n_vocab, info->n_vocab, next[j]));
        const reading_rows rows = {.first = first + i,
                                   .n = part,
                                   .hidden = r->context.hidden + i * info->d_model,
                                   .next = next,
                                   .p_model = to->wants_p ? p : NULL};
        status = to->take(to->opaque, &rows);
    }
    return status;
}

kvp_status reading_run(const reading *to)
{
    run r = {.reading = to};
    kvp_status status = context_init(&r.context, to->session->model, to->session->pager, &to->rule);
    r.context.progress = watch_forward;
    r.context.progress_opaque = &r;
    if (!status)
        status = context_want_hidden(&r.context);
    if (!status && to->n > 1)
        status = context_rows(&r.context, to->text, 0, to->n - 1, take_chunk, &r);
    context_fini(&r.context);
    return status;
}
