/* trace_writer.c - writes what a pager tells to a trace file.
 *
 * A write that fails is told by trace_writer_close(): events come from where nobody can act on it.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "integration/replay/trace_writer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "integration/replay/trace_format.h"

#define NO_MASS UINT8_MAX

struct trace_writer {
    char *path;
    FILE *file;
    XXH3_state_t *hash;
    int error; /* errno of the first write that failed, or ENOMEM */
    bool has_begun;
    trace_foresight foresight;
    uint64_t n_foretold; /* uses that came as foretold and are not written yet */
    uint8_t *masses;     /* [n_masses] as written, in octaves; NO_MASS: none was */
    size_t n_masses;
};

kvp_status trace_writer_open(const char *path, trace_writer **out)
{
    trace_writer *w = calloc(1, sizeof *w);
    if (w) {
        w->path = strdup(path);
        w->hash = XXH3_createState();
    }
    if (!w || !w->path || !w->hash) {
        (void)!trace_writer_close(w);
        return kvp_fail(KVP_E_NOMEM, "%s: out of memory for the trace", path);
    }
    w->file = fopen(path, "wb");
    if (!w->file) {
        int error = errno;
        (void)!trace_writer_close(w);
        return kvp_fail(KVP_E_IO, "%s: cannot be written: %s", path, strerror(error));
    }
    XXH3_64bits_reset(w->hash);
    *out = w;
    return KVP_OK;
}

/* ---- bytes ---- */

static void put(trace_writer *w, const void *bytes, size_t n)
{
    XXH3_64bits_update(w->hash, bytes, n);
    if (fwrite(bytes, 1, n, w->file) != n && !w->error)
        w->error = errno ? errno : EIO;
}

static void put_number(trace_writer *w, uint64_t x)
{
    unsigned char bytes[10];
    size_t n = 0;
    for (; x > 0x7f; x >>= 7)
        bytes[n++] = (unsigned char)(x | 0x80);
    bytes[n++] = (unsigned char)x;
    put(w, bytes, n);
}

/* A record: what it is, and up to four numbers. */
static void put_record(trace_writer *w, int what, const uint64_t *numbers, size_t n)
{
    const unsigned char byte = (unsigned char)what;
    if (w->n_foretold) {
        uint64_t n_uses = w->n_foretold;
        w->n_foretold = 0;
        put_record(w, TRACE_FORETOLD, &n_uses, 1);
    }
    put(w, &byte, 1);
    for (size_t i = 0; i < n; i++)
        put_number(w, numbers[i]);
}

static void put_page(trace_writer *w, int what, uint32_t page)
{
    put_record(w, what, &(uint64_t){page}, 1);
}

/* ---- events ---- */

static void note_use(trace_writer *w, uint32_t page)
{
    if (*trace_foretold(&w->foresight) == page)
        w->n_foretold++;
    else
        put_page(w, KVP_TRACE_PAGE_USED, page);
    trace_used(&w->foresight, page);
}

static uint8_t *mass_of(trace_writer *w, uint32_t page)
{
    if (page >= w->n_masses) {
        size_t n = 2 * ((size_t)page + 128);
        uint8_t *masses = realloc(w->masses, n);
        if (!masses)
            return NULL;
        memset(masses + w->n_masses, NO_MASS, n - w->n_masses);
        w->masses = masses;
        w->n_masses = n;
    }
    return &w->masses[page];
}

/* Only what differs by an octave is worth its bytes. */
static void note_mass(trace_writer *w, uint32_t page, float mass)
{
    uint8_t *written = mass_of(w, page);
    if (!written) {
        w->error = w->error ? w->error : ENOMEM;
        return;
    }
    float octaves = mass > 0 ? -log2f(mass) : TRACE_MAX_OCTAVES;
    octaves = octaves < TRACE_MAX_OCTAVES ? octaves > 0 ? octaves : 0 : TRACE_MAX_OCTAVES;
    if (*written != NO_MASS && fabsf(octaves - (float)*written) < 1)
        return;
    *written = (uint8_t)lroundf(octaves);
    put_record(w, KVP_TRACE_PAGE_MASS, (uint64_t[]){page, *written}, 2);
}

static void note_new(trace_writer *w, const kvp_trace_event *e)
{
    uint8_t *written = mass_of(w, e->page);
    if (written)
        *written = NO_MASS;
    put_record(w, KVP_TRACE_PAGE_NEW, (uint64_t[]){e->page, e->seq, e->lane, e->lane_index}, 4);
}

static void note(void *opaque, const kvp_trace_event *e)
{
    trace_writer *w = opaque;
    if (!w->has_begun)
        return;
    switch (e->kind) {
    case KVP_TRACE_SEQ_CREATED:
    case KVP_TRACE_SEQ_ENDED:
        put_record(w, (int)e->kind, &(uint64_t){e->seq}, 1);
        break;
    case KVP_TRACE_SEQ_FORKED:
        put_record(w, (int)e->kind, (uint64_t[]){e->seq, e->parent}, 2);
        break;
    case KVP_TRACE_PAGE_NEW:
        note_new(w, e);
        break;
    case KVP_TRACE_PAGE_USED:
        note_use(w, e->page);
        break;
    case KVP_TRACE_PAGE_MASS:
        note_mass(w, e->page, e->mass);
        break;
    case KVP_TRACE_PAGE_SEALED:
    case KVP_TRACE_PAGE_OPENED:
    case KVP_TRACE_PAGE_FREED:
    case KVP_TRACE_PAGE_COLD:
    case KVP_TRACE_PAGE_HOT:
    case KVP_TRACE_PAGE_COOL:
        put_page(w, (int)e->kind, e->page);
        break;
    }
}

/* ---- beginning and end ---- */

void trace_writer_configure(trace_writer *w, kvp_config *cfg)
{
    cfg->trace = note;
    cfg->trace_opaque = w;
}

kvp_status trace_writer_begin(trace_writer *w, kvp_pager *pager)
{
    kvp_stats stats = {.size = sizeof stats};
    kvp_status status = kvp_pager_stats(pager, &stats);
    if (status)
        return status;
    const unsigned char version = TRACE_VERSION;
    size_t group_pages = KVP_GROUP_BYTES / stats.slot_bytes;
    w->has_begun = true;
    put(w, TRACE_MAGIC, TRACE_MAGIC_BYTES);
    put(w, &version, 1);
    put_number(w, stats.slot_bytes);
    put_number(w, group_pages ? group_pages : 1);
    return KVP_OK;
}

static void put_end(trace_writer *w)
{
    put_record(w, TRACE_END, NULL, 0);
    uint64_t sum = XXH3_64bits_digest(w->hash);
    unsigned char bytes[TRACE_CHECKSUM_BYTES];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(sum >> (8 * i));
    put(w, bytes, sizeof bytes);
}

kvp_status trace_writer_close(trace_writer *w)
{
    kvp_status status = KVP_OK;
    if (!w)
        return KVP_OK;
    if (w->file && !w->has_begun) {
        fclose(w->file);
        remove(w->path); /* there was no run */
    } else if (w->file) {
        put_end(w);
        if (fclose(w->file) && !w->error)
            w->error = errno;
    }
    if (w->error)
        status = kvp_fail(w->error == ENOMEM ? KVP_E_NOMEM : KVP_E_IO,
                          "%s: the trace could not be written: %s", w->path, strerror(w->error));
    XXH3_freeState(w->hash);
    free(w->masses);
    free(w->path);
    free(w);
    return status;
}
