/* make_traces.c - writes the traces of tests/data/traces/:  make_traces FOLDER */
#include "workloads.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_traces FOLDER\n");
        return 2;
    }
    for (const workload *w = workloads; w->name; w++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s.trace", argv[1], w->name);
        if (workload_record(w, path)) {
            fprintf(stderr, "make_traces: %s\n", kvp_error());
            return 1;
        }
    }
    return 0;
}
