/* format.c - encodes and decodes what FORMAT.md describes.
 *
 * Invariants
 *   1. Whatever the bytes are, nothing outside of them is read, and what is accepted obeys every
 *      bound in FORMAT.md: whoever uses it need not look again.
 *   2. What is accepted encodes to the same bytes. */
#define _GNU_SOURCE 1
#include "tiers/format.h"

#include <assert.h>
#include <endian.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#define VERSION 1u
#define MAGIC_BYTES 8u
#define SUM_BYTES 8u
#define SUPERBLOCK_USED 76u
#define SUMMARY_HEAD 64u
#define SUMMARY_HEAD_USED 52u
#define RECORD_BYTES 96u
#define RECORD_USED 69u

static const char superblock_magic[MAGIC_BYTES] = {'K', 'V', 'P', 'A', 'G', 'E', 'R', '\n'};
static const char summary_magic[MAGIC_BYTES] = {'K', 'V', 'P', 'S', 'U', 'M', 'M', '\n'};

/* ---- numbers ----------------------------------------------------------------------------------*/

static void put32(void *to, size_t at, uint32_t v)
{
    v = htole32(v);
    memcpy((char *)to + at, &v, sizeof v);
}

static void put64(void *to, size_t at, uint64_t v)
{
    v = htole64(v);
    memcpy((char *)to + at, &v, sizeof v);
}

static uint32_t get32(const void *from, size_t at)
{
    uint32_t v;
    memcpy(&v, (const char *)from + at, sizeof v);
    return le32toh(v);
}

static uint64_t get64(const void *from, size_t at)
{
    uint64_t v;
    memcpy(&v, (const char *)from + at, sizeof v);
    return le64toh(v);
}

static bool is_zero(const void *bytes, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        if (((const char *)bytes)[i])
            return false;
    return true;
}

static bool is_whole_blocks(uint64_t n)
{
    return n % KVPI_BLOCK_BYTES == 0;
}

static uint64_t round_up(uint64_t n)
{
    return (n + KVPI_BLOCK_BYTES - 1) / KVPI_BLOCK_BYTES * KVPI_BLOCK_BYTES;
}

/* ---- superblock -------------------------------------------------------------------------------*/

static uint64_t superblock_sum(const void *block)
{
    return kvpi_checksum_raw(block, KVPI_BLOCK_BYTES - SUM_BYTES, 0);
}

void kvpi_superblock_encode(const kvpi_superblock *sb, void *block)
{
    memset(block, 0, KVPI_BLOCK_BYTES);
    memcpy(block, superblock_magic, MAGIC_BYTES);
    put32(block, 8, VERSION);
    put32(block, 12, sb->kind);
    put64(block, 16, sb->epoch);
    put64(block, 24, sb->store_id);
    put64(block, 32, sb->fingerprint);
    put64(block, 40, sb->segment_bytes);
    put64(block, 48, sb->n_segments);
    put64(block, 56, sb->next_serial);
    put64(block, 64, sb->next_generation);
    put32(block, 72, sb->slot_bytes);
    put64(block, KVPI_BLOCK_BYTES - SUM_BYTES, superblock_sum(block));
}

static kvp_status fail_field(const kvpi_origin *from, const char *what, size_t at,
                             const char *field, uint64_t value)
{
    return kvp_fail(KVP_E_CORRUPT,
                    "%s: the %s at byte %" PRIu64 " has %" PRIu64 " for its %s (byte %" PRIu64
                    "), which cannot be: the file is damaged",
                    from->path, what, from->offset, value, field, from->offset + at);
}

static kvp_status fail_reserved(const kvpi_origin *from, const char *what)
{
    return kvp_fail(KVP_E_CORRUPT,
                    "%s: the %s at byte %" PRIu64 " uses bytes that version %u of the format "
                    "reserves: the file is damaged",
                    from->path, what, from->offset, VERSION);
}

static kvp_status fail_version(const kvpi_origin *from, const char *what, uint32_t version)
{
    return kvp_fail(KVP_E_UNSUPPORTED,
                    "%s: the %s at byte %" PRIu64 " has version %" PRIu32 " of the format, this "
                    "kvpager reads up to %u: use the newer kvpager that wrote it",
                    from->path, what, from->offset, version, VERSION);
}

