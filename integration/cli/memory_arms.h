/* memory_arms.h - the same tokens under conditions that differ in what is remembered: the arms of
 * kvpager memory-test. */
#ifndef KVPAGER_CLI_MEMORY_ARMS_H
#define KVPAGER_CLI_MEMORY_ARMS_H

#include "integration/cli/reading.h"

typedef enum memory_arm {
    ARM_RESET,   /* windows of their own, nothing else */
    ARM_ROLLING, /* rolling windows */
    ARM_RECALL,  /* and a memory of all that was read */
    ARM_OTHER,   /* ... of another book */
    ARM_WINDOW,  /* ... of what the window holds anyway */
    ARM_LAST_1K, /* ... of the last 1,024 tokens, and so on */
    ARM_LAST_4K,
    ARM_LAST_16K,
    ARM_LAST_64K,
} memory_arm;

#define N_ARMS 9u

/* What an arm's searches cost. */
typedef struct arm_cost {
    uint64_t searches, pages, pages_skipped;
    uint64_t faults, bytes_read;
} arm_cost;

typedef struct arms {
    const session *session; /* with a memory: that of all arms but ARM_OTHER */
    memory *other;          /* NULL: there is no such arm */
    size_t n_tokens;        /* of the text */
    uint64_t first;         /* row that is scored first */
    size_t n;               /* rows that are scored: to the end of the text */
    double *loss[N_ARMS];   /* [n] nats; NULL where there is no such arm */
    arm_cost costs[N_ARMS];
    /* Now and then; false to stop. */
    bool (*progress)(void *opaque, const char *what, uint64_t n_read);
    void *opaque;
} arms;

/* Score the last n_scored rows of the session's first n_tokens tokens. other_text [n_other]: NULL
 * if there is none. arms_fini() in any case. Errors: KVP_E_AGAIN progress said so; those of the
 * model, of memories and recall_open(). */
KVP_NODISCARD kvp_status arms_run(arms *a, const int32_t *other_text, size_t n_other);
void arms_fini(arms *a);

/* "recall", "last_1024", ... */
const char *arm_name(memory_arm arm);
/* Mean loss over rows [first, end). */
double arm_mean(const arms *a, memory_arm arm, size_t first, size_t end);

#endif
