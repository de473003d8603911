/* limits.c - what the machine gives: read bandwidth and the peak of multiply-adds. */
#define _GNU_SOURCE 1
#include "limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "harness.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define STREAMS 4
#define ROUNDS 2000000
#define CHAINS 12

void *limits_map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

void limits_unmap(void *p, size_t bytes)
{
    munmap(p, bytes);
}

limits limits_open(kvp_pool *pool, model_isa isa, size_t bytes)
{
    limits l = {.pool = pool, .isa = isa, .bytes = bytes, .memory = limits_map(bytes)};
    for (size_t i = 0; i < bytes; i += 4096)
        l.memory[i] = 1;
    return l;
}

void limits_close(limits *l)
{
    limits_unmap(l->memory, l->bytes);
}

/* ---- tasks, one per thread ------------------------------------------------------------------- */

/* By loads alone: prefetches ahead of them make it slower. */
static inline __attribute__((always_inline)) void read_streams(const limits *l, size_t thread)
{
    size_t stream = l->bytes / kvp_pool_threads(l->pool) / STREAMS / 64 * 64;
    const char *p = l->memory + thread * STREAMS * stream;
    typedef long long line __attribute__((vector_size(64)));
    line sum = {0};
    for (size_t i = 0; i < stream; i += 64) {
        for (size_t s = 0; s < STREAMS; s++)
            sum |= *(const line *)(const void *)(p + s * stream + i);
    }
    bench_keep(&sum);
}

static void read_any(void *arg, size_t thread)
{
    read_streams(arg, thread);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void read_avx2(void *arg, size_t thread)
{
    read_streams(arg, thread);
}

__attribute__((target("avx512f"))) static void read_avx512(void *arg, size_t thread)
{
    read_streams(arg, thread);
}

/* No intrinsics for the chains: compilers would compute them at once. */
__attribute__((target("avx2,fma"))) static void multiply_avx2(void *arg, size_t thread)
{
    (void)arg, (void)thread;
    __m256 x[CHAINS] = {0}, y = _mm256_setzero_ps();
    for (int i = 0; i < ROUNDS; i++) {
        _Pragma("GCC unroll 12") for (int c = 0; c < CHAINS; c++) __asm__ volatile(
            "vfmadd231ps %1, %1, %0" : "+x"(x[c]) : "x"(y));
    }
}

__attribute__((target("avx512f"))) static void multiply_avx512(void *arg, size_t thread)
{
    (void)arg, (void)thread;
    __m512 x[CHAINS] = {0}, y = _mm512_setzero_ps();
    for (int i = 0; i < ROUNDS; i++) {
        _Pragma("GCC unroll 12") for (int c = 0; c < CHAINS; c++) __asm__ volatile(
            "vfmadd231ps %1, %1, %0" : "+v"(x[c]) : "v"(y));
    }
}

__attribute__((target("avx512f"))) static void multiply_pairs(void *arg, size_t thread)
{
    (void)arg, (void)thread;
    __m512 x[CHAINS] = {0}, y = _mm512_setzero_ps();
    for (int i = 0; i < ROUNDS; i++) {
        _Pragma("GCC unroll 12") for (int c = 0; c < CHAINS; c++) __asm__ volatile(
            "vdpbf16ps %1, %1, %0" : "+v"(x[c]) : "v"(y));
    }
}
#endif

/* ---- figures --------------------------------------------------------------------------------- */

uint64_t limits_clock_ns(const kvp_pool *pool)
{
    return kvp_pool_threads(pool) == 1 ? bench_cpu_ns() : bench_now_ns();
}

double limits_read(limits *l)
{
    void (*task)(void *, size_t) = read_any;
#if defined(__x86_64__)
    if (l->isa >= MODEL_ISA_AVX2)
        task = l->isa >= MODEL_ISA_AVX512 ? read_avx512 : read_avx2;
#endif
    uint64_t start = limits_clock_ns(l->pool);
    kvp_pool_run(l->pool, kvp_pool_threads(l->pool), task, l);
    return (double)l->bytes / (double)(limits_clock_ns(l->pool) - start);
}

double limits_multiply(limits *l, int pairs)
{
    const double flops = 2.0 * CHAINS * ROUNDS * kvp_pool_threads(l->pool);
    double lanes = 0;
    uint64_t start = limits_clock_ns(l->pool);
#if defined(__x86_64__)
    if (pairs && l->isa == MODEL_ISA_AVX512_BF16) {
        lanes = 32;
        kvp_pool_run(l->pool, kvp_pool_threads(l->pool), multiply_pairs, NULL);
    } else if (l->isa >= MODEL_ISA_AVX512) {
        lanes = 16;
        kvp_pool_run(l->pool, kvp_pool_threads(l->pool), multiply_avx512, NULL);
    } else if (l->isa == MODEL_ISA_AVX2) {
        lanes = 8;
        kvp_pool_run(l->pool, kvp_pool_threads(l->pool), multiply_avx2, NULL);
    }
#endif
    return flops * lanes / (double)(limits_clock_ns(l->pool) - start);
}
