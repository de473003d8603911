/* test_faulty_disk.c - the fault-injecting wrapper fails what it was told to, and nothing else:
 * what the tests that use it rely on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "disk_fixture.h"
#include "faulty_disk.h"
#include "tiers/disk_engine.h"

static void test_faulty_disk_fails_the_nth_and_only_the_nth(void **state)
{
    (void)state;
    static const faulty_plan plans[] = {{.kind = FAULT_EIO, .op = FAULT_WRITES, .nth = 2},
                                        {.kind = FAULT_ENOSPC, .op = FAULT_WRITES, .nth = 2},
                                        {.kind = FAULT_SHORT, .op = FAULT_WRITES, .nth = 2}};
    static const kvp_status expected[] = {KVP_E_IO, KVP_E_NOSPACE, KVP_E_IO};
    kvp_disk *disk = disk_open_on(fx.fd);
    for (size_t p = 0; p < 3; p++) {
        faulty_disk_arm(&fx.faulty, (faulty_plan){0});
        memset(fx.memory, 0, BLOCK_BYTES);
        kvp_disk_io io = disk_request(KVP_IO_WRITE, fx.memory, BLOCK_BYTES, BLOCK_BYTES);
        disk_assert_done(disk_run_one(disk, &io));
        faulty_disk_arm(&fx.faulty, plans[p]);
        for (uint64_t n = 1; n <= 3; n++) {
            block_fill(fx.memory, BLOCK_BYTES, n);
            io = disk_request(KVP_IO_WRITE, fx.memory, BLOCK_BYTES, (n - 1) * BLOCK_BYTES);
            disk_run_one(disk, &io);
            assert_int_equal(io.status, n == 2 ? expected[p] : KVP_OK);
            assert_int_equal(faulty_disk_fired(&fx.faulty), n >= 2 ? 1 : 0);
        }
        io = disk_request(KVP_IO_READ, fx.memory, BLOCK_BYTES, BLOCK_BYTES);
        disk_assert_done(disk_run_one(disk, &io));
        size_t moved = p == 2 ? BLOCK_BYTES / 2 : 0; /* the failed write left the rest as it was */
        assert_int_equal(block_is_filled(fx.memory, BLOCK_BYTES / 2, 2), p == 2);
        for (size_t i = moved; i < BLOCK_BYTES; i++)
            assert_int_equal(fx.memory[i], 0);
    }
    disk->ops->close(disk);
}

static void test_faulty_disk_flips_one_bit_and_persists(void **state)
{
    (void)state;
    kvp_disk *disk = disk_open_on(fx.fd);
    uint64_t reads = faulty_disk_reads(&fx.faulty), writes = faulty_disk_writes(&fx.faulty);
    faulty_disk_arm(&fx.faulty, (faulty_plan){.kind = FAULT_FLIP,
                                              .op = FAULT_READS,
                                              .nth = 2,
                                              .is_persistent = true,
                                              .flip_bit = 8 * 100 + 3});
    block_fill(fx.memory, BLOCK_BYTES, 5);
    kvp_disk_io io = disk_request(KVP_IO_WRITE, fx.memory, BLOCK_BYTES, 0);
    disk_assert_done(disk_run_one(disk, &io));
    for (int n = 1; n <= 3; n++) {
        io = disk_request(KVP_IO_READ, fx.memory + BLOCK_BYTES, BLOCK_BYTES, 0);
        disk_assert_done(disk_run_one(disk, &io));
        size_t n_differ = 0;
        for (size_t i = 0; i < BLOCK_BYTES; i++)
            n_differ += fx.memory[i] != fx.memory[BLOCK_BYTES + i];
        assert_int_equal(n_differ, n == 1 ? 0 : 1);
        assert_int_equal(fx.memory[100] ^ fx.memory[BLOCK_BYTES + 100], n == 1 ? 0 : 8);
    }
    assert_int_equal(faulty_disk_fired(&fx.faulty), 2);
    assert_int_equal(faulty_disk_reads(&fx.faulty) - reads, 3);
    assert_int_equal(faulty_disk_writes(&fx.faulty) - writes, 1);
    disk->ops->close(disk);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(test_faulty_disk_fails_the_nth_and_only_the_nth,
                                    disk_set_up_file, disk_tear_down),
    cmocka_unit_test_setup_teardown(test_faulty_disk_flips_one_bit_and_persists, disk_set_up_file,
                                    disk_tear_down),
};

int main(void)
{
    fx.engine = "threads";
    fx.is_wrapped = true;
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
