/* config.c - typed members of a model's config.json. */
#include "integration/models/config.h"

#include <string.h>

static kvp_status wrong(const config_file *c, const char *key, const char *what)
{
    return kvp_fail(KVP_E_INVALID, "%s: \"%s\" %s", c->where, key, what);
}

static bool is_unset(const config_file *c, const char *key)
{
    return json_is_unset(json_object_get(c->root, key));
}

kvp_status config_optional_count(const config_file *c, const char *key, uint32_t low, uint32_t high,
                                 uint32_t *out)
{
    const json_t *json = json_object_get(c->root, key);
    if (json_is_unset(json))
        return KVP_OK;
    if (!json_is_integer(json))
        return wrong(c, key, "is not a whole number");
    json_int_t value = json_integer_value(json);
    if (value < (json_int_t)low || value > (json_int_t)high)
        return kvp_fail(KVP_E_INVALID, "%s: \"%s\" is %lld; it must lie in %u .. %u", c->where, key,
                        (long long)value, low, high);
    *out = (uint32_t)value;
    return KVP_OK;
}

kvp_status config_count(const config_file *c, const char *key, uint32_t low, uint32_t high,
                        uint32_t *out)
{
    if (is_unset(c, key))
        return wrong(c, key, "is missing");
    return config_optional_count(c, key, low, high, out);
}

kvp_status config_optional_number(const config_file *c, const char *key, double low, double high,
                                  double *out)
{
    const json_t *json = json_object_get(c->root, key);
    if (json_is_unset(json))
        return KVP_OK;
    if (!json_is_number(json))
        return wrong(c, key, "is not a number");
    double value = json_number_value(json);
    if (!(value > low && value < high))
        return kvp_fail(KVP_E_INVALID, "%s: \"%s\" is %g; it must lie between %g and %g", c->where,
                        key, value, low, high);
    *out = value;
    return KVP_OK;
}

kvp_status config_number(const config_file *c, const char *key, double low, double high,
                         double *out)
{
    if (is_unset(c, key))
        return wrong(c, key, "is missing");
    return config_optional_number(c, key, low, high, out);
}

kvp_status config_optional_flag(const config_file *c, const char *key, bool *out)
{
    const json_t *json = json_object_get(c->root, key);
    if (json_is_unset(json))
        return KVP_OK;
    if (!json_is_boolean(json))
        return wrong(c, key, "is neither true nor false");
    *out = json_is_true(json);
    return KVP_OK;
}

static bool is_listed(const char *texts, const char *text)
{
    size_t n = strlen(text);
    for (const char *at = texts; *at; at += strcspn(at, " "), at += strspn(at, " ")) {
        if (strcspn(at, " ") == n && strncmp(at, text, n) == 0)
            return true;
    }
    return false;
}

kvp_status config_expect(const config_file *c, const char *key, const char *texts)
{
    const json_t *json = json_object_get(c->root, key);
    const char *text = json_string_value(json);
    if (json_is_unset(json) || (text && is_listed(texts, text)))
        return KVP_OK;
    return kvp_fail(KVP_E_UNSUPPORTED, "%s: \"%s\" %s is not supported; supported: %s", c->where,
                    key, text ? text : "(not a text)", texts);
}

kvp_status config_expect_flag(const config_file *c, const char *key, bool wanted)
{
    bool flag = wanted;
    kvp_status status = config_optional_flag(c, key, &flag);
    if (!status && flag != wanted)
        status = kvp_fail(KVP_E_UNSUPPORTED, "%s: \"%s\" %s is not supported", c->where, key,
                          flag ? "true" : "false");
    return status;
}
