/* test_terminal.c - what a person at a terminal sees: progress, text, map and table. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support.h"

#define ROWS 24
#define COLUMNS 100
#define PANEL_GONE "\033[r" /* the whole screen scrolls again */

static char terminal_path[64];

/* In a process group of its own: the kernel does not stop one that is orphaned, as this test's may
 * be when it runs in the background. */
static void use_terminal(void)
{
    setpgid(0, 0);
    int fd = open(terminal_path, O_RDWR | O_NOCTTY);
    if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0)
        _exit(126);
    close(fd);
}

/* Let a process that has stopped go on. False: it has not stopped yet. */
static bool continue_if_stopped(const process *p)
{
    int status;
    if (waitpid(p->pid, &status, WUNTRACED | WNOHANG) != p->pid)
        return false;
    assert_true(WIFSTOPPED(status));
    kill(p->pid, SIGCONT);
    return true;
}

/* Everything written to the terminal until the process has gone; malloc'd. `signal_at`: send SIGINT
 * when the screen has got that text (NULL: never); with `number`, that signal before, which must
 * have made the panel go and the process stop. */
static char *watch(process *p, int terminal, const char *signal_at, int number)
{
    size_t n = 0, capacity = 1 << 20;
    bool awaits_stop = false;
    char *screen = calloc(1, capacity);
    assert_non_null(screen);
    for (;;) {
        struct pollfd output = {.fd = terminal, .events = POLLIN};
        if (awaits_stop) /* its last words are read meanwhile: they may not block it */
            awaits_stop = !continue_if_stopped(p);
        if (poll(&output, 1, awaits_stop ? 10 : -1) == 0)
            continue;
        assert_true(n + 1 < capacity);
        ssize_t got = read(terminal, screen + n, capacity - n - 1);
        if (got <= 0)
            return screen; /* EIO: nobody has the other end any more */
        n += (size_t)got;
        if (signal_at && number && strstr(screen, signal_at)) {
            kill(p->pid, number);
            awaits_stop = true;
            number = 0;
            signal_at = PANEL_GONE;
        } else if (signal_at && !awaits_stop && strstr(screen, signal_at)) {
            kill(p->pid, SIGINT);
            signal_at = NULL;
        }
    }
}

/* Signals as for watch(); the prompt has n_prompt tokens. */
static struct winsize screen_size = {.ws_row = ROWS, .ws_col = COLUMNS};

static char *run_watched(int code, const char *signal_at, int number, size_t n_prompt,
                         const char *setting, const char *arguments)
{
    int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(terminal >= 0);
    assert_int_equal(grantpt(terminal) | unlockpt(terminal), 0);
    assert_int_equal(ioctl(terminal, TIOCSWINSZ, &screen_size), 0);
    assert_int_equal(ptsname_r(terminal, terminal_path, sizeof terminal_path), 0);
    process p = start(setting, use_terminal, "generate -m %s --ids %s --ignore-eos %s",
                      demo_model(), ids_file("rolling.token_ids", 0, n_prompt), arguments);
    char *screen = watch(&p, terminal, signal_at, number);
    outcome o = finish(&p);
    if (o.code != code)
        fail_msg("exit code %d, not %d: %s", o.code, code, screen);
    outcome_free(&o);
    close(terminal);
    return screen;
}

static char *run_on_terminal(int code, const char *signal_at, const char *setting,
                             const char *arguments)
{
    return run_watched(code, signal_at, 0, 900, setting, arguments);
}

static void expect_on(const char *screen, const char *text)
{
    if (!strstr(screen, text))
        fail_msg("not on the screen: %s\n%s", text, screen);
}

