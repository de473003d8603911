/* cmd_bench.c - kvpager bench: picks a subject from the table. Each is a command of its own, called
 * "bench SUBJECT". */
#include <stdio.h>
#include <string.h>

#include "integration/cli/commands.h"
#include "integration/cli/message.h"

static const command *const subjects[] = {&cmd_bench_sessions};

#define N_SUBJECTS (sizeof subjects / sizeof *subjects)

static const char *subject_name(size_t i)
{
    return strchr(subjects[i]->name, ' ') + 1;
}

static int print_help(void)
{
    options_print_help(&cmd_bench);
    printf("\nSubjects:\n");
    for (size_t i = 0; i < N_SUBJECTS; i++)
        printf("  %-12s %s\n", subject_name(i), subjects[i]->summary);
    printf("\nkvpager bench SUBJECT --help lists a subject's options.\n");
    return EXIT_DONE;
}

static int unknown_subject(const char *word)
{
    const char *names[N_SUBJECTS];
    for (size_t i = 0; i < N_SUBJECTS; i++)
        names[i] = subject_name(i);
    const char *hint = closest_name(word, names, N_SUBJECTS);
    const char *what = *word == '-' ? "option" : "subject";
    if (hint)
        return usage_error("unknown %s '%s'; did you mean %s? See kvpager bench --help", what, word,
                           hint);
    return usage_error("unknown %s '%s'; see kvpager bench --help", what, word);
}

static int run(int argc, char **argv)
{
    if (argc < 2)
        return usage_error("no subject; see kvpager bench --help");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return print_help();
    for (size_t i = 0; i < N_SUBJECTS; i++)
        if (strcmp(argv[1], subject_name(i)) == 0)
            return subjects[i]->run(argc - 1, argv + 1);
    return unknown_subject(argv[1]);
}

const command cmd_bench = {
    .name = "bench",
    .summary = "measure what paging saves and costs on this machine",
    .synopsis = "SUBJECT [options]",
    .details = "Measures one subject and prints a table, or with --json one JSON object.",
    .run = run,
};
