/* larger.h - maxima of errors that no NaN gets lost in. */
#ifndef TESTS_LARGER_H
#define TESTS_LARGER_H

#include <math.h>

/* The larger one; NaN if either is. */
static inline double larger(double a, double b)
{
    return isnan(a) || a >= b ? a : b;
}

#endif
