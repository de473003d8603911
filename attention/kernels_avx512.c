/* kernels_avx512.c - the kernels in AVX-512: block.h over vectors of 16. */
#if defined(__x86_64__)
#include "attention/avx512.h"

#include "attention/block.h"

const kvpi_kernels kvpi_kernels_avx512 = {
    .name = "avx512",
    .score = {[KVP_F32] = score_f32, [KVP_F16] = score_f16, [KVP_BF16] = score_bf16},
    .weigh = {[KVP_F32] = weigh_f32, [KVP_F16] = weigh_f16, [KVP_BF16] = weigh_bf16},
    .merge = merge,
    .normalise = normalise,
    .distance = distance,
};
#else
typedef int kvpi_no_avx512;
#endif
