/* isa.c - which kernels run on this CPU. KVP_ISA is read at every call, so that a process may
 * compare instruction sets. */
#include "attention/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "kvpager/attention.h"

#if defined(__x86_64__)
static bool probe_avx2(void)
{
    unsigned eax, ebx, ecx, edx; /* F16C by cpuid: clang 14's builtin does not know the name */
    bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
    __builtin_cpu_init();
    return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

/* Asked once: in a virtual machine cpuid takes longer than a short call to kvp_attend(). */
static bool has_avx2(void)
{
#if defined(__x86_64__)
    enum { UNKNOWN, NO, YES };
    static atomic_int answer = UNKNOWN;
    if (atomic_load_explicit(&answer, memory_order_relaxed) == UNKNOWN)
        atomic_store_explicit(&answer, probe_avx2() ? YES : NO, memory_order_relaxed);
    return atomic_load_explicit(&answer, memory_order_relaxed) == YES;
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
