/* codec_habit.h - whether it is worth trying to compress a lane's pages. Where pages do not shrink,
 * that is found out again and again at the price of encoding them; so after a few in a row only one
 * in a while is tried, until one shrinks. */
#ifndef KVPI_TIERS_CODEC_HABIT_H
#define KVPI_TIERS_CODEC_HABIT_H

#include <stdbool.h>
#include <stdint.h>

#define KVPI_HABIT_PATIENCE 4u     /* pages in a row that may fail to shrink */
#define KVPI_HABIT_FIRST_PAUSE 16u /* pages that are not tried then; twice as many the next time */
#define KVPI_HABIT_LAST_PAUSE 128u

/* Of one lane; zero at first. */
typedef struct kvpi_habit {
    uint8_t n_failed; /* in a row, up to KVPI_HABIT_PATIENCE */
    uint8_t n_left;   /* pages that will not be tried */
    uint8_t pause;    /* the last one; 0: none since a page shrank */
} kvpi_habit;

/* Whether the lane's next page is to be tried. */
bool kvpi_habit_tries(kvpi_habit *h);
/* What became of one that was. */
void kvpi_habit_learn(kvpi_habit *h, bool has_shrunk);

#endif
