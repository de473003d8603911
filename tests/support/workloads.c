/* workloads.c - what engines do to a pager: tokens go through the layers one after the other; in
 * each, all sequences of a step append their token and then attend. */
#include "workloads.h"

#include "integration/replay/trace_writer.h"

#define DIM 256u /* with one KV head and f16, pages of 64 tokens are 64 KiB */
#define CHUNK 128u
#define MAX_TEXTS 16u
#define MAX_PAGES 64u /* of a lane */

/* The first failure; then nothing more is done. */
static kvp_status failed;

static void must(kvp_status status)
{
    failed = failed ? failed : status;
}

/* A number below n. */
static uint32_t pick(uint64_t *state, uint32_t n)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)((*state >> 33) % n);
}

/* ---- a model without arithmetic ---- */

static void append(kvp_seq *seq, uint32_t layer, uint32_t n)
{
    static const float zeros[CHUNK * DIM];
    if (!failed)
        must(kvp_seq_append(seq, layer, zeros, zeros, n));
}

/* Read all pages of the layer, as kvp_attend() would. */
static void read_layer(kvp_seq *seq, uint32_t layer)
{
    const kvp_scan_args args = {.layer = layer, .max_parts = 1, .end = UINT64_MAX};
    kvp_scan *scan = NULL;
    kvp_scan_item item = {0};
    kvp_page_view view;
    if (!failed)
        must(kvp_scan_open(seq, &args, &scan));
    if (!failed)
        must(kvp_scan_claim(scan, 0, &item));
    while (!failed && item.n_pages) {
        for (uint32_t i = 0; i < item.n_pages && !failed; i++)
            must(kvp_scan_next(scan, 0, &view));
        must(kvp_scan_claim(scan, 0, &item));
    }
    kvp_scan_close(scan);
}

static void prefill(kvp_seq *seq, uint32_t n_layers, uint32_t n_tokens)
{
    for (uint32_t layer = 0; layer < n_layers; layer++)
        for (uint32_t done = 0; done < n_tokens; done += CHUNK) {
            append(seq, layer, n_tokens - done < CHUNK ? n_tokens - done : CHUNK);
            read_layer(seq, layer);
        }
}

/* One token for each. */
static void step(kvp_seq *const *seqs, uint32_t n_seqs, uint32_t n_layers)
{
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        for (uint32_t i = 0; i < n_seqs; i++)
            append(seqs[i], layer, 1);
        for (uint32_t i = 0; i < n_seqs; i++)
            read_layer(seqs[i], layer);
    }
}

static kvp_seq *create(kvp_pager *pager)
{
    kvp_seq *seq = NULL;
    if (!failed)
        must(kvp_seq_create(pager, &seq));
    return seq;
}

/* ---- one long text is continued ---- */

/* A mass for every page: much for the first and the last, some for heavy ones, which change slowly.
 * Powers of two, so that no rounding depends on the machine. */
static void note_masses(kvp_seq *seq, uint32_t layer, uint32_t n_steps)
{
    float masses[MAX_PAGES];
    uint32_t n = kvp_seq_page_count(seq, layer);
    for (uint32_t i = 0; i < n && i < MAX_PAGES; i++) {
        uint64_t state = 1 + i + 64 * (layer + 8 * (uint64_t)((n_steps + 16 * i) / 128));
        bool is_heavy = pick(&state, 1000) < 500 && pick(&state, 4) == 0;
        masses[i] = i == 0 || i + 1 == n ? 0.25f : is_heavy ? 0x1p-5f : 0x1p-9f;
    }
    kvp_seq_note_mass(seq, layer, masses, 1, 1);
}

static kvp_status cyclic_decode(kvp_pager *pager, uint32_t n_layers)
{
    kvp_seq *seq = create(pager);
    prefill(seq, n_layers, 2600);
    for (uint32_t i = 0; i < 400 && !failed; i++) {
        step(&seq, 1, n_layers);
        for (uint32_t layer = 0; layer < n_layers && !failed; layer++)
            note_masses(seq, layer, i);
    }
    kvp_seq_destroy(seq);
    return failed;
}

