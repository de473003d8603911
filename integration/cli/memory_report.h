/* memory_report.h - what the arms of kvpager memory-test lost, for people and for programs. */
#ifndef KVPAGER_CLI_MEMORY_REPORT_H
#define KVPAGER_CLI_MEMORY_REPORT_H

#include "integration/cli/memory_arms.h"
#include "integration/cli/report.h"
#include "integration/recall/bootstrap.h"

#define MEMORY_SLICES 16u /* of the text's scored part: loss by position */

typedef struct memory_report {
    const arms *arms;
    double loss[N_ARMS];             /* nats per token; NaN where there is no such arm */
    bootstrap_interval gain[N_ARMS]; /* nats per token that recall is better by */
    uint64_t ram_peak_bytes;         /* KV and memory together */
    double slices[N_ARMS][MEMORY_SLICES], positions[MEMORY_SLICES];
} memory_report;

/* Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status memory_report_take(const arms *a, uint64_t seed, memory_report *r);
/* On stdout. */
KVP_NODISCARD kvp_status memory_report_print(const memory_report *r);
KVP_NODISCARD kvp_status memory_report_print_json(const memory_report *r);
KVP_NODISCARD kvp_status memory_report_plot(const memory_report *r, const char *path);

#endif
