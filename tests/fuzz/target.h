/* target.h - what a fuzz target is: one function that takes any bytes. It returns if they are
 * handled, whether accepted or refused; sanitizers, and require(), stop the program otherwise. */
#ifndef TESTS_FUZZ_TARGET_H
#define TESTS_FUZZ_TARGET_H

#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

#define require(condition) ((condition) ? (void)0 : require_failed(#condition, __FILE__, __LINE__))

static inline void require_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
    abort();
}

#endif
