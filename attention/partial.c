/* partial.c - partials in the hands of the caller. */
#include "attention/kernels.h"

#include "kvpager.h"

kvp_status kvp_partial_merge(const kvp_partial *into, const kvp_partial *next, size_t v_width)
{
    const kvpi_kernels *kernels = kvpi_kernels_find();
    if (!kernels)
        return KVP_E_UNSUPPORTED;
    kernels->merge(into, next, v_width);
    return KVP_OK;
}

void kvp_partial_finish(const kvp_partial *partial, size_t v_width)
{
    for (size_t c = 0; c < v_width && *partial->l != 0; c++)
        partial->o[c] /= *partial->l;
}
