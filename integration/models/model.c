/* model.c - finds a model's architecture, reads its config and checks what it is asked for.
 *
 * Owns reading configs, keeping the weights' files open for as long as loading takes, and the
 * fingerprint. A new architecture is one more entry in `archs`. */
#include "integration/models/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "integration/files/folder.h"
#include "integration/models/decoder.h"
#include "integration/models/fingerprint.h"
#include "integration/models/gguf_config.h"
#include "integration/models/tensor_walk.h"

#define SUPPORTED "gpt2, llama, mistral, qwen2 and opt are"

static const model_arch *const archs[] = {&gpt2_arch, &llama_arch, &mistral_arch, &qwen2_arch,
                                          &opt_arch};

struct model {
    model_info info;
    uint32_t real_layers;
    decoder *decoder;
    kvp_pool *pool;
};

/* What is open while a model is being opened. */
typedef struct opening {
    const char *path;
    const model_options *options;
    uint32_t hollow_layers; /* 0: not hollow */
    weights *weights;
    const model_arch *arch;
    json_t *root, *generation; /* config.json and generation_config.json, or what stands for them */
    char where[FOLDER_PATH_BYTES];
    decoder_config config;
    bool is_scaled; /* rotary positions, by the model itself */
    uint64_t n_ctx; /* positions that it will have */
} opening;

/* ---- architecture ---------------------------------------------------------------------------- */

static bool is_arch(const model_arch *arch, const json_t *config)
{
    const json_t *type = json_object_get(config, "model_type");
    if (!json_is_unset(type))
        return json_is_text(type, arch->model_type);
    const char *class =
        json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    return class && strncmp(class, arch->class_prefix, strlen(arch->class_prefix)) == 0;
}

static kvp_status find_arch(opening *o)
{
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) {
        if (is_arch(archs[i], o->root)) {
            o->arch = archs[i];
            return KVP_OK;
        }
    }
    const char *type = json_string_value(json_object_get(o->root, "model_type"));
    return kvp_fail(KVP_E_UNSUPPORTED, "%s: model_type %s%.64s%s is not supported (" SUPPORTED ")",
                    o->where, type ? "\"" : "", type ? type : "(none)", type ? "\"" : "");
}

/* ---- config ---------------------------------------------------------------------------------- */

static kvp_status read_folder(opening *o)
{
    kvp_status status = folder_check(o->path);
    if (!status && !folder_has(o->path, "config.json"))
        status =
            kvp_fail(KVP_E_IO,
                     "%s: not a model: there is no config.json (of a GGUF model, name the file "
                     "itself)",
                     o->path);
    if (!status)
        status = folder_path(o->path, "config.json", o->where);
    if (!status)
        status = json_file_load(o->path, "config.json", &o->root);
    if (!status)
        status = find_arch(o);
    if (!status && folder_has(o->path, "generation_config.json"))
        status = json_file_load(o->path, "generation_config.json", &o->generation);
    return status ? status : weights_open(o->path, &o->weights);
}

/* The architecture first: metadata of others have other keys. */
static kvp_status read_gguf(opening *o)
{
    char name[GGUF_ARCHITECTURE_BYTES];
    snprintf(o->where, sizeof o->where, "%s", o->path);
    kvp_status status = weights_open(o->path, &o->weights);
    if (!status)
        status = gguf_architecture(weights_gguf(o->weights), name);
    if (status)
        return status;
    o->root = json_pack("{s:s}", "model_type", name);
    status = find_arch(o);
    json_decref(o->root);
    o->root = NULL;
    return status ? status : gguf_config(weights_gguf(o->weights), &o->root);
}

/* generation_config.json has end tokens of its own, those of a conversation for instance. */
static kvp_status read_generation(opening *o)
{
    char where[FOLDER_PATH_BYTES];
    if (!o->generation)
        return KVP_OK;
    kvp_status status = folder_path(o->path, "generation_config.json", where);
    const config_file file = {.root = o->generation, .where = where};
    return status ? status : decoder_read_generation_eos(&file, &o->config);
}