/* ---- conversations, one of which goes on at a time ---- */

enum { CHATS = 6 };

static kvp_status chat_resume(kvp_pager *pager, uint32_t n_layers)
{
    kvp_seq *seqs[CHATS];
    uint64_t state = 2026;
    for (uint32_t i = 0; i < CHATS; i++) {
        seqs[i] = create(pager);
        prefill(seqs[i], n_layers, 200 + pick(&state, 800));
    }
    for (uint32_t turn = 0; turn < 26 && !failed; turn++) {
        uint32_t a = pick(&state, CHATS), b = pick(&state, CHATS);
        kvp_seq *seq = seqs[a < b ? a : b]; /* some more often than others */
        prefill(seq, n_layers, 20 + pick(&state, 40));
        for (uint32_t i = 40 + pick(&state, 40); i > 0; i--)
            step(&seq, 1, n_layers);
    }
    for (uint32_t i = 0; i < CHATS; i++)
        kvp_seq_destroy(seqs[i]);
    return failed;
}

/* ---- several continuations of one text, the best of which is continued in its turn ---- */

enum { BRANCHES = 6 };

static kvp_status fork_heavy(kvp_pager *pager, uint32_t n_layers)
{
    kvp_seq *root = create(pager);
    uint64_t state = 7;
    prefill(root, n_layers, 900);
    for (uint32_t round = 0; round < 4 && !failed; round++) {
        kvp_seq *branches[BRANCHES] = {NULL};
        for (uint32_t i = 0; i < BRANCHES && !failed; i++)
            must(kvp_seq_fork(root, &branches[i]));
        for (uint32_t i = 0; i < 80 && !failed; i++)
            step(branches, BRANCHES, n_layers);
        uint32_t best = pick(&state, BRANCHES);
        kvp_seq_destroy(root);
        root = branches[best];
        for (uint32_t i = 0; i < BRANCHES; i++)
            if (i != best)
                kvp_seq_destroy(branches[i]);
    }
    kvp_seq_destroy(root);
    return failed;
}

/* ---- a batch whose places are taken again as soon as they are free ---- */

enum { PLACES = 6, REQUESTS = 26 };

static kvp_status staggered_batch(kvp_pager *pager, uint32_t n_layers)
{
    kvp_seq *seqs[PLACES];
    uint32_t n_left[PLACES], n = 0, n_begun = 0;
    uint64_t state = 99;
    while ((n > 0 || n_begun < REQUESTS) && !failed) {
        for (; n < PLACES && n_begun < REQUESTS; n++, n_begun++) {
            seqs[n] = create(pager);
            prefill(seqs[n], n_layers, 60 + pick(&state, 700));
            n_left[n] = 20 + pick(&state, 180);
        }
        step(seqs, n, n_layers);
        for (uint32_t i = n; i-- > 0;) {
            if (--n_left[i] > 0)
                continue;
            kvp_seq_destroy(seqs[i]);
            seqs[i] = seqs[--n];
            n_left[i] = n_left[n];
        }
    }
    return failed;
}

const workload workloads[] = {
    {"cyclic_decode", 6, cyclic_decode},
    {"chat_resume", 4, chat_resume},
    {"fork_heavy", 4, fork_heavy},
    {"staggered_batch", 4, staggered_batch},
    {NULL, 0, NULL},
};

kvp_status workload_record(const workload *w, const char *path)
{
    kvp_config cfg = kvp_config_default();
    trace_writer *trace = NULL;
    kvp_pager *pager = NULL;
    cfg.geometry =
        (kvp_geometry){.n_layers = w->n_layers, .n_kv_heads = 1, .head_dim = DIM, .dtype = KVP_F16};
    cfg.n_threads = 1;
    failed = trace_writer_open(path, &trace);
    if (failed)
        return failed;
    trace_writer_configure(trace, &cfg);
    must(kvp_pager_open(&cfg, &pager));
    if (!failed)
        must(trace_writer_begin(trace, pager));
    if (!failed)
        must(w->run(pager, w->n_layers));
    kvp_pager_close(pager);
    must(trace_writer_close(trace));
    return failed;
}
