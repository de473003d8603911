/* script.h - a run as data: the world it takes place in, and the operations, both made from a seed
 * before anything runs. So a run can be repeated, and repeated without some of its operations.
 *
 * Operations say what to do in numbers that mean something in any state: "actor 3, layer a %
 * n_layers, b % length". Leaving some out never makes the others invalid. */
#ifndef TESTS_SIM_SCRIPT_H
#define TESTS_SIM_SCRIPT_H

#include "kvpager.h"
#include "tests/sim/sim.h"

#define SIM_MAX_ACTORS 24u
#define SIM_MAX_GROUPS 3u
#define SIM_LAYERS 2u
#define SIM_MAX_TOKENS 512u /* per layer of a sequence */

typedef enum sim_op_kind {
    SIM_APPEND,
    SIM_PIN,     /* as long as it takes */
    SIM_PIN_NOW, /* deadline 0 */
    SIM_PIN_BY,  /* a deadline */
    SIM_UNPIN,
    SIM_PREPARE,
    SIM_POLL,  /* the actor's ticket, deadline 0 */
    SIM_SERVE, /* all tickets, deadline 0 */
    SIM_WAIT,  /* a ticket, a deadline */
    SIM_CANCEL,
    SIM_SCAN,
    SIM_TRUNCATE,
    SIM_EVICT,
    SIM_FORK,
    SIM_RENEW, /* destroy, create */
    SIM_RESERVE,
    SIM_ADVISE,
    SIM_PARK,   /* let go of everything: KVP_DONTNEED */
    SIM_RESUME, /* KVP_WILLNEED */
    SIM_MEND,   /* forget what is lost */
    SIM_LIMIT,  /* another budget */
    SIM_THINK,  /* time passes */
    SIM_N_OPS,
} sim_op_kind;

extern const char *const sim_op_names[SIM_N_OPS];

typedef struct sim_op {
    uint32_t id; /* its place in the whole script */
    uint16_t kind, actor;
    uint32_t a, b, c; /* any numbers */
} sim_op;

typedef struct sim_world {
    uint64_t seed;
    uint32_t n_actors;
    uint32_t n_groups; /* 0: no budgets but the pager's, as at open */
    kvp_layer_kind kinds[SIM_LAYERS];
    kvp_config cfg; /* but for what points into this struct: sim_world_config() */
    sim_device device;
    /* Wrong on purpose, to see that a run finds it: the model of a fork has a token of its own. */
    bool is_planted;
} sim_world;

void sim_world_make(uint64_t seed, sim_world *w);
/* The configuration of a pager in that world, but for env and mem. */
kvp_config sim_world_config(const sim_world *w);
void sim_script_make(uint64_t seed, const sim_world *w, sim_op *ops, uint32_t n);

#endif
