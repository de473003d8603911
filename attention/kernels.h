/* kernels.h - the loops that do the arithmetic, per instruction set and dtype.
 *
 * A kernel updates the online-softmax state of some query rows with a block of keys of one KV head.
 * What it does to a row depends on that row and on the block alone, bit for bit: not on which rows
 * share the call, nor on their number. That is what lets callers group rows as memory and threads
 * allow. */
#ifndef KVPI_ATTENTION_KERNELS_H
#define KVPI_ATTENTION_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "kvpager/view.h"

#define KVPI_BLOCK_KEYS 64u /* keys per call, at most: a page of the default size */
#define KVPI_FEW_ROWS 16u   /* rows per call of `few`, at most */
#define KVPI_MANY_ROWS 48u  /* rows per call of `many`, at most */

/* Keys of one KV head: consecutive rows of a page. Nothing beyond them is read. */
typedef struct kvpi_keys {
    const void *k, *v; /* [n][k_width], [n][v_width] */
    size_t n;          /* 1 .. KVPI_BLOCK_KEYS */
    size_t k_width, v_width;
    float scale; /* of q . k */
    /* As many rows that will probably be wanted next: prefetched, never read. NULL: not known. */
    const void *next_k, *next_v;
} kvpi_keys;

/* One query head of one query. State: l = sum exp(s - m), o = sum exp(s - m) v over the keys seen
 * so far; at the start m = -INFINITY, l = 0, o = 0. */
typedef struct kvpi_row {
    const float *q;     /* [k_width] */
    float *o;           /* [v_width] */
    float m, l;         /* m: the largest score so far */
    float block_l;      /* out: this block's part of l, with the new m */
    uint32_t n_visible; /* it may see the first n_visible keys of the block, at most n */
} kvpi_row;

typedef void (*kvpi_kernel)(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows);

typedef struct kvpi_kernels {
    const char *name;
    kvpi_kernel few[3];  /* [kvp_dtype]: bound by reading K and V */
    kvpi_kernel many[3]; /* [kvp_dtype]: bound by arithmetic, converts K and V once per call */
} kvpi_kernels;

/* The readable reference, in plain C. */
extern const kvpi_kernels kvpi_kernels_scalar;
#if defined(__x86_64__)
/* AVX2, FMA and F16C. */
extern const kvpi_kernels kvpi_kernels_avx2;
#endif

/* The kernels to use: see kvp_isa(). NULL, with a message, if KVP_ISA asks for what is not here. */
const kvpi_kernels *kvpi_kernels_find(void);

/* Larger scores are cut to this: q . k may overflow float32, the softmax may not. */
#define KVPI_SCORE_MAX 3.0e38f

#endif