static void test_terminal_shows_progress_map_text_and_table(void **state)
{
    (void)state;
    char *screen = run_on_terminal(0, NULL, "TERM=xterm", "-n 60 --ram 1M --zram 1M --map");
    expect_on(screen, "loading ");
    expect_on(screen, "reading 900 tokens");
    expect_on(screen, " of up to 60 new tokens");
    expect_on(screen, "\033[19;1H\033[2K     0.0  "); /* the first lane's row: 7 at the bottom */
    expect_on(screen, "\033[24;1H\033[2K     5.0  ");
    const char *end = strstr(screen, "pages of 64 tokens");
    assert_non_null(end);
    const char *gone = NULL;
    for (const char *at = screen; (at = strstr(at, PANEL_GONE)) && at < end; at++)
        gone = at;
    assert_non_null(gone); /* before the final map, and nothing is drawn at the bottom after it */
    assert_null(strstr(end, "\033["));
    expect_on(end, "tokens/s");
    expect_on(end, "whole process");
    free(screen);
}

static void test_small_terminal_shows_the_newest_pages_of_some_lanes(void **state)
{
    (void)state;
    screen_size = (struct winsize){.ws_row = 10, .ws_col = 18};
    char *screen = run_on_terminal(0, NULL, "TERM=xterm", "-n 30 --ram 1M --map");
    screen_size = (struct winsize){.ws_row = ROWS, .ws_col = COLUMNS};
    const char *row = strstr(screen, "\033[7;1H\033[2K     0.0  <");
    assert_non_null(row);
    assert_int_equal(strspn(strchr(row, '<') + 1, "RD"), 6); /* of 15 or 16 */
    expect_on(screen, "\033[10;1H\033[2K     ...  3 more lanes");
    free(screen);
}

static void test_interrupt_gives_the_terminal_back(void **state)
{
    (void)state;
    static const char *const signals_at[] = {"loading ", " new tokens"};
    for (size_t i = 0; i < sizeof signals_at / sizeof *signals_at; i++) {
        char *screen = run_on_terminal(130, signals_at[i], "TERM=xterm", "-n 1000000 --ram 1M");
        const char *drawn = strstr(screen, signals_at[i]);
        assert_non_null(drawn);
        expect_on(drawn, PANEL_GONE);
        expect_on(drawn, "kvpager: interrupted");
        free(screen);
    }
}

static void test_stop_gives_the_terminal_back_and_the_run_goes_on(void **state)
{
    (void)state;
    char *screen =
        run_watched(130, " new tokens", SIGTSTP, 900, "TERM=xterm", "-n 1000000 --ram 1M --map");
    const char *drawn = strstr(screen, " new tokens");
    const char *gone = drawn ? strstr(drawn, PANEL_GONE) : NULL;
    assert_non_null(gone);
    expect_on(gone + 1, PANEL_GONE); /* at the end, again */
    expect_on(gone + 1, "kvpager: interrupted");
    free(screen);
}

static void test_message_does_not_stick_to_the_text(void **state)
{
    (void)state;
    char *screen = run_watched(1, NULL, 0, 40, "TERM=dumb",
                               "-n 900 --page-tokens 16 --ram 200K --zram 3700K --disk 100K");
    const char *message = strstr(screen, "kvpager: the KV does not fit");
    assert_true(message && message > screen + 2);
    assert_memory_equal(message - 2, "\r\n", 2);
    free(screen);
}

static void test_dumb_terminal_gets_no_escape_sequences(void **state)
{
    (void)state;
    char *screen = run_on_terminal(0, NULL, "TERM=dumb", "-n 4 --map");
    assert_null(strchr(screen, '\033'));
    expect_on(screen, "R ram");
    expect_on(screen, "tokens/s");
    free(screen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_terminal_shows_progress_map_text_and_table),
        cmocka_unit_test(test_small_terminal_shows_the_newest_pages_of_some_lanes),
        cmocka_unit_test(test_interrupt_gives_the_terminal_back),
        cmocka_unit_test(test_stop_gives_the_terminal_back_and_the_run_goes_on),
        cmocka_unit_test(test_message_does_not_stick_to_the_text),
        cmocka_unit_test(test_dumb_terminal_gets_no_escape_sequences),
    };
    return cmocka_run_group_tests(tests, support_init, support_fini) != 0;
}
