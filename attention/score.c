/* score.c - which scorers belong to the instruction set in use. */
#include "attention/score.h"

#include <string.h>

#include "kvpager/attention.h"

/* In the order of preference. */
static const kvpi_scorers *const all_scorers[] = {
    &kvpi_scorers_scalar,
#if defined(__x86_64__)
    &kvpi_scorers_avx2,
    &kvpi_scorers_avx512,
#endif
};

const kvpi_scorers *kvpi_scorers_find(void)
{
    const char *isa = kvp_isa();
    const kvpi_scorers *found = NULL;
    for (size_t i = 0; isa && i < sizeof all_scorers / sizeof *all_scorers; i++)
        if (strcmp(isa, all_scorers[i]->name) == 0)
            found = all_scorers[i];
    if (isa && !found)
        (void)kvp_fail(KVP_E_UNSUPPORTED, "search: there are no kernels for %s", isa);
    return found;
}
