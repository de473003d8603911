/* session.h - what a command works with, opened in the order in which mistakes are cheapest to
 * find: input, headers of the model, tokenizer, budget, weights, pager. */
#ifndef KVPAGER_CLI_SESSION_H
#define KVPAGER_CLI_SESSION_H

#include "integration/models/model.h"
#include "integration/cli/options.h"
#include "integration/recall/memory.h"
#include "integration/text/chat.h"
#include "integration/replay/trace_writer.h"
#include "integration/text/tokenizer.h"
#include "integration/cli/window.h"

typedef struct session {
    const options *options;
    tokenizer *tokenizer; /* NULL: none is needed, or the input is ids and there is none */
    chat *chat;           /* NULL: the text is no conversation */
    int32_t *tokens;      /* [n_tokens] of the input, all below the vocabulary's size */
    size_t n_tokens;
    model_info headers;     /* what they tell of the model */
    const model_info *info; /* that, and once the model is loaded its own */
    model *model;           /* loaded with the pager */
    uint32_t page_tokens;   /* per page, as the library chooses or the options say */
    window_rule rule;
    kvp_pager *pager;    /* as the budget options say */
    memory *memory;      /* of --beyond recall, opened with the pager; else NULL */
    trace_writer *trace; /* NULL: none is written */
} session;

enum session_needs {
    SESSION_TOKENIZER = 1, /* even if the input is ids: then, if there is one */
    SESSION_INPUT = 2,     /* at least one token */
    SESSION_WINDOWS = 4,   /* the input is cut into windows: it may be longer than the context */
};

/* Open all but model and pager; on failure say why and return the exit code. session_close() in
 * either case. */
int session_open(session *s, const options *o, unsigned needs);
/* The same for those who read their input themselves: the tokenizer, with the format of
 * conversations if that is wanted. */
int session_open_tokenizer(session *s, const options *o, bool with_chat);
/* For those who need no text at all: what headers of the model say. */
int session_open_headers(session *s, const options *o);
/* For a run that feeds the model like this: see that it fits into the budget options, then load the
 * model and open the pager. */
int session_open_pager(session *s, const window_feed *feed);
/* The same for one whose n_seqs sequences hold up to so many pages of every lane together. */
int session_open_pager_for(session *s, uint64_t pages_per_lane, uint64_t n_seqs);
/* Close all that is open; returns `code`, or if that is EXIT_DONE and the trace could not be
 * written, EXIT_FAILED. */
int session_close(session *s, int code);

/* Does this token end the text, or in a conversation the answer? Not with --ignore-eos. */
bool session_is_end(const session *s, int32_t id);
/* KVP_E_RANGE if a text of n_tokens is longer than the context, and the rule says stop. */
KVP_NODISCARD kvp_status session_check_length(const session *s, size_t n_tokens);

/* Of a pager for the session's model: within the budget options, or with everything in RAM. */
kvp_config session_pager_config(const session *s, bool all_in_ram);

#endif
