/* decode.c - bench_offload decode: plants saved KV and decodes greedily.
 *
 * With --wait it says "ready" once everything but the KV is in memory, and goes on when told to, so
 * that a memory limit can be set for the KV alone; --lock keeps the kernel from swapping out what
 * is there by then, since the weights are not what is compared. */
#define _GNU_SOURCE 1
#include "offload.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "bench/harness.h"
#include "frames.h"
#include "integration/text/sampler.h"
#include "kv_file.h"

#define MIN_STEPS 3u

/* What the kernel and the pager have counted so far. */
typedef struct counters {
    uint64_t pager_faults, kernel_faults;
    uint64_t bytes_read; /* from block devices, by whoever */
    double cpu_seconds;
} counters;

/* Reads of files, mapped ones and swap included; 0 where the kernel does not count. */
static uint64_t device_bytes_read(void)
{
    FILE *f = fopen("/proc/self/io", "re");
    uint64_t bytes = 0;
    char line[128];
    while (f && fgets(line, sizeof line, f) && sscanf(line, "read_bytes: %" SCNu64, &bytes) != 1)
        continue;
    if (f)
        fclose(f);
    return bytes;
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

static kvp_status count(const workload *w, counters *c)
{
    kvp_stats s = {.size = sizeof s};
    struct rusage r;
    kvp_status status = kvp_pager_stats(w->pager, &s);
    getrusage(RUSAGE_SELF, &r);
    *c = (counters){.pager_faults = s.major_faults,
                    .bytes_read = device_bytes_read(),
                    .kernel_faults = (uint64_t)r.ru_majflt,
                    .cpu_seconds = seconds_of(r.ru_utime) + seconds_of(r.ru_stime)};
    return status;
}

/* One token through a pager of its own: whatever the model allocates is there afterwards. */
static kvp_status touch_everything(workload *w)
{
    const model_forward_args args = {
        .tokens = &(int32_t){0}, .n_tokens = 1, .logits = w->logits, .n_logits = 1};
    kvp_status status = workload_open_pager(w, 0);
    if (!status)
        status = model_forward(w->m, w->seq, &args);
    workload_close_pager(w);
    return status;
}

static kvp_status wait_for_limit(const offload_options *o)
{
    if (o->lock && mlockall(MCL_CURRENT))
        return kvp_fail(KVP_E_NOMEM, "mlockall: %s", strerror(errno));
    if (!o->wait)
        return KVP_OK;
    printf("ready\n");
    fflush(stdout);
    return getchar() == EOF ? kvp_fail(KVP_E_IO, "nobody said to go on") : KVP_OK;
}

/* In RAM or under the budget; frames elsewhere need a region of their own size. */
static kvp_status open_frames(workload *w, const kv_file_head *head)
{
    const offload_options *o = w->options;
    const frames_place place = {.file = o->frames_file, .advice = o->advice};
    kvp_status status = frames_put(&place);
    if (!status)
        status = workload_open_pager(w, o->ram_bytes);
    if (!status && head->n_layers != w->info->n_layers)
        status = kvp_fail(KVP_E_INVALID, "%s: is of another model", o->kv);
    if (!status && head->fingerprint != w->info->fingerprint)
        status = kvp_fail(KVP_E_INVALID, "%s: is of another model, or of other options", o->kv);
    return status;
}

/* Decode steps; each adds its milliseconds and the hash of its logits. */
typedef struct steps {
    workload *w;
    sampler *greedy;
    int32_t token;
    json_t *ms, *hashes;
} steps;

static kvp_status step(steps *s, bool counts)
{
    workload *w = s->w;
    char hash[17];
    const model_forward_args args = {
        .tokens = &s->token, .n_tokens = 1, .logits = w->logits, .n_logits = 1};
    uint64_t begin = bench_now_ns();
    kvp_status status = model_forward(w->m, w->seq, &args);
    double ms = (double)(bench_now_ns() - begin) * 1e-6;
    if (status)
        return status;
    snprintf(hash, sizeof hash, "%016" PRIx64,
             (uint64_t)XXH3_64bits(w->logits, w->info->n_vocab * sizeof *w->logits));
    json_array_append_new(s->hashes, json_string(hash));
    if (counts)
        json_array_append_new(s->ms, json_real(ms));
    return sampler_next(s->greedy, w->logits, &s->token, NULL);
}

static kvp_status take_steps(steps *s, json_t *result)
{
    const offload_options *o = s->w->options;
    counters before = {0}, after = {0};
    kvp_status status = KVP_OK;
    for (uint64_t i = 0; i < o->n_warm && !status; i++)
        status = step(s, false);
    if (!status)
        status = count(s->w, &before);
    uint64_t end = bench_now_ns() + o->limit_seconds * 1000000000u, n = 0;
    for (; n < o->n_new && (n < MIN_STEPS || bench_now_ns() < end) && !status; n++)
        status = step(s, true);
    if (!status)
        status = count(s->w, &after);
    const struct {
        const char *key;
        double value;
    } members[] = {
        {"pager_faults_per_token", (double)(after.pager_faults - before.pager_faults)},
        {"bytes_read_per_token", (double)(after.bytes_read - before.bytes_read)},
        {"kernel_faults_per_token", (double)(after.kernel_faults - before.kernel_faults)},
        {"cpu_ms_per_token", 1e3 * (after.cpu_seconds - before.cpu_seconds)},
    };
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        json_object_set_new(result, members[i].key, json_real(members[i].value / (double)n));
    return status;
}

static kvp_status decode(workload *w, int32_t first, json_t *result)
{
    steps s = {.w = w, .token = first, .ms = json_array(), .hashes = json_array()};
    json_object_set_new(result, "ms", s.ms);
    json_object_set_new(result, "logits_xxh3", s.hashes);
    kvp_status status = sampler_create(&(sampler_options){.top_p = 1}, w->info->n_vocab, &s.greedy);
    if (!status)
        status = take_steps(&s, result);
    sampler_destroy(s.greedy);
    return status;
}

kvp_status offload_decode(const offload_options *o, json_t *result)
{
    workload w = {0};
    kv_file_head head;
    kvp_status status = kv_file_head_read(o->kv, &head);
    if (!status)
        status = workload_load(o, 0, &w);
    if (!status)
        status = touch_everything(&w);
    if (!status)
        status = wait_for_limit(o);
    if (!status)
        status = open_frames(&w, &head);
    if (!status)
        status = kv_file_plant(o->kv, w.seq);
    if (!status)
        status = frames_flush();
    if (!status)
        status = decode(&w, head.next, result);
    if (!status)
        status = workload_describe(&w, result);
    workload_close(&w);
    return status;
}
