/* fuzz_summary.c - whatever lies where a summary is expected: one that is accepted, and its
 * records, obey their bounds, and encode to the same bytes. Also with a checksum that holds. */
#include "tests/fuzz/target.h"

#include "tiers/format.h"

#include <string.h>

#define SEGMENT 65536u

static const kvpi_superblock file = {.kind = KVPI_FILE_STORE,
                                     .epoch = 1,
                                     .store_id = 0x2222222222222222,
                                     .fingerprint = 7,
                                     .segment_bytes = SEGMENT,
                                     .n_segments = 2,
                                     .slot_bytes = 16384};
static kvpi_page_record records[SEGMENT / KVPI_BLOCK_BYTES];
static unsigned char again[SEGMENT];

static void check_records(const kvpi_summary *s, const uint8_t *bytes)
{
    uint64_t end = s->offset + kvpi_summary_bytes(s->n_records);
    for (uint32_t i = 0; i < s->n_records; i++) {
        kvpi_page_record *r = &records[i];
        kvpi_summary_record(s, bytes, i, r);
        require(r->offset >= end && r->raw_bytes <= file.slot_bytes && r->stored_bytes);
        end = (uint64_t)r->offset + r->stored_bytes;
        require(end <= (uint64_t)s->offset + s->batch_bytes && end <= SEGMENT);
    }
}

static void check(const uint8_t *bytes, size_t n)
{
    kvpi_summary s;
    if (kvpi_summary_decode(bytes, n, &file, 1, 4096, "input", &s)) {
        require(kvp_error()[0]);
        return;
    }
    require(s.n_records && s.n_records <= sizeof records / sizeof *records);
    check_records(&s, bytes);
    kvpi_summary_encode(&s, records, again);
    require(!memcmp(again, bytes, kvpi_summary_bytes(s.n_records)));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    check(bytes, n);
    if (n < KVPI_BLOCK_BYTES)
        return 0;
    uint8_t *copy = malloc(n);
    require(copy != NULL);
    memcpy(copy, bytes, n);
    uint32_t of_summary =
        copy[44] | (uint32_t)copy[45] << 8 | (uint32_t)copy[46] << 16 | (uint32_t)copy[47] << 24;
    size_t end = of_summary >= KVPI_BLOCK_BYTES && of_summary <= n ? of_summary : n;
    uint64_t sum = kvpi_checksum_raw(copy, end - 8, file.store_id);
    for (size_t i = 0; i < 8; i++)
        copy[end - 8 + i] = (unsigned char)(sum >> 8 * i);
    check(copy, n);
    free(copy);
    return 0;
}
