/* codec_habit.c - see codec_habit.h. */
#include "tiers/codec_habit.h"

bool kvpi_habit_tries(kvpi_habit *h)
{
    if (!h->n_left)
        return true;
    h->n_left--;
    return false;
}

void kvpi_habit_learn(kvpi_habit *h, bool has_shrunk)
{
    if (has_shrunk) {
        *h = (kvpi_habit){0};
        return;
    }
    if (h->n_failed < KVPI_HABIT_PATIENCE)
        h->n_failed++;
    if (h->n_failed < KVPI_HABIT_PATIENCE || h->n_left) /* several may have been under way */
        return;
    unsigned pause = h->pause ? 2u * h->pause : KVPI_HABIT_FIRST_PAUSE;
    h->pause = (uint8_t)(pause < KVPI_HABIT_LAST_PAUSE ? pause : KVPI_HABIT_LAST_PAUSE);
    h->n_left = h->pause;
}
