/* test_blob.c - memory for compressed pages: whichever implementation is linked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "tiers/blob.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLACK_BYTES (1u << 20) /* of the measuring, and of what an arena takes at least */

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static kvpi_blob_heap *open_heap(uint64_t cap_bytes)
{
    kvpi_blob_heap *heap;
    assert_int_equal(kvpi_blob_heap_open(&kvpi_mem_default, cap_bytes, &heap), KVP_OK);
    assert_int_equal(kvpi_blob_used(heap), 0);
    return heap;
}

typedef struct filled {
    void **pieces;
    size_t n;
} filled;

static filled fill(kvpi_blob_heap *heap, uint64_t cap_bytes, size_t piece_bytes)
{
    filled f = {.pieces = calloc(cap_bytes / piece_bytes + 1, sizeof(void *))};
    while ((f.pieces[f.n] = kvpi_blob_alloc(heap, piece_bytes))) {
        assert_int_equal((uintptr_t)f.pieces[f.n] % 16, 0);
        memset(f.pieces[f.n], (int)(f.n % 251), piece_bytes);
        f.n++;
        assert_true(kvpi_blob_used(heap) <= cap_bytes);
    }
    return f;
}

static void empty(kvpi_blob_heap *heap, filled f, size_t piece_bytes)
{
    for (size_t i = 0; i < f.n; i++) {
        const unsigned char *p = f.pieces[i];
        for (size_t k = 0; k < piece_bytes; k++)
            assert_int_equal(p[k], i % 251);
        kvpi_blob_free(heap, f.pieces[i], piece_bytes);
    }
    free(f.pieces);
    assert_int_equal(kvpi_blob_used(heap), 0);
}

/* A heap that was emptied is as good as new, for pieces of another size too. */
static void test_cap_is_used_up_to_a_few_percent_again_and_again(void **state)
{
    (void)state;
    static const size_t sizes[] = {8192, 64, 4096, 256, 8192, 512, 8192, 2048, 4096};
    static const uint64_t caps[] = {64 << 10, 300 << 10, 1 << 20, 5 << 20};
    for (size_t c = 0; c < sizeof caps / sizeof caps[0]; c++) {
        kvpi_blob_heap *heap = open_heap(caps[c]);
        for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
            if (sizes[k] < 256 && caps[c] > 1 << 20)
                continue; /* slow, and no different */
            filled f = fill(heap, caps[c], sizes[k]);
            size_t per_piece = sizes[k] + sizes[k] / 32 + 32; /* with bookkeeping at worst */
            assert_in_range(f.n, (caps[c] - sizes[k]) / per_piece, caps[c] / sizes[k]);
            assert_in_range(kvpi_blob_used(heap), f.n * sizes[k], caps[c]);
            empty(heap, f, sizes[k]);
        }
        assert_in_range(kvpi_blob_peak(heap), caps[c] * 8 / 10, caps[c]);
        kvpi_blob_heap_close(heap);
    }
}

static void test_random_pieces_keep_their_bytes_under_the_cap(void **state)
{
    (void)state;
    enum { N = 400, CAP = 1 << 20 };
    struct {
        unsigned char *p;
        size_t n;
        unsigned char tag;
    } held[N] = {0};
    kvpi_blob_heap *heap = open_heap(CAP);
    uint64_t seed = 7, held_bytes = 0;
    size_t n_refused = 0;
    for (int step = 0; step < 40000; step++) {
        uint64_t r = next_random(&seed);
        size_t i = r % N;
        if (held[i].p) {
            for (size_t k = 0; k < held[i].n; k += 61)
                assert_int_equal(held[i].p[k], held[i].tag);
            assert_int_equal(held[i].p[held[i].n - 1], held[i].tag);
            kvpi_blob_free(heap, held[i].p, held[i].n);
            held_bytes -= held[i].n;
        }
        held[i].n = KVPI_BLOB_MIN_BYTES << (r >> 20) % 8;
        held[i].tag = (unsigned char)(r >> 40);
        held[i].p = kvpi_blob_alloc(heap, held[i].n);
        n_refused += !held[i].p;
        if (!held[i].p)
            continue;
        memset(held[i].p, held[i].tag, held[i].n);
        held_bytes += held[i].n;
        assert_in_range(kvpi_blob_used(heap), held_bytes, held_bytes * 106 / 100 + 40 * N);
        assert_true(kvpi_blob_used(heap) <= CAP);
    }
    print_message("seed 7: refused %zu\n", n_refused);
    kvpi_blob_heap_close(heap); /* with pieces in use */
}

static uint64_t resident_bytes(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) && sscanf(line, "Rss: %llu", &kib) != 1)
        continue;
    fclose(f);
    return kib << 10;
}

/* What the system says that a heap takes, all its bookkeeping included, is what the heap says. */
static void test_full_heap_takes_no_more_memory_than_its_cap(void **state)
{
    (void)state;
    enum { CAP = 32 << 20 };
    static const size_t sizes[] = {8192, 4096, 512, 8192};
    static void *pieces[CAP / 512 + 1];
    memset(pieces, 1, sizeof pieces);
    kvpi_blob_heap_close(open_heap(CAP)); /* what the first one of a process leaves behind */
    uint64_t before = resident_bytes();
    kvpi_blob_heap *heap = open_heap(CAP);
    bool is_exact = kvpi_blob_trim(heap); /* malloc rounds up, and keeps what was freed */
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        size_t n = 0;
        while ((pieces[n] = kvpi_blob_alloc(heap, sizes[k])))
            memset(pieces[n++], 1, sizes[k]);
        uint64_t taken = resident_bytes() - before;
        print_message("pieces of %zu: %zu KiB taken, %zu used, cap %d\n", sizes[k],
                      (size_t)taken >> 10, (size_t)kvpi_blob_used(heap) >> 10, CAP >> 10);
        if (is_exact)
            assert_in_range(taken, n * sizes[k], CAP + SLACK_BYTES);
        while (n > 0)
            kvpi_blob_free(heap, pieces[--n], sizes[k]);
    }
    kvpi_blob_heap_close(heap);
}

