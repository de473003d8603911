/* run.h - a text and how the model continues it: prefill what is new, then token after token. */
#ifndef KVPAGER_CLI_RUN_H
#define KVPAGER_CLI_RUN_H

#include "integration/cli/context.h"
#include "integration/cli/session.h"

typedef enum stop_reason { STOP_LENGTH, STOP_EOS, STOP_CONTEXT, STOP_INTERRUPTED } stop_reason;

const char *stop_reason_name(stop_reason reason);

/* Who watches a run; members may be NULL. */
typedef struct run_watcher {
    void *opaque;
    /* A new token; anything but KVP_OK ends the run with that status. */
    kvp_status (*token)(void *opaque, int32_t id);
    /* Now and then during prefill (n_new 0) and after every token. The sequence may be looked at
     * only when `quiet`: between calls of the model. */
    void (*step)(void *opaque, const context *c, size_t n_new, double fraction, bool quiet);
    /* Feed back the tokens of this run, which is as long, instead of those that are chosen. */
    const struct run_result *follow;
} run_watcher;

typedef struct run_seconds {
    double prefill, decode;
} run_seconds;

typedef struct run_result {
    int32_t *tokens; /* [n_new] that were chosen; malloc'd */
    float *margins;  /* [n_new]: highest logit less the second; malloc'd */
    size_t n_new, capacity;
    stop_reason stop;
    uint64_t logits_xxh3; /* XXH3-64 over the float32 logits of all steps */
    run_seconds seconds;
    uint64_t restarts;     /* windows begun after the first */
    uint64_t window_start; /* of the last one, in tokens of the text */
    uint64_t n_prefilled;  /* tokens that the prefill has fed to the model */
    size_t n_decoded;      /* of the new tokens, those that were fed back: the decode steps */
} run_result;

/* A text on a context. What has been fed stays in the context's sequence: continuing the text again
 * feeds only what has come since. */
typedef struct text_run {
    const session *session;
    context *context;
    sampler *sampler;
    void *hash;    /* XXH3_state_t */
    float *logits; /* [n_vocab] of the text's last token, once that was fed */
    int32_t *text; /* [n_text], malloc'd */
    size_t n_text, capacity;
    /* the continuation at hand */
    const run_watcher *watcher;
    run_result *result;
    size_t n_limit; /* new tokens at most */
    stop_reason at_limit;
} text_run;

/* An empty text; `c` is fresh. text_run_fini() in any case. */
KVP_NODISCARD kvp_status text_run_init(text_run *r, const session *s, context *c,
                                       const sampler_options *sampling);
void text_run_fini(text_run *r);
KVP_NODISCARD kvp_status text_run_add(text_run *r, const int32_t *tokens, size_t n);
/* Continue the text by up to n_new tokens. An interrupted run is a success that stopped early:
 * without new tokens, if it was in the prefill. run_result_fini() in any case.
 * Errors: KVP_E_RANGE the text is longer than the context and the rule says stop. */
KVP_NODISCARD kvp_status text_run_continue(text_run *r, uint64_t n_new, const run_watcher *watcher,
                                           run_result *result);

/* The same in steps, for several runs side by side: begin, prefill, and while it is not over choose
 * from the logits and feed the new token. `watcher` and `result` stay borrowed. */
KVP_NODISCARD kvp_status text_run_begin(text_run *r, uint64_t n_new, const run_watcher *watcher,
                                        run_result *result);
KVP_NODISCARD kvp_status text_run_prefill(text_run *r);
bool text_run_is_over(text_run *r);
/* logits: [n_vocab] of the text's last token, as r->logits are after the prefill. */
KVP_NODISCARD kvp_status text_run_choose(text_run *r, const float *logits);
/* What the result says of the whole: its hash, and where the context is. */
void text_run_end(text_run *r);

/* How a text of n tokens that is continued by n_new is fed, if no end-of-text token ends it. */
window_feed run_feed(const window_rule *rule, uint64_t n, uint64_t n_new);

/* Continue the session's input on `c`, a fresh context, which keeps its sequence.
 * run_result_fini() in any case. */
KVP_NODISCARD kvp_status run_generate(const session *s, context *c, const run_watcher *watcher,
                                      run_result *result);
void run_result_fini(run_result *result);

/* The same tokens, out of the same logits bit by bit? */
bool run_is_same(const run_result *a, const run_result *b);

/* Where two runs chose differently: in ties, between tokens that are as good as equal, rounding may
 * decide; elsewhere it may not. */
typedef struct run_differences {
    size_t n_ties, n_others;
    size_t first; /* of the others */
} run_differences;

/* Tokens that only one of them has count as one difference. */
run_differences run_compare(const run_result *a, const run_result *b);

/* Seconds on a monotonic clock. */
double now_seconds(void);

#endif
