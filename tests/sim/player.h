/* player.h - a run that is under way, and what its files offer each other. */
#ifndef TESTS_SIM_PLAYER_H
#define TESTS_SIM_PLAYER_H

#include "kvpager/budget.h"
#include "tests/sim/flat_seq.h"
#include "tests/sim/run.h"
#include "tests/support/faulty_mem.h"

#define SIM_MAX_APPEND 80u
#define SIM_MAX_PIN_PAGES 64u

typedef enum sim_hold { HOLDS_NOTHING, HOLDS_VIEW, HOLDS_TICKET } sim_hold;

/* A sequence, its model, and a view or a ticket on part of it. */
typedef struct sim_actor {
    kvp_seq *seq;
    flat_seq flat;
    sim_hold hold;
    uint32_t layer, first, n_tokens; /* of the view or ticket */
    size_t n_held;                   /* pages of it */
    kvp_view view;
    kvp_ticket ticket;
    kvp_page_view pages[SIM_MAX_PIN_PAGES];
} sim_actor;

typedef struct sim_player {
    const sim_world *w;
    kvp_config cfg;
    sim world;
    faulty_mem mem;
    kvp_pager *pager;
    uint64_t n_frames, slot_bytes;
    kvp_group *groups[SIM_MAX_GROUPS];
    sim_actor actors[SIM_MAX_ACTORS];
    uint32_t n_holders;
    size_t n_held;
    uint32_t next_salt;
    const sim_op *op; /* under way; NULL: the end of the run */
    char detail[160]; /* for the log */
    FILE *log;
    sim_outcome *out;
    float k[SIM_MAX_APPEND * 64], v[SIM_MAX_APPEND * 64];
    kvp_page_view spare[SIM_MAX_PIN_PAGES];
} sim_player;

/* The run has failed: the first message stays. */
void sim_fail(sim_player *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_detail(sim_player *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Is that what may come of a call in this world, after what the device has done? Counts it; fails
 * the run if not. */
void sim_check_status(sim_player *p, kvp_status status);

/* Do p->op; false: it means nothing in this state. */
bool sim_play(sim_player *p, kvp_status *status);

/* ---- for sim_play() and the end of a run ---- */

uint32_t sim_n_groups(const sim_player *p, uint32_t layer);
bool sim_scan_all(sim_player *p, sim_actor *a, const kvp_scan_args *args, kvp_status *status);
/* Unpin, or cancel. */
void sim_let_go(sim_player *p, sim_actor *a);
/* limits.c: groups, and budgets. */
void sim_groups_open(sim_player *p);
kvp_status sim_seq_create(sim_player *p, sim_actor *a);
bool sim_limit(sim_player *p, sim_actor *a, kvp_status *status);
/* pins.c: the operations that take pages. */
bool sim_pin(sim_player *p, sim_actor *a, uint64_t deadline_ns, kvp_status *status);
bool sim_prepare(sim_player *p, sim_actor *a, kvp_status *status);
bool sim_take(sim_player *p, sim_actor *a, uint64_t deadline_ns, kvp_status *status);

#endif
