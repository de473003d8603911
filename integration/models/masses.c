/* masses.c - room for the attention masses of a decode step. */
#include "integration/models/masses.h"

#include <stdlib.h>

kvp_status masses_reserve(masses *m, const kvp_seq *seq, uint32_t layer, uint32_t n_heads,
                          float **out)
{
    *out = NULL;
    if (!kvp_pager_wants_mass(kvp_seq_pager(seq)))
        return KVP_OK;
    size_t n = (size_t)n_heads * kvp_seq_page_count(seq, layer);
    if (n > m->n) {
        masses_fini(m);
        m->row = malloc(2 * n * sizeof *m->row); /* a text grows page by page */
        if (!m->row)
            return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes of attention masses",
                            2 * n * sizeof *m->row);
        m->n = 2 * n;
    }
    *out = m->row;
    return KVP_OK;
}

void masses_fini(masses *m)
{
    free(m->row);
    *m = (masses){0};
}
