/* generate.h - the ways of kvpager generate: a text (cmd_generate.c), a conversation, and a batch
 * of prompts. */
#ifndef KVPAGER_CLI_GENERATE_H
#define KVPAGER_CLI_GENERATE_H

#include "integration/cli/options.h"

/* Options of generate alone. */
typedef struct generate_options {
    bool no_cache, map, verify;
    bool chat;
    const char *system;  /* of the conversation; NULL: the template's own */
    const char *batch;   /* file of prompts; NULL: there is one text */
    uint32_t n_parallel; /* prompts of a batch that are in flight at a time */
    bool in_order;       /* the batch's results come in the order of its prompts */
} generate_options;

#define GENERATE_MAX_PARALLEL 64u

/* The options are checked; return the exit code. */
int generate_chat(const options *o, const generate_options *own);
int generate_batch(const options *o, const generate_options *own);

#endif
