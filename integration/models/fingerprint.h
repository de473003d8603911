/* fingerprint.h - what makes two models the same: XXH3-64 over bytes. */
#ifndef KVPAGER_MODELS_FINGERPRINT_H
#define KVPAGER_MODELS_FINGERPRINT_H

#include <stddef.h>
#include <stdint.h>

/* Chain calls by passing the last result as `seed`. */
uint64_t fingerprint(const void *bytes, size_t n, uint64_t seed);

#endif
