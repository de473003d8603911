/* trace_writer.h - writes what a pager tells to a trace file (trace_format.h). */
#ifndef KVPAGER_REPLAY_TRACE_WRITER_H
#define KVPAGER_REPLAY_TRACE_WRITER_H

#include "kvpager.h"

typedef struct trace_writer trace_writer;

/* Create or replace the file. Errors: KVP_E_IO, KVP_E_NOMEM. */
KVP_NODISCARD kvp_status trace_writer_open(const char *path, trace_writer **out);
/* Make the pager tell it; then, once it is open and before it has sequences that count, how large
 * pages are: what was told before (of sequences to try something out) is left out. */
void trace_writer_configure(trace_writer *w, kvp_config *cfg);
KVP_NODISCARD kvp_status trace_writer_begin(trace_writer *w, kvp_pager *pager);
/* After the pager's close: end the file. Errors: KVP_E_IO, KVP_E_NOMEM, whichever came first; the
 * file is no whole trace then. NULL does nothing. */
KVP_NODISCARD kvp_status trace_writer_close(trace_writer *w);

#endif
