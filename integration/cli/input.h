/* input.h - the input of a command: text or token ids, from an argument, a file or stdin. */
#ifndef KVPAGER_CLI_INPUT_H
#define KVPAGER_CLI_INPUT_H

#include "integration/cli/options.h"
#include "integration/text/tokenizer.h"

typedef struct input {
    const char *name; /* for messages */
    char *bytes;      /* [n_bytes], malloc'd */
    size_t n_bytes;
} input;

/* Read what -p, -f or --ids names. Errors: KVP_E_IO, KVP_E_NOMEM. */
KVP_NODISCARD kvp_status input_read(const options *o, input *in);
void input_free(input *in);

/* The input as text, with what goes before every text. Errors: as tokenizer_encode(), with the
 * input's name in front. */
KVP_NODISCARD kvp_status input_encode(const input *in, const tokenizer *t, int32_t **ids,
                                      size_t *n_ids);
/* The input as a JSON array of ids below n_vocab. Errors: KVP_E_INVALID no such array; KVP_E_RANGE
 * the message names the index. */
KVP_NODISCARD kvp_status input_parse_ids(const input *in, uint32_t n_vocab, int32_t **ids,
                                         size_t *n_ids);

#endif
