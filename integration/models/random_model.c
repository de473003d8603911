/* random_model.c - writes a folder that model_open() reads: config.json and, in bf16,
 * model.safetensors. */
#include "integration/models/random_model.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "integration/files/folder.h"
#include "integration/files/json_file.h"
#include "integration/random.h"

#define LAYERS 12u
#define WIDTH 768u
#define VOCAB 50257u
#define LAYER_TENSORS 12u
#define MAX_TENSORS (LAYERS * LAYER_TENSORS + 4)

typedef struct tensor {
    char name[48];
    uint64_t rows, width; /* rows 0: a vector */
} tensor;

static const char *const files[] = {"config.json", "model.safetensors"};

/* ---- what there is ---- */

static size_t list_tensors(tensor t[MAX_TENSORS])
{
    static const tensor of_layer[LAYER_TENSORS] = {{"ln_1.weight", 0, WIDTH},
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
    t[n++] = (tensor){"wpe.weight", RANDOM_MODEL_CONTEXT, WIDTH};
    for (unsigned layer = 0; layer < LAYERS; layer++)
        for (size_t i = 0; i < LAYER_TENSORS; i++, n++) {
            t[n] = of_layer[i];
            snprintf(t[n].name, sizeof t[n].name, "h.%u.%.32s", layer, of_layer[i].name);
        }
    t[n++] = (tensor){"ln_f.weight", 0, WIDTH};
    t[n++] = (tensor){"ln_f.bias", 0, WIDTH};
    return n;
}

static json_t *config_json(void)
{
    return json_pack("{s:s, s:[s], s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:s}", "model_type", "gpt2",
                     "architectures", "GPT2LMHeadModel", "n_layer", (int)LAYERS, "n_head", 12,
                     "n_embd", (int)WIDTH, "n_ctx", (int)RANDOM_MODEL_CONTEXT, "n_positions",
                     (int)RANDOM_MODEL_CONTEXT, "vocab_size", (int)VOCAB, "layer_norm_epsilon",
                     1e-5, "activation_function", "gelu_new");
}

/* Tensors lie one after the other. */
static json_t *header_json(const tensor *tensors, size_t n)
{
    json_t *header = json_object();
    json_int_t begin = 0, end;
    for (size_t i = 0; i < n; i++, begin = end) {
        const tensor *t = &tensors[i];
        json_t *shape = t->rows ? json_pack("[I, I]", (json_int_t)t->rows, (json_int_t)t->width)
                                : json_pack("[I]", (json_int_t)t->width);
        end = begin + (json_int_t)((t->rows ? t->rows : 1) * t->width * sizeof(uint16_t));
        json_object_set_new(header, t->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", "BF16", "shape", shape,
                                      "data_offsets", begin, end));
    }
    return header;
}

/* ---- writing; errors stay in the stream ---- */

/* With its length before it, padded to whole words of 8 bytes, if that is wanted. */
static kvp_status put_json(FILE *f, json_t *json, bool with_length)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!text)
        return kvp_fail(KVP_E_NOMEM, "out of memory for the headers of a model");
    uint64_t n = strlen(text), n_padded = (n + 7) / 8 * 8;
    if (with_length)
        fwrite(&n_padded, sizeof n_padded, 1, f);
    fprintf(f, "%-*s", with_length ? (int)n_padded : 0, text);
    free(text);
    return KVP_OK;
}

/* Of both signs and at most 1/32; norms have 1. */
static void put_tensor(FILE *f, const tensor *t, uint64_t *random)
{
    uint16_t row[4 * WIDTH];
    bool is_norm = strstr(t->name, "ln_") && strstr(t->name, "weight");
    for (uint64_t r = 0; r < (t->rows ? t->rows : 1); r++) {
        for (uint64_t i = 0; i < t->width; i++)
            row[i] = is_norm ? 0x3f80 : (uint16_t)(0x3c80 | (random_next(random) >> 48 & 0x807f));
        fwrite(row, sizeof *row, t->width, f);
    }
}

typedef struct writing {
    const char *folder;
    bool (*progress)(void *opaque, size_t done, size_t total);
    void *opaque;
} writing;

static kvp_status put_weights(const writing *w, FILE *f)
{
    tensor tensors[MAX_TENSORS];
    uint64_t random = RANDOM_SEED;
    size_t n = list_tensors(tensors);
    kvp_status status = put_json(f, header_json(tensors, n), true);
    for (size_t i = 0; i < n && !status && !ferror(f); i++) {
        if (w->progress && !w->progress(w->opaque, i, n))
            return kvp_fail(KVP_E_AGAIN, "interrupted");
        put_tensor(f, &tensors[i], &random);
    }
    return status;
}

static kvp_status put_config(const writing *w, FILE *f)
{
    (void)w;
    return put_json(f, config_json(), false);
}

static kvp_status write_file(const writing *w, const char *name,
                             kvp_status (*put)(const writing *w, FILE *f))
{
    char path[FOLDER_PATH_BYTES];
    kvp_status status = folder_path(w->folder, name, path);
    if (status)
        return status;
    errno = 0;
    FILE *f = fopen(path, "we");
    if (f)
        status = put(w, f);
    bool failed = !f || ferror(f);
    int error = errno; /* fclose() may have another */
    if (f && fclose(f) && !failed) {
        failed = true;
        error = errno;
    }
    if (!failed || status)
        return status;
    return kvp_fail(KVP_E_IO,
                    "cannot write %s: %s; a model with random weights takes 249 MB there: set "
                    "TMPDIR to a folder with room for it, or give a model with -m PATH",
                    path, strerror(error));
}

kvp_status random_model_write(const char *parent, char *folder, size_t room,
                              bool (*progress)(void *opaque, size_t done, size_t total),
                              void *opaque)
{
    const writing w = {folder, progress, opaque};
    if ((size_t)snprintf(folder, room, "%s/kvpager-model-XXXXXX", parent) >= room)
        return kvp_fail(KVP_E_INVALID, "%.200s...: this path is too long; set TMPDIR to another",
                        parent);
    if (!mkdtemp(folder))
        return kvp_fail(KVP_E_IO,
                        "cannot make a folder in %s: %s; set TMPDIR to a folder with room for "
                        "249 MB, or give a model with -m PATH",
                        parent, strerror(errno));
    kvp_status status = write_file(&w, files[0], put_config);
    if (!status)
        status = write_file(&w, files[1], put_weights);
    if (status)
        random_model_remove(folder);
    return status;
}

void random_model_remove(const char *folder)
{
    char path[FOLDER_PATH_BYTES];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (!folder_path(folder, files[i], path))
            unlink(path);
    rmdir(folder);
}
