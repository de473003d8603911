/* json_file.c - JSON files of a model folder. */
#include "integration/files/json_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "integration/files/folder.h"

#define JSON_FILE_LIMIT_BYTES ((size_t)256 << 20) /* the largest tokenizer.json have some 30 MB */

kvp_status json_parse_object(const char *text, size_t n, const char *where, kvp_status malformed,
                             json_t **out)
{
    json_error_t error;
    json_t *json = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!json && json_error_code(&error) == json_error_out_of_memory)
        return kvp_fail(KVP_E_NOMEM, "%s: out of memory while parsing JSON", where);
    if (!json)
        return kvp_fail(malformed, "%s: bad JSON at line %d, column %d: %s", where, error.line,
                        error.column, error.text);
    if (!json_is_object(json)) {
        json_decref(json);
        return kvp_fail(malformed, "%s: bad JSON: not an object", where);
    }
    *out = json;
    return KVP_OK;
}

kvp_status json_file_load(const char *dir, const char *name, json_t **out)
{
    char *text = NULL;
    size_t n = 0;
    kvp_status status = folder_read(dir, name, JSON_FILE_LIMIT_BYTES, &text, &n);
    if (status)
        return status;
    char where[FOLDER_PATH_BYTES];
    status = folder_path(dir, name, where);
    if (!status)
        status = json_parse_object(text, n, where, KVP_E_INVALID, out);
    free(text);
    return status;
}

bool json_is_text(const json_t *json, const char *text)
{
    return json_is_string(json) && strcmp(json_string_value(json), text) == 0;
}

bool json_is_unset(const json_t *json)
{
    return !json || json_is_null(json);
}
