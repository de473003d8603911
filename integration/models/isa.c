/* isa.c - which instructions the arithmetic of the models may use. */
#include "integration/models/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
static bool has_f16c(void) /* clang 14's builtin does not know the name */
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

static bool has_avx512_bf16(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1u << 5);
}

static model_isa best_here(void)
{
    __builtin_cpu_init();
    if (!has_f16c() || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return MODEL_ISA_SCALAR;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl"))
        return MODEL_ISA_AVX2;
    return has_avx512_bf16() ? MODEL_ISA_AVX512_BF16 : MODEL_ISA_AVX512;
}
#else
static model_isa best_here(void)
{
    return MODEL_ISA_SCALAR;
}
#endif

kvp_status model_isa_find(model_isa *out)
{
    const char *wanted = getenv("KVP_ISA");
    model_isa best = best_here();
    *out = best;
    if (!wanted || !*wanted || (strcmp(wanted, "avx512") == 0 && best >= MODEL_ISA_AVX512))
        return KVP_OK;
    if (strcmp(wanted, "avx2") == 0 && best >= MODEL_ISA_AVX2)
        *out = MODEL_ISA_AVX2;
    else if (strcmp(wanted, "scalar") == 0)
        *out = MODEL_ISA_SCALAR;
    else
        return kvp_fail(KVP_E_UNSUPPORTED, "KVP_ISA=%s: this CPU and build have %s", wanted,
                        best >= MODEL_ISA_AVX512 ? "scalar, avx2, avx512"
                        : best == MODEL_ISA_AVX2 ? "scalar, avx2"
                                                 : "scalar");
    return KVP_OK;
}
