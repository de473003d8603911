/* bench_generate.c - tokens per second of a GPT-2 with its KV resident, and with its KV under a
 * budget: the same prompt and the same tokens, one run after the other in every repetition. */
#include "bench/harness.h"

#include "integration/models/model.h"
#include "integration/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const bench_spec spec = {
    .name = "generate",
    .summary = "tokens/s of a GPT-2, KV resident against paged",
    .details = "The budgets are fractions of what the KV of prompt and new tokens takes.",
    .options = {{"--model", "DIR", "Hugging Face GPT-2 folder", "models/demo"},
                {"--text", "FILE", "what the prompt is taken from", "models/demo/excerpt.txt"},
                {"--prompt", "N", "tokens of the prompt", "800"},
                {"--new", "N", "tokens to decode", "100"},
                {"--threads", "N", "threads, 0: one per CPU", "0"}},
};

typedef struct workload {
    model *m;
    int32_t *ids;
    size_t n_prompt, n_new;
    uint32_t n_threads;
} workload;

/* One way to keep the KV, and its figures. */
typedef struct variant {
    const char *name;
    double ram_fraction, zram_fraction; /* of the KV; 0 RAM: unlimited */
    bench_case *prefill, *decode;
    kvp_stats stats;
} variant;

static int die(const char *what)
{
    fprintf(stderr, "bench_generate: %s: %s\n", what, kvp_error());
    return 1;
}

static char *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    if (f && !fseek(f, 0, SEEK_END)) {
        long size = ftell(f);
        rewind(f);
        text = size > 0 ? malloc((size_t)size) : NULL;
        *n = text ? fread(text, 1, (size_t)size, f) : 0;
    }
    if (f)
        fclose(f);
    return text;
}

static uint64_t kv_bytes(const workload *w)
{
    const model_info *info = model_get_info(w->m);
    return (uint64_t)(w->n_prompt + w->n_new) * info->n_layers * info->n_kv_heads * info->head_dim *
           2 * kvp_dtype_bytes(KVP_F16);
}

static kvp_config configure(const workload *w, const variant *v)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(w->m), KVP_F16, 0);
    cfg.pool = model_pool(w->m);
    if (v->ram_fraction > 0) {
        cfg.ram_bytes = (uint64_t)(v->ram_fraction * (double)kv_bytes(w));
        cfg.zram_bytes = (uint64_t)(v->zram_fraction * (double)kv_bytes(w));
        cfg.disk_bytes = KVP_UNLIMITED;
    }
    return cfg;
}

static int32_t best(const float *logits, uint32_t n)
{
    uint32_t at = 0;
    for (uint32_t i = 1; i < n; i++)
        at = logits[i] > logits[at] ? i : at;
    return (int32_t)at;
}

/* Prefill and decode once; rates of both, and a hash of the tokens to compare variants by. */
static kvp_status generate(const workload *w, kvp_pager *pager, float *logits, double *rates,
                           uint64_t *hash)
{
    kvp_seq *seq;
    uint32_t n_vocab = model_get_info(w->m)->n_vocab;
    kvp_status status = kvp_seq_create(pager, &seq);
    if (status)
        return status;
    model_forward_args args = {
        .tokens = w->ids, .n_tokens = w->n_prompt, .logits = logits, .n_logits = 1};
    uint64_t start = bench_now_ns();
    status = model_forward(w->m, seq, &args);
    uint64_t middle = bench_now_ns();
    *hash = 0;
    for (size_t i = 0; i < w->n_new && !status; i++) {
        int32_t id = best(logits, n_vocab);
        *hash = (*hash ^ (uint64_t)id) * 1099511628211u;
        args.tokens = &id;
        args.n_tokens = 1;
        status = model_forward(w->m, seq, &args);
    }
    uint64_t end = bench_now_ns();
    rates[0] = (double)w->n_prompt * 1e9 / (double)(middle - start);
    rates[1] = (double)w->n_new * 1e9 / (double)(end - middle);
    kvp_seq_destroy(seq);
    return status;
}

