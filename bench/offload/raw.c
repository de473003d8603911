/* raw.c - bench_offload raw: GB/s of a bare io_uring loop over a file in $TMPDIR, by block size;
 * once on an idle machine, once with a thread that streams through memory, as half of the CPUs do
 * while a model decodes: a virtual disk copies through the same caches and cores. */
#include "offload.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/raw_read.h"

#define FILE_BYTES ((size_t)256 << 20)
#define STREAM_BYTES ((size_t)128 << 20) /* more than caches hold */
#define N_SAMPLES 3u

static const raw_shape shapes[] = {{64u << 10, 8}, {256u << 10, 8}, {1u << 20, 4}};

/* A thread that streams through memory until it is told to stop. */
typedef struct stream {
    pthread_t thread;
    uint64_t *words;
    uint64_t sum;
    atomic_bool stop;
} stream;

static void *stream_run(void *arg)
{
    stream *s = arg;
    while (!atomic_load_explicit(&s->stop, memory_order_relaxed))
        for (size_t i = 0; i < STREAM_BYTES / sizeof *s->words; i++)
            s->sum += s->words[i];
    return NULL;
}

static kvp_status stream_start(stream *s)
{
    *s = (stream){.words = malloc(STREAM_BYTES)};
    if (!s->words)
        return kvp_fail(KVP_E_NOMEM, "no memory to stream through");
    memset(s->words, 1, STREAM_BYTES);
    if (!pthread_create(&s->thread, NULL, stream_run, s))
        return KVP_OK;
    free(s->words);
    return kvp_fail(KVP_E_NOMEM, "no thread to stream through memory");
}

static void stream_stop(stream *s)
{
    atomic_store(&s->stop, true);
    pthread_join(s->thread, NULL);
    free(s->words);
}

/* The samples of every shape, turn by turn, in GB/s. */
static kvp_status sample(raw_file *f, json_t *result)
{
    const size_t n_shapes = sizeof shapes / sizeof *shapes;
    json_t *columns[sizeof shapes / sizeof *shapes];
    for (size_t i = 0; i < n_shapes; i++) {
        char name[32];
        snprintf(name, sizeof name, "%zuk_qd%u", shapes[i].block_bytes >> 10, shapes[i].depth);
        columns[i] = json_array();
        json_object_set_new(result, name, columns[i]);
    }
    for (size_t i = 0; i < N_SAMPLES * n_shapes; i++) {
        double gb_per_s = raw_read(f, shapes[i % n_shapes]);
        if (gb_per_s <= 0)
            return kvp_fail(KVP_E_IO, "a bare io_uring read failed");
        json_array_append_new(columns[i % n_shapes], json_real(gb_per_s));
    }
    return KVP_OK;
}

static kvp_status sample_busy(raw_file *f, json_t *result)
{
    stream s;
    kvp_status status = stream_start(&s);
    if (status)
        return status;
    status = sample(f, result);
    stream_stop(&s);
    return status;
}

kvp_status offload_raw(const offload_options *o, json_t *result)
{
    const char *tmp = getenv("TMPDIR");
    (void)o;
    raw_file *f = raw_open(tmp && *tmp ? tmp : "/var/tmp", FILE_BYTES);
    if (!f)
        return kvp_fail(KVP_E_UNSUPPORTED, "no bare io_uring here");
    json_t *idle = json_object(), *busy = json_object();
    json_object_set_new(result, "gb_per_s", idle);
    json_object_set_new(result, "busy_gb_per_s", busy);
    json_object_set_new(result, "is_direct", json_boolean(raw_is_direct(f)));
    kvp_status status = sample(f, idle);
    if (!status)
        status = sample_busy(f, busy);
    raw_close(f);
    return status;
}
