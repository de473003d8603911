/* convert.h - rows into pages: dtype conversion with a check that every value stays finite. */
#ifndef KVPI_TIERS_CONVERT_H
#define KVPI_TIERS_CONVERT_H

#include <stdbool.h>
#include <stddef.h>

#include "kvpager/view.h"

/* n elements of src_dtype into dst_dtype, rounding to nearest even. Returns false if a value is not
 * finite in dst_dtype (NaN, infinite, or too large); dst is then unspecified. Any alignment; the
 * two must not overlap. Opaque bytes go to opaque bytes only, as they are. */
bool kvpi_convert(void *dst, kvp_dtype dst_dtype, const void *src, kvp_dtype src_dtype, size_t n);

/* The same without special instructions: for CPUs that have none, and what the others must equal
 * bit for bit. */
bool kvpi_convert_scalar(void *dst, kvp_dtype dst_dtype, const void *src, kvp_dtype src_dtype,
                         size_t n);

#endif
