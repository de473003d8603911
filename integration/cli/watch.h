/* watch.h - what is shown while a text is continued: the new text on stdout, and on a terminal a
 * progress line and, if wanted, the page map. */
#ifndef KVPAGER_CLI_WATCH_H
#define KVPAGER_CLI_WATCH_H

#include "integration/cli/output.h"
#include "integration/cli/progress.h"
#include "integration/cli/run.h"

typedef struct watch {
    const session *session;
    bool has_map;
    progress progress;
    text_output text;
    size_t n_read;         /* tokens of the prefill */
    double first_token_at; /* now_seconds() */
} watch;

/* The terminal is the watch's until watch_fini(); text is printed as it comes, unless it goes into
 * a JSON object. */
void watch_init(watch *w, const session *s, bool has_map);
/* Of a continuation that begins by reading n_read tokens. */
run_watcher watch_continuation(watch *w, size_t n_read);
/* Of the same once more, with everything in RAM: `n_new` tokens will come, nothing is printed. */
run_watcher watch_verification(watch *w, size_t n_new);
/* Leave the terminal to others. */
void watch_stop(watch *w);
void watch_fini(watch *w);

#endif
