/* shrink.c - delta debugging over operations: chunks of half of them, of a quarter, ... are left
 * out for good whenever the run fails without them. */
#define _GNU_SOURCE 1
#include "tests/sim/shrink.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/child.h"

#define HANG_S 120u /* a run takes a fraction of a second */

typedef struct trial {
    const sim_world *w;
    const sim_op *ops;
    uint32_t n;
    sim_outcome *out; /* shared with the child */
} trial;

static int run_trial(void *arg)
{
    trial *t = arg;
    alarm(HANG_S);
    sim_run_script(t->w, t->ops, t->n, NULL, t->out);
    return t->out->has_failed;
}

void sim_try_script(const sim_world *w, const sim_op *ops, uint32_t n, sim_outcome *out)
{
    sim_outcome *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        abort(); /* a test without memory */
    int code = child_run(run_trial, &(trial){w, ops, n, shared});
    *out = *shared;
    munmap(shared, sizeof *shared);
    if (code == 0 || out->has_failed)
        return;
    out->has_failed = true;
    out->failed_op = UINT32_MAX;
    if (code == -SIGALRM)
        snprintf(out->message, sizeof out->message, "the run does not end");
    else
        snprintf(out->message, sizeof out->message, "the process died: %s",
                 code < 0 ? strsignal(-code) : "see above");
}

/* What comes after the operation that failed has nothing to do with it. */
static uint32_t cut_behind(const sim_op *ops, uint32_t n, uint32_t failed_op)
{
    for (uint32_t i = 0; i < n; i++)
        if (ops[i].id == failed_op)
            return i + 1;
    return n;
}

/* Without ops[from .. from + n_out). */
static uint32_t leave_out(const sim_op *ops, uint32_t n, uint32_t from, uint32_t n_out, sim_op *to)
{
    uint32_t end = n - from < n_out ? n : from + n_out;
    memcpy(to, ops, from * sizeof *ops);
    memcpy(to + from, ops + end, (n - end) * sizeof *ops);
    return from + n - end;
}

uint32_t sim_shrink(const sim_world *w, sim_op *ops, uint32_t n, uint32_t max_tries,
                    sim_outcome *out)
{
    sim_op *fewer = calloc(n, sizeof *fewer);
    if (!fewer)
        abort();
    sim_try_script(w, ops, n, out);
    n = cut_behind(ops, n, out->failed_op);
    for (uint32_t chunk = n / 2; chunk > 0 && max_tries > 0; chunk /= 2) {
        for (uint32_t from = 0; from < n && max_tries > 0; max_tries--) {
            sim_outcome o;
            uint32_t n_fewer = leave_out(ops, n, from, chunk, fewer);
            sim_try_script(w, fewer, n_fewer, &o);
            if (!o.has_failed) {
                from += chunk;
                continue;
            }
            *out = o;
            n = cut_behind(fewer, n_fewer, o.failed_op);
            memcpy(ops, fewer, n * sizeof *ops);
        }
    }
    free(fewer);
    return n;
}
