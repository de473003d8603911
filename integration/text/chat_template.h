/* chat_template.h - what a Jinja template writes, without running it.
 *
 * Conditions and loops are left out: what remains is every piece that the template can write, in
 * its order, with one byte in place of each value. In it a known format shows as a plain text. */
#ifndef KVPAGER_TEXT_CHAT_TEMPLATE_H
#define KVPAGER_TEXT_CHAT_TEMPLATE_H

#include <stddef.h>

#include "kvpager/status.h"

/* Values, as string literals so that they can stand in others. */
#define VALUE_ROLE "\x01"
#define VALUE_CONTENT "\x02"
#define VALUE_TRIMMED "\x03" /* content without the white space around it */
#define VALUE_BOS "\x04"
#define VALUE_EOS "\x05"
#define VALUE_OTHER "\x06"
#define VALUES VALUE_ROLE VALUE_CONTENT VALUE_TRIMMED VALUE_BOS VALUE_EOS VALUE_OTHER

/* NUL-terminated and malloc'd; NULL: nothing. All zeroes: empty. */
typedef struct chat_outline {
    char *written;  /* by expressions, and the text around them */
    char *assigned; /* to variables, one after the other, each with a VALUE_OTHER behind it */
    char *system;   /* the text assigned to a variable with "system" in its name, if it is one */
    char *date;     /* the same for "date" */
} chat_outline;

/* Errors: KVP_E_UNSUPPORTED (not a template: a tag has no end), KVP_E_NOMEM. */
KVP_NODISCARD kvp_status chat_outline_init(chat_outline *o, const char *text);
void chat_outline_fini(chat_outline *o);

#endif
