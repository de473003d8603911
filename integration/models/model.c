/* model.c - finds a folder's architecture and hands everything else to it.
 *
 * Owns reading config.json, opening the weights file for as long as loading takes, and the
 * fingerprint. A new architecture is one more entry in `archs`. */
#include "integration/models/arch.h"

#include <stdlib.h>
#include <string.h>

#include "integration/models/fingerprint.h"
#include "integration/files/folder.h"

#define CONFIG_LIMIT_BYTES ((size_t)16 << 20)
#define SUPPORTED "gpt2"

static const model_arch *const archs[] = {&gpt2_arch};

static bool is_arch(const model_arch *arch, const json_t *config)
{
    const json_t *type = json_object_get(config, "model_type");
    if (!json_is_unset(type))
        return json_is_text(type, arch->model_type);
    const char *class =
        json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    return class && strncmp(class, arch->class_prefix, strlen(arch->class_prefix)) == 0;
}

static kvp_status find_arch(const config_file *config, const model_arch **out)
{
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        if (is_arch(archs[i], config->root)) {
            *out = archs[i];
            return KVP_OK;
        }
    }
    const char *type = json_string_value(json_object_get(config->root, "model_type"));
    return kvp_fail(KVP_E_UNSUPPORTED, "%s: model_type %s%s%s is not supported (" SUPPORTED " is)",
                    config->where, type ? "\"" : "", type ? type : "(none)", type ? "\"" : "");
}

/* The message for a folder without model.safetensors says what to do with what is there. */
static kvp_status open_weights(const char *dir, safetensors **out)
{
    static const char name[] = "model.safetensors";
    char path[FOLDER_PATH_BYTES];
    kvp_status status = folder_path(dir, name, path);
    if (status)
        return status;
    if (!folder_has(dir, name) && folder_has(dir, "model.safetensors.index.json"))
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: the weights are sharded, which is not supported: save them as one %s",
                        dir, name);
    if (!folder_has(dir, name) && folder_has(dir, "pytorch_model.bin"))
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: only pytorch_model.bin is there: convert it to %s",
                        dir, name);
    return safetensors_open(path, out);
}

static uint64_t fingerprint_of(const model_source *source, const char *config_text, size_t n)
{
    unsigned char recipe = (unsigned char)source->options->weights; /* changes K and V */
    size_t n_weights;
    const void *weights = safetensors_bytes(source->weights, &n_weights);
    uint64_t seed = fingerprint(&recipe, sizeof recipe, 0);
    return fingerprint(weights, n_weights, fingerprint(config_text, n, seed));
}

kvp_status model_open(const char *dir, const model_options *options, model **out)
{
    const model_options defaults = {.weights = MODEL_WEIGHTS_F32};
    model_source source = {.options = options ? options : &defaults};
    safetensors *weights = NULL;
    json_t *root = NULL;
    char *text = NULL;
    size_t n = 0;
    char where[FOLDER_PATH_BYTES];
    const model_arch *arch = NULL;
    model *m = NULL;
    kvp_status status = folder_check(dir);
    if (!status)
        status = folder_path(dir, "config.json", where);
    if (!status)
        status = folder_read(dir, "config.json", CONFIG_LIMIT_BYTES, &text, &n);
    if (!status)
        status = json_parse_object(text, n, where, KVP_E_INVALID, &root);
    source.config = (config_file){.root = root, .where = where};
    if (!status)
        status = find_arch(&source.config, &arch);
    if (!status)
        status = open_weights(dir, &weights);
    source.weights = weights;
    if (!status)
        status = kvp_pool_open(source.options->n_threads, NULL, NULL, &source.pool);
    if (!status)
        status = arch->open(&source, &m);
    if (!status) {
        m->arch = arch;
        m->pool = source.pool;
        m->info.architecture = arch->model_type;
        m->info.fingerprint = fingerprint_of(&source, text, n);
        *out = m;
    } else {
        kvp_pool_close(source.pool);
    }
    safetensors_close(weights);
    json_decref(root);
    free(text);
    return status;
}

void model_close(model *m)
{
    if (!m)
        return;
    kvp_pool *threads = m->pool;
    m->arch->close(m);
    kvp_pool_close(threads);
}

const model_info *model_get_info(const model *m)
{
    return &m->info;
}

bool model_is_eos(const model_info *info, int32_t id)
{
    for (uint32_t i = 0; i < info->n_eos; i++) {
        if (info->eos_ids[i] == id)
            return true;
    }
    return false;
}

kvp_geometry model_geometry(const model *m, kvp_dtype dtype, uint32_t page_tokens)
{
    return (kvp_geometry){.n_layers = m->info.n_layers,
                          .n_kv_heads = m->info.n_kv_heads,
                          .head_dim = m->info.head_dim,
                          .dtype = dtype,
                          .page_tokens = page_tokens};
}

uint64_t model_workspace_bytes(const model *m)
{
    return m->arch->workspace_bytes(m);
}

static kvp_status check_tokens(const model_info *info, uint64_t begin,
                               const model_forward_args *args)
{
    if (!args->n_tokens || args->n_logits > args->n_tokens || (args->n_logits && !args->logits))
        return kvp_fail(KVP_E_INVALID, "%zu logits of %zu tokens are asked for", args->n_logits,
                        args->n_tokens);
    if (begin > info->n_ctx || args->n_tokens > info->n_ctx - begin)
        return kvp_fail(KVP_E_RANGE, "%zu tokens from position %llu go beyond the model's %u",
                        args->n_tokens, (unsigned long long)begin, info->n_ctx);
    for (size_t i = 0; i < args->n_tokens; i++) {
        if (args->tokens[i] < 0 || (uint32_t)args->tokens[i] >= info->n_vocab)
            return kvp_fail(KVP_E_RANGE, "token %zu has the id %d; the model has 0 .. %u", i,
                            (int)args->tokens[i], info->n_vocab - 1);
    }
    return KVP_OK;
}

kvp_status model_forward(model *m, kvp_seq *seq, const model_forward_args *args)
{
    kvp_status status = check_tokens(&m->info, kvp_seq_length(seq), args);
    return status ? status : m->arch->forward(m, seq, args);
}

kvp_status model_forward_batch(model *m, const model_item *items, size_t n_items, size_t n_rows)
{
    kvp_status status = KVP_OK;
    (void)n_rows;
    for (size_t i = 0; i < n_items && !status; i++)
        status = model_forward(m, items[i].seq, &items[i].args);
    return status;
}

kvp_pool *model_pool(const model *m)
{
    return m->pool;
}
