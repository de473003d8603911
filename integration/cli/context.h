/* context.h - from a text of any length to a sequence that holds what the model sees of it.
 *
 * KV that turns out to be lost (a page failed its checksum) is computed again by the same calls as
 * before, so the text goes on as if nothing had happened, but for a line on stderr. */
#ifndef KVPAGER_CLI_CONTEXT_H
#define KVPAGER_CLI_CONTEXT_H

#include "integration/models/model.h"
#include "integration/cli/window.h"
#include "integration/recall/memory.h"

typedef struct context {
    model *model;
    kvp_pager *pager;
    window_rule rule;
    bool no_cache; /* compute everything anew for every call */
    kvp_seq *seq;
    uint64_t start;      /* token of the text at position 0 of the sequence */
    uint64_t next;       /* token of the text that comes next */
    uint64_t restarts;   /* windows begun after the first */
    uint64_t n_fed;      /* tokens given to the model in all, again after a restart */
    uint64_t n_put_back; /* of those: because their KV was lost */
    /* What the text said earlier, which logits are mixed with; NULL: nothing. Borrowed. All tokens
     * are read in order, whatever is asked for. */
    memory *memory;
    uint64_t
        memory_first; /* where the text that is given begins in the one that the memory reads */
    /* [context_max_rows()][d_model] of the last rows; NULL: not wanted. With a memory, or by
     * context_want_hidden(). */
    float *hidden;
    /* Calls of the model that filled the sequence: where in the text each ended, and the next one
     * began. [capacity] */
    uint64_t *ends;
    size_t n_calls, capacity;
    /* See model_forward_args. */
    bool (*progress)(void *opaque, size_t done, size_t total);
    void *progress_opaque;
} context;

KVP_NODISCARD kvp_status context_init(context *c, model *m, kvp_pager *pager,
                                      const window_rule *rule);
void context_fini(context *c);

/* From now on `hidden` holds the hidden states (model_forward_args) of the rows that were asked for
 * last. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status context_want_hidden(context *c);
/* Mix logits with what the memory says. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status context_use_memory(context *c, memory *m);

/* Forget everything: the next token is text[start], at position 0. */
KVP_NODISCARD kvp_status context_restart(context *c, uint64_t start);

/* Go on until text[end - 1] is in, restarting where the rule says so; `end` is past c->next.
 * logits: float32 [n_rows][n_vocab] of the last n_rows tokens, which text[end - 1] sees. Tokens
 * that text[end - 1] does not see may never be computed. */
KVP_NODISCARD kvp_status context_extend(context *c, const int32_t *text, uint64_t end,
                                        float *logits, size_t n_rows);

/* One token more for each of several texts. */
typedef struct context_step {
    context *context; /* they differ */
    const int32_t *text;
    uint64_t end;  /* context->next + 1 */
    float *logits; /* [n_vocab] of that token, once it is in */
} context_step;

/* The same as context_extend() for each of n >= 1 steps, in one pass over the weights for all those
 * that begin no new window. logits: [n][n_vocab], where each gets a row. No step changes a bit of
 * another. items: [n], scratch. */
KVP_NODISCARD kvp_status context_step_all(context_step *steps, size_t n, float *logits,
                                          model_item *items);

/* Tokens whose logits may be asked for at once: bounds the memory that they take. */
size_t context_max_rows(const model_info *info);
/* Logits of every token of text[first .. end), in order, given to `take` in chunks of at most
 * context_max_rows(). `take` returns KVP_OK to go on. */
typedef kvp_status (*take_rows)(void *opaque, uint64_t first, size_t n, const float *logits);
KVP_NODISCARD kvp_status context_rows(context *c, const int32_t *text, uint64_t first, uint64_t end,
                                      take_rows take, void *opaque);

#endif
