/* flat_kv.h - the calls a model makes, over KV that lies in one array: an oracle for the pager.
 *
 * flat_kv.c defines kvp_config_default, kvp_pager_open/close, kvp_seq_create/destroy/length/
 * truncate/append_rows and kvp_attend itself; a program links either it (and alloc/status.c) or the
 * library. Softmax is computed in float64, in two passes, with no pages but in what a window shows.
 * float32 and uniform geometries only. */
#ifndef TESTS_FLAT_KV_H
#define TESTS_FLAT_KV_H

#include "kvpager.h"

#endif