static kvp_status check_sizes(const kvpi_superblock *sb, const kvpi_origin *from)
{
    const char *what = "superblock";
    if (!sb->segment_bytes || !is_whole_blocks(sb->segment_bytes) ||
        sb->segment_bytes > KVPI_MAX_SEGMENT_BYTES)
        return fail_field(from, what, 40, "segment_bytes", sb->segment_bytes);
    if (sb->n_segments > (uint64_t)(INT64_MAX - KVPI_SEGMENTS_AT) / sb->segment_bytes)
        return fail_field(from, what, 48, "n_segments", sb->n_segments);
    if (!sb->slot_bytes || !is_whole_blocks(sb->slot_bytes) || sb->slot_bytes > sb->segment_bytes)
        return fail_field(from, what, 72, "slot_bytes", sb->slot_bytes);
    return KVP_OK;
}

static kvp_status check_superblock(const void *block, const kvpi_origin *from)
{
    uint32_t version = get32(block, 8), kind = get32(block, 12);
    const char *what = "superblock";
    if (memcmp(block, superblock_magic, MAGIC_BYTES) != 0)
        return kvp_fail(KVP_E_INVALID,
                        "%s: there is no superblock at byte %" PRIu64 ": not a kvpager file",
                        from->path, from->offset);
    if (get64(block, KVPI_BLOCK_BYTES - SUM_BYTES) != superblock_sum(block))
        return kvp_fail(KVP_E_CORRUPT,
                        "%s: the superblock at byte %" PRIu64 " fails its checksum: it is damaged, "
                        "or was never written to its end",
                        from->path, from->offset);
    if (version > VERSION)
        return fail_version(from, what, version);
    if (version == 0)
        return fail_field(from, what, 8, "version", version);
    if (kind != KVPI_FILE_SWAP && kind != KVPI_FILE_STORE)
        return fail_field(from, what, 12, "kind", kind);
    if (!is_zero(block, SUPERBLOCK_USED, KVPI_BLOCK_BYTES - SUM_BYTES))
        return fail_reserved(from, what);
    return KVP_OK;
}

kvp_status kvpi_superblock_decode(const void *block, const kvpi_origin *from, kvpi_superblock *sb)
{
    kvp_status status = check_superblock(block, from);
    if (status)
        return status;
    kvpi_superblock got = {
        .kind = (kvpi_file_kind)get32(block, 12),
        .epoch = get64(block, 16),
        .store_id = get64(block, 24),
        .fingerprint = get64(block, 32),
        .segment_bytes = get64(block, 40),
        .n_segments = get64(block, 48),
        .next_serial = get64(block, 56),
        .next_generation = get64(block, 64),
        .slot_bytes = get32(block, 72),
    };
    if (!got.epoch)
        return fail_field(from, "superblock", 16, "epoch", 0);
    if (!got.store_id)
        return fail_field(from, "superblock", 24, "store id", 0);
    status = check_sizes(&got, from);
    if (!status)
        *sb = got;
    return status;
}

kvp_status kvpi_superblock_choose(const void *blocks, const kvpi_origin *from, kvpi_superblock *sb,
                                  uint32_t *which)
{
    kvpi_superblock got, best = {0};
    kvp_status status = KVP_OK;
    for (uint32_t i = 0; i < KVPI_N_SUPERBLOCKS; i++) {
        uint64_t at = (uint64_t)i * KVPI_BLOCK_BYTES;
        const kvpi_origin origin = {from->path, from->offset + at};
        status = kvpi_superblock_decode((const char *)blocks + at, &origin, &got);
        if (status == KVP_E_UNSUPPORTED)
            return status;
        if (status || got.epoch <= best.epoch)
            continue;
        best = got;
        *which = i;
    }
    if (!best.epoch)
        return status;
    *sb = best;
    return KVP_OK;
}

/* ---- page records -----------------------------------------------------------------------------*/

static void encode_record(const kvpi_page_record *r, char *to)
{
    put64(to, 0, r->identity.serial);
    put64(to, 8, r->identity.first_position);
    put32(to, 16, r->identity.layer);
    put32(to, 20, r->identity.group);
    put32(to, 24, r->identity.format);
    put32(to, 28, r->identity.n_valid);
    put64(to, 32, r->generation);
    put64(to, 40, r->raw_sum);
    put64(to, 48, r->stored_sum);
    put32(to, 56, r->raw_bytes);
    put32(to, 60, r->stored_bytes);
    put32(to, 64, r->offset);
    to[68] = (char)r->codec;
}

