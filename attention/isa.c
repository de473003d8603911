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

/* In the order of preference; as many as this CPU has. */
static const kvpi_kernels *const all_kernels[] = {
    &kvpi_kernels_scalar,
#if defined(__x86_64__)
    &kvpi_kernels_avx2,
    &kvpi_kernels_avx512,
#endif
};

#if defined(__x86_64__)
static size_t probe(void)
{
    unsigned eax, ebx, ecx, edx; /* F16C by cpuid: clang 14's builtin does not know the name */
    bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
    __builtin_cpu_init();
    if (!f16c || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 1;
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx512 ? 3 : 2;
}
#else
static size_t probe(void)
{
    return 1;
}
#endif

/* How many of all_kernels run here. Asked once: in a virtual machine cpuid takes longer than a
 * short call to kvp_attend(). */
static size_t n_available(void)
{
    static atomic_size_t answer; /* 0: not known yet */
    size_t n = atomic_load_explicit(&answer, memory_order_relaxed);
    if (n == 0)
        atomic_store_explicit(&answer, n = probe(), memory_order_relaxed);
    return n;
}

const kvpi_kernels *kvpi_kernels_find(void)
{
    const char *wanted = getenv("KVP_ISA");
    const size_t n = n_available();
    if (!wanted || !*wanted)
        return all_kernels[n - 1];
    char names[64] = "";
    for (size_t i = 0; i < n; i++) {
        if (strcmp(wanted, all_kernels[i]->name) == 0)
            return all_kernels[i];
        strcat(strcat(names, i ? ", " : ""), all_kernels[i]->name);
    }
    (void)kvp_fail(KVP_E_UNSUPPORTED, "KVP_ISA=%s: this CPU and build have %s", wanted, names);
    return NULL;
}

const char *kvp_isa(void)
{
    const kvpi_kernels *kernels = kvpi_kernels_find();
    return kernels ? kernels->name : NULL;
}
