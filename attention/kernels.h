/* kernels.h - the loops that do the arithmetic, per instruction set and dtype.
 *
 * A kernel folds a block of keys of one KV head into the online-softmax state of some query rows:
 *
 * 1. What it does to a row depends on that row and on the keys that the row sees, bit for bit: not
 *    on which rows share the call, on their number, or on what lies behind the last visible key.
 *    That is what lets callers group rows as memory and threads allow.
 * 2. A block yields a partial of its own (m, l, o), relative to its own maximum, which is then
 *    folded into the state as merge() would do it: the same bits, whether a block is folded at once
 *    or into an empty state that is merged later.
 * 3. AVX2 and AVX-512 give the same bits. The scalar kernels are a reference of another kind: they
 *    add up in the order of reading, and take exp from the C library. */
#ifndef KVPI_ATTENTION_KERNELS_H
#define KVPI_ATTENTION_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "kvpager/attention.h"

#define KVPI_BLOCK_KEYS 64u /* keys per call, at most: a page of the default size */
#define KVPI_BLOCK_ROWS 48u /* rows per call, at most */

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
 * so far; at the start m = -INFINITY, l = 0, o = 0. A row that sees no key is left as it is. */
typedef struct kvpi_row {
    const float *q;                 /* [k_width] */
    float *o;                       /* [v_width] */
    float m, l;                     /* m: the largest score so far */
    uint32_t n_visible;             /* it sees the first n_visible keys of the block, at most n */
    float block_m, block_l;         /* out: of this block alone; -INFINITY and 0: no key */
    float *block_o;                 /* [v_width], out: the same; NULL: not wanted */
    float old_factor, block_factor; /* out: what state and block were multiplied by */
} kvpi_row;

typedef void (*kvpi_kernel)(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows);

typedef struct kvpi_kernels {
    const char *name;
    kvpi_kernel attend[3]; /* [kvp_dtype] */
    /* Fold `next` into `into`; an l of 0 (no key) changes nothing. */
    void (*merge)(const kvp_partial *into, const kvp_partial *next, size_t v_width);
    /* x = exp(x) over the sum of exp(x); if all are -INFINITY, zeros. */
    void (*normalise)(float *x, size_t n);
    /* The Euclidean length of a - b * factor. */
    float (*distance)(const float *a, const float *b, float factor, size_t n);
} kvpi_kernels;

/* The readable reference, in plain C. */
extern const kvpi_kernels kvpi_kernels_scalar;
#if defined(__x86_64__)
/* AVX2, FMA and F16C. */
extern const kvpi_kernels kvpi_kernels_avx2;
/* AVX-512 F, BW, DQ and VL. */
extern const kvpi_kernels kvpi_kernels_avx512;
#endif

/* The kernels to use: see kvp_isa(). NULL, with a message, if KVP_ISA asks for what is not here. */
const kvpi_kernels *kvpi_kernels_find(void);

/* Larger scores are cut to this: q . k may overflow float32, the softmax may not. */
#define KVPI_SCORE_MAX 3.0e38f

#endif
