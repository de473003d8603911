/* smollm2.h - the real model, where it was fetched (models/smollm2/fetch.sh). */
#ifndef TESTS_SMOLLM2_H
#define TESTS_SMOLLM2_H

/* Where the GGUF file is; from KVP_SMOLLM2. */
const char *smollm2_path(void);
/* End the program as skipped, saying why, if it is not there. */
void smollm2_skip_if_missing(void);

#endif
