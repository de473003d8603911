/* planning.h - a plan: budgets of RAM for a context, what each needs, and how fast it will be. */
#ifndef KVPAGER_CLI_PLANNING_H
#define KVPAGER_CLI_PLANNING_H

#include <jansson.h>

#include "integration/cli/plan.h"
#include "integration/cli/plan_measure.h"

/* A budget of RAM, and what comes of it. */
typedef struct budget_row {
    const char *name; /* "1/16" ... "all", or "--ram" */
    uint64_t ram_bytes, n_frames;
    uint64_t n_below;       /* pages that RAM does not hold */
    uint64_t disk_bytes;    /* that they need at most; UINT64_MAX: the budget is no budget */
    char why[192];          /* why a run with it would be refused, or not fit; "": it works */
    double prefill, decode; /* tokens per second; NAN: not known */
    double missing_bytes;   /* read per token */
} budget_row;

enum { ROW_ALL = 4, ROW_GIVEN = 5, MAX_ROWS = 6 };

typedef struct planning {
    options shared;
    plan_subject subject;
    const model_info *info; /* of the real model, but for the number of layers */
    plan_kv kv;
    plan_probe probe;
    double probe_seconds;
    uint64_t hidden_bytes; /* of a prefill */
    uint64_t least_ram_bytes;
    uint64_t disk_free_bytes;   /* UINT64_MAX: unknown */
    uint64_t memory_free_bytes; /* as the kernel estimates; 0: unknown */
    budget_row rows[MAX_ROWS];
    size_t n_rows;
    const budget_row *chosen; /* NULL: none works */
} planning;

/* From the open subject to the sizes of its KV. */
KVP_NODISCARD kvp_status planning_learn(planning *p);
/* The rows, with all but predictions. */
KVP_NODISCARD kvp_status planning_fill(planning *p);
/* The predictions, from the probe; and choose a row. */
void planning_predict(planning *p);

/* What a process with that budget takes. */
uint64_t planning_process_bytes(const planning *p, const budget_row *row);

KVP_NODISCARD kvp_status planning_print(const planning *p);
json_t *planning_json(const planning *p);

#endif
