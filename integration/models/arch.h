/* arch.h - what an architecture is to model.c: a table of functions. */
#ifndef KVPAGER_MODELS_ARCH_H
#define KVPAGER_MODELS_ARCH_H

#include "integration/models/config.h"
#include "integration/models/model.h"
#include "kvpager/pool.h"
#include "integration/files/safetensors.h"

/* What a model is loaded from; borrowed during open. */
typedef struct model_source {
    config_file config;
    const safetensors *weights;
    const model_options *options;
    kvp_pool *pool;
} model_source;

typedef struct model_arch {
    const char *model_type;   /* of config.json */
    const char *class_prefix; /* of "architectures", where model_type is missing */
    /* *out is the architecture's own struct, whose first member is struct model; it fills
     * model.info but for fingerprint and architecture. It uses source->pool until close. */
    kvp_status (*open)(const model_source *source, model **out);
    void (*close)(model *m);
    kvp_status (*forward)(model *m, kvp_seq *seq, const model_forward_args *args);
    uint64_t (*workspace_bytes)(const model *m);
} model_arch;

struct model {
    const model_arch *arch;
    model_info info;
    kvp_pool *pool; /* its threads; owned by model.c */
};

extern const model_arch gpt2_arch;

#endif
