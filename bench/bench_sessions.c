/* bench_sessions.c - conversations that are parked and resumed: the time to the first token of a
 * resumed one, against computing its KV again.
 *
 * All conversations together have several times as much KV as RAM may hold. One after the other, in
 * an order drawn with a bias (some come back often), gets a turn of the user: it is announced
 * (KVP_WILLNEED), its turn is computed, a token comes out, and it is parked again (KVP_COLD). The
 * conversations' KV is made of random rows: what they are does not matter to the time. */
#include "bench/harness.h"

#include "integration/models/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const bench_spec spec = {
    .name = "sessions",
    .summary = "ms to the first token of a parked conversation, against computing it again",
    .details = "Without --model: a model with random weights in the shape of GPT-2 124M.",
    .options = {{"--model", "PATH", "folder or .gguf file", ""},
                {"--sessions", "N", "conversations", "64"},
                {"--history", "N", "tokens that each has", "900"},
                {"--turn", "N", "tokens of a turn", "16"},
                {"--budget", "N", "RAM is the KV of all / N", "8"},
                {"--threads", "N", "threads, 0: one per CPU", "0"}},
};

typedef struct work {
    bench *b;
    model *m;
    const model_info *info;
    kvp_pager *pager;
    kvp_seq **sessions;
    uint64_t n_sessions, n_history, n_turn;
    int32_t *tokens;
    float *logits;
    uint64_t random;
} work;

static void die(const char *what)
{
    fprintf(stderr, "bench_sessions: %s: %s\n", what, kvp_error());
    exit(1);
}

static void must(kvp_status status, const char *what)
{
    if (status)
        die(what);
}

/* ---- a model with random weights --------------------------------------------------------------*/

#define LAYERS 12u
#define WIDTH 768u
#define CONTEXT 1024u
#define VOCAB 50257u

typedef struct tensor {
    char name[64];
    uint64_t rows, width; /* rows 0: a vector */
} tensor;

static uint64_t elements(const tensor *t)
{
    return (t->rows ? t->rows : 1) * t->width;
}

static size_t list_tensors(tensor *t)
{
    static const tensor of_layer[] = {{"ln_1.weight", 0, WIDTH},
                                      {"ln_1.bias", 0, WIDTH},
                                      {"attn.c_attn.weight", WIDTH, 3 * WIDTH},
                                      {"attn.c_attn.bias", 0, 3 * WIDTH},
                                      {"attn.c_proj.weight", WIDTH, WIDTH},
                                      {"attn.c_proj.bias", 0, WIDTH},
                                      {"ln_2.weight", 0, WIDTH},
                                      {"ln_2.bias", 0, WIDTH},
                                      {"mlp.c_fc.weight", WIDTH, 4 * WIDTH},
                                      {"mlp.c_fc.bias", 0, 4 * WIDTH},
                                      {"mlp.c_proj.weight", 4 * WIDTH, WIDTH},
                                      {"mlp.c_proj.bias", 0, WIDTH}};
    size_t n = 0;
    t[n++] = (tensor){"wte.weight", VOCAB, WIDTH};
    t[n++] = (tensor){"wpe.weight", CONTEXT, WIDTH};
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (size_t i = 0; i < sizeof of_layer / sizeof *of_layer; i++, n++) {
            t[n] = of_layer[i];
            snprintf(t[n].name, sizeof t[n].name, "h.%u.%.40s", layer, of_layer[i].name);
        }
    t[n++] = (tensor){"ln_f.weight", 0, WIDTH};
    t[n++] = (tensor){"ln_f.bias", 0, WIDTH};
    return n;
}

static void put_header(FILE *f, const tensor *t, size_t n)
{
    static char header[1 << 16];
    size_t at = 0;
    uint64_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t end = offset + elements(&t[i]) * 2;
        char shape[48];
        if (t[i].rows)
            snprintf(shape, sizeof shape, "%llu,%llu", (unsigned long long)t[i].rows,
                     (unsigned long long)t[i].width);
        else
            snprintf(shape, sizeof shape, "%llu", (unsigned long long)t[i].width);
        at += (size_t)snprintf(header + at, sizeof header - at,
                               "%c\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":"
                               "[%llu,%llu]}",
                               i ? ',' : '{', t[i].name, shape, (unsigned long long)offset,
                               (unsigned long long)end);
        offset = end;
    }
    header[at++] = '}';
    while (at % 8)
        header[at++] = ' ';
    uint64_t n_header = at;
    fwrite(&n_header, sizeof n_header, 1, f);
    fwrite(header, 1, at, f);
}

