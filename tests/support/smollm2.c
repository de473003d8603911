/* smollm2.c - the real model, where it was fetched. */
#include "tests/support/smollm2.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SKIPPED 77

const char *smollm2_path(void)
{
    const char *path = getenv("KVP_SMOLLM2");
    return path ? path : "";
}

void smollm2_skip_if_missing(void)
{
    if (access(smollm2_path(), R_OK) == 0)
        return;
    fprintf(stderr,
            "skipped: SmolLM2 is not at '%s' (KVP_SMOLLM2); models/smollm2/fetch.sh "
            "fetches it\n",
            smollm2_path());
    exit(SKIPPED);
}
