/* json_file.h - JSON files of a model folder, and typed access to their members.
 *
 * The one door to jansson: whoever reads JSON includes this header. */
#ifndef KVPAGER_FILES_JSON_FILE_H
#define KVPAGER_FILES_JSON_FILE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "kvpager/status.h"

/* Parse n bytes that must be one JSON object without duplicate keys; `where` names the source in
 * messages. Errors: `malformed` (with line and column), KVP_E_NOMEM. */
KVP_NODISCARD kvp_status json_parse_object(const char *text, size_t n, const char *where,
                                           kvp_status malformed, json_t **out);
/* The object in file dir/name. Errors: KVP_E_IO, KVP_E_INVALID, KVP_E_NOMEM. */
KVP_NODISCARD kvp_status json_file_load(const char *dir, const char *name, json_t **out);

/* Whether `json` is a string equal to `text`. */
bool json_is_text(const json_t *json, const char *text);
/* Whether `json` is absent or null. */
bool json_is_unset(const json_t *json);

#endif
