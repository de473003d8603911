/* batch_input.h - the prompts of a batch: a file with one in each line.
 *
 * A line is what stands before \n or \r\n. One of white space alone is no prompt. One that begins
 * with { is a JSON object {"prompt": TEXT, "id": ANYTHING}, where "id" may be missing. One that is
 * a JSON string as a whole is that string. Every other line is the prompt as it stands. */
#ifndef KVPAGER_CLI_BATCH_INPUT_H
#define KVPAGER_CLI_BATCH_INPUT_H

#include <jansson.h>

#include "integration/text/tokenizer.h"

typedef struct batch_prompt {
    size_t index;    /* number of its line, from 0 */
    json_t *id;      /* "id" of its object; NULL: none */
    char *error;     /* why it is no prompt, malloc'd; NULL: it is one */
    int32_t *tokens; /* [n_tokens], malloc'd */
    size_t n_tokens;
} batch_prompt;

typedef struct batch_input {
    batch_prompt *prompts; /* [n], in the order of the file, malloc'd */
    size_t n, capacity;
} batch_input;

/* From a prompt's text, n >= 1 bytes, to its ids, malloc'd. */
typedef struct batch_encoder {
    kvp_status (*encode)(const void *opaque, const char *text, size_t n, int32_t **ids,
                         size_t *n_ids);
    const void *opaque;
} batch_encoder;

/* Cut `n` bytes into prompts. What is wrong with one is said in it; errors: KVP_E_NOMEM.
 * batch_input_fini() in any case. */
KVP_NODISCARD kvp_status batch_input_parse(const char *bytes, size_t n,
                                           const batch_encoder *encoder, batch_input *out);
void batch_input_fini(batch_input *in);

/* The prompt is none for the reason that kvp_error() gives. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status batch_prompt_reject(batch_prompt *p);

#endif