/* bf16 values of at most 0.03 or so, both signs; norms' weights are 1. */
static void put_tensor(FILE *f, const tensor *t, uint64_t *random)
{
    bool is_norm = strstr(t->name, "ln_") && strstr(t->name, "weight");
    for (uint64_t i = 0; i < elements(t); i++) {
        uint64_t r = bench_random(random);
        uint16_t value = is_norm ? 0x3f80 : (uint16_t)(0x3c80 | (r & 0x807f));
        fwrite_unlocked(&value, sizeof value, 1, f);
    }
}

static const char config[] =
    "{\"model_type\":\"gpt2\",\"architectures\":[\"GPT2LMHeadModel\"],\"n_layer\":12,"
    "\"n_head\":12,\"n_embd\":768,\"n_ctx\":1024,\"n_positions\":1024,\"vocab_size\":50257,"
    "\"layer_norm_epsilon\":1e-5,\"activation_function\":\"gelu_new\"}";

/* A folder with a random model; removed once it is loaded. */
static void write_model(const char *dir)
{
    static tensor tensors[4 + 12 * LAYERS];
    char path[512];
    uint64_t random = 88172645463325252u;
    size_t n = list_tensors(tensors);
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "w");
    if (!f || fputs(config, f) < 0 || fclose(f))
        die(path);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    f = fopen(path, "w");
    if (!f)
        die(path);
    put_header(f, tensors, n);
    for (size_t i = 0; i < n; i++)
        put_tensor(f, &tensors[i], &random);
    if (fclose(f))
        die(path);
}

static void remove_model(const char *dir)
{
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    rmdir(dir);
}

static void open_model(work *w)
{
    const model_options options = {.n_threads = (uint32_t)bench_option_num(w->b, "--threads")};
    const char *path = bench_option_str(w->b, "--model");
    char dir[400];
    if (*path) {
        must(model_open(path, &options, &w->m), path);
    } else {
        snprintf(dir, sizeof dir, "%s/kvpager-sessions-XXXXXX", w->b->dir);
        if (!mkdtemp(dir))
            die(dir);
        write_model(dir);
        kvp_status status = model_open(dir, &options, &w->m);
        remove_model(dir);
        must(status, "the random model");
    }
    w->info = model_get_info(w->m);
}

/* ---- conversations ----------------------------------------------------------------------------*/

/* KV of the whole history, of random rows. */
static void fill(work *w, kvp_seq *seq)
{
    size_t n = w->n_history * w->info->n_kv_heads * w->info->head_dim;
    float *rows = malloc(2 * n * sizeof *rows);
    if (!rows)
        die("memory");
    for (uint32_t layer = 0; layer < w->info->n_layers; layer++) {
        for (size_t i = 0; i < 2 * n; i++)
            rows[i] = (float)((double)(bench_random(&w->random) >> 40) / (1 << 24) - 0.5);
        must(kvp_seq_append(seq, layer, rows, rows + n, w->n_history), "append");
    }
    free(rows);
}

static void open_sessions(work *w)
{
    uint64_t token_bytes = (uint64_t)w->info->n_layers * w->info->n_kv_heads * w->info->head_dim *
                           2 * kvp_dtype_bytes(KVP_F16);
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(w->info, KVP_F16, 0);
    cfg.pool = model_pool(w->m);
    cfg.ram_bytes = token_bytes * w->n_history * w->n_sessions / bench_option_num(w->b, "--budget");
    cfg.disk_bytes = KVP_UNLIMITED;
    must(kvp_pager_open(&cfg, &w->pager), "the pager");
    for (uint64_t i = 0; i < w->n_sessions; i++) {
        must(kvp_seq_create(w->pager, &w->sessions[i]), "a sequence");
        fill(w, w->sessions[i]);
        must(kvp_seq_advise(w->sessions[i], 0, UINT64_MAX, KVP_COLD), "advice");
    }
}

static void forward(work *w, kvp_seq *seq, uint64_t n)
{
    const model_forward_args args = {
        .tokens = w->tokens, .n_tokens = n, .logits = w->logits, .n_logits = 1};
    must(model_forward(w->m, seq, &args), "forward");
}

/* ms until a token of a parked conversation is there; its turn is taken back afterwards, so that
 * all keep their length. */
static double resume(work *w, kvp_seq *seq)
{
    uint64_t begin = bench_now_ns();
    must(kvp_seq_advise(seq, 0, UINT64_MAX, KVP_WILLNEED), "advice");
    forward(w, seq, w->n_turn);
    double ms = (double)(bench_now_ns() - begin) * 1e-6;
    must(kvp_seq_truncate(seq, w->n_history), "truncate");
    must(kvp_seq_advise(seq, 0, UINT64_MAX, KVP_COLD), "advice");
    return ms;
}

