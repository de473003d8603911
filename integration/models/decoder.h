/* decoder.h - the forward that all architectures share. */
#ifndef KVPAGER_MODELS_DECODER_H
#define KVPAGER_MODELS_DECODER_H

#include "integration/models/decoder_weights.h"
#include "kvpager/pool.h"

typedef struct decoder decoder;

/* `config` is copied; `source` is borrowed during open, `pool` until close. Errors: as
 * decoder_weights_load(). */
KVP_NODISCARD kvp_status decoder_open(const weights_source *source, kvp_pool *pool, decoder **out);
void decoder_close(decoder *d);
/* block_bytes and real_bytes of decoder_weights. */
const decoder_weights *decoder_get_weights(const decoder *d);
uint64_t decoder_workspace_bytes(const decoder *d);

/* See model_forward_batch(); arguments are checked. */
KVP_NODISCARD kvp_status decoder_forward(decoder *d, const model_item *items, size_t n_items);

#endif
