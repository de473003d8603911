/* load.c LIBRARY - what a program does that loads kvpager at run time, as Python's ctypes does:
 * open, append, attend, close, all found by name; in a thread that is older than the library, too;
 * twice, with the library unloaded in between. Prints the result. */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <kvpager.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { HEADS = 2, DIM = 64, N_TOKENS = 6000, N_THREAD = 2 * N_TOKENS };

#define FUNCTIONS(X)                                                                               \
    X(kvp_config_default)                                                                          \
    X(kvp_pager_open)                                                                              \
    X(kvp_pager_close)                                                                             \
    X(kvp_pager_stats)                                                                             \
    X(kvp_seq_create)                                                                              \
    X(kvp_seq_append)                                                                              \
    X(kvp_attend)                                                                                  \
    X(kvp_error)

static struct api {
#define MEMBER(name) __typeof__(name) *name;
    FUNCTIONS(MEMBER)
} api;

static pthread_barrier_t loaded;
static kvp_seq *seq;

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "load: %s: %s\n", what, why);
    return 1;
}

static int find_all(void *library)
{
#define FIND(name)                                                                                 \
    {                                                                                              \
        void *address = dlsym(library, #name);                                                     \
        if (!address)                                                                              \
            return fail(#name, dlerror());                                                         \
        memcpy(&api.name, &address, sizeof address);                                               \
    }
    FUNCTIONS(FIND)
    return 0;
}

/* Values that alternate between 0 and 1. */
static kvp_status append(int begin, int end)
{
    float k[HEADS * DIM] = {0}, v[HEADS * DIM] = {0};
    kvp_status status = KVP_OK;
    for (int t = begin; t < end && !status; t++) {
        v[0] = (float)(t % 2);
        status = api.kvp_seq_append(seq, 0, k, v, 1);
    }
    return status;
}

static void *append_in_thread(void *unused)
{
    (void)unused;
    pthread_barrier_wait(&loaded); /* it was there before the library */
    kvp_status status = append(N_TOKENS, N_THREAD);
    return status ? &loaded : NULL;
}

static int use(pthread_t thread)
{
    float q[HEADS * DIM] = {0}, out[HEADS * DIM] = {0};
    kvp_pager *pager = NULL;
    kvp_stats stats = {.size = sizeof stats};
    kvp_config cfg = api.kvp_config_default();
    cfg.geometry =
        (kvp_geometry){.n_layers = 1, .n_kv_heads = HEADS, .head_dim = DIM, .dtype = KVP_F16};
    cfg.ram_bytes = 1 << 20;
    cfg.disk_bytes = KVP_UNLIMITED;
    kvp_status status = api.kvp_pager_open(&cfg, &pager);
    if (!status)
        status = api.kvp_seq_create(pager, &seq);
    if (!status)
        status = append(0, N_TOKENS);
    pthread_barrier_wait(&loaded);
    void *failed;
    pthread_join(thread, &failed);
    if (!status && !failed)
        status = api.kvp_attend(
            seq, 0,
            &(kvp_attend_args){
                .q = q, .out = out, .n_queries = 1, .n_heads = HEADS, .scale = 0.125f});
    if (!status)
        status = api.kvp_pager_stats(pager, &stats);
    if (status || failed)
        return fail("kvpager", status ? api.kvp_error() : "append failed in the thread");
    printf("mean %.3f, %s\n", (double)out[0], stats.bytes_read ? "read from disk" : "all in RAM");
    api.kvp_pager_close(pager);
    return 0;
}

static int load_and_use(const char *path)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, append_in_thread, NULL))
        return fail("pthread_create", "no thread");
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return fail("dlopen", dlerror());
    int code = find_all(library);
    if (!code)
        code = use(thread);
    dlclose(library);
    return code;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return fail("usage", "load LIBRARY");
    pthread_barrier_init(&loaded, NULL, 2);
    int code = load_and_use(argv[1]);
    return code ? code : load_and_use(argv[1]);
}
