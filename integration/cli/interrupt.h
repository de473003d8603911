/* interrupt.h - SIGINT, SIGTERM and SIGHUP ask for a clean end: what there is gets printed, and the
 * swap file is removed. A second signal of the kind kills at once. */
#ifndef KVPAGER_CLI_INTERRUPT_H
#define KVPAGER_CLI_INTERRUPT_H

#include <stdbool.h>

/* Install the handlers, and ignore SIGPIPE: a reader that went away is a write error. */
void interrupt_init(void);
bool interrupted(void);
/* 128 + the signal: 130 for SIGINT. */
int interrupt_exit_code(void);

#endif
