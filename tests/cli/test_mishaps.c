/* test_mishaps.c - signals, swap files of all kinds, full disks, flipped bits, and machines that
 * forbid io_uring or locked memory. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

#define ENDLESS "-n 1000000 --ignore-eos"

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static const char *long_prompt(void)
{
    return ids_file("rolling.token_ids", 0, 900);
}

/* Wait for the first bytes of text. */
static size_t read_some(const process *p, char *bytes, size_t max)
{
    ssize_t n = read(p->out, bytes, max);
    assert_true(n > 0);
    return (size_t)n;
}

/* ---- signals ---- */

static void check_signal(int number, int code)
{
    char text[64];
    const char *swap = scratch("signal.swap");
    process p = start("", NULL, "generate -m %s --ids %s " ENDLESS " --ram 1M --swap %s",
                      demo_model(), long_prompt(), swap);
    read_some(&p, text, sizeof text);
    assert_true(exists(swap));
    kill(p.pid, number);
    outcome o = finish(&p);
    expect_failure(&o, code, "interrupted");
    assert_false(exists(swap));
    outcome_free(&o);
}

static void test_signals_end_cleanly_and_leave_no_file(void **state)
{
    (void)state;
    check_signal(SIGINT, 130);
    check_signal(SIGTERM, 143);
    check_signal(SIGHUP, 129);
    check_signal(SIGQUIT, 131);
}

static void test_interrupted_json_has_what_there_is(void **state)
{
    (void)state;
    const char *swap = scratch("json.swap");
    int watch = watch_scratch();
    process p = start("", NULL, "generate -m %s --ids %s " ENDLESS " --ram 1M --swap %s --json",
                      demo_model(), long_prompt(), swap);
    wait_for_file(watch, "json.swap");
    close(watch);
    kill(p.pid, SIGINT);
    outcome o = finish(&p);
    expect_failure(&o, 130, "interrupted");
    o.json = json_loadb(o.out, o.n_out, 0, NULL);
    assert_string_equal(text_member(o.json, "stop_reason"), "interrupted");
    assert_true(json_is_array(member(o.json, "tokens")));
    assert_int_equal(int_member(o.json, "prompt_tokens"), 900);
    assert_false(exists(swap));
    outcome_free(&o);
}

