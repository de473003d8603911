/* fuzz_trace.c - a trace that is accepted can be replayed, and what it says of itself is so. */
#include "tests/fuzz/target.h"

#include "integration/replay/replay.h"

#define MAX_PLAYED 4096u /* a few bytes may stand for many uses */

static void replay(const trace *t)
{
    uint64_t optimum, n_hits;
    require(replay_optimum(t, 3, &optimum) == KVP_OK && optimum <= t->n_uses);
    for (size_t i = 0; kvp_placement_at(i); i++)
        require(replay_policy(t, kvp_placement_at(i), 3, &n_hits) == KVP_OK && n_hits <= optimum);
}

static void check(trace *t)
{
    require(t->peak_live <= t->n_pages && t->n_live <= t->peak_live);
    require(t->n_new + t->n_uses <= t->n_ops && t->group_pages > 0);
    if (t->n_ops <= MAX_PLAYED)
        replay(t);
    trace_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    trace t;
    if (trace_parse(bytes, n, "input", &t))
        require(!t.ops && kvp_error()[0]);
    else
        check(&t);
    if (trace_parse_mooncake((const char *)bytes, n, "input", &t))
        require(!t.ops && kvp_error()[0]);
    else
        check(&t);
    return 0;
}