static double recompute(work *w)
{
    kvp_seq *seq;
    must(kvp_seq_create(w->pager, &seq), "a sequence");
    uint64_t begin = bench_now_ns();
    forward(w, seq, w->n_history + w->n_turn);
    double ms = (double)(bench_now_ns() - begin) * 1e-6;
    kvp_seq_destroy(seq);
    return ms;
}

/* Half of the turns go to an eighth of the conversations. */
static kvp_seq *next_session(work *w)
{
    uint64_t n = bench_random(&w->random) % 2 ? w->n_sessions : (w->n_sessions + 7) / 8;
    return w->sessions[bench_random(&w->random) % n];
}

static kvp_stats stats_of(work *w)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(w->pager, &s), "statistics");
    return s;
}

static void run(work *w)
{
    bench_case *computed = bench_case_new(w->b, "recomputed", "ms");
    bench_case *parked = bench_case_new(w->b, "parked_resumed", "ms");
    bench_case *there = bench_case_new(w->b, "resident_resumed", "ms");
    bench_versus(parked, computed);
    bench_versus(there, computed);
    kvp_stats before = stats_of(w);
    uint64_t n_turns = 0, n_pages = 0;
    recompute(w); /* warms up */
    for (uint32_t rep = 0; rep < w->b->reps; rep++) {
        bench_add(computed, recompute(w));
        for (uint32_t i = 0; i < 8; i++, n_turns++) {
            kvp_seq *seq = next_session(w);
            bench_add(parked, resume(w, seq));
            for (uint32_t layer = 0; layer < w->info->n_layers; layer++)
                n_pages += kvp_seq_page_count(seq, layer);
            if (i == 7)
                bench_add(there, resume(w, seq)); /* once more, at once */
        }
    }
    kvp_stats after = stats_of(w);
    kvp_layer_info layer;
    must(kvp_seq_layer_info(w->sessions[0], 0, &layer), "the layer");
    n_pages *= (layer.kind.n_kv_heads + layer.page_heads - 1) / layer.page_heads;
    uint64_t faults = after.major_faults - before.major_faults;
    bench_note(w->b, "%llu conversations of %llu tokens: %.0f MiB of KV, %.0f MiB of RAM",
               (unsigned long long)w->n_sessions, (unsigned long long)w->n_history,
               (double)(after.disk_bytes >> 20), (double)(after.ram_budget_bytes >> 20));
    bench_note(w->b,
               "%.0f %% of the pages wanted were in RAM; %.1f MiB read per turn; %.1f ms "
               "beyond what a resident conversation takes",
               100.0 * (1 - (double)faults / (double)n_pages),
               (double)(after.bytes_read - before.bytes_read) / (double)n_turns / (1 << 20),
               bench_median(parked) - bench_median(there));
    double ratio = bench_median(computed) / bench_median(parked);
    bench_note(w->b,
               "a parked conversation answers %.1f times sooner than by computing it again "
               "(bar: 5)%s",
               ratio, ratio < 5 ? ": SHORT" : "");
    if (!faults)
        bench_fail(w->b, "nothing was read: the conversations were never parked");
}

int main(int argc, char **argv)
{
    bench b;
    int code;
    if (bench_init(&b, &spec, argc, argv, &code))
        return code;
    work w = {.b = &b, .random = 88172645463325252u};
    w.n_sessions = b.quick ? 6 : bench_option_num(&b, "--sessions");
    w.n_history = b.quick ? 100 : bench_option_num(&b, "--history");
    w.n_turn = bench_option_num(&b, "--turn");
    open_model(&w);
    w.sessions = calloc(w.n_sessions, sizeof *w.sessions);
    w.tokens = calloc(w.n_history + w.n_turn, sizeof *w.tokens);
    w.logits = malloc(w.info->n_vocab * sizeof *w.logits);
    if (!w.sessions || !w.tokens || !w.logits || !w.n_sessions || !w.n_history || !w.n_turn)
        die("nothing to do, or no memory for it");
    for (uint64_t i = 0; i < w.n_history + w.n_turn; i++)
        w.tokens[i] = (int32_t)(bench_random(&w.random) % w.info->n_vocab);
    open_sessions(&w);
    run(&w);
    kvp_pager_close(w.pager);
    model_close(w.m);
    free(w.logits);
    free(w.tokens);
    free(w.sessions);
    return bench_finish(&b);
}
