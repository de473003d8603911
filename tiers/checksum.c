/* checksum.c - XXH3, seeded or chained. The only file that knows xxHash; inlined, because the
 * shared library's copy is built for the oldest CPU. */
#include "tiers/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(sizeof(kvpi_identity) == 4 * sizeof(uint64_t) + 4 * sizeof(uint32_t),
               "an identity is hashed byte by byte: it must have no padding");

uint64_t kvpi_identity_seed(const kvpi_identity *id)
{
    return XXH3_64bits(id, sizeof *id);
}

uint64_t kvpi_checksum_raw(const void *page, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(page, n, seed);
}

uint64_t kvpi_checksum_stored(const void *bytes, size_t n, uint32_t codec, uint64_t seed)
{
    /* Through a hash, so that no codec id meets the seed of a raw page. */
    return XXH3_64bits_withSeed(bytes, n, XXH3_64bits_withSeed(&codec, sizeof codec, seed));
}

kvpi_hash128 kvpi_hash_chain(kvpi_hash128 before, const void *bytes, size_t n)
{
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, &before, sizeof before);
    XXH3_128bits_update(&state, bytes, n);
    XXH128_hash_t h = XXH3_128bits_digest(&state);
    return (kvpi_hash128){.low = h.low64, .high = h.high64};
}
