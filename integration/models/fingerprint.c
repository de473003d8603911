/* fingerprint.c - XXH3-64 over bytes; the only file of the models that includes xxHash. */
#include "integration/models/fingerprint.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t fingerprint(const void *bytes, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes, n, seed);
}
