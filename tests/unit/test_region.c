/* test_region.c - one address range per tier. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/region.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

static void test_region_is_aligned_zeroed_and_writable(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 4096, 5000, (2u << 20) - 1, 5u << 20};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        kvpi_region r;
        assert_int_equal(kvpi_region_open(sizes[k], &r), KVP_OK);
        assert_int_equal((uintptr_t)r.base % (2u << 20), 0);
        assert_int_equal(r.bytes, (sizes[k] + 4095) / 4096 * 4096);
        for (size_t i = 0; i < r.bytes; i += 1024)
            assert_int_equal(r.base[i], 0);
        memset(r.base, 0x5a, r.bytes);
        kvpi_region_close(&r);
        assert_null(r.base);
        kvpi_region_close(&r); /* a zeroed one: nothing happens */
    }
}

/* The flags that the kernel shows for the mapping at `address`. */
static void read_flags(const void *address, char flags[256])
{
    char line[512];
    bool is_inside = false;
    FILE *f = fopen("/proc/self/smaps", "re");
    assert_non_null(f);
    flags[0] = '\0';
    while (fgets(line, sizeof line, f)) {
        uintptr_t begin, end;
        if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
            is_inside = (uintptr_t)address >= begin && (uintptr_t)address < end;
        else if (is_inside && strncmp(line, "VmFlags:", 8) == 0)
            snprintf(flags, 256, "%.200s", line + 8);
    }
    fclose(f);
}

static void test_region_stays_out_of_core_dumps_and_huge_pages_stay_inside(void **state)
{
    (void)state;
    kvpi_region r;
    char whole[256], rest[256];
    assert_int_equal(kvpi_region_open((4u << 20) + 4096, &r), KVP_OK);
    read_flags(r.base, whole);
    read_flags(r.base + (4u << 20), rest);
    assert_non_null(strstr(whole, " dd"));
    assert_non_null(strstr(rest, " dd"));
    /* A kernel without huge pages shows neither flag. */
    assert_int_equal(strstr(whole, " hg") != NULL, strstr(rest, " nh") != NULL);
    assert_null(strstr(rest, " hg"));
    kvpi_region_close(&r);
}

/* OS pages of the region that take memory, from `first` on. */
static size_t resident_pages(const kvpi_region *r, size_t first)
{
    static unsigned char vec[16384];
    size_t n_pages = r->bytes / 4096, n = 0;
    assert_true(n_pages <= sizeof vec);
    assert_int_equal(mincore(r->base, r->bytes, vec), 0);
    for (size_t i = first; i < n_pages; i++)
        n += vec[i] & 1;
    return n;
}

static void test_trimming_gives_back_whole_units_beyond_what_is_used(void **state)
{
    (void)state;
    const size_t unit = (size_t)2 << 20, bytes = 4 * unit + 8192;
    static const struct {
        size_t used, kept; /* units; kept 5: all */
    } cases[] = {{4 * 2048 + 8, 5}, {4 * 2048 + 4, 5}, {3 * 2048 + 4, 4}, {2 * 2048, 2}, {4, 1}};
    kvpi_region r;
    assert_int_equal(kvpi_region_open(bytes, &r), KVP_OK);
    memset(r.base, 0x5a, bytes);
    assert_int_equal(resident_pages(&r, 0), bytes / 4096);
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        size_t kept_bytes = cases[k].kept < 5 ? cases[k].kept * unit : bytes;
        kvpi_region_trim(&r, cases[k].used * 1024);
        assert_int_equal(resident_pages(&r, kept_bytes / 4096), 0);
        assert_int_equal(resident_pages(&r, 0), kept_bytes / 4096);
        for (size_t i = 0; i < kept_bytes; i += 1024)
            assert_int_equal(r.base[i], 0x5a);
    }
    for (size_t i = unit; i < bytes; i += 4096)
        assert_int_equal(r.base[i], 0);
    kvpi_region_trim(&r, 0);
    assert_int_equal(resident_pages(&r, 0), 0);
    memset(r.base, 1, bytes); /* it can be had again */
    kvpi_region_close(&r);
}

/* What reserves all of a machine's RAM must not take it. */
static void test_region_takes_no_memory_before_it_is_touched(void **state)
{
    (void)state;
    const size_t bytes = (size_t)1 << 38;
    kvpi_region r;
    assert_int_equal(kvpi_region_open(bytes, &r), KVP_OK);
    r.base[0] = 1;
    r.base[bytes - 1] = 1;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    assert_true(usage.ru_maxrss < 1 << 20); /* KiB: 1 GiB of 256 */
    kvpi_region_close(&r);
}

static void test_impossible_sizes_are_refused_with_a_message(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, SIZE_MAX, SIZE_MAX - 4096, (size_t)1 << 62};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        kvpi_region r = {.bytes = 77};
        assert_int_equal(kvpi_region_open(sizes[k], &r), KVP_E_NOMEM);
        assert_int_equal(r.bytes, 77);
        assert_non_null(strstr(kvp_error(), "cannot reserve"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_region_is_aligned_zeroed_and_writable),
        cmocka_unit_test(test_region_stays_out_of_core_dumps_and_huge_pages_stay_inside),
        cmocka_unit_test(test_trimming_gives_back_whole_units_beyond_what_is_used),
        cmocka_unit_test(test_region_takes_no_memory_before_it_is_touched),
        cmocka_unit_test(test_impossible_sizes_are_refused_with_a_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
