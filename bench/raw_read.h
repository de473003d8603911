/* raw_read.h - what the device gives: reads through a bare io_uring (registered buffers and file)
 * of a file of its own, in random order, each block once. */
#ifndef BENCH_RAW_READ_H
#define BENCH_RAW_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct raw_file raw_file;

typedef struct raw_shape {
    size_t block_bytes; /* a multiple of 4 KiB, at most 1 MiB */
    uint32_t depth;     /* in flight, at most 32 */
} raw_shape;

/* A file of `bytes` in folder `dir`, written from end to end; NULL: not possible here. */
raw_file *raw_open(const char *dir, size_t bytes);
void raw_close(raw_file *f);
/* False: the file system has no O_DIRECT, figures are those of the page cache. */
bool raw_is_direct(const raw_file *f);
/* GB/s (10^9 bytes) of reading the file once; 0: a read failed. */
double raw_read(raw_file *f, raw_shape shape);

#endif
