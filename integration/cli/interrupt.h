/* interrupt.h - what signals do.
 *
 * SIGINT, SIGTERM, SIGHUP and SIGQUIT end the command: at once while it loads; once there is
 * something to clean up they ask for it: what there is gets printed, and the swap file is removed.
 * Then a second one kills at once. In a conversation at a terminal, SIGINT ends the answer, and
 * between answers the command. SIGTSTP stops as always. Who is killed or stopped gives the
 * terminal back before. */
#ifndef KVPAGER_CLI_INTERRUPT_H
#define KVPAGER_CLI_INTERRUPT_H

#include <stdbool.h>

/* Install the handlers, and ignore SIGPIPE: a reader that went away is a write error. */
void interrupt_init(void);
/* From now on a first signal only makes interrupted() true. */
void interrupt_defer(void);
bool interrupted(void);
/* What SIGINT asked for is done: forget it. False: nothing came, or another signal. */
bool interrupt_forgive(void);
/* Wait until there is something to read, or the end of it. False: a signal came first. */
bool interrupt_wait_input(int fd);
/* 128 + the signal: 130 for SIGINT. */
int interrupt_exit_code(void);

/* What gives the terminal (on stderr) back, up to 63 bytes; "" for nothing. */
void interrupt_set_farewell(const char *sequence);
/* Was it said, by a stop that is over, since this was asked last? */
bool interrupt_was_stopped(void);

#endif
