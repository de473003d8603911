/* chat_format.h - what the conversations of a model look like. */
#ifndef KVPAGER_TEXT_CHAT_FORMAT_H
#define KVPAGER_TEXT_CHAT_FORMAT_H

#include <stdbool.h>

#include "integration/text/tokenizer_build.h"

/* A turn is OPEN role CLOSE content END SEPARATOR; an answer begins behind OPEN assistant CLOSE. */
typedef struct chat_marks {
    const char *name, *open, *close;
    const char *end; /* "" : the tokenizer's end of text */
    const char *separator;
    const char *ends[3]; /* other tokens that end an answer, where a vocabulary has them */
} chat_marks;

/* Texts are malloc'd. */
typedef struct chat_format {
    const chat_marks *marks;
    char *end;         /* of a turn: one token */
    char *bos;         /* before everything; NULL: nothing */
    char *system;      /* the template's own text; NULL: no such turn without the caller's text */
    char *date;        /* CHAT_DATED goes before the system's text; NULL: no; "": today */
    bool takes_system; /* the caller may give a text */
    bool trims_user, trims_system;
    bool assigns_turns; /* to a variable, and writes that */
} chat_format;

/* What Llama 3.1 and its successors write before a date. */
#define CHAT_DATED "Cutting Knowledge Date: December 2023\nToday Date: "

/* Errors: KVP_E_UNSUPPORTED (there is no template, or none that is known), KVP_E_NOMEM. The caller
 * finishes it also after a failure. */
KVP_NODISCARD kvp_status chat_format_init(chat_format *f, const tokenizer *t);
void chat_format_fini(chat_format *f);

/* KVP_E_UNSUPPORTED: "the model's chat template WHY; ...", and what is supported. */
kvp_status chat_unsupported(const char *why);
kvp_status chat_no_memory(void);

#endif
