/* chat.h - a conversation in the format that a model was trained on: ChatML, Llama-3 or Zephyr.
 *
 * Gives the token ids that Hugging Face's apply_chat_template() would, turn by turn, so that the
 * KV of what was said stays. What people write spells no special token. */
#ifndef KVPAGER_TEXT_CHAT_H
#define KVPAGER_TEXT_CHAT_H

#include <stdbool.h>

#include "integration/text/tokenizer.h"

typedef struct chat chat;

/* Recognise the format by the model's chat template. Borrows `t`. Errors: KVP_E_UNSUPPORTED (there
 * is no template, or it is another format; the message says which work), KVP_E_NOMEM. */
KVP_NODISCARD kvp_status chat_open(const tokenizer *t, chat **out);
void chat_close(chat *c);
const char *chat_name(const chat *c); /* "ChatML", "Llama-3", "Zephyr" */

/* Ids from the beginning of a conversation to where the model's first answer begins: the system's
 * turn, the user's, the header of the answer. They are all there is: tokenizer_prefix() does not
 * go before them. system NULL: the template's own, if it has one. Texts are NUL-terminated UTF-8.
 * *ids is malloc'd and the caller's. Errors: as tokenizer_encode(); KVP_E_UNSUPPORTED: the template
 * has no place for a text of the system. */
KVP_NODISCARD kvp_status chat_first_turn(const chat *c, const char *system, const char *user,
                                         int32_t **ids, size_t *n_ids);
/* Ids from the end of an answer to where the next one begins. `last` is the last id of that answer;
 * if it is not the one that ends a turn (the answer was cut), these ids begin with that one. */
KVP_NODISCARD kvp_status chat_next_turn(const chat *c, int32_t last, const char *user,
                                        int32_t **ids, size_t *n_ids);

/* Whether a model that produces `id` has ended its answer. Such an id belongs into the KV only if
 * the conversation goes on: then chat_next_turn() wants to know it as `last`. */
bool chat_is_end(const chat *c, int32_t id);

#endif
