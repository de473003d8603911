/* masses.h - room for the attention masses of a decode step, where the pager wants to know them. */
#ifndef KVPAGER_MODELS_MASSES_H
#define KVPAGER_MODELS_MASSES_H

#include "kvpager.h"

/* Zero-initialise. */
typedef struct masses {
    float *row; /* [n] */
    size_t n;
} masses;

/* kvp_attend_args.page_mass for one query over a layer; NULL: nobody wants to know.
 * Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status masses_reserve(masses *m, const kvp_seq *seq, uint32_t layer,
                                        uint32_t n_heads, float **out);
void masses_fini(masses *m);

#endif