static bool has_dividers(const opening *o)
{
    return weights_gguf(o->weights) && weights_find(o->weights, TENSOR_ROPE_DIVIDERS);
}

static kvp_status stretch(opening *o, const config_file *file)
{
    if (has_dividers(o))
        return kvp_fail(KVP_E_RANGE,
                        "%s: the model's %u positions are scaled already (" TENSOR_ROPE_DIVIDERS
                        "); they cannot be stretched to %llu besides",
                        o->where, o->config.n_ctx, (unsigned long long)o->n_ctx);
    return rope_config_stretch(file, o->n_ctx, &o->config);
}

/* How many positions the model is to have. */
static kvp_status choose_n_ctx(opening *o, const config_file *file)
{
    uint64_t n_ctx = o->options->n_ctx;
    decoder_config *c = &o->config;
    o->n_ctx = n_ctx ? n_ctx : c->n_ctx;
    if (o->n_ctx > MAX_POSITIONS)
        return kvp_fail(KVP_E_RANGE, "%s: %llu positions are more than any model's (%u)", o->path,
                        (unsigned long long)o->n_ctx, MAX_POSITIONS);
    if (o->n_ctx > c->n_ctx && !o->options->yarn)
        return kvp_fail(KVP_E_RANGE, "%s: %llu positions are wanted; the model was made for %u",
                        o->path, (unsigned long long)o->n_ctx, c->n_ctx);
    if (c->window && o->n_ctx > c->window)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: its layers see a sliding window of %u tokens, which is supported for "
                        "no more positions than that (%llu are wanted); --ctx %u with --beyond "
                        "rolling goes on past them",
                        o->where, c->window, (unsigned long long)o->n_ctx, c->window);
    return o->n_ctx > c->n_ctx ? stretch(o, file) : KVP_OK;
}

static kvp_status read_config(opening *o)
{
    kvp_status status = gguf_is_named(o->path) ? read_gguf(o) : read_folder(o);
    const config_file file = {.root = o->root, .where = o->where};
    if (!status)
        status = o->arch->read_config(&file, &o->config);
    if (!status)
        status = read_generation(o);
    if (status)
        return status;
    o->is_scaled = o->config.rope.scaling != ROPE_UNSCALED || has_dividers(o);
    return choose_n_ctx(o, &file);
}

