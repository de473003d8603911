/* gguf_config.h - the metadata of a GGUF file as the config.json that it was made from. */
#ifndef KVPAGER_MODELS_GGUF_CONFIG_H
#define KVPAGER_MODELS_GGUF_CONFIG_H

#include "integration/files/gguf.h"
#include "integration/files/json_file.h"

#define GGUF_ARCHITECTURE_BYTES 64

/* Metadata "general.architecture". Errors: KVP_E_INVALID. */
KVP_NODISCARD kvp_status gguf_architecture(const gguf *g, char out[GGUF_ARCHITECTURE_BYTES]);

/* So that an architecture has one reader of configs. *out is the caller's. Errors: KVP_E_INVALID a
 * key is missing or of another type; KVP_E_UNSUPPORTED it says what no architecture here has;
 * KVP_E_NOMEM. */
KVP_NODISCARD kvp_status gguf_config(const gguf *g, json_t **out);

#endif
