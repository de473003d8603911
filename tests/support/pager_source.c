/* pager_source.c - kv_source.h over the real pager. */
#include "tests/support/kv_source.h"

#include <stdio.h>
#include <stdlib.h>

static void must(kvp_status status)
{
    if (status) {
        fprintf(stderr, "kv_source: %s\n", kvp_error());
        abort();
    }
}

/* A thread pool with one thread that works from the end. */
static void run_backwards(void *opaque, size_t n, void (*task)(void *arg, size_t i), void *arg)
{
    (void)opaque;
    while (n-- > 0)
        task(arg, n);
}

static kvp_config configure(const kv_source *source)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = 1,
        .layers = &source->kind,
        .page_tokens = source->page_tokens,
        .page_heads = source->page_heads,
    };
    cfg.n_threads = source->n_threads;
    if (source->runs_backwards)
        cfg.parallel_for = run_backwards;
    if (source->ram_bytes) {
        cfg.ram_bytes = source->ram_bytes;
        cfg.disk_bytes = KVP_UNLIMITED;
    }
    return cfg;
}

kvp_seq *kv_source_open(const kv_source *source)
{
    kvp_config cfg = configure(source);
    kvp_pager *pager;
    kvp_seq *seq;
    must(kvp_pager_open(&cfg, &pager));
    must(kvp_seq_create(pager, &seq));
    must(kvp_seq_append(seq, 0, source->k, source->v, source->n_tokens));
    return seq;
}

void kv_source_close(kvp_seq *seq)
{
    kvp_pager *pager = kvp_seq_pager(seq);
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
}

bool kv_source_fail_next(kvp_seq *seq, uint64_t n)
{
    (void)seq;
    (void)n;
    return false;
}

bool kv_source_major_faults(kvp_seq *seq, uint64_t *n)
{
    kvp_stats stats = {.size = sizeof stats};
    must(kvp_pager_stats(kvp_seq_pager(seq), &stats));
    *n = stats.major_faults;
    return true;
}