/* Of all that K and V depend on: the files, and the options that change them. */
static kvp_status fingerprint_of(const opening *o, uint64_t *out)
{
    char *text = json_dumps(o->root, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text)
        return kvp_fail(KVP_E_NOMEM, "out of memory: the fingerprint of %s", o->path);
    uint64_t recipe[2] = {(uint64_t)o->options->weights, o->n_ctx > o->config.n_ctx ? o->n_ctx : 0};
    uint64_t seed = fingerprint(recipe, sizeof recipe, 0);
    *out = weights_fingerprint(o->weights, fingerprint(text, strlen(text), seed));
    free(text);
    return KVP_OK;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* What headers tell. */
static void fill_info(const opening *o, model_info *info)
{
    const decoder_config *c = &o->config;
    *info = (model_info){.architecture = o->arch->model_type,
                         .n_layers = o->hollow_layers ? o->hollow_layers : c->n_layers,
                         .n_heads = c->n_heads,
                         .n_kv_heads = c->n_kv_heads,
                         .head_dim = c->head_dim,
                         .d_model = c->d_model,
                         .n_ctx = (uint32_t)o->n_ctx,
                         .n_ctx_trained = c->n_ctx,
                         .has_rope = c->rope.dim > 0,
                         .can_stretch = c->rope.dim > 0 && !o->is_scaled,
                         .n_vocab = c->n_vocab,
                         .n_eos = c->n_eos};
    memcpy(info->eos_ids, c->eos_ids, sizeof c->eos_ids);
}

/* Fine-tuning may leave a head of its own in the files of a model whose config calls it tied: as in
 * transformers, the files are right. */
static void untie(opening *o)
{
    const weights_source source = {.weights = o->weights, .arch = o->arch, .config = &o->config};
    const tensor_walk walk = tensor_walk_of(&source);
    if (o->config.tied && tensor_walk_has_own_head(&walk))
        o->config.tied = false;
}

static kvp_status open_decoder(opening *o, model *m)
{
    untie(o);
    const weights_source source = {.weights = o->weights,
                                   .path = o->path,
                                   .arch = o->arch,
                                   .config = &o->config,
                                   .dtype = o->options->weights,
                                   .hollow_layers = o->hollow_layers};
    kvp_status status = kvp_pool_open(o->options->n_threads, NULL, NULL, &m->pool);
    if (!status)
        status = decoder_open(&source, m->pool, &m->decoder);
    if (status)
        return status;
    m->real_layers = o->config.n_layers;
    fill_info(o, &m->info);
    m->info.weights_bytes = decoder_get_weights(m->decoder)->real_bytes;
    return o->hollow_layers ? KVP_OK : fingerprint_of(o, &m->info.fingerprint);
}

static void opening_fini(opening *o)
{
    weights_close(o->weights);
    json_decref(o->root);
    json_decref(o->generation);
}

static kvp_status open_any(opening *o, model **out)
{
    model *m = calloc(1, sizeof *m);
    if (!m)
        return kvp_fail(KVP_E_NOMEM, "out of memory: a model");
    kvp_status status = read_config(o);
    if (o->hollow_layers > o->config.n_layers)
        o->hollow_layers = o->config.n_layers;
    if (!status)
        status = open_decoder(o, m);
    opening_fini(o);
    if (status)
        model_close(m);
    else
        *out = m;
    return status;
}

static const model_options default_options = {.weights = KVP_F32};

kvp_status model_check(const char *path, const model_options *options, model_info *out)
{
    opening o = {.path = path, .options = options ? options : &default_options};
    kvp_status status = read_config(&o);
    if (status == KVP_E_RANGE)
        o.n_ctx = o.config.n_ctx;
    if (!status || status == KVP_E_RANGE)
        fill_info(&o, out);
    opening_fini(&o);
    return status;
}

kvp_status model_open(const char *path, const model_options *options, model **out)
{
    opening o = {.path = path, .options = options ? options : &default_options};
    return open_any(&o, out);
}

kvp_status model_open_hollow(const char *path, const model_options *options, uint32_t n_layers,
                             model **out)
{
    if (!n_layers)
        return kvp_fail(KVP_E_INVALID, "a model without layers");
    opening o = {
        .path = path, .options = options ? options : &default_options, .hollow_layers = n_layers};
    return open_any(&o, out);
}

void model_close(model *m)
{
    if (!m)
        return;
    decoder_close(m->decoder);
    kvp_pool_close(m->pool);
    free(m);
}

/* ---- what it is ------------------------------------------------------------------------------ */

const model_info *model_get_info(const model *m)
{
    return &m->info;
}

uint32_t model_real_layers(const model *m)
{
    return m->real_layers;
}

bool model_is_eos(const model_info *info, int32_t id)
{
    for (uint32_t i = 0; i < info->n_eos; i++) {
        if (info->eos_ids[i] == id)
            return true;
    }
    return false;
}

kvp_geometry model_geometry(const model_info *info, kvp_dtype dtype, uint32_t page_tokens)
{
    return (kvp_geometry){.n_layers = info->n_layers,
                          .n_kv_heads = info->n_kv_heads,
                          .head_dim = info->head_dim,
                          .dtype = dtype,
                          .page_tokens = page_tokens};
}

uint64_t model_workspace_bytes(const model *m)
{
    return decoder_workspace_bytes(m->decoder);
}

kvp_pool *model_pool(const model *m)
{
    return m->pool;
}

/* ---- forward --------------------------------------------------------------------------------- */

/* The farthest key is the first sink. Without the gap it is as far from the query as the pages of
 * the sinks are long, and those of the window, whose first page may begin page_tokens - 1 positions
 * before the window does. */
uint64_t model_widest_shift(const model_info *info, uint64_t sinks, uint32_t page_tokens)
{
    uint64_t sink_pages = sinks / page_tokens + (sinks % page_tokens != 0);
    if (sink_pages > info->n_ctx / page_tokens) /* also keeps the product from overflowing */
        return 0;
    uint64_t others = sink_pages * page_tokens + page_tokens - 1;
    return info->n_ctx > others ? info->n_ctx - others : 0;
}

/* Positions go on without end: what a query sees at a time must fit into those that there are. */
static kvp_status check_shift(const model_info *info, kvp_seq *seq, const model_forward_args *args)
{
    kvp_layer_info layer;
    if (!info->has_rope)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "positions of %s are a table: only rotary ones can be shifted",
                        info->architecture);
    if (!args->window)
        return kvp_fail(KVP_E_INVALID, "positions can be shifted only with a window");
    kvp_status status = kvp_seq_layer_info(seq, 0, &layer);
    if (status)
        return status;
    uint64_t widest = model_widest_shift(info, args->sinks, layer.page_tokens);
    if (args->window > widest)
        return kvp_fail(
            KVP_E_RANGE,
            "a window of %llu tokens after %llu sinks, with pages of %u, reaches beyond "
            "the model's %u positions: it may have %llu",
            (unsigned long long)args->window, (unsigned long long)args->sinks, layer.page_tokens,
            info->n_ctx, (unsigned long long)widest);
    return KVP_OK;
}

