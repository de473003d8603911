/* test_swap_file.c - what is created, what is refused, how it grows, and that nothing is left. */
#define _GNU_SOURCE 1
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "child.h"
#include "faulty_mem.h"
#include "tiers/format.h"
#include "tiers/swap_file.h"

#define SLOT ((size_t)65536)
#define MIB ((uint64_t)1 << 20)
#define CANNOT 99 /* a child could not set the scene: skip */

static char folder[128], path[160];

static int set_up(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.90s/swap-test-XXXXXX", tmp && *tmp ? tmp : "/var/tmp");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/kv.swap", folder);
    return 0;
}

/* Removing the folder fails unless every test left it empty. */
static int tear_down(void **state)
{
    (void)state;
    return rmdir(folder);
}

static kvp_status open_capped(const char *name, uint64_t max_bytes, kvpi_swap_file *f)
{
    return kvpi_swap_file_open(name, SLOT, 16 * SLOT, max_bytes, &kvpi_mem_default,
                               kvp_env_default(), f);
}

static kvp_status open_swap(const char *name, kvpi_swap_file *f)
{
    return open_capped(name, 64 * MIB, f);
}

static size_t count_entries(void)
{
    size_t n = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static struct stat stat_fd(int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    return st;
}

static void write_file(const char *name, const char *text, mode_t mode)
{
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fchmod(fileno(file), mode), 0);
    fclose(file);
}

static bool says(const char *piece)
{
    if (strstr(kvp_error(), piece))
        return true;
    print_error("no \"%s\" in: %s\n", piece, kvp_error());
    return false;
}

static void assert_refused(kvp_status expected, const char *piece)
{
    kvpi_swap_file f = {.fd = -7};
    assert_int_equal(open_swap(path, &f), expected);
    assert_int_equal(f.fd, -7);
    assert_true(says(piece));
    assert_true(says(path));
}

/* ---- creating and removing --------------------------------------------------------------------*/

static void test_named_file_is_private_visible_and_removed_at_close(void **state)
{
    (void)state;
    kvpi_swap_file f;
    mode_t mask = umask(0);
    assert_int_equal(open_swap(path, &f), KVP_OK);
    umask(mask);
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0600);
    assert_int_equal(st.st_size, 8192);
    assert_int_equal(f.size_bytes, 8192);
    assert_int_equal(fcntl(f.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_int_equal((fcntl(f.fd, F_GETFL) & O_DIRECT) != 0, f.is_direct);
    assert_int_equal(fcntl(f.fd, F_GETFL) & O_NONBLOCK, 0);

    char magic[9] = "";
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fseek(file, 4096, SEEK_SET), 0); /* epoch 1 */
    assert_int_equal(fread(magic, 1, 8, file), 8);
    fclose(file);
    assert_string_equal(magic, "KVPAGER\n");
    kvpi_swap_file_close(&f);
    assert_int_equal(lstat(path, &st), -1);
}

static void test_unnamed_file_is_invisible_and_in_tmpdir(void **state)
{
    (void)state;
    kvpi_swap_file f;
    char before[256], proc[64], target[256];
    const char *tmp = getenv("TMPDIR");
    snprintf(before, sizeof before, "%s", tmp ? tmp : "");
    setenv("TMPDIR", folder, 1);
    assert_int_equal(open_swap(NULL, &f), KVP_OK);
    assert_int_equal(count_entries(), 0);
    assert_int_equal(stat_fd(f.fd).st_mode, S_IFREG | 0600);
    assert_int_equal(stat_fd(f.fd).st_nlink, 0);
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", f.fd);
    ssize_t n = readlink(proc, target, sizeof target - 1);
    assert_true(n > 0);
    target[n] = 0;
    assert_int_equal(strncmp(target, folder, strlen(folder)), 0);
    kvpi_swap_file_close(&f);

    setenv("TMPDIR", "/nonexistent/folder", 1);
    assert_int_equal(open_swap(NULL, &f), KVP_E_IO);
    assert_true(says("/nonexistent/folder") && says("TMPDIR"));
    if (before[0])
        setenv("TMPDIR", before, 1);
    else
        unsetenv("TMPDIR");
}

/* On file systems that lack them: O_TMPFILE, O_DIRECT and fallocate. */
static int use_a_poor_file_system(void *arg)
{
    kvpi_swap_file f;
    setenv("TMPDIR", folder, 1);
    if (!child_deny_flags(SYS_openat, 2, O_TMPFILE & ~O_DIRECTORY, EOPNOTSUPP) ||
        !child_deny_flags(SYS_fcntl, 2, O_DIRECT, EINVAL) ||
        !child_deny_syscall(SYS_fallocate, EOPNOTSUPP))
        return CANNOT;
    if (open_swap(arg, &f) || f.is_direct || kvpi_swap_file_grow(&f, 8192 + SLOT))
        return 1;
    struct stat st = stat_fd(f.fd);
    if (st.st_size != (off_t)f.size_bytes || f.size_bytes < 8192 + SLOT)
        return 2;
    if (st.st_nlink != (arg ? 1u : 0u) || count_entries() != (arg ? 1u : 0u))
        return 3;
    kvpi_swap_file_close(&f);
    return 0;
}

