/* interrupt.c - owns the process's signal handlers (the library has none) and the flag they set. */
#include "integration/cli/interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t caught_signal;

static void remember(int signal)
{
    caught_signal = signal;
}

void interrupt_init(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = remember, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        struct sigaction before;
        /* What nohup and background shells ignore stays ignored. */
        if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(signals[i], &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
}

bool interrupted(void)
{
    return caught_signal != 0;
}

int interrupt_exit_code(void)
{
    return 128 + (int)caught_signal;
}