static void decode_record(const char *from, kvpi_page_record *r)
{
    *r = (kvpi_page_record){
        .identity = {.serial = get64(from, 0),
                     .first_position = get64(from, 8),
                     .layer = get32(from, 16),
                     .group = get32(from, 20),
                     .format = get32(from, 24),
                     .n_valid = get32(from, 28)},
        .generation = get64(from, 32),
        .raw_sum = get64(from, 40),
        .stored_sum = get64(from, 48),
        .raw_bytes = get32(from, 56),
        .stored_bytes = get32(from, 60),
        .offset = get32(from, 64),
        .codec = (uint8_t)from[68],
    };
}

/* [begin, end): where in the segment it may lie. */
static kvp_status check_record(const kvpi_page_record *r, const char *bytes, uint64_t slot_bytes,
                               uint64_t begin, uint64_t end, const kvpi_origin *from)
{
    const char *what = "page record";
    if (!r->identity.n_valid)
        return fail_field(from, what, 28, "n_valid", 0);
    if (!r->raw_bytes || r->raw_bytes > slot_bytes)
        return fail_field(from, what, 56, "raw_bytes", r->raw_bytes);
    bool is_raw = r->codec == 0; /* KVPI_CODEC_RAW */
    if (!r->stored_bytes || r->stored_bytes > r->raw_bytes ||
        (is_raw && r->stored_bytes != r->raw_bytes))
        return fail_field(from, what, 60, "stored_bytes", r->stored_bytes);
    if (!is_whole_blocks(r->offset) || r->offset < begin || r->offset > end ||
        round_up(r->stored_bytes) > end - r->offset)
        return fail_field(from, what, 64, "offset", r->offset);
    if (!is_zero(bytes, RECORD_USED, RECORD_BYTES))
        return fail_reserved(from, what);
    return KVP_OK;
}

static kvp_status verify(uint64_t sum, uint64_t expected, const kvpi_page_record *r,
                         const char *what)
{
    if (sum == expected)
        return KVP_OK;
    return kvp_fail(KVP_E_CORRUPT,
                    "the %s bytes of page %" PRIu64 " (layer %" PRIu32 ", from token %" PRIu64
                    " on) fail their checksum: compute its tokens again",
                    what, r->identity.serial, r->identity.layer, r->identity.first_position);
}

kvp_status kvpi_record_verify_stored(const kvpi_page_record *r, const void *stored)
{
    uint64_t seed = kvpi_identity_seed(&r->identity);
    uint64_t sum = kvpi_checksum_stored(stored, r->stored_bytes, r->codec, seed);
    return verify(sum, r->stored_sum, r, "stored");
}

kvp_status kvpi_record_verify_raw(const kvpi_page_record *r, const void *raw)
{
    uint64_t seed = kvpi_identity_seed(&r->identity);
    return verify(kvpi_checksum_raw(raw, r->raw_bytes, seed), r->raw_sum, r, "raw");
}

/* ---- summary ----------------------------------------------------------------------------------*/

uint32_t kvpi_summary_bytes(uint32_t n_records)
{
    uint64_t n = round_up(SUMMARY_HEAD + (uint64_t)n_records * RECORD_BYTES + SUM_BYTES);
    return n <= KVPI_MAX_SEGMENT_BYTES ? (uint32_t)n : 0;
}

void kvpi_summary_encode(const kvpi_summary *s, const kvpi_page_record *records, void *to)
{
    uint32_t n = kvpi_summary_bytes(s->n_records);
    assert(n && s->n_records);
    memset(to, 0, n);
    memcpy(to, summary_magic, MAGIC_BYTES);
    put32(to, 8, VERSION);
    put32(to, 12, s->n_records);
    put64(to, 16, s->store_id);
    put64(to, 24, s->generation);
    put64(to, 32, s->segment);
    put32(to, 40, s->offset);
    put32(to, 44, n);
    put32(to, 48, s->batch_bytes);
    for (uint32_t i = 0; i < s->n_records; i++)
        encode_record(&records[i], (char *)to + SUMMARY_HEAD + (size_t)i * RECORD_BYTES);
    put64(to, n - SUM_BYTES, kvpi_checksum_raw(to, n - SUM_BYTES, s->store_id));
}

/* Magic, length, checksum, version: in this order, so that no field of a damaged summary is used,
 * save its length. */
