/* main.c - the kvpager command: picks a command from the table. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "integration/cli/commands.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/message.h"
#include "integration/cli/output.h"

static const command *const commands[] = {
    &cmd_generate, &cmd_plan,   &cmd_compare, &cmd_perplexity, &cmd_logits,
    &cmd_tokenize, &cmd_replay, &cmd_bench,   &cmd_memory_fit, &cmd_memory_test,
};

#define N_COMMANDS (sizeof commands / sizeof *commands)

static int print_help(void)
{
    printf("usage: kvpager COMMAND [options]\n\n"
           "Runs transformer models whose key/value cache is paged: in RAM, compressed in RAM and "
           "on disk,\nwithin the budgets that you give. Where a page lies never changes a result."
           "\n\nCommands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        printf("  %-12s %s\n", commands[i]->name, commands[i]->summary);
    printf(
        "\nkvpager COMMAND --help lists a command's options; kvpager --version the version.\n\n"
        "Exit status: 0 done; 1 it failed, or a check did; 2 the command line makes no sense, by\n"
        "itself or for this model, or there is no input; 130 interrupted. Results go to stdout,\n"
        "everything else to stderr.\n\n"
        "Environment:\n"
        "  KVP_ISA          kernels to use: scalar, avx2, avx512 (default: the best there is)\n"
        "  KVP_DISK_ENGINE  uring-fixed, uring, threads (default: the best that works)\n"
        "  TMPDIR           folder of the swap file without a name (default /var/tmp)\n\n"
        "Example, with 1 MiB of RAM for keys and values:\n"
        "  kvpager generate -m models/demo -f models/demo/excerpt.txt -n 400 --ram 1M --map\n");
    return EXIT_DONE;
}

static int print_version(void)
{
    printf("kvpager %s\n", kvp_version());
    return EXIT_DONE;
}

static int unknown_command(const char *word)
{
    const char *names[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i]->name;
    const char *hint = closest_name(word, names, N_COMMANDS);
    const char *what = *word == '-' ? "option" : "command";
    if (hint)
        return usage_error("unknown %s '%s'; did you mean %s? See kvpager --help", what, word,
                           hint);
    return usage_error("unknown %s '%s'; see kvpager --help", what, word);
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2)
        return usage_error("no command; see kvpager --help");
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return print_help();
    if (strcmp(argv[1], "--version") == 0)
        return print_version();
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(argv[1], commands[i]->name) == 0)
            return commands[i]->run(argc - 1, argv + 1);
    return unknown_command(argv[1]);
}

/* What is opened later must not get the number of a standard stream that is closed. Writing to a
 * descriptor that only reads fails as it should. */
static void keep_standard_streams(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

int main(int argc, char **argv)
{
    keep_standard_streams();
    interrupt_init();
    int code = dispatch(argc, argv);
    kvp_status flushed = output_bytes("", 0);
    return flushed && code == EXIT_DONE ? report_failure(flushed) : code;
}
