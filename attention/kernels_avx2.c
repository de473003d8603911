/* kernels_avx2.c - the kernels in AVX2: block.h over vectors of 8. */
#if defined(__x86_64__)
#include "attention/avx2.h"

#include "attention/block.h"

const kvpi_kernels kvpi_kernels_avx2 = {
    .name = "avx2",
    .attend = {[KVP_F32] = attend_f32, [KVP_F16] = attend_f16, [KVP_BF16] = attend_bf16},
    .merge = merge,
    .normalise = normalise,
    .distance = distance,
};
#else
typedef int kvpi_no_avx2;
#endif
