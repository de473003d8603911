/* shard_index.c - the index of weights that are split over several files. */
#include "integration/models/shard_index.h"

#include <stdlib.h>
#include <string.h>

static const char index_name[] = "model.safetensors.index.json";

bool shard_index_is_there(const char *dir)
{
    return folder_has(dir, index_name);
}

/* A name without a way out of the folder. */
static bool is_plain(const char *name)
{
    return name && name[0] && name[0] != '.' && !strchr(name, '/');
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static kvp_status collect_files(shard_index *index)
{
    const char *tensor;
    const json_t *file;
    index->files = calloc(json_object_size(index->map), sizeof *index->files);
    if (!index->files)
        return kvp_fail(KVP_E_NOMEM, "out of memory: reading %s", index->where);
    size_t n = 0;
    json_object_foreach(index->map, tensor, file)
    {
        index->files[n] = json_string_value(file);
        if (!is_plain(index->files[n]))
            return kvp_fail(KVP_E_INVALID,
                            "%s: tensor \"%.100s\" is said to be in \"%.100s\", which is not the "
                            "name of a file in the folder",
                            index->where, tensor, index->files[n] ? index->files[n] : "");
        n++;
    }
    qsort(index->files, n, sizeof *index->files, by_text);
    index->n_files = 1;
    for (size_t i = 1; i < n; i++) {
        if (strcmp(index->files[i], index->files[index->n_files - 1]) != 0)
            index->files[index->n_files++] = index->files[i];
    }
    return KVP_OK;
}

kvp_status shard_index_init(const char *dir, shard_index *out)
{
    *out = (shard_index){0};
    kvp_status status = folder_path(dir, index_name, out->where);
    if (!status)
        status = json_file_load(dir, index_name, &out->root);
    if (status)
        return status;
    out->map = json_object_get(out->root, "weight_map");
    if (!json_object_size(out->map))
        status = kvp_fail(KVP_E_INVALID, "%s: \"weight_map\" names no tensors", out->where);
    else
        status = collect_files(out);
    if (status)
        shard_index_fini(out);
    return status;
}

void shard_index_fini(shard_index *index)
{
    free(index->files);
    json_decref(index->root);
    *index = (shard_index){0};
}

size_t shard_index_file_of(const shard_index *index, const json_t *file)
{
    const char *name = json_string_value(file);
    const char *const *found =
        bsearch(&name, index->files, index->n_files, sizeof *index->files, by_text);
    return (size_t)(found - index->files);
}
