/* plan_measure.h - a few seconds of measuring with hollow models: the real code at the real shapes,
 * with fewer layers and without reading weights. */
#ifndef KVPAGER_CLI_PLAN_MEASURE_H
#define KVPAGER_CLI_PLAN_MEASURE_H

#include "integration/cli/options.h"
#include "integration/cli/plan.h"

/* Layers of the model that plan_measure() is given: its prefill is measured with these. */
#define PLAN_FEW_LAYERS 4u

typedef struct plan_subject {
    const options *options;
    model_options model_options;
    model *few;        /* hollow, with PLAN_FEW_LAYERS or all it has */
    kvp_config budget; /* zram, disk and placement as wanted; RAM is set here */
} plan_subject;

/* Fill in *probe for a context of kv->n_tokens, in about 5 seconds. May write what the probe's KV
 * takes to the disk, up to about 400 MiB, and removes it; a budget.disk_path needs a second file,
 * with ".2" behind its name. Errors: as model_open_hollow(), model_forward() and kvp_pager_open();
 * KVP_E_AGAIN interrupted. */
KVP_NODISCARD kvp_status plan_measure(const plan_subject *s, const plan_kv *kv, plan_probe *probe);

#endif
