/* worker.h - one measurement of one allocator, in a process of its own: bench_alloc starts itself
 * again with --worker, the allocator preloaded where it is one, and reads what this prints. */
#ifndef BENCH_ALLOC_WORKER_H
#define BENCH_ALLOC_WORKER_H

#define WORKER_SAMPLES 3       /* lines that a timed pattern prints */
#define WORKER_IS_MISSING 77   /* exit code: the allocator is not in this process */
#define WORKER_N_HELD 2048u    /* per thread, in random and fragmentation */
#define WORKER_BURST 512u      /* blocks */
#define WORKER_ADJACENT_OF 256 /* successive blocks */

/* KIND PROBE PATTERN BYTES THREADS MS: measure for about MS milliseconds per sample. PROBE is a
 * symbol that the preloaded allocator has, or "-". Prints, for
 *   lifo, random, burst, cross   WORKER_SAMPLES times: ns per pair, ns per cycle
 *   waste                        bytes taken beyond those asked for, over the latter
 *   fragmentation                the same after a long random run; the share of blocks that follow
 *                                the one before
 * Returns the exit code. */
int alloc_worker(int argc, char **argv);

#endif
