/* config.h - typed members of a model's config.json, with messages that name file and key. */
#ifndef KVPAGER_MODELS_CONFIG_H
#define KVPAGER_MODELS_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "integration/files/json_file.h"
#include "kvpager/status.h"

typedef struct config_file {
    const json_t *root;
    const char *where; /* for messages */
} config_file;

/* A whole number in [low, high]. Errors: KVP_E_INVALID (absent, another type, out of range). */
KVP_NODISCARD kvp_status config_count(const config_file *c, const char *key, uint32_t low,
                                      uint32_t high, uint32_t *out);
/* The same, but absent or null leaves *out as it is. */
KVP_NODISCARD kvp_status config_optional_count(const config_file *c, const char *key, uint32_t low,
                                               uint32_t high, uint32_t *out);
/* A number above low and below high; absent or null leaves *out. */
KVP_NODISCARD kvp_status config_optional_number(const config_file *c, const char *key, double low,
                                                double high, double *out);
/* The same, but absent is an error. */
KVP_NODISCARD kvp_status config_number(const config_file *c, const char *key, double low,
                                       double high, double *out);
/* true or false; absent or null leaves *out. */
KVP_NODISCARD kvp_status config_optional_flag(const config_file *c, const char *key, bool *out);
/* The key is absent or null, or says one of these, separated by a space. Errors:
 * KVP_E_UNSUPPORTED. */
KVP_NODISCARD kvp_status config_expect(const config_file *c, const char *key, const char *texts);
/* The key is absent, null, or `wanted`. Errors: KVP_E_INVALID, KVP_E_UNSUPPORTED. */
KVP_NODISCARD kvp_status config_expect_flag(const config_file *c, const char *key, bool wanted);

#endif