static void test_poor_file_system_still_works(void **state)
{
    (void)state;
    int code = child_run(use_a_poor_file_system, NULL);
    if (code == CANNOT)
        skip();
    assert_int_equal(code, 0);
    assert_int_equal(child_run(use_a_poor_file_system, path), 0);
}

static void test_file_put_in_its_place_survives_close(void **state)
{
    (void)state;
    kvpi_swap_file f;
    assert_int_equal(open_swap(path, &f), KVP_OK);
    assert_int_equal(unlink(path), 0);
    write_file(path, "somebody else's", 0644);
    kvpi_swap_file_close(&f);
    assert_int_equal(unlink(path), 0);
}

static int close_here(void *arg)
{
    kvpi_swap_file_close(arg);
    return 0;
}

static void test_closing_in_a_forked_child_keeps_the_name(void **state)
{
    (void)state;
    kvpi_swap_file f;
    struct stat st;
    assert_int_equal(open_swap(path, &f), KVP_OK);
    assert_int_equal(child_run(close_here, &f), 0);
    assert_int_equal(lstat(path, &st), 0);
    kvpi_swap_file_close(&f);
    assert_int_equal(lstat(path, &st), -1);
}

/* ---- existing files ---------------------------------------------------------------------------*/

static void test_foreign_file_is_refused_and_untouched(void **state)
{
    (void)state;
    const char *texts[] = {"dear diary\n", "KVPSWAP1", "KVPSWAP1 but the rest is not a header...."};
    for (size_t i = 0; i < 3; i++) {
        char text[64] = "";
        write_file(path, texts[i], 0644);
        assert_refused(KVP_E_INVALID, "is not a kvpager swap file; name another path");
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        assert_int_equal(fread(text, 1, sizeof text, file), strlen(texts[i]));
        assert_string_equal(text, texts[i]);
        assert_int_equal(stat_fd(fileno(file)).st_mode, S_IFREG | 0644);
        fclose(file);
        unlink(path);
    }
}

static void test_symlink_is_refused_and_its_target_untouched(void **state)
{
    (void)state;
    char target[192];
    snprintf(target, sizeof target, "%s.target", path);
    assert_int_equal(symlink(target, path), 0);
    assert_refused(KVP_E_INVALID, "symbolic link");
    assert_int_equal(count_entries(), 1); /* the target was not created */
    write_file(target, "", 0600);
    assert_refused(KVP_E_INVALID, "symbolic link");
    unlink(target);
    unlink(path);
}

static void test_other_kinds_of_files_are_refused(void **state)
{
    (void)state;
    assert_int_equal(mkdir(path, 0700), 0);
    assert_refused(KVP_E_INVALID, "is a folder");
    rmdir(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_refused(KVP_E_INVALID, "not a regular file");
    unlink(path);
    kvpi_swap_file f;
    assert_int_equal(open_swap("/dev/null", &f), KVP_E_INVALID);
    assert_true(says("not a regular file"));
}

static void test_file_of_another_user_is_refused(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    write_file(path, "", 0666);
    assert_int_equal(chown(path, 65534, 65534), 0);
    assert_refused(KVP_E_INVALID, "another user");
    unlink(path);
}

static void test_file_in_use_is_busy(void **state)
{
    (void)state;
    kvpi_swap_file f;
    assert_int_equal(open_swap(path, &f), KVP_OK);
    assert_refused(KVP_E_BUSY, "in use");
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(st.st_size, 8192);
    assert_int_equal(kvpi_swap_file_grow(&f, 8192 + SLOT), KVP_OK);
    kvpi_swap_file_close(&f);
}

static int die_with_the_file_open(void *arg)
{
    kvpi_swap_file *f = arg;
    return open_swap(path, f) || kvpi_swap_file_grow(f, 3 * MIB) ? 1 : 0;
}

static void test_leftover_of_an_unclean_exit_is_discarded_and_reused(void **state)
{
    (void)state;
    kvpi_swap_file f;
    struct stat st;
    assert_int_equal(child_run(die_with_the_file_open, &f), 0);
    assert_int_equal(lstat(path, &st), 0);
    assert_true(st.st_size > 2 * (off_t)MIB);
    assert_int_equal(chmod(path, 0644), 0);

    assert_int_equal(open_swap(path, &f), KVP_OK);
    assert_int_equal(stat_fd(f.fd).st_ino, st.st_ino);
    assert_int_equal(stat_fd(f.fd).st_size, 8192);
    assert_int_equal(stat_fd(f.fd).st_mode, S_IFREG | 0600);
    kvpi_swap_file_close(&f);
}

static void test_damaged_leftover_is_refused(void **state)
{
    (void)state;
    kvpi_swap_file f;
    assert_int_equal(child_run(die_with_the_file_open, &f), 0);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "?", 1, 4096 + 17), 1); /* in its epoch */
    close(fd);
    assert_refused(KVP_E_INVALID, "is not a kvpager swap file");
    unlink(path);
}

