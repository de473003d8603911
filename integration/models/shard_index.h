/* shard_index.h - model.safetensors.index.json: which tensor lies in which file of the folder. */
#ifndef KVPAGER_MODELS_SHARD_INDEX_H
#define KVPAGER_MODELS_SHARD_INDEX_H

#include <stddef.h>

#include "integration/files/folder.h"
#include "integration/files/json_file.h"

typedef struct shard_index {
    char where[FOLDER_PATH_BYTES]; /* the index itself, for messages */
    json_t *root;
    json_t *map;        /* in root: {tensor: file} */
    const char **files; /* in root: [n_files], each once, sorted */
    size_t n_files;
} shard_index;

bool shard_index_is_there(const char *dir);
/* Errors: KVP_E_IO, KVP_E_INVALID (no map; a file name that is none, or leaves the folder),
 * KVP_E_NOMEM. After an error there is nothing to fini. */
KVP_NODISCARD kvp_status shard_index_init(const char *dir, shard_index *out);
void shard_index_fini(shard_index *index);
/* Number of the file that a tensor is said to be in. */
size_t shard_index_file_of(const shard_index *index, const json_t *file);

#endif
