/* rule.h - what --ctx, --beyond and --keep mean for a model. */
#ifndef KVPAGER_CLI_RULE_H
#define KVPAGER_CLI_RULE_H

#include "integration/cli/options.h"
#include "integration/cli/window.h"
#include "integration/models/model.h"

/* What to ask model_open() for. */
model_options rule_model_options(const options *o);

/* What the model's headers say with these options; if it is refused, say why, and what would do,
 * and return the exit code. */
int rule_check_model(const options *o, model_info *info);

/* From options to the rule of a session with that model; pages have page_tokens. On a
 * contradiction, say so and return the exit code. */
int rule_resolve(const options *o, const model_info *info, uint32_t page_tokens, window_rule *rule);

#endif