static void write_superblock(const kvpi_superblock *sb, uint32_t version)
{
    unsigned char block[KVPI_BLOCK_BYTES];
    kvpi_superblock_encode(sb, block);
    block[8] = (unsigned char)version;
    uint64_t sum = kvpi_checksum_raw(block, sizeof block - 8, 0);
    memcpy(block + sizeof block - 8, &sum, sizeof sum);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(block, 1, sizeof block, file), sizeof block);
    assert_int_equal(fclose(file), 0);
}

static void test_stores_and_newer_files_are_not_overwritten(void **state)
{
    (void)state;
    kvpi_superblock sb = {.kind = KVPI_FILE_STORE,
                          .epoch = 2,
                          .store_id = 1,
                          .segment_bytes = 16 * SLOT,
                          .slot_bytes = (uint32_t)SLOT};
    write_superblock(&sb, 1);
    assert_refused(KVP_E_INVALID, "is a kvpager store");
    sb.kind = KVPI_FILE_SWAP;
    write_superblock(&sb, 2);
    assert_refused(KVP_E_UNSUPPORTED, "version 2");
    kvpi_swap_file f;
    write_superblock(&sb, 1);
    assert_int_equal(open_swap(path, &f), KVP_OK);
    kvpi_swap_file_close(&f);
}

static void test_empty_file_is_taken(void **state)
{
    (void)state;
    kvpi_swap_file f;
    write_file(path, "", 0644);
    assert_int_equal(open_swap(path, &f), KVP_OK);
    assert_int_equal(stat_fd(f.fd).st_mode, S_IFREG | 0600);
    kvpi_swap_file_close(&f);
}

static int open_as_nobody(void *arg)
{
    (void)arg;
    kvpi_swap_file f;
    if (!child_limit_memlock(65536))
        return CANNOT;
    return open_swap(path, &f) == KVP_E_IO && says(strerror(EACCES)) && says(path) ? 0 : 1;
}

static void test_folder_that_cannot_be_written_is_a_clear_error(void **state)
{
    (void)state;
    kvpi_swap_file f;
    int code = child_run(open_as_nobody, NULL);
    if (code != CANNOT)
        assert_int_equal(code, 0);
    assert_int_equal(open_swap("/nonexistent/kv.swap", &f), KVP_E_IO);
    assert_true(says("/nonexistent/kv.swap") && says(strerror(ENOENT)));
}

/* ---- growing ----------------------------------------------------------------------------------*/

static void test_grows_in_chunks_and_never_beyond_the_cap(void **state)
{
    (void)state;
    kvpi_swap_file f;
    uint64_t cap = 40 * MIB + 16384;
    assert_int_equal(open_capped(path, cap, &f), KVP_OK);
    static const uint64_t wanted[] = {8192 + SLOT, 20 * MIB, 40 * MIB};
    static const uint64_t expected[] = {16 * MIB + 8192, 32 * MIB + 8192, 40 * MIB + 16384};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(kvpi_swap_file_grow(&f, wanted[i]), KVP_OK);
        assert_int_equal(f.size_bytes, expected[i]);
        struct stat st = stat_fd(f.fd);
        assert_int_equal(st.st_size, expected[i]);
        assert_true((uint64_t)st.st_blocks * 512 >= expected[i]); /* really allocated */
    }
    assert_int_equal(kvpi_swap_file_grow(&f, cap), KVP_OK);
    assert_int_equal(kvpi_swap_file_grow(&f, MIB), KVP_OK); /* never shrinks */
    assert_int_equal(f.size_bytes, cap);
    kvpi_swap_file_close(&f);
}

static bool limit_file_size(uint64_t bytes)
{
    struct rlimit limit = {.rlim_cur = bytes, .rlim_max = bytes};
    return !setrlimit(RLIMIT_FSIZE, &limit);
}

