/* fuzz_codec.c - six bytes say what a page is and which codec it was; the rest is what lies on
 * disk. The decoders keep to their buffers and agree on every instruction set; what they accept,
 * and any bytes taken for a page, come back from every codec. */
#include "tests/fuzz/target.h"

#include "alloc/mem.h"
#include "tiers/codec.h"

#include <string.h>

#define MAX_BYTES ((size_t)64 << 10)
#define HEADER ((size_t)6)

static kvpi_codec *codecs[2]; /* what this CPU has, and plain C */

static void open_codecs(void)
{
    size_t workspace_bytes;
    if (codecs[0])
        return;
    require(!kvpi_codec_open(&kvpi_mem_default, MAX_BYTES, true, &codecs[0], &workspace_bytes));
    setenv("KVP_ISA", "scalar", 1);
    require(!kvpi_codec_open(&kvpi_mem_default, MAX_BYTES, true, &codecs[1], &workspace_bytes));
    unsetenv("KVP_ISA");
}

/* Encoded by one, decoded by the other, and about as both choose. */
static void check_round_trip(const kvpi_codec_shape *s, const uint8_t *page)
{
    size_t n = kvpi_shape_bytes(s), n_encoded[2];
    uint8_t *encoded[2] = {malloc(n), malloc(n)}, *back = malloc(n);
    kvpi_codec_id id[2];
    require(encoded[0] && encoded[1] && back);
    for (size_t i = 0; i < 2; i++)
        kvpi_codec_encode(codecs[i], s, page, encoded[i], &n_encoded[i], &id[i]);
    require(id[0] == id[1] && n_encoded[0] == n_encoded[1]);
    require(!memcmp(encoded[0], encoded[1], n_encoded[0]));
    require(!kvpi_codec_decode(codecs[1], id[0], s, encoded[0], n_encoded[0], back));
    require(!memcmp(back, page, n));
    for (int k = 0; k < KVPI_N_CODECS; k++) {
        kvpi_plan plan = {.codec = (kvpi_codec_id)k,
                          .predictor = {(kvpi_predictor)(page[0] % KVPI_N_PREDICTORS),
                                        (kvpi_predictor)(page[n - 1] % KVPI_N_PREDICTORS)}};
        if (!kvpi_codec_encode_by(codecs[k % 2], s, &plan, page, encoded[0], &n_encoded[0]))
            continue;
        require(
            !kvpi_codec_decode(codecs[!(k % 2)], plan.codec, s, encoded[0], n_encoded[0], back));
        require(!memcmp(back, page, n));
    }
    free(encoded[0]);
    free(encoded[1]);
    free(back);
}

static void check_decode(kvpi_codec_id id, const kvpi_codec_shape *s, const uint8_t *stored,
                         size_t n_stored)
{
    size_t n = kvpi_shape_bytes(s);
    uint8_t *page[2] = {malloc(n), malloc(n)};
    kvp_status status[2];
    require(page[0] && page[1]);
    for (size_t i = 0; i < 2; i++)
        status[i] = kvpi_codec_decode(codecs[i], id, s, stored, n_stored, page[i]);
    require(status[0] == status[1] && (!status[0] || status[0] == KVP_E_CORRUPT));
    if (!status[0]) {
        require(!memcmp(page[0], page[1], n));
        check_round_trip(s, page[0]);
    }
    free(page[0]);
    free(page[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const kvp_dtype dtypes[] = {KVP_F32, KVP_F16, KVP_BF16, KVP_OPAQUE};
    if (n < HEADER)
        return 0;
    const kvpi_codec_shape s = {.dtype = dtypes[bytes[1] % 4],
                                .n_heads = 1 + bytes[2] % 4u,
                                .n_tokens = 1 + bytes[3] % 64u,
                                .k_width = 1 + bytes[4] % 32u,
                                .v_width = (1 + bytes[5] % 32u) % 32u}; /* 0: a latent cache */
    open_codecs();
    uint8_t *stored = malloc(n - HEADER + 1), *page = calloc(1, kvpi_shape_bytes(&s));
    require(stored && page);
    memcpy(stored, bytes + HEADER, n - HEADER);
    check_decode((kvpi_codec_id)(bytes[0] % 5), &s, stored, n - HEADER);
    size_t n_page = kvpi_shape_bytes(&s);
    memcpy(page, stored, n - HEADER < n_page ? n - HEADER : n_page);
    check_round_trip(&s, page);
    free(stored);
    free(page);
    return 0;
}
