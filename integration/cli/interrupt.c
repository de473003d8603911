/* interrupt.c - owns the process's signal handlers (the library has none) and the flags they set.
 *
 * Handlers touch only these flags and call only what is async-signal-safe. */
#include "integration/cli/interrupt.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>

static volatile sig_atomic_t caught_signal, is_deferred, was_stopped;

/* That ask for the end. */
static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

/* Length 0 while it changes. */
static char farewell[64];
static volatile sig_atomic_t n_farewell;

static void say(const char *bytes, size_t n)
{
    ssize_t written = write(STDERR_FILENO, bytes, n);
    (void)written; /* nobody is left to tell */
}

/* Let the signal do what it does without a handler. It may be blocked here, by being handled. */
static void raise_default(int number)
{
    sigset_t set;
    signal(number, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, number);
    raise(number);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void end(int number)
{
    static const char message[] = "kvpager: interrupted\n";
    if (!is_deferred) {
        say(farewell, (size_t)n_farewell);
        say(message, sizeof message - 1);
        _exit(128 + number);
    }
    if (caught_signal) {
        say(farewell, (size_t)n_farewell);
        raise_default(number);
    }
    caught_signal = number;
}

static void stop(int number);

static void handle(int number, void (*handler)(int), int flags)
{
    struct sigaction before, action = {.sa_handler = handler, .sa_flags = flags};
    sigemptyset(&action.sa_mask);
    /* What nohup and background shells ignore stays ignored. */
    if (sigaction(number, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
        sigaction(number, &action, NULL);
}

static void stop(int number)
{
    int saved = errno;
    say(farewell, (size_t)n_farewell);
    raise_default(number);
    was_stopped = 1;
    handle(number, stop, SA_RESTART);
    errno = saved;
}

void interrupt_init(void)
{
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        handle(signals[i], end, 0);
    handle(SIGTSTP, stop, SA_RESTART);
    signal(SIGPIPE, SIG_IGN);
}

void interrupt_defer(void)
{
    is_deferred = 1;
}

bool interrupted(void)
{
    return caught_signal != 0;
}

bool interrupt_forgive(void)
{
    if (caught_signal != SIGINT)
        return false;
    caught_signal = 0;
    return true;
}

/* Signals are let in only while it waits: none can come between looking and waiting. The library's
 * threads take no signals. */
bool interrupt_wait_input(int fd)
{
    sigset_t blocked, before;
    fd_set readable;
    int n;
    sigemptyset(&blocked);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaddset(&blocked, signals[i]);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    do {
        FD_ZERO(&readable);
        FD_SET(fd, &readable);
        n = caught_signal ? 0 : pselect(fd + 1, &readable, NULL, NULL, NULL, &before);
    } while (n < 0 && errno == EINTR);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return !caught_signal;
}

int interrupt_exit_code(void)
{
    return 128 + (int)caught_signal;
}

void interrupt_set_farewell(const char *sequence)
{
    size_t n = strlen(sequence);
    n_farewell = 0;
    memcpy(farewell, sequence, n < sizeof farewell ? n : sizeof farewell);
    n_farewell = (sig_atomic_t)(n < sizeof farewell ? n : sizeof farewell);
}

bool interrupt_was_stopped(void)
{
    bool yes = was_stopped != 0;
    was_stopped = 0;
    return yes;
}