static kvp_status check_positions(const model_info *info, kvp_seq *seq,
                                  const model_forward_args *args)
{
    uint64_t begin = kvp_seq_length(seq);
    if (args->shift)
        return check_shift(info, seq, args);
    if (begin > info->n_ctx || args->n_tokens > info->n_ctx - begin)
        return kvp_fail(KVP_E_RANGE, "%zu tokens from position %llu go beyond the model's %u",
                        args->n_tokens, (unsigned long long)begin, info->n_ctx);
    return KVP_OK;
}

static kvp_status check_item(const model_info *info, const model_item *item)
{
    const model_forward_args *args = &item->args;
    if (!args->n_tokens || args->n_logits > args->n_tokens || (args->n_logits && !args->logits))
        return kvp_fail(KVP_E_INVALID, "%zu logits of %zu tokens are asked for", args->n_logits,
                        args->n_tokens);
    if (args->n_hidden > args->n_tokens || (args->n_hidden && !args->hidden))
        return kvp_fail(KVP_E_INVALID, "%zu hidden states of %zu tokens are asked for",
                        args->n_hidden, args->n_tokens);
    kvp_status status = check_positions(info, item->seq, args);
    if (status)
        return status;
    for (size_t i = 0; i < args->n_tokens; i++) {
        if (args->tokens[i] < 0 || (uint32_t)args->tokens[i] >= info->n_vocab)
            return kvp_fail(KVP_E_RANGE,
                            "token %zu has the id %d; the model has 0 .. %u: is its tokenizer that "
                            "of another?",
                            i, (int)args->tokens[i], info->n_vocab - 1);
    }
    return KVP_OK;
}

kvp_status model_forward(model *m, kvp_seq *seq, const model_forward_args *args)
{
    const model_item item = {.seq = seq, .args = *args};
    return model_forward_batch(m, &item, 1);
}

kvp_status model_forward_batch(model *m, const model_item *items, size_t n_items)
{
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < n_items && !status; i++)
        status = check_item(&m->info, &items[i]);
    if (status || !n_items)
        return status;
    return decoder_forward(m->decoder, items, n_items);
}