static kvp_status check_summary(const void *bytes, size_t n, uint64_t store_id,
                                const kvpi_origin *from)
{
    if (n < KVPI_BLOCK_BYTES || memcmp(bytes, summary_magic, MAGIC_BYTES) != 0)
        return kvp_fail(KVP_E_INVALID, "%s: there is no summary at byte %" PRIu64, from->path,
                        from->offset);
    uint32_t summary_bytes = get32(bytes, 44), version = get32(bytes, 8);
    if (!summary_bytes || !is_whole_blocks(summary_bytes) || summary_bytes > n)
        return fail_field(from, "summary", 44, "summary_bytes", summary_bytes);
    size_t summed = summary_bytes - SUM_BYTES;
    if (get64(bytes, summed) != kvpi_checksum_raw(bytes, summed, store_id)) {
        if (get64(bytes, 16) == store_id)
            return kvp_fail(KVP_E_CORRUPT,
                            "%s: the summary at byte %" PRIu64 " fails its checksum: it is "
                            "damaged, or was never written to its end",
                            from->path, from->offset);
        return kvp_fail(KVP_E_INVALID, "%s: the summary at byte %" PRIu64 " is another store's",
                        from->path, from->offset);
    }
    if (version > VERSION)
        return fail_version(from, "summary", version);
    return version ? KVP_OK : fail_field(from, "summary", 8, "version", version);
}

static kvp_status check_records(const kvpi_summary *s, const void *bytes, uint32_t slot_bytes,
                                const kvpi_origin *from)
{
    uint64_t begin = s->offset + kvpi_summary_bytes(s->n_records);
    uint64_t end = (uint64_t)s->offset + s->batch_bytes;
    for (uint32_t i = 0; i < s->n_records; i++) {
        size_t at = SUMMARY_HEAD + (size_t)i * RECORD_BYTES;
        const kvpi_origin origin = {from->path, from->offset + at};
        kvpi_page_record r;
        kvpi_summary_record(s, bytes, i, &r);
        kvp_status status =
            check_record(&r, (const char *)bytes + at, slot_bytes, begin, end, &origin);
        if (status)
            return status;
        begin = r.offset + round_up(r.stored_bytes);
    }
    return KVP_OK;
}

static kvp_status check_batch(const kvpi_summary *s, const void *bytes, const kvpi_superblock *sb,
                              const kvpi_origin *from)
{
    const char *what = "summary";
    uint32_t summary_bytes = get32(bytes, 44);
    if (!s->n_records || kvpi_summary_bytes(s->n_records) != summary_bytes)
        return fail_field(from, what, 12, "n_records", s->n_records);
    if (s->batch_bytes < summary_bytes || !is_whole_blocks(s->batch_bytes) ||
        s->batch_bytes > sb->segment_bytes - s->offset)
        return fail_field(from, what, 48, "batch_bytes", s->batch_bytes);
    size_t records_end = SUMMARY_HEAD + (size_t)s->n_records * RECORD_BYTES;
    if (!is_zero(bytes, SUMMARY_HEAD_USED, SUMMARY_HEAD) ||
        !is_zero(bytes, records_end, summary_bytes - SUM_BYTES))
        return fail_reserved(from, what);
    return check_records(s, bytes, sb->slot_bytes, from);
}

kvp_status kvpi_summary_decode(const void *bytes, size_t n, const kvpi_superblock *sb,
                               uint64_t segment, uint32_t offset, const char *path, kvpi_summary *s)
{
    const kvpi_origin from = {path, KVPI_SEGMENTS_AT + segment * sb->segment_bytes + offset};
    assert(is_whole_blocks(offset) && offset < sb->segment_bytes);
    kvp_status status = check_summary(bytes, n, sb->store_id, &from);
    if (status)
        return status;
    kvpi_summary got = {
        .store_id = get64(bytes, 16),
        .fingerprint = sb->fingerprint,
        .generation = get64(bytes, 24),
        .segment = get64(bytes, 32),
        .offset = get32(bytes, 40),
        .n_records = get32(bytes, 12),
        .batch_bytes = get32(bytes, 48),
    };
    if (got.store_id != sb->store_id || got.segment != segment || got.offset != offset)
        return kvp_fail(KVP_E_INVALID,
                        "%s: the summary at byte %" PRIu64 " says that it belongs to segment "
                        "%" PRIu64 ", byte %" PRIu32 ": it was written to the wrong place",
                        path, from.offset, got.segment, got.offset);
    status = check_batch(&got, bytes, sb, &from);
    if (!status)
        *s = got;
    return status;
}

void kvpi_summary_record(const kvpi_summary *s, const void *bytes, uint32_t i,
                         kvpi_page_record *record)
{
    assert(i < s->n_records);
    decode_record((const char *)bytes + SUMMARY_HEAD + (size_t)i * RECORD_BYTES, record);
    record->identity.store_id = s->store_id;
    record->identity.fingerprint = s->fingerprint;
}
