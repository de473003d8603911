/* rule.c - from options and a model to the rule of what the model sees. */
#include "integration/cli/rule.h"

#include <inttypes.h>

#include "integration/cli/message.h"

#define DEFAULT_SHIFT_SINKS 4u /* enough, says StreamingLLM (arXiv 2309.17453), section 4.3 */

/* With --keep, a prompt is fed in chunks, so that what is out of reach can be freed in between.
 * Each chunk reads the weights and the window before it again: so it is at least as long as the
 * window, and not short. */
#define MIN_CHUNK_TOKENS 1024u

model_options rule_model_options(const options *o)
{
    /* With shift, --ctx limits the text: its positions are the model's own. */
    bool is_of_model = o->beyond.kind != BEYOND_SHIFT;
    return (model_options){.weights = o->weights,
                           .n_threads = o->n_threads,
                           .n_ctx = is_of_model ? o->n_ctx : 0,
                           .yarn = o->beyond.kind == BEYOND_YARN};
}

/* As many positions as --ctx asks for cannot be had. */
static int refuse_ctx(const options *o, const model_info *info)
{
    const char *yarn = "", *shift = "";
    if (info->can_stretch && o->beyond.kind != BEYOND_YARN)
        yarn = "--beyond yarn, which stretches them, ";
    if (info->has_rope)
        shift = "--beyond shift, which keeps positions inside, or ";
    return usage_error("--ctx %" PRIu64 ": %s. Past its positions the model goes on with %s%s"
                       "--beyond rolling, which needs no --ctx",
                       o->n_ctx, kvp_error(), yarn, shift);
}

int rule_check_model(const options *o, model_info *info)
{
    const model_options wanted = rule_model_options(o);
    kvp_status status = model_check(o->model_path, &wanted, info);
    if (status == KVP_E_RANGE && o->n_ctx)
        return refuse_ctx(o, info);
    return status ? report_failure(status) : EXIT_DONE;
}

static int check_rope(const char *beyond, const model_info *info)
{
    if (info->has_rope)
        return EXIT_DONE;
    return usage_error("--beyond %s: the positions of a %s model are learned, not rotary: only "
                       "--beyond rolling goes past its context",
                       beyond, info->architecture);
}

static int resolve_rolling(const options *o, window_rule *rule)
{
    rule->roll = o->beyond.roll ? o->beyond.roll : (rule->n_ctx + 1) / 2;
    if (rule->roll > rule->n_ctx)
        return usage_error("--beyond rolling:%" PRIu64
                           " is more than the model's context of %" PRIu64 " tokens",
                           rule->roll, rule->n_ctx);
    /* Combined, keep bounds what is prefilled again. */
    if (rule->keep && rule->keep < rule->roll)
        rule->roll = rule->keep;
    return EXIT_DONE;
}

static int resolve_shift(const options *o, const model_info *info, uint32_t page_tokens,
                         window_rule *rule)
{
    int code = check_rope("shift", info);
    if (code)
        return code;
    rule->shift = true;
    rule->n_ctx = o->n_ctx ? o->n_ctx : UINT64_MAX;
    if (!rule->keep)
        rule->sinks = DEFAULT_SHIFT_SINKS;
    uint64_t widest = model_widest_shift(info, rule->sinks, page_tokens);
    if (widest == 0)
        return usage_error("--beyond shift: the pages of %" PRIu64 " sinks and of a window do not "
                           "fit into the model's %u positions: use fewer --page-tokens than %u",
                           rule->sinks, info->n_ctx, page_tokens);
    if (rule->keep > widest)
        return usage_error("--beyond shift needs --keep window:%" PRIu64 ",sinks:%" PRIu64
                           " or less: the model has %u positions, and whole pages of %u tokens "
                           "are kept",
                           widest, rule->sinks, info->n_ctx, page_tokens);
    rule->keep = rule->keep ? rule->keep : widest;
    return EXIT_DONE;
}

int rule_resolve(const options *o, const model_info *info, uint32_t page_tokens, window_rule *rule)
{
    int code = EXIT_DONE;
    *rule = (window_rule){.n_ctx = info->n_ctx, .keep = o->keep.window, .sinks = o->keep.sinks};
    if (o->beyond.kind == BEYOND_ROLLING || o->beyond.kind == BEYOND_RECALL)
        code = resolve_rolling(o, rule);
    else if (o->beyond.kind == BEYOND_SHIFT)
        code = resolve_shift(o, info, page_tokens, rule);
    else if (o->beyond.kind == BEYOND_YARN)
        code = check_rope("yarn", info);
    if (rule->keep)
        rule->chunk = rule->keep > MIN_CHUNK_TOKENS ? rule->keep : MIN_CHUNK_TOKENS;
    return code;
}