/* The other end of a pipe opens when the command has come to reading it. */
static void test_signal_while_it_loads_ends_with_a_message(void **state)
{
    (void)state;
    const char *fifo = scratch("fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    process p = start("", NULL, "generate -m %s -f %s", demo_model(), fifo);
    int fd = open(fifo, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    kill(p.pid, SIGINT);
    outcome o = finish(&p);
    close(fd);
    expect_failure(&o, 130, "interrupted");
    outcome_free(&o);
}

static void test_interrupted_perplexity_is_marked_as_partial(void **state)
{
    (void)state;
    int watch = watch_scratch();
    process p = start("", NULL, "perplexity -m %s --ids %s --stride 1 --ram 1M --swap %s --json",
                      demo_model(), ids_file("rolling.token_ids", 0, 1200), scratch("ppl.swap"));
    wait_for_file(watch, "ppl.swap");
    close(watch);
    kill(p.pid, SIGINT);
    outcome o = finish(&p);
    expect_failure(&o, 130, "interrupted");
    o.json = json_loadb(o.out, o.n_out, 0, NULL);
    assert_true(json_is_true(member(o.json, "partial")));
    assert_true(int_member(o.json, "scored_tokens") < 1199);
    outcome_free(&o);
}

static void test_reader_that_goes_away_ends_cleanly(void **state)
{
    (void)state;
    char text[8];
    const char *swap = scratch("pipe.swap");
    process p = start("", NULL, "generate -m %s --ids %s " ENDLESS " --ram 1M --swap %s",
                      demo_model(), long_prompt(), swap);
    read_some(&p, text, sizeof text);
    close(p.out);
    p.out = open("/dev/null", O_RDONLY);
    outcome o = finish(&p);
    expect_failure(&o, 1, "stdout");
    assert_false(exists(swap));
    outcome_free(&o);
}

/* ---- swap files ---- */

static void test_foreign_file_is_refused_and_untouched(void **state)
{
    (void)state;
    const char *path = scratch("letter.txt");
    write_file(path, "Dear Sir,", 9);
    outcome o = run("", "generate -m %s -p hello -n 1 --ram 1M --swap %s", demo_model(), path);
    expect_failure(&o, 1, "letter.txt");
    outcome_free(&o);
    size_t n;
    char *bytes = read_file(path, &n);
    assert_int_equal(n, 9);
    assert_memory_equal(bytes, "Dear Sir,", 9);
    free(bytes);
}

static void test_places_that_cannot_hold_a_swap_file_are_named(void **state)
{
    (void)state;
    outcome o = run("", "generate -m %s -p hello -n 1 --ram 1M --swap %s", demo_model(),
                    scratch("no/folder/file"));
    expect_failure(&o, 1, "no/folder/file");
    outcome_free(&o);
    o = run("", "generate -m %s -p hello -n 1 --ram 1M --swap /dev/null", demo_model());
    expect_failure(&o, 1, "/dev/null");
    outcome_free(&o);
    assert_int_equal(symlink("/dev/null", scratch("link")), 0);
    o = run("", "generate -m %s -p hello -n 1 --ram 1M --swap %s", demo_model(), scratch("link"));
    expect_failure(&o, 1, "link");
    outcome_free(&o);
}

static void test_swap_file_is_private_in_use_and_reused_after_a_crash(void **state)
{
    (void)state;
    char text[8];
    struct stat st;
    const char *swap = scratch("own.swap");
    const char *format = "generate -m %s --ids %s --ignore-eos --ram 1M --swap %s %s";
    process p = start("", NULL, format, demo_model(), long_prompt(), swap, "-n 1000000");
    read_some(&p, text, sizeof text);
    assert_int_equal(stat(swap, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_true(st.st_size > 1 << 20);
    outcome second = run("", format, demo_model(), long_prompt(), swap, "-n 1");
    expect_failure(&second, 1, "own.swap");
    outcome_free(&second);
    kill(p.pid, SIGKILL);
    outcome o = finish(&p);
    assert_true(exists(swap));
    /* The kernel takes down a killed process's ring in its own time, and the lock with it. */
    for (int attempts = 0; o.code != 0 && attempts < 50; attempts++) {
        outcome_free(&o);
        o = run("", format, demo_model(), long_prompt(), swap, "-n 2");
        if (o.code)
            expect_failure(&o, 1, "in use");
    }
    assert_int_equal(o.code, 0);
    assert_false(exists(swap));
    outcome_free(&o);
}

/* How well pages compress shows only while they do, so where they might fit the run must begin:
 * 5.4 MiB of KV, of which 2.4 MiB of compressed RAM would hold 4.9 at 2 : 1. */
static void test_full_disk_tier_is_a_clear_end(void **state)
{
    (void)state;
    outcome o = run("", "generate -m %s --ids %s -n 4 --ram 1M --zram 2500K --disk 128K",
                    demo_model(), long_prompt());
    expect_failure(&o, 1, "the KV does not fit: --ram holds");
    assert_non_null(strstr(o.err, "the disk budget of 131072 bytes is used up"));
    outcome_free(&o);
}

/* `budget` ends with the option whose size is looked for. */
static void check_exact_budget(const char *command, const char *budget)
{
    const char *format = "%s -m %s %s%llu";
    outcome o = run("", format, command, demo_model(), budget, 1ull);
    expect_failure(&o, 1, "needs at least ");
    unsigned long long bytes = strtoull(strstr(o.err, "needs at least ") + 15, NULL, 10);
    outcome_free(&o);
    o = run_expecting(0, "", format, command, demo_model(), budget, bytes);
    outcome_free(&o);
    o = run("", format, command, demo_model(), budget, bytes - 1);
    expect_failure(&o, 1, "needs at least ");
    assert_string_equal(o.out, "");
    assert_int_equal(strtoull(strstr(o.err, "needs at least ") + 15, NULL, 10), bytes);
    outcome_free(&o);
}

static void test_too_small_budget_names_the_bytes_that_work(void **state)
{
    (void)state;
    char command[512];
    snprintf(command, sizeof command, "generate --ids %s -n 5 --ignore-eos", long_prompt());
    check_exact_budget(command, "--ram ");
    check_exact_budget(command, "--zram 64K --ram ");
    check_exact_budget(command, "--ram 1M --disk ");
    check_exact_budget(command, "--disk 0 --ram ");
    check_exact_budget(command, "--page-tokens 16 --keep window:300,sinks:20 --ram 1M --disk ");
    snprintf(command, sizeof command, "generate --ids %s -n 20 --ignore-eos",
             ids_file("rolling.token_ids", 0, 1020));
    check_exact_budget(command, "--ram 1M --disk ");
    snprintf(command, sizeof command, "generate --ids %s -n 80 --ignore-eos",
             ids_file("rolling.token_ids", 0, 40));
    check_exact_budget(command, "--page-tokens 8 --keep window:20,sinks:4 --disk 0 --ram ");
    snprintf(command, sizeof command, "logits -o /dev/null --ids %s",
             ids_file("rolling.token_ids", 0, 600));
    check_exact_budget(command, "--ram 1M --disk ");
    check_exact_budget(command, "--page-tokens 16 --keep window:40 --ram 1M --disk ");
    snprintf(command, sizeof command, "perplexity --window 256 --ids %s",
             ids_file("rolling.token_ids", 0, 300));
    check_exact_budget(command, "--disk 0 --ram ");
}

/* With compressed RAM the bound is what fits at best; below it no run begins. */
static void test_what_no_compression_makes_fit_is_refused(void **state)
{
    (void)state;
    const char *format = "generate -m %s --ids %s -n 4 --ram 1M %s%llu";
    outcome o = run("", format, demo_model(), long_prompt(), "--zram 64K --disk ", 131072ull);
    expect_failure(&o, 1, "--disk 131072 is too small: needs at least ");
    unsigned long long least = strtoull(strstr(o.err, "needs at least ") + 15, NULL, 10);
    const char *ample = strstr(o.err, "compress; ");
    assert_non_null(ample);
    unsigned long long always = strtoull(ample + 10, NULL, 10);
    assert_true(least < always);
    outcome_free(&o);
    o = run("", format, demo_model(), long_prompt(), "--zram 64K --disk ", least - 1);
    expect_failure(&o, 1, "needs at least ");
    outcome_free(&o);
    o = run("", format, demo_model(), long_prompt(), "--zram 64K --disk ", least);
    expect_failure(&o, 1, "the KV does not fit: --ram holds"); /* it has begun */
    outcome_free(&o);
    o = run_expecting(0, "", format, demo_model(), long_prompt(), "--zram 64K --disk ", always);
    outcome_free(&o);

    o = run("", format, demo_model(), long_prompt(), "--disk 0 --zram ", 65536ull);
    expect_failure(&o, 1, "--zram 65536 is too small: needs at least ");
    least = strtoull(strstr(o.err, "needs at least ") + 15, NULL, 10);
    outcome_free(&o);
    o = run("", format, demo_model(), long_prompt(), "--disk 0 --zram ", least - 1);
    expect_failure(&o, 1, "needs at least ");
    outcome_free(&o);
    o = run("", format, demo_model(), long_prompt(), "--disk 0 --zram ", least);
    expect_failure(&o, 1, "the KV does not fit: --ram holds");
    outcome_free(&o);
}

static void write_or_exit(const char *path, const char *text)
{
    size_t n = strlen(text);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, n) != (ssize_t)n || close(fd))
        _exit(126);
}

/* In the scratch folder's swap/, and for this process alone, a file system of 1 MiB. */
static void mount_small_disk(void)
{
    char uids[32], gids[32];
    snprintf(uids, sizeof uids, "0 %d 1", (int)geteuid());
    snprintf(gids, sizeof gids, "0 %d 1", (int)getegid());
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
        _exit(126);
    write_or_exit("/proc/self/setgroups", "deny");
    write_or_exit("/proc/self/uid_map", uids);
    write_or_exit("/proc/self/gid_map", gids);
    if (mount("none", scratch("swap"), "tmpfs", 0, "size=1m"))
        _exit(126);
}

static void test_disk_with_too_little_free_space_is_refused(void **state)
{
    (void)state;
    mkdir(scratch("swap"), 0700);
    const char *format = "generate -m %s --ids %s -n 4 --ram %s --swap %s";
    process p =
        start("", mount_small_disk, format, demo_model(), long_prompt(), "2M", scratch("swap/kv"));
    outcome o = finish(&p);
    if (o.code == 126) {
        outcome_free(&o);
        print_message("skipped: no file system can be mounted here\n");
        return;
    }
    expect_failure(&o, 1, "swap/: ");
    assert_non_null(strstr(o.err, "bytes are free, and the KV of this run needs at least "));
    assert_string_equal(o.out, "");
    outcome_free(&o);
    p = start("", mount_small_disk, format, demo_model(), long_prompt(), "5M", scratch("swap/kv"));
    o = finish(&p);
    assert_int_equal(o.code, 0); /* the rest has room there */
    outcome_free(&o);
}

/* The file system says no, as a full disk would. */
static void limit_file_size(void)
{
    const struct rlimit limit = {.rlim_cur = 2 << 20, .rlim_max = 2 << 20};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
}

static void test_file_that_cannot_grow_is_a_clear_end(void **state)
{
    (void)state;
    process p = start("", limit_file_size, "generate -m %s --ids %s -n 4 --ram 1M --swap %s",
                      demo_model(), long_prompt(), scratch("small.swap"));
    outcome o = finish(&p);
    expect_failure(&o, 1, "small.swap");
    assert_true(strstr(o.err, "File too large") || strstr(o.err, "No space left on device"));
    assert_false(exists(scratch("small.swap")));
    outcome_free(&o);
}

/* ---- flipped bits ---- */

/* One bit in every 4 KiB of the file. */
static void flip_bits(const char *path)
{
    size_t n;
    char *bytes = read_file(path, &n);
    assert_true(n > 1 << 20);
    for (size_t i = 100; i < n; i += 4096)
        bytes[i] ^= 0x10;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    for (size_t at = 0; at < n;) {
        ssize_t written = pwrite(fd, bytes + at, n - at, (off_t)at);
        assert_true(written > 0);
        at += (size_t)written;
    }
    assert_int_equal(fsync(fd), 0);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    free(bytes);
}

static void stop_and_wait(pid_t pid)
{
    int status;
    kill(pid, SIGSTOP);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
}

static void test_flipped_bits_are_reported_and_computed_again(void **state)
{
    (void)state;
    char text[4096];
    const char *swap = scratch("flip.swap");
    const char *format = "generate -m %s --ids %s --ignore-eos --temp 1 --ram 1M %s%s -n %d";
    process p = start("", NULL, format, demo_model(), long_prompt(), "--swap ", swap, 400);
    size_t n = read_some(&p, text, sizeof text);
    stop_and_wait(p.pid);
    flip_bits(swap);
    kill(p.pid, SIGCONT);
    outcome o = finish(&p);
    assert_int_equal(o.code, 0);
    assert_true(strstr(o.err, "is lost") && strstr(o.err, "computing again from token"));
    assert_false(exists(swap));

    outcome whole = run_expecting(0, "", format, demo_model(), long_prompt(), "", "", 400);
    assert_int_equal(n + o.n_out, whole.n_out);
    assert_memory_equal(text, whole.out, n);
    assert_memory_equal(o.out, whole.out + n, o.n_out);
    outcome_free(&o);
    outcome_free(&whole);
}

/* ---- machines that forbid things ---- */

static void forbid_io_uring(void)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog filter = {.len = sizeof program / sizeof *program, .filter = program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
        _exit(126);
}

static void forbid_locked_memory(void)
{
    const struct rlimit limit = {.rlim_cur = 1 << 16, .rlim_max = 1 << 16};
    prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK); /* root may lock more than the limit otherwise */
    if (setrlimit(RLIMIT_MEMLOCK, &limit))
        _exit(126);
}

static void check_paged_run(void (*prepare)(void), const char *expected_engine)
{
    process p = start("", prepare, "generate -m %s --ids %s -n 3 --ram 1M --json", demo_model(),
                      long_prompt());
    outcome o = finish(&p);
    if (o.code)
        fail_msg("exit code %d: %s", o.code, o.err);
    o.json = json_loadb(o.out, o.n_out, 0, NULL);
    assert_true(int_member(o.json, "stats.bytes_read") > 0);
    if (expected_engine)
        assert_string_equal(text_member(o.json, "stats.disk_engine"), expected_engine);
    outcome_free(&o);
}

static void test_without_io_uring_threads_do_the_work(void **state)
{
    (void)state;
    check_paged_run(forbid_io_uring, "threads");
    process p = start("KVP_DISK_ENGINE=uring", forbid_io_uring,
                      "generate -m %s -p hello -n 1 --ram 1M", demo_model());
    outcome o = finish(&p);
    expect_failure(&o, 1, "uring");
    outcome_free(&o);
}

static void test_without_locked_memory_it_works_all_the_same(void **state)
{
    (void)state;
    check_paged_run(forbid_locked_memory, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signals_end_cleanly_and_leave_no_file),
        cmocka_unit_test(test_interrupted_json_has_what_there_is),
        cmocka_unit_test(test_signal_while_it_loads_ends_with_a_message),
        cmocka_unit_test(test_interrupted_perplexity_is_marked_as_partial),
        cmocka_unit_test(test_reader_that_goes_away_ends_cleanly),
        cmocka_unit_test(test_foreign_file_is_refused_and_untouched),
        cmocka_unit_test(test_places_that_cannot_hold_a_swap_file_are_named),
        cmocka_unit_test(test_swap_file_is_private_in_use_and_reused_after_a_crash),
        cmocka_unit_test(test_full_disk_tier_is_a_clear_end),
        cmocka_unit_test(test_too_small_budget_names_the_bytes_that_work),
        cmocka_unit_test(test_what_no_compression_makes_fit_is_refused),
        cmocka_unit_test(test_disk_with_too_little_free_space_is_refused),
        cmocka_unit_test(test_file_that_cannot_grow_is_a_clear_end),
        cmocka_unit_test(test_flipped_bits_are_reported_and_computed_again),
        cmocka_unit_test(test_without_io_uring_threads_do_the_work),
        cmocka_unit_test(test_without_locked_memory_it_works_all_the_same),
    };
    return cmocka_run_group_tests(tests, support_init, support_fini) != 0;
}
