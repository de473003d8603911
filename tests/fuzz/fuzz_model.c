/* fuzz_model.c - a GGUF file that is opened as a model, its metadata a config and its tensors those
 * that the config calls for, gives a model whose sizes fit together. */
#define _GNU_SOURCE
#include "tests/fuzz/target.h"

#include "integration/models/model.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char folder[] = "/tmp/kvp-fuzz-XXXXXX";
static char path[sizeof folder + sizeof "/model.gguf"];
static int memory = -1;

static void remove_name(void)
{
    unlink(path);
    rmdir(folder);
}

/* A model is opened by its name; that leads to memory, which is faster to fill than a file. */
static void open_memory(void)
{
    char target[64];
    memory = memfd_create("model", MFD_CLOEXEC);
    require(memory >= 0 && mkdtemp(folder));
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    snprintf(target, sizeof target, "/proc/self/fd/%d", memory);
    require(symlink(target, path) == 0 && atexit(remove_name) == 0);
}

static void write_file(const uint8_t *bytes, size_t n)
{
    if (memory < 0)
        open_memory();
    require(ftruncate(memory, (off_t)n) == 0);
    require(pwrite(memory, bytes, n, 0) == (ssize_t)n);
}

static void check_info(const model_info *info, uint32_t n_layers)
{
    require(info->architecture && info->n_layers >= 1 && info->n_layers <= n_layers);
    require(info->n_kv_heads >= 1 && info->n_heads % info->n_kv_heads == 0);
    require(info->head_dim >= 1 && info->d_model >= 1 && info->n_vocab >= 1);
    require(info->n_ctx >= 1 && info->n_ctx == info->n_ctx_trained);
    require(info->weights_bytes >= (uint64_t)info->n_vocab * info->d_model * sizeof(float));
    require(info->n_eos <= MODEL_MAX_EOS && info->fingerprint == 0);
    for (uint32_t i = 0; i < info->n_eos; i++) {
        require(info->eos_ids[i] >= 0 && (uint32_t)info->eos_ids[i] < info->n_vocab);
        require(model_is_eos(info, info->eos_ids[i]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    const model_options options = {.n_threads = 1};
    model *m = NULL;
    write_file(bytes, n);
    if (model_open_hollow(path, &options, 1, &m)) {
        require(!m && strstr(kvp_error(), path));
        return 0;
    }
    check_info(model_get_info(m), 1);
    require(model_real_layers(m) >= 1);
    model_close(m);
    return 0;
}
