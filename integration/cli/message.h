/* message.h - exit codes, and what the command says on stderr. */
#ifndef KVPAGER_CLI_MESSAGE_H
#define KVPAGER_CLI_MESSAGE_H

#include "kvpager/status.h"

/* EXIT_USAGE is for what neither another machine nor more room would cure: options that make no
 * sense alone, together or with this model, and input that is empty. Everything else that fails is
 * EXIT_FAILED: files that cannot be read or hold something else, a text too long for the context, a
 * budget too small, a kind of model that is not supported. */
enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1, /* also: a check that the command made failed */
    EXIT_USAGE = 2,
    /* 128 + the signal, 130 for SIGINT: see interrupt.h */
};

/* One line on stderr: "kvpager: ", the text, a newline. */
void complain(const char *format, ...) KVP_PRINTF(1, 2);
/* The same for a message of the library, with its members' names replaced by options'. */
void complain_of_library(const char *message);
/* The same for a mistake on the command line; returns EXIT_USAGE. */
int usage_error(const char *format, ...) KVP_PRINTF(1, 2);
/* Say why the last kvp_ call failed, or that we were interrupted; returns the exit code. */
int report_failure(kvp_status status);

#endif
