/* fuzz_page.c - a page's stored bytes may be anything: 4 bytes say how they are read (codec, dtype,
 * raw bytes in units of 16), the rest is what lies on disk. The decoder keeps to its buffers, and
 * what it makes of them only verifies as the page that it is. */
#include "tests/fuzz/target.h"

#include "alloc/mem.h"
#include "tiers/codec.h"
#include "tiers/format.h"

#include <string.h>

#define MAX_RAW 16384u

static const kvpi_identity page = {.store_id = 1, .serial = 2, .n_valid = 16};

static void check_verifies(kvpi_page_record *r, const uint8_t *stored, const void *raw)
{
    uint64_t seed = kvpi_identity_seed(&r->identity);
    r->raw_sum = kvpi_checksum_raw(raw, r->raw_bytes, seed);
    r->stored_sum = kvpi_checksum_stored(stored, r->stored_bytes, r->codec, seed);
    require(kvpi_record_verify_raw(r, raw) == KVP_OK);
    require(kvpi_record_verify_stored(r, stored) == KVP_OK);
    r->identity.serial++;
    require(kvpi_record_verify_raw(r, raw) == KVP_E_CORRUPT);
    require(kvpi_record_verify_stored(r, stored) == KVP_E_CORRUPT);
    r->identity.serial--;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const kvp_dtype dtypes[] = {KVP_F32, KVP_F16, KVP_BF16, KVP_OPAQUE};
    kvpi_codec *codec;
    size_t workspace;
    if (n < 5 || n - 4 > MAX_RAW)
        return 0;
    kvpi_codec_shape shape = {.dtype = dtypes[bytes[1] % 4], .n_heads = 1};
    shape.n_tokens = (bytes[2] | (uint32_t)bytes[3] << 8) % (MAX_RAW / 16) + 1;
    shape.k_width = shape.v_width = 8 / (uint32_t)kvp_dtype_bytes(shape.dtype);
    size_t n_raw = kvpi_shape_bytes(&shape);
    kvpi_page_record r = {.identity = page,
                          .raw_bytes = (uint32_t)n_raw,
                          .stored_bytes = (uint32_t)(n - 4),
                          .codec = bytes[0]};
    require(!kvpi_codec_open(&kvpi_mem_default, MAX_RAW, true, &codec, &workspace));
    uint8_t *stored = malloc(n - 4), *raw = malloc(n_raw);
    require(stored && raw);
    memcpy(stored, bytes + 4, n - 4);
    kvp_status status =
        kvpi_codec_decode(codec, (kvpi_codec_id)bytes[0], &shape, stored, n - 4, raw);
    require(!status || status == KVP_E_CORRUPT);
    if (!status)
        check_verifies(&r, stored, raw);
    free(stored);
    free(raw);
    kvpi_codec_close(codec);
    return 0;
}
