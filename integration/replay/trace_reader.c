/* trace_reader.c - reads trace files (trace_format.h), whoever wrote them. */
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "integration/files/mapped_file.h"
#include "integration/replay/trace.h"
#include "integration/replay/trace_format.h"

typedef struct reader {
    const unsigned char *bytes;
    size_t n, at;
    size_t record; /* where the one at hand begins */
    trace *t;
    trace_foresight *foresight;
} reader;

static kvp_status fail_at(const reader *r, kvp_status status, const char *message)
{
    return kvp_fail(status, "%s: at byte %zu: %s", r->t->name, r->record, message);
}

static kvp_status read_number(reader *r, uint64_t *x)
{
    *x = 0;
    for (unsigned shift = 0; shift < 63; shift += 7) {
        if (r->at == r->n)
            return fail_at(r, KVP_E_CORRUPT, "the file ends inside of a record");
        unsigned char byte = r->bytes[r->at++];
        *x |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return KVP_OK;
    }
    return fail_at(r, KVP_E_CORRUPT, "a number of more than 63 bits");
}

static kvp_status read_u32(reader *r, uint32_t *x)
{
    uint64_t number;
    kvp_status status = read_number(r, &number);
    if (!status && number > UINT32_MAX)
        return fail_at(r, KVP_E_CORRUPT, "a number of more than 32 bits");
    *x = (uint32_t)number;
    return status;
}

static kvp_status read_sequence(reader *r, unsigned what)
{
    uint32_t seq, parent;
    kvp_status status = read_u32(r, &seq);
    if (!status && what == KVP_TRACE_SEQ_FORKED)
        status = read_u32(r, &parent);
    r->t->n_seqs += what != KVP_TRACE_SEQ_ENDED;
    return status;
}

static kvp_status read_new(reader *r)
{
    uint32_t page, seq, lane, lane_index;
    kvp_status status = read_u32(r, &page);
    if (!status)
        status = read_u32(r, &seq);
    if (!status)
        status = read_u32(r, &lane);
    if (!status)
        status = read_u32(r, &lane_index);
    if (status)
        return status;
    status = trace_add_new(r->t, page, lane, lane_index);
    return status ? fail_at(r, status, kvp_error()) : KVP_OK;
}

static kvp_status add(reader *r, unsigned what, uint32_t page, uint32_t number)
{
    kvp_status status = trace_add(r->t, (kvp_trace_kind)what, page, number);
    if (status)
        return fail_at(r, status, kvp_error());
    if (what == KVP_TRACE_PAGE_USED)
        trace_used(r->foresight, page);
    return KVP_OK;
}

static kvp_status read_page(reader *r, unsigned what)
{
    uint32_t page, octaves = 0;
    kvp_status status = read_u32(r, &page);
    if (!status && what == KVP_TRACE_PAGE_MASS)
        status = read_u32(r, &octaves);
    if (!status && octaves > TRACE_MAX_OCTAVES)
        return fail_at(r, KVP_E_CORRUPT, "a mass of less than 2^-63");
    return status ? status : add(r, what, page, octaves);
}

static kvp_status read_foretold(reader *r)
{
    uint64_t n;
    kvp_status status = read_number(r, &n);
    for (; n > 0 && !status; n--)
        status = add(r, KVP_TRACE_PAGE_USED, *trace_foretold(r->foresight), 0);
    return status;
}

static kvp_status read_record(reader *r, unsigned what)
{
    if (what >= KVP_TRACE_SEQ_CREATED && what <= KVP_TRACE_SEQ_ENDED)
        return read_sequence(r, what);
    if (what == KVP_TRACE_PAGE_NEW)
        return read_new(r);
    if (what > KVP_TRACE_PAGE_NEW && what <= KVP_TRACE_PAGE_MASS)
        return read_page(r, what);
    if (what == TRACE_FORETOLD)
        return read_foretold(r);
    return fail_at(r, KVP_E_CORRUPT, "there is no such record");
}

static kvp_status read_records(reader *r)
{
    for (;;) {
        r->record = r->at;
        if (r->at == r->n)
            return fail_at(r, KVP_E_CORRUPT,
                           "the file ends without an end: the run that wrote it was cut short");
        unsigned what = r->bytes[r->at++];
        if (what == TRACE_END)
            return KVP_OK;
        kvp_status status = read_record(r, what);
        if (status)
            return status;
    }
}

static kvp_status read_header(reader *r)
{
    if (r->n < TRACE_MAGIC_BYTES + 1 || memcmp(r->bytes, TRACE_MAGIC, TRACE_MAGIC_BYTES) != 0)
        return fail_at(r, KVP_E_CORRUPT,
                       "no trace begins like this (kvpager generate --trace "
                       "writes one)");
    if (r->bytes[TRACE_MAGIC_BYTES] != TRACE_VERSION)
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: a trace of version %u, but only %u is known",
                        r->t->name, r->bytes[TRACE_MAGIC_BYTES], TRACE_VERSION);
    r->at = TRACE_MAGIC_BYTES + 1;
    kvp_status status = read_number(r, &r->t->page_bytes);
    if (!status)
        status = read_u32(r, &r->t->group_pages);
    if (!status && (r->t->page_bytes == 0 || r->t->group_pages == 0))
        return fail_at(r, KVP_E_CORRUPT, "pages of no bytes, or groups of none");
    return status;
}

static kvp_status check_sum(reader *r)
{
    uint64_t sum = 0;
    r->record = r->at;
    if (r->n - r->at != TRACE_CHECKSUM_BYTES)
        return fail_at(r, KVP_E_CORRUPT, "there should be 8 more bytes, and nothing after them");
    for (size_t i = 0; i < TRACE_CHECKSUM_BYTES; i++)
        sum |= (uint64_t)r->bytes[r->at + i] << (8 * i);
    if (sum != XXH3_64bits(r->bytes, r->at))
        return fail_at(r, KVP_E_CORRUPT, "the checksum is wrong: the file is damaged");
    return KVP_OK;
}

kvp_status trace_parse(const void *bytes, size_t n, const char *name, trace *t)
{
    kvp_status status = trace_init(t, name);
    if (status)
        return status;
    reader r = {.bytes = bytes, .n = n, .t = t, .foresight = calloc(1, sizeof *r.foresight)};
    if (!r.foresight)
        status = kvp_fail(KVP_E_NOMEM, "%s: out of memory", name);
    if (!status)
        status = read_header(&r);
    if (!status)
        status = read_records(&r);
    if (!status)
        status = check_sum(&r);
    free(r.foresight);
    if (status)
        trace_free(t);
    return status;
}

kvp_status trace_read(const char *path, trace *t)
{
    mapped_file file = {0};
    kvp_status status = mapped_file_open(path, &file);
    if (!status)
        status = trace_parse(file.bytes, file.n_bytes, path, t);
    mapped_file_close(&file);
    return status;
}