/* Every fourth piece stays. */
static void test_trimming_gives_back_what_has_no_piece(void **state)
{
    (void)state;
    enum { CAP = 16 << 20, PIECE = 8192, N = CAP / PIECE };
    static unsigned char *pieces[N], tags[N], last_tag;
    kvpi_blob_heap *heap = open_heap(CAP);
    size_t n = 0;
    for (int round = 0; round < 3; round++) {
        for (; n < N && (pieces[n] = kvpi_blob_alloc(heap, PIECE)); n++)
            memset(pieces[n], tags[n] = ++last_tag, PIECE);
        uint64_t full = resident_bytes();
        size_t n_kept = 0;
        for (size_t i = 0; i < n; i++) {
            if (i % 4) {
                kvpi_blob_free(heap, pieces[i], PIECE);
                continue;
            }
            pieces[n_kept] = pieces[i];
            tags[n_kept++] = tags[i];
        }
        bool is_exact = kvpi_blob_trim(heap);
        uint64_t now = resident_bytes(), wanted = (n - n_kept) * PIECE;
        print_message("%zu KiB of %zu given back\n", (size_t)(full - now) >> 10,
                      (size_t)wanted >> 10);
        assert_true(!is_exact || full - now >= wanted * 9 / 10);
        for (size_t i = 0; i < n_kept; i++)
            for (size_t k = 0; k < PIECE; k++)
                assert_int_equal(pieces[i][k], tags[i]);
        n = n_kept;
    }
    kvpi_blob_heap_close(heap);
}

static void test_cap_moves(void **state)
{
    (void)state;
    enum { CAP = 1 << 20 };
    kvpi_blob_heap *heap = open_heap(CAP);
    filled f = fill(heap, CAP, 4096);
    uint64_t used = kvpi_blob_used(heap);
    kvpi_blob_set_cap(heap, CAP / 4);
    assert_int_equal(kvpi_blob_over(heap), used - CAP / 4);
    assert_null(kvpi_blob_alloc(heap, 64));
    empty(heap, f, 4096);
    assert_int_equal(kvpi_blob_over(heap), 0);
    f = fill(heap, CAP / 4, 4096);
    empty(heap, f, 4096);
    kvpi_blob_set_cap(heap, CAP);
    f = fill(heap, CAP, 4096);
    assert_true(f.n > CAP / 4096 * 9 / 10);
    empty(heap, f, 4096);
    kvpi_blob_heap_close(heap);
}

static uint64_t address_space_bytes(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu", &pages), 1);
    fclose(f);
    return pages * 4096;
}

static void open_use_close(void)
{
    kvpi_blob_heap *heap = open_heap(1 << 20);
    for (int k = 0; k < 20; k++)
        assert_non_null(kvpi_blob_alloc(heap, 8192));
    kvpi_blob_heap_close(heap);
}

static void test_opening_and_closing_leaks_nothing(void **state)
{
    (void)state;
    open_use_close();
    uint64_t before = address_space_bytes();
    for (int i = 0; i < 100; i++)
        open_use_close();
    assert_true(address_space_bytes() < before + (100u << 20)); /* 1 MiB per heap */
    kvpi_blob_heap_close(NULL);
}

static void *churn(void *arg)
{
    kvpi_blob_heap *heap = arg;
    void *held[32] = {0};
    uint64_t seed = (uintptr_t)&seed | 1;
    for (int step = 0; step < 4000; step++) {
        size_t i = next_random(&seed) % 32;
        if (held[i])
            kvpi_blob_free(heap, held[i], 2048);
        held[i] = kvpi_blob_alloc(heap, 2048);
        if (held[i])
            memset(held[i], (int)i, 2048);
    }
    for (size_t i = 0; i < 32; i++)
        if (held[i])
            kvpi_blob_free(heap, held[i], 2048);
    return NULL;
}

static void test_threads_share_a_heap_under_its_cap(void **state)
{
    (void)state;
    enum { CAP = 128 << 10 };
    kvpi_blob_heap *heap = open_heap(CAP);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, churn, heap), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(kvpi_blob_used(heap), 0);
    assert_in_range(kvpi_blob_peak(heap), 2048, CAP);
    kvpi_blob_heap_close(heap);
}

static void *no_alloc(void *opaque, size_t n, size_t align)
{
    (void)opaque, (void)n, (void)align;
    return NULL;
}

static void test_no_memory_is_reported(void **state)
{
    (void)state;
    kvp_mem none = {.alloc = no_alloc, .free = kvpi_mem_default.free};
    kvpi_blob_heap *heap = NULL;
    assert_int_equal(kvpi_blob_heap_open(&none, 1 << 20, &heap), KVP_E_NOMEM);
    assert_null(heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cap_is_used_up_to_a_few_percent_again_and_again),
        cmocka_unit_test(test_random_pieces_keep_their_bytes_under_the_cap),
        cmocka_unit_test(test_full_heap_takes_no_more_memory_than_its_cap),
        cmocka_unit_test(test_trimming_gives_back_what_has_no_piece),
        cmocka_unit_test(test_cap_moves),
        cmocka_unit_test(test_opening_and_closing_leaks_nothing),
        cmocka_unit_test(test_threads_share_a_heap_under_its_cap),
        cmocka_unit_test(test_no_memory_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