static int grow_past_the_file_limit(void *arg)
{
    (void)arg;
    kvpi_swap_file f;
    if (!limit_file_size(MIB) || open_swap(path, &f))
        return 1;
    if (kvpi_swap_file_grow(&f, MIB / 2) || f.size_bytes != MIB / 2)
        return 2; /* there is no room for a chunk, but for what is needed */
    if (kvpi_swap_file_grow(&f, 2 * MIB) != KVP_E_NOSPACE || !says("ulimit -f") || !says(path))
        return 3;
    if (f.size_bytes != MIB / 2 || stat_fd(f.fd).st_size != (off_t)MIB / 2)
        return 4;
    kvpi_swap_file_close(&f);
    return 0;
}

static int open_below_the_file_limit(void *arg)
{
    (void)arg;
    kvpi_swap_file f;
    return limit_file_size(1000) && open_swap(path, &f) == KVP_E_NOSPACE && says(path) ? 0 : 1;
}

static void test_file_size_limit_is_no_space_and_no_signal(void **state)
{
    (void)state;
    assert_int_equal(child_run(grow_past_the_file_limit, NULL), 0);
    assert_int_equal(child_run(open_below_the_file_limit, NULL), 0);
}

static int fill_a_tiny_disk(void *arg)
{
    (void)arg;
    kvpi_swap_file f;
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("tmpfs", folder, "tmpfs", 0, "size=1m"))
        return CANNOT;
    if (open_swap(path, &f))
        return 1;
    if (kvpi_swap_file_grow(&f, MIB / 2) || f.size_bytes != MIB / 2)
        return 2;
    if (kvpi_swap_file_grow(&f, 2 * MIB) != KVP_E_NOSPACE)
        return 3;
    if (!says(path) || !says(strerror(ENOSPC)) || !says("2097152 bytes"))
        return 4;
    if (f.size_bytes != MIB / 2 || stat_fd(f.fd).st_size != (off_t)MIB / 2)
        return 5;
    if (kvpi_swap_file_grow(&f, MIB / 2 + SLOT))
        return 6;
    kvpi_swap_file_close(&f);
    return 0;
}

static void test_full_disk_is_no_space_naming_path_and_bytes(void **state)
{
    (void)state;
    int code = child_run(fill_a_tiny_disk, NULL);
    if (code == CANNOT)
        skip();
    assert_int_equal(code, 0);
}

/* ---- injected failures ------------------------------------------------------------------------*/

static void test_failing_nth_allocation_leaves_no_file(void **state)
{
    (void)state;
    size_t n_failures = 0;
    for (size_t n = 1;; n++) {
        faulty_mem m;
        faulty_mem_init(&m, n);
        kvpi_swap_file f;
        kvp_status status =
            kvpi_swap_file_open(path, SLOT, 16 * SLOT, 64 * MIB, &m.mem, kvp_env_default(), &f);
        if (status == KVP_OK)
            kvpi_swap_file_close(&f);
        assert_int_equal(m.outstanding_bytes, 0);
        assert_int_equal(count_entries(), 0);
        if (status == KVP_OK)
            break;
        assert_int_equal(status, KVP_E_NOMEM);
        n_failures++;
    }
    assert_true(n_failures >= 2);
}

static kvp_status no_random(void *opaque, void *buf, size_t n)
{
    (void)opaque;
    (void)buf;
    return kvp_fail(KVP_E_IO, "no randomness for %zu bytes", n);
}

static void test_failing_randomness_leaves_no_file(void **state)
{
    (void)state;
    kvp_env env = *kvp_env_default();
    kvpi_swap_file f;
    env.random = no_random;
    assert_int_equal(
        kvpi_swap_file_open(path, SLOT, 16 * SLOT, 64 * MIB, &kvpi_mem_default, &env, &f),
        KVP_E_IO);
    assert_int_equal(count_entries(), 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_named_file_is_private_visible_and_removed_at_close),
        CASE(test_unnamed_file_is_invisible_and_in_tmpdir),
        CASE(test_poor_file_system_still_works),
        CASE(test_file_put_in_its_place_survives_close),
        CASE(test_closing_in_a_forked_child_keeps_the_name),
        CASE(test_foreign_file_is_refused_and_untouched),
        CASE(test_symlink_is_refused_and_its_target_untouched),
        CASE(test_other_kinds_of_files_are_refused),
        CASE(test_file_of_another_user_is_refused),
        CASE(test_file_in_use_is_busy),
        CASE(test_leftover_of_an_unclean_exit_is_discarded_and_reused),
        CASE(test_damaged_leftover_is_refused),
        CASE(test_stores_and_newer_files_are_not_overwritten),
        CASE(test_empty_file_is_taken),
        CASE(test_folder_that_cannot_be_written_is_a_clear_error),
        CASE(test_grows_in_chunks_and_never_beyond_the_cap),
        CASE(test_file_size_limit_is_no_space_and_no_signal),
        CASE(test_full_disk_is_no_space_naming_path_and_bytes),
        CASE(test_failing_nth_allocation_leaves_no_file),
        CASE(test_failing_randomness_leaves_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
