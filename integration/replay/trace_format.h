/* trace_format.h - the bytes of a trace file.
 *
 * All numbers are unsigned and of variable length (LEB128: seven bits a byte, the lowest first, the
 * high bit set in all bytes but the last). A file is
 *
 *     "KVPTRACE"         8 bytes
 *     version            1 byte: 1
 *     page bytes         number: what a page takes in RAM
 *     group pages        number: kvp_placement_config.group_pages
 *     records            see below; the last one is `end`
 *     checksum           8 bytes: XXH3-64, little-endian, of all bytes before it
 *
 * A record begins with a byte that says what it is:
 *
 *      0  end
 *      1  sequence created     number: sequence
 *      2  sequence forked      numbers: sequence, its parent
 *      3  sequence ended       number: sequence
 *      4  page new             numbers: page, sequence, lane, index in the lane
 *      5  page sealed          number: page
 *      6  page opened          number: page
 *      7  page used            number: page
 *      8  page freed           number: page
 *      9  page cold            number: page
 *     10  page hot             number: page
 *     11  page cool            number: page
 *     12  page mass            numbers: page, m. From now on 2^-m of its lane's attention goes
 *                              to it with every use
 *     13  pages used           number: n. n uses, of the pages that are foretold
 *
 * 1 .. 12 are kvp_trace_kind (kvpager/trace.h). What is foretold: a table of 65536 numbers, zero at
 * first, has the page that was used after these two the last time. With `before` the page used last
 * and `before2` the one before that (both 0 at first), the entry is
 *
 *     (before * 0x9e3779b1 + before2 * 0x85ebca6b) mod 2^32, divided by 65536
 *
 * and every use, whichever record told of it, sets the entry to its page. Decode repeats itself: a
 * step that reads thousands of pages is one record. */
#ifndef KVPAGER_REPLAY_TRACE_FORMAT_H
#define KVPAGER_REPLAY_TRACE_FORMAT_H

#include <stdint.h>

#define TRACE_MAGIC "KVPTRACE"
#define TRACE_MAGIC_BYTES 8u
#define TRACE_VERSION 1u
#define TRACE_CHECKSUM_BYTES 8u

enum { TRACE_END = 0, TRACE_FORETOLD = 13 }; /* beside kvp_trace_kind */

#define TRACE_MAX_OCTAVES 63u /* of a mass: less counts as 2^-63 */

typedef struct trace_foresight {
    uint32_t before, before2;
    uint32_t next[65536];
} trace_foresight;

static inline uint32_t *trace_foretold(trace_foresight *f)
{
    return &f->next[(f->before * 0x9e3779b1u + f->before2 * 0x85ebca6bu) >> 16];
}

static inline void trace_used(trace_foresight *f, uint32_t page)
{
    *trace_foretold(f) = page;
    f->before2 = f->before;
    f->before = page;
}

#endif
