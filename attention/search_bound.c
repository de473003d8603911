/* search_bound.c - an upper bound of every score in a page, from its digest.
 *
 * 1. Ball: q . k <= q . c + |q| radius.
 * 2. Cone: the angle between q and k is at least that between q and c less that between c and k, so
 *    the cosine of q and k is at most cos(a - b) = cos a cos b + sin a sin b, or 1 if a <= b.
 *
 * Scores are computed in float32: a sum of `width` products is wrong by less than ROUNDING(width)
 * times the product of the norms (Higham, Accuracy and Stability of Numerical Algorithms, section
 * 3.1, with a factor of 2 to spare). What is compared with them is widened by that: cosines before
 * they go into the second formula, which is steep where they are close to 1. */
#include "attention/search.h"

#include <math.h>

#define ROUNDING(width) (((double)(width) + 64) * 0x1p-23)
/* Norms whose products and squares stay far from the ends of float32. */
#define LARGEST_NORM 1e18
#define LEAST_NORM 1e-18

static double cosine_bound(double with_centre, double least)
{
    if (with_centre >= least)
        return 1;
    double sines2 = (1 - with_centre * with_centre) * (1 - least * least);
    return with_centre * least + sqrt(fmax(sines2, 0)) + 1e-12;
}

/* Of the cosine between the query and a key. */
static double cone(const kvp_digest *d, const kvpi_bound_terms *t, double rounding)
{
    double lengths = t->query_norm * t->centre_norm;
    if (!(lengths > LEAST_NORM * LEAST_NORM))
        return 1;
    double with_centre = fmin(t->product / lengths + rounding, 1);
    double least = fmax(d->min_cosine - rounding, -1);
    return cosine_bound(fmax(with_centre, -1), least);
}

float kvpi_search_bound(const kvp_digest *d, kvp_similarity similarity, const kvpi_bound_terms *t)
{
    const double rounding = ROUNDING(t->width);
    if (!d->centre || !(t->query_norm < LARGEST_NORM) || !(d->max_norm < LARGEST_NORM))
        return INFINITY;
    double cosine = cone(d, t, rounding), bound;
    if (similarity == KVP_COSINE) {
        if (!(d->min_norm > LEAST_NORM) || !(t->query_norm > LEAST_NORM))
            return INFINITY;
        bound = cosine + 8 * rounding;
    } else {
        double norms = t->query_norm * (d->max_norm + t->centre_norm);
        double ball = t->product + t->query_norm * d->radius;
        double in_cone = t->query_norm * cosine * (cosine > 0 ? d->max_norm : d->min_norm);
        bound = fmin(ball, in_cone) + rounding * norms + 1e-37;
    }
    return nextafterf((float)bound, INFINITY);
}
