/* arch.h - what is particular to an architecture: how its config reads, what its tensors are
 * called. Everything else is decoder.c's. */
#ifndef KVPAGER_MODELS_ARCH_H
#define KVPAGER_MODELS_ARCH_H

#include "integration/models/decoder_config.h"

/* The tensors of a decoder. Those from ATTN_NORM on belong to a layer. */
typedef enum tensor_part {
    PART_TOKENS,    /* embedding */
    PART_POSITIONS, /* embedding */
    PART_NORM,      /* the last one */
    PART_HEAD,
    PART_ATTN_NORM,
    PART_QKV, /* in one; or the three that follow */
    PART_Q,
    PART_K,
    PART_V,
    PART_ATTN_OUT,
    PART_MLP_NORM,
    PART_GATE,
    PART_UP,
    PART_DOWN,
    N_PARTS,
} tensor_part;

typedef struct tensor_names {
    const char *prefix;         /* of all but the head: modules; files may lack the outer */
    const char *layers;         /* of a layer's tensors, before its number and a dot */
    bool is_in_major;           /* matrices are [in][out] */
    const char *parts[N_PARTS]; /* without ".weight"; NULL: there is none */
    const char *const *ignored; /* tensors of a layer that are no weights, to a NULL */
} tensor_names;

typedef struct model_arch {
    const char *model_type;   /* of config.json; general.architecture of GGUF */
    const char *class_prefix; /* of "architectures", where model_type is missing */
    /* Errors: KVP_E_INVALID a member is missing, wrong, or contradicts another; KVP_E_UNSUPPORTED
     * one asks for what decoder.c does not have (the message names it). */
    kvp_status (*read_config)(const config_file *file, decoder_config *out);
    const tensor_names *names; /* in safetensors */
    /* GGUF files of it have rows of q and k in another order: element 2 i of a head is element i,
     * element 2 i + 1 is element i + head_dim / 2 (llama.cpp rotates neighbours). */
    bool gguf_interleaves;
} model_arch;

extern const model_arch gpt2_arch, llama_arch, mistral_arch, qwen2_arch, opt_arch;

/* What Llama's family shares: sizes, epsilon, rotary positions, end tokens. The caller has set
 * what else it wants. */
KVP_NODISCARD kvp_status llama_config_read(const config_file *file, decoder_config *c);
extern const tensor_names llama_names; /* and of its family */

#endif
