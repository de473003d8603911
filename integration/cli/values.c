/* values.c - reading the values of options. A parser takes the whole text or nothing. */
#include "integration/cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool parse_text(const char *text, void *value)
{
    *(const char **)value = text;
    return true;
}

/* Which of the names it is; SIZE_MAX: none. */
static size_t find_name(const char *text, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    return SIZE_MAX;
}

/* Digits only: strtoull would take a sign and spaces. */
static bool parse_digits(const char *text, uint64_t *value, const char **end)
{
    if (*text < '0' || *text > '9')
        return false;
    char *stop;
    errno = 0;
    unsigned long long n = strtoull(text, &stop, 10);
    if (errno)
        return false;
    *value = n;
    *end = stop;
    return true;
}

static bool parse_count(const char *text, void *value)
{
    uint64_t n;
    const char *end;
    if (!parse_digits(text, &n, &end) || *end)
        return false;
    *(uint64_t *)value = n;
    return true;
}

static bool parse_positive(const char *text, void *value)
{
    uint64_t n;
    if (!parse_count(text, &n) || n == 0)
        return false;
    *(uint64_t *)value = n;
    return true;
}

/* The factor of a suffix: K, M, G, T in either case, also as KiB and KB; 0 if it is none. */
static uint64_t binary_factor(const char *suffix)
{
    static const char letters[] = "KMGT";
    if (!*suffix || strcmp(suffix, "B") == 0)
        return 1;
    char upper = (char)(*suffix & ~0x20);
    const char *at = strchr(letters, upper);
    if (!at || !upper)
        return 0;
    suffix++;
    if (*suffix && strcmp(suffix, "B") != 0 && strcmp(suffix, "iB") != 0)
        return 0;
    return (uint64_t)1 << (10 * (at - letters + 1));
}

static bool parse_size(const char *text, void *value)
{
    uint64_t whole, bytes;
    const char *end;
    if (!parse_digits(text, &whole, &end))
        return false;
    double fraction = 0, place = 0.1;
    if (*end == '.')
        for (end++; *end >= '0' && *end <= '9'; end++, place /= 10)
            fraction += place * (*end - '0');
    uint64_t factor = binary_factor(end);
    if (!factor)
        return false;
    if (__builtin_mul_overflow(whole, factor, &bytes) || bytes > UINT64_MAX / 2) {
        errno = ERANGE;
        return false;
    }
    bytes += (uint64_t)llround(fraction * (double)factor);
    *(size_option *)value = (size_option){.given = true, .bytes = bytes, .text = text};
    return true;
}

static bool parse_keep(const char *text, void *value)
{
    keep_option keep = {0};
    const char *end;
    if (strcmp(text, "all") != 0) {
        if (strncmp(text, "window:", 7) != 0 || !parse_digits(text + 7, &keep.window, &end) ||
            keep.window == 0)
            return false;
        if (strncmp(end, ",sinks:", 7) == 0 && !parse_digits(end + 7, &keep.sinks, &end))
            return false;
        if (*end)
            return false;
    }
    *(keep_option *)value = keep;
    return true;
}

static bool parse_beyond(const char *text, void *value)
{
    static const char *const names[] = {[BEYOND_ROLLING] = "rolling",
                                        [BEYOND_STOP] = "stop",
                                        [BEYOND_YARN] = "yarn",
                                        [BEYOND_SHIFT] = "shift",
                                        [BEYOND_RECALL] = "recall"};
    beyond_option beyond = {0};
    const bool is_recall = strncmp(text, "recall:", 7) == 0;
    if (is_recall || strncmp(text, "rolling:", 8) == 0) {
        beyond.kind = is_recall ? BEYOND_RECALL : BEYOND_ROLLING;
        if (!parse_positive(strchr(text, ':') + 1, is_recall ? &beyond.recall : &beyond.roll))
            return false;
        *(beyond_option *)value = beyond;
        return true;
    }
    size_t i = find_name(text, names, sizeof names / sizeof *names);
    if (i == SIZE_MAX)
        return false;
    *(beyond_option *)value = (beyond_option){.kind = (beyond_kind)i};
    return true;
}

static bool parse_dtype(const char *text, void *value)
{
    static const char *const names[] = {[KVP_F32] = "f32", [KVP_F16] = "f16", [KVP_BF16] = "bf16"};
    size_t i = find_name(text, names, sizeof names / sizeof *names);
    if (i == SIZE_MAX)
        return false;
    *(kvp_dtype *)value = (kvp_dtype)i;
    return true;
}

static bool parse_placement(const char *text, void *value)
{
    const kvp_placement_ops *ops = kvp_placement_find(text);
    if (ops)
        *(const kvp_placement_ops **)value = ops;
    return ops != NULL;
}

static bool parse_bounded(const char *text, uint64_t min, uint64_t max, uint32_t *value)
{
    uint64_t n;
    if (!parse_count(text, &n) || n < min || n > max)
        return false;
    *value = (uint32_t)n;
    return true;
}

static bool parse_threads(const char *text, void *value)
{
    return parse_bounded(text, 1, 1024, value);
}

static bool parse_page_tokens(const char *text, void *value)
{
    return parse_bounded(text, 1, UINT16_MAX, value);
}

static bool parse_top_k(const char *text, void *value)
{
    return parse_bounded(text, 0, UINT32_MAX, value);
}

static bool parse_float(const char *text, float *value)
{
    char *end;
    float x = strtof(text, &end);
    if (end == text || *end || !isfinite(x))
        return false;
    *value = x;
    return true;
}

static bool parse_temperature(const char *text, void *value)
{
    float x;
    if (!parse_float(text, &x) || x < 0)
        return false;
    *(float *)value = x;
    return true;
}

static bool parse_top_p(const char *text, void *value)
{
    float x;
    if (!parse_float(text, &x) || x <= 0 || x > 1)
        return false;
    *(float *)value = x;
    return true;
}

const value_kind value_text = {"text", parse_text};
const value_kind value_size = {"a size: bytes, or a number with K, M or G (binary)", parse_size};
const value_kind value_count = {"a number", parse_count};
const value_kind value_positive = {"a number of at least 1", parse_positive};
const value_kind value_keep = {"all, window:N or window:N,sinks:S", parse_keep};
const value_kind value_beyond = {"rolling, rolling:W, recall, recall:TOKENS, stop, yarn or shift",
                                 parse_beyond};
const value_kind value_dtype = {"f32, f16 or bf16", parse_dtype};
const value_kind value_placement = {"sticky, lru, lfu, clock, s3-fifo or attention-mass",
                                    parse_placement};
const value_kind value_threads = {"a number from 1 to 1024", parse_threads};
const value_kind value_page_tokens = {"a number from 1 to 65535", parse_page_tokens};
const value_kind value_top_k = {"a number (0: all)", parse_top_k};
const value_kind value_temperature = {"a number of at least 0", parse_temperature};
const value_kind value_top_p = {"a number above 0, up to 1", parse_top_p};
