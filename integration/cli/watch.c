/* watch.c - draws what a run says of itself. */
#include "integration/cli/watch.h"

#include <inttypes.h>

void watch_init(watch *w, const session *s, bool has_map)
{
    *w = (watch){.session = s, .has_map = has_map};
    w->text = (text_output){.tokenizer = s->tokenizer, .print = !s->options->json};
    progress_init(&w->progress);
}

static kvp_status take_token(void *opaque, int32_t id)
{
    watch *w = opaque;
    return session_is_end(w->session, id) ? KVP_OK : text_output_token(&w->text, id);
}

static void draw_decode(watch *w, const context *c, size_t n_new)
{
    page_map map = {0};
    /* A map that cannot be drawn is not worth ending the run for. */
    bool has_map = w->has_map && !map_take(c, w->session->page_tokens, &map);
    double seconds = now_seconds() - w->first_token_at;
    progress_draw(&w->progress, has_map ? &map : NULL,
                  "%zu of up to %" PRIu64 " new tokens, %.1f/s%s%s", n_new,
                  w->session->options->n_new, seconds > 0 ? (double)(n_new - 1) / seconds : 0,
                  has_map ? "   " : "", has_map ? MAP_LEGEND : "");
    map_free(&map);
}

static void watch_step(void *opaque, const context *c, size_t n_new, double fraction, bool quiet)
{
    watch *w = opaque;
    if (n_new == 1)
        w->first_token_at = now_seconds();
    if (!progress_is_due(&w->progress))
        return;
    if (quiet)
        draw_decode(w, c, n_new);
    else if (n_new == 0)
        progress_draw(&w->progress, NULL, "reading %zu tokens: %.0f %%", w->n_read, 100 * fraction);
}

run_watcher watch_continuation(watch *w, size_t n_read)
{
    w->n_read = n_read;
    return (run_watcher){.opaque = w, .token = take_token, .step = watch_step};
}

static void watch_again(void *opaque, const context *c, size_t n_new, double fraction, bool quiet)
{
    watch *w = opaque;
    (void)c, (void)fraction, (void)quiet;
    if (progress_is_due(&w->progress))
        progress_draw(&w->progress, NULL, "the same with everything in RAM: %zu of %zu tokens",
                      n_new, w->n_read);
}

run_watcher watch_verification(watch *w, size_t n_new)
{
    w->n_read = n_new;
    return (run_watcher){.opaque = w, .step = watch_again};
}

void watch_stop(watch *w)
{
    progress_fini(&w->progress);
}

void watch_fini(watch *w)
{
    progress_fini(&w->progress);
    text_output_fini(&w->text);
}
