/* fuzz_superblock.c - whatever the first blocks of a file are: a superblock that is accepted obeys
 * its bounds, and encodes to the same bytes. Also with a checksum that holds. */
#include "tests/fuzz/target.h"

#include "tiers/format.h"

#include <string.h>

static const kvpi_origin here = {"input", 0};

static void check_one(const unsigned char *block)
{
    unsigned char again[KVPI_BLOCK_BYTES];
    kvpi_superblock sb;
    if (kvpi_superblock_decode(block, &here, &sb)) {
        require(kvp_error()[0]);
        return;
    }
    require(sb.segment_bytes && sb.segment_bytes <= KVPI_MAX_SEGMENT_BYTES);
    require(sb.slot_bytes && sb.slot_bytes <= sb.segment_bytes);
    require(sb.n_segments <= (INT64_MAX - KVPI_SEGMENTS_AT) / sb.segment_bytes);
    kvpi_superblock_encode(&sb, again);
    require(!memcmp(again, block, sizeof again));
}

static void seal(unsigned char *block)
{
    uint64_t sum = kvpi_checksum_raw(block, KVPI_BLOCK_BYTES - 8, 0);
    for (size_t i = 0; i < 8; i++)
        block[KVPI_BLOCK_BYTES - 8 + i] = (unsigned char)(sum >> 8 * i);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    unsigned char blocks[KVPI_N_SUPERBLOCKS * KVPI_BLOCK_BYTES] = {0};
    memcpy(blocks, bytes, n < sizeof blocks ? n : sizeof blocks);
    for (int sealed = 0; sealed < 2; sealed++) {
        kvpi_superblock sb;
        uint32_t which;
        if (!kvpi_superblock_choose(blocks, &here, &sb, &which))
            require(which < KVPI_N_SUPERBLOCKS && sb.epoch);
        for (uint32_t i = 0; i < KVPI_N_SUPERBLOCKS; i++) {
            check_one(blocks + (size_t)i * KVPI_BLOCK_BYTES);
            seal(blocks + (size_t)i * KVPI_BLOCK_BYTES);
        }
    }
    return 0;
}
