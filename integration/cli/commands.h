/* commands.h - the commands; each is described in its own cmd_<name>.c. */
#ifndef KVPAGER_CLI_COMMANDS_H
#define KVPAGER_CLI_COMMANDS_H

#include "integration/cli/options.h"

extern const command cmd_generate;
extern const command cmd_logits;
extern const command cmd_memory_fit;
extern const command cmd_memory_test;
extern const command cmd_perplexity;
extern const command cmd_tokenize;
extern const command cmd_compare;
extern const command cmd_plan;
extern const command cmd_replay;
extern const command cmd_bench;
/* subjects of kvpager bench */
extern const command cmd_bench_sessions;

#endif
