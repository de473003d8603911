/* kernels_avx512.c - the kernels in AVX-512: block.h over vectors of 16. */
#if defined(__x86_64__)
#include "attention/avx512.h"

#include "attention/block.h"

const kvpi_kernels kvpi_kernels_avx512 = {
    .name = "avx512",
    .attend = {[KVP_F32] = attend_f32, [KVP_F16] = attend_f16, [KVP_BF16] = attend_bf16},
    .merge = merge,
    .normalise = normalise,
    .distance = distance,
};
#else
typedef int kvpi_no_avx512;
#endif
