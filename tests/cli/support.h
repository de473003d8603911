/* support.h - running the kvpager command as a user would, and judging what came of it. */
#ifndef KVPAGER_TESTS_CLI_SUPPORT_H
#define KVPAGER_TESTS_CLI_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <cmocka.h>
#include <jansson.h>

/* From the environment: KVPAGER_BIN (required), KVP_DEMO_MODEL (default models/demo) and
 * KVP_DEMO_GOLDEN (folder, default tests/data/demo). Makes the scratch folder. */
int support_init(void **state);
int support_fini(void **state);
const char *demo_model(void);
const json_t *golden(void);
/* A file beside golden.json; valid until the next call. */
const char *golden_file(const char *name);
/* A path in the scratch folder, valid until support_fini(). */
const char *scratch(const char *name);
void write_file(const char *path, const void *bytes, size_t n);
/* [n] of the file, malloc'd, with a 0 after it. */
char *read_file(const char *path, size_t *n);
/* A file with the first n ids of a golden array, e.g. "rolling.token_ids". */
const char *ids_file(const char *array, size_t first, size_t n);

/* A folder like the demo model's in which file `name` has these bytes (NULL: is missing). */
const char *model_with(const char *name, const void *bytes, size_t n);

typedef struct process {
    pid_t pid;
    int out; /* read end of its stdout */
    char err_path[128];
} process;

typedef struct outcome {
    int code; /* exit code, or 1000 + the signal that killed it */
    char *out, *err;
    size_t n_out;
    json_t *json; /* stdout parsed, where asked for */
} outcome;

/* Start kvpager. `setting` comes before the command ("KVP_ISA=scalar"), "" for none; the arguments
 * are a shell's words. `prepare` (optional) runs in the child before. */
process start(const char *setting, void (*prepare)(void), const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Read the rest of stdout and wait for the end. */
outcome finish(process *p);
/* Start and finish. */
outcome run(const char *setting, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same, expecting `code`; with 0 and 1, stdout must be one JSON object if there is --json. */
outcome run_expecting(int code, const char *setting, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* stdout as JSON Lines: an array of its lines, each an object. */
json_t *json_lines(const outcome *o);
void outcome_free(outcome *o);
/* Fail unless the exit code is `code`, every line on stderr begins with "kvpager: ", and stderr
 * contains `text` (NULL: anything). */
void expect_failure(const outcome *o, int code, const char *text);

/* Files that are created in the scratch folder from now on; close() it. A file there tells that a
 * run has begun. */
int watch_scratch(void);
/* Wait for one of them. */
void wait_for_file(int watch, const char *name);

/* Members by path, e.g. "stats.pages.disk"; fail if there is none. */
json_t *member(const json_t *object, const char *path);
int64_t int_member(const json_t *object, const char *path);
double real_member(const json_t *object, const char *path);
const char *text_member(const json_t *object, const char *path);
void expect_same_tokens(const json_t *a, const json_t *b);

/* Does the machine have it? */
bool isa_works(const char *isa);
bool engine_works(const char *engine);
/* The bytes in "needs at least <bytes>" of these budget options. */
uint64_t smallest_budget(const char *setting, const char *arguments);
bool is_full_run(void); /* KVP_TEST_FULL=1 */

/* A .npy file of float32 [n_rows][n_columns]. */
float *read_npy(const char *path, size_t *n_rows, size_t *n_columns);
double nll(const float *logits, size_t n, int64_t id);

#endif
