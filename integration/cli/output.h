/* output.h - results, on stdout: text, or one JSON object. */
#ifndef KVPAGER_CLI_OUTPUT_H
#define KVPAGER_CLI_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>

#include "kvpager/status.h"
#include "integration/text/tokenizer.h"

/* Write and flush. Errors: KVP_E_IO, e.g. a closed pipe. */
KVP_NODISCARD kvp_status output_bytes(const char *bytes, size_t n);
KVP_NODISCARD kvp_status output_line(const char *format, ...) KVP_PRINTF(1, 2);
/* Write `object` and a newline; takes over the reference. */
KVP_NODISCARD kvp_status output_json(json_t *object);

/* x, or null if it is not finite. */
json_t *json_finite(double x);
/* XXH3-64, as 16 digits. */
json_t *json_hash(uint64_t hash);
json_t *json_ids(const int32_t *ids, size_t n);

/* Text that comes token by token, as whole characters; without a tokenizer the JSON array of the
 * ids, which --ids takes. */
typedef struct text_output {
    const tokenizer *tokenizer; /* NULL: there is none */
    bool print;                 /* as it comes; it is collected in any case */
    bool ends_line;             /* a newline at the end also where it is no terminal */
    utf8_stream stream;
    char *text; /* [n] so far, malloc'd */
    size_t n, capacity;
} text_output;

KVP_NODISCARD kvp_status text_output_token(text_output *t, int32_t id);
/* What an incomplete character left, and a newline on a terminal or where it is wanted. */
KVP_NODISCARD kvp_status text_output_finish(text_output *t);
/* The text, for a member of a JSON object; null without a tokenizer. */
json_t *text_output_json(const text_output *t);
void text_output_fini(text_output *t);

#endif
