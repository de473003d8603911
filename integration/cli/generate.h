/* generate.h - the ways of kvpager generate: one text (cmd_generate.c) and a batch of prompts. */
#ifndef KVPAGER_CLI_GENERATE_H
#define KVPAGER_CLI_GENERATE_H

#include "integration/cli/options.h"

/* Options of generate alone. */
typedef struct generate_options {
    bool no_cache, map, verify;
    const char *batch;   /* file of prompts; NULL: there is one text */
    uint32_t n_parallel; /* prompts of a batch that are in flight at a time */
    bool in_order;       /* the batch's results come in the order of its prompts */
} generate_options;

#define GENERATE_MAX_PARALLEL 64u

/* The session's options are checked; returns the exit code. */
int generate_batch(const options *o, const generate_options *own);

#endif
