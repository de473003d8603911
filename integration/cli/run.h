/* run.h - one generation: prefill the input, then token after token. */
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
    size_t n_new;
    stop_reason stop;
    uint64_t logits_xxh3; /* XXH3-64 over the float32 logits of all steps */
    run_seconds seconds;
    uint64_t restarts;     /* windows begun after the first */
    uint64_t window_start; /* of the last one, in tokens of the text */
    size_t n_decoded;      /* of the new tokens, those that were fed back: the decode steps */
} run_result;

/* What a run feeds the model, if no end-of-text token ends it. */
window_feed run_feed(const session *s);

/* Generate from the session's input on `c`, a fresh context, which keeps its sequence. An
 * interrupted run is a success that stopped early. run_result_fini() in any case. */
KVP_NODISCARD kvp_status run_generate(const session *s, context *c, const run_watcher *watcher,
                                      run_result *result);
void run_result_fini(run_result *result);

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