static kvp_status sample(const workload *w, variant *v, float *logits, bool counts, uint64_t *hash)
{
    kvp_config cfg = configure(w, v);
    kvp_pager *pager;
    double rates[2];
    kvp_status status = kvp_pager_open(&cfg, &pager);
    if (status)
        return status;
    status = generate(w, pager, logits, rates, hash);
    v->stats.size = sizeof v->stats;
    if (!status)
        status = kvp_pager_stats(pager, &v->stats);
    kvp_pager_close(pager);
    if (!status && counts) {
        bench_add(v->prefill, rates[0]);
        bench_add(v->decode, rates[1]);
    }
    return status;
}

static void describe(bench *b, const workload *w, variant *v, const variant *resident)
{
    char name[64];
    snprintf(name, sizeof name, "prefill_%s", v->name);
    v->prefill = bench_case_new(b, name, "tokens/s");
    snprintf(name, sizeof name, "decode_%s", v->name);
    v->decode = bench_case_new(b, name, "tokens/s");
    bench_case *cases[2] = {v->prefill, v->decode};
    for (int i = 0; i < 2; i++) {
        bench_param_num(cases[i], "ram_of_kv", v->ram_fraction > 0 ? v->ram_fraction : 1);
        bench_param_num(cases[i], "zram_of_kv", v->zram_fraction);
    }
    bench_param_num(v->prefill, "tokens", (double)w->n_prompt);
    bench_param_num(v->decode, "tokens", (double)w->n_new);
    if (v != resident) {
        bench_versus(v->prefill, resident->prefill);
        bench_versus(v->decode, resident->decode);
    }
}

static void run_all(bench *b, const workload *w, variant *variants, size_t n)
{
    float *logits = malloc(model_get_info(w->m)->n_vocab * sizeof *logits);
    for (size_t i = 0; i < n; i++)
        describe(b, w, &variants[i], &variants[0]);
    for (uint32_t rep = 0; rep <= b->reps; rep++) { /* the first warms up */
        uint64_t hash[8];
        for (size_t i = 0; i < n; i++) {
            if (sample(w, &variants[i], logits, rep > 0, &hash[i]))
                bench_fail(b, "%s: %s", variants[i].name, kvp_error());
            else if (hash[i] != hash[0])
                bench_fail(b, "%s: tokens differ from the resident run", variants[i].name);
        }
    }
    for (size_t i = 1; i < n; i++) {
        const kvp_stats *s = &variants[i].stats;
        bench_note(b, "%s: %llu minor and %llu major faults, %.2f MiB read per token decoded",
                   variants[i].name, (unsigned long long)s->minor_faults,
                   (unsigned long long)s->major_faults,
                   (double)s->bytes_read / (double)w->n_new / (1 << 20));
    }
    free(logits);
}

static int load(bench *b, workload *w)
{
    size_t n_text = 0, n_ids = 0;
    const char *dir = bench_option_str(b, "--model");
    char *text = read_file(bench_option_str(b, "--text"), &n_text);
    tokenizer *t = NULL;
    w->n_prompt = bench_option_num(b, "--prompt");
    w->n_new = b->quick ? 8 : bench_option_num(b, "--new");
    w->n_threads = (uint32_t)bench_option_num(b, "--threads");
    if (!text) {
        fprintf(stderr, "bench_generate: cannot read %s\n", bench_option_str(b, "--text"));
        return 1;
    }
    if (tokenizer_open(dir, &t) || tokenizer_encode(t, text, n_text, &w->ids, &n_ids))
        return die(dir);
    tokenizer_close(t);
    free(text);
    if (model_open(dir, &(model_options){.n_threads = w->n_threads}, &w->m))
        return die(dir);
    if (w->n_prompt < 1 || w->n_prompt > n_ids) {
        fprintf(stderr, "bench_generate: the text has %zu tokens, --prompt is %zu\n", n_ids,
                w->n_prompt);
        return 2;
    }
    return 0;
}

int main(int argc, char **argv)
{
    variant variants[] = {
        {.name = "resident"},
        {.name = "ram_1_2", .ram_fraction = 0.5},
        {.name = "ram_1_4", .ram_fraction = 0.25},
        {.name = "ram_1_4_zram_1_4", .ram_fraction = 0.25, .zram_fraction = 0.25},
    };
    bench b;
    int code;
    if (bench_init(&b, &spec, argc, argv, &code))
        return code;
    workload w = {0};
    if ((code = load(&b, &w)))
        return code;
    run_all(&b, &w, variants, sizeof variants / sizeof *variants);
    model_close(w.m);
    free(w.ids);
    return bench_finish(&b);
}
