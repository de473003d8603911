/* chat_turns.h - what the user says: a turn per line of stdin.
 *
 * A line that ends in a backslash goes on in the next one: a newline stands for it. Lines of white
 * space are no turns. */
#ifndef KVPAGER_CLI_CHAT_TURNS_H
#define KVPAGER_CLI_CHAT_TURNS_H

#include <stdbool.h>
#include <stddef.h>

#include "kvpager/status.h"

typedef struct byte_buffer {
    char *bytes; /* [n], malloc'd */
    size_t n, capacity;
} byte_buffer;

typedef struct chat_turns {
    bool is_terminal; /* stdin is: turns are asked for */
    bool is_over;     /* nothing more will be read */
    byte_buffer input, turn;
} chat_turns;

void chat_turns_init(chat_turns *t);
void chat_turns_fini(chat_turns *t);
/* The next turn, borrowed until the next call; NULL: there is none, or a signal came before it.
 * Errors: KVP_E_IO, KVP_E_NOMEM; KVP_E_RANGE it has a zero byte, or is too long. */
KVP_NODISCARD kvp_status chat_turns_next(chat_turns *t, const char **turn);

#endif
