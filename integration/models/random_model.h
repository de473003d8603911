/* random_model.h - a model with random weights, for measuring where none is at hand. What weights
 * are does not matter to the time. */
#ifndef KVPAGER_MODELS_RANDOM_MODEL_H
#define KVPAGER_MODELS_RANDOM_MODEL_H

#include <stdbool.h>
#include <stddef.h>

#include "kvpager/status.h"

#define RANDOM_MODEL_CONTEXT 1024u /* positions that it has */

/* Write a model in the shape of GPT-2 124M, 249 MB, into a new folder in `parent`, whose path goes
 * to folder[room]. `progress` (optional) is told of tensors written and in all, and stops it by
 * returning false: KVP_E_AGAIN. After a failure nothing is left. Errors: KVP_E_IO, KVP_E_NOMEM,
 * KVP_E_INVALID (the path is too long). */
KVP_NODISCARD kvp_status random_model_write(const char *parent, char *folder, size_t room,
                                            bool (*progress)(void *opaque, size_t done,
                                                             size_t total),
                                            void *opaque);
/* Remove the folder and what was written there. */
void random_model_remove(const char *folder);

#endif
