/* options.h - the command line: values, groups of options that commands share, and help made from
 * the same tables that parse. */
#ifndef KVPAGER_CLI_OPTIONS_H
#define KVPAGER_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager.h"
#include "integration/models/model.h"
#include "integration/text/sampler.h"

/* A size that may not have been given. */
typedef struct size_option {
    bool given;
    uint64_t bytes;
    const char *text; /* as it was given */
} size_option;

typedef struct keep_option {
    uint64_t window; /* 0: all */
    uint64_t sinks;
} keep_option;

/* What happens when the context is full; see window.h. */
typedef enum beyond_kind {
    BEYOND_ROLLING = 0,
    BEYOND_STOP,
    BEYOND_YARN,
    BEYOND_SHIFT,
    BEYOND_RECALL,
} beyond_kind;

typedef struct beyond_option {
    beyond_kind kind;
    uint64_t roll;   /* of rolling; 0: half of the context */
    uint64_t recall; /* of recall: tokens of the memory; 0: all */
} beyond_option;

/* Options that several commands take. */
typedef struct options {
    /* model */
    const char *model_path;
    kvp_dtype kv_dtype;
    kvp_dtype weights;
    uint32_t n_threads; /* 0: one per CPU */
    /* input: exactly one */
    const char *prompt, *file, *ids_file;
    /* budget */
    size_option ram, zram, disk;
    const char *swap;
    const kvp_placement_ops *placement; /* NULL: the library's default */
    uint32_t page_tokens;               /* 0: the library's default */
    const char *trace;                  /* NULL: none is written */
    /* how far the context reaches, what is kept of it, and what happens beyond */
    uint64_t n_ctx; /* 0: the model's */
    keep_option keep;
    beyond_option beyond;
    /* generation */
    uint64_t n_new;
    bool ignore_eos;
    sampler_options sampler;
    /* output */
    bool json, stats;
} options;

enum option_group {
    OPTIONS_MODEL = 1,
    OPTIONS_INPUT = 2,
    OPTIONS_BUDGET = 4,
    OPTIONS_KEEP = 8,
    OPTIONS_BEYOND = 16,
    OPTIONS_GENERATION = 32,
    OPTIONS_OUTPUT = 64,
};

/* A kind of value: how to read it, and what to say when that fails. */
typedef struct value_kind {
    const char *expected;
    /* Leaves *value alone on failure, and errno is ERANGE if the number is too large. */
    bool (*parse)(const char *text, void *value);
} value_kind;

extern const value_kind value_text;        /* const char * */
extern const value_kind value_size;        /* size_option */
extern const value_kind value_count;       /* uint64_t, >= 0 */
extern const value_kind value_positive;    /* uint64_t, >= 1 */
extern const value_kind value_keep;        /* keep_option */
extern const value_kind value_beyond;      /* beyond_option */
extern const value_kind value_dtype;       /* kvp_dtype */
extern const value_kind value_placement;   /* const kvp_placement_ops * */
extern const value_kind value_threads;     /* uint32_t */
extern const value_kind value_page_tokens; /* uint32_t */
extern const value_kind value_top_k;       /* uint32_t */
extern const value_kind value_temperature; /* float */
extern const value_kind value_top_p;       /* float */

typedef struct option_row {
    const char *name;
    char letter;            /* 0: none */
    const value_kind *kind; /* NULL: a flag; sets a bool */
    size_t offset;          /* of the value in its struct */
    const char *metavar;    /* NULL for flags */
    const char *help;       /* with the default; lines broken by the printer */
    unsigned group;         /* of shared options; 0 in a command's own rows */
} option_row;

/* One command: a file cmd_<name>.c has one, and main.c's table a row. */
typedef struct command {
    const char *name;
    const char *summary;  /* for kvpager --help */
    const char *synopsis; /* what follows the name, e.g. "-m PATH (-p TEXT | -f FILE) [options]" */
    const char *details;  /* paragraphs of its --help */
    unsigned groups;      /* OPTIONS_* */
    bool needs_no_model;  /* -m may be left out */
    bool can_recall;      /* --beyond recall */
    bool checks_input;    /* itself, with options_check_input() where there must be one */
    const option_row *own;
    size_t n_own;
    const option_row *operand; /* the argument without a dash, which must be there; NULL: none */
    /* Names of the shared options that its help shows, ended by NULL: those that have an effect.
     * NULL: all. */
    const char *const *shown;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns the exit code */
} command;

/* Parse argv into `shared` (set to the defaults first) and the command's own struct. Returns true
 * to go on; otherwise *exit_code is the end of it: help was printed, or a mistake reported. */
bool options_parse(const command *cmd, int argc, char **argv, options *shared, void *own,
                   int *exit_code);

/* Exactly one input? Else the exit code. */
int options_check_input(const options *o);

options options_default(void);
void options_print_help(const command *cmd);
/* The name that `text` probably means, NULL if none is near. names[i] may be NULL. */
const char *closest_name(const char *text, const char *const *names, size_t n);

#endif
