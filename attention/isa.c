/* isa.c - which kernels run on this CPU. KVP_ISA is read at every call: no state is kept, and a
 * process may compare instruction sets. */
#include "attention/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kvpager/attention.h"

static bool has_avx2(void)
{
#if defined(__x86_64__)
    unsigned eax, ebx, ecx, edx; /* F16C by cpuid: clang 14's builtin does not know the name */
    bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
    __builtin_cpu_init();
    return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return false;
#endif
}

static const kvpi_kernels *best(void)
{
#if defined(__x86_64__)
    if (has_avx2())
        return &kvpi_kernels_avx2;
#endif
    return &kvpi_kernels_scalar;
}

const kvpi_kernels *kvpi_kernels_find(void)
{
    const char *wanted = getenv("KVP_ISA");
    const kvpi_kernels *found = best();
    if (!wanted || !*wanted || strcmp(wanted, found->name) == 0)
        return found;
    if (strcmp(wanted, kvpi_kernels_scalar.name) == 0)
        return &kvpi_kernels_scalar;
    (void)kvp_fail(KVP_E_UNSUPPORTED, "KVP_ISA=%s: this CPU and build have %s", wanted,
                   has_avx2() ? "scalar and avx2" : "only scalar");
    return NULL;
}

const char *kvp_isa(void)
{
    const kvpi_kernels *kernels = kvpi_kernels_find();
    return kernels ? kernels->name : NULL;
}
