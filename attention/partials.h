/* partials.h - exp, the folding of partials, and what statistics of pages are made of, once for
 * every instruction set: included by block.h, in the vectors of <isa>.h. */

/* ---- exp ------------------------------------------------------------------------------------- */

/* exp(x) for x <= 0, within 2 ulp; 0 where it would be subnormal; NaN stays NaN.
 * Source: Cephes expf (S. Moshier): Cody-Waite reduction by ln 2 and a polynomial of degree 5. */
SIMD_INLINE vec vec_exp(vec x)
{
    const vec smallest = vec_set1(-87.33654f); /* ln FLT_MIN */
    const vec in_range = vec_max(smallest, x);
    vec n = vec_round(vec_mul(in_range, vec_set1(1.44269504f)));
    vec r = vec_fma(n, vec_set1(-0.693359375f), in_range);
    r = vec_fma(n, vec_set1(2.12194440e-4f), r);

    vec y = vec_set1(1.9875691500e-4f);
    y = vec_fma(y, r, vec_set1(1.3981999507e-3f));
    y = vec_fma(y, r, vec_set1(8.3334519073e-3f));
    y = vec_fma(y, r, vec_set1(4.1665795894e-2f));
    y = vec_fma(y, r, vec_set1(1.6666665459e-1f));
    y = vec_fma(y, r, vec_set1(5.0000001201e-1f));
    y = vec_fma(y, vec_mul(r, r), vec_add(r, vec_set1(1.0f)));
    return vec_zero_below(x, smallest, vec_mul(y, vec_power_of_2(n)));
}

/* ---- partials -------------------------------------------------------------------------------- */

/* LANES columns, or the first `part`. */
SIMD_INLINE vec load_columns(const float *o, size_t part)
{
    return part ? vec_load_part(o, part, KVP_F32) : vec_load(o, KVP_F32);
}

SIMD_INLINE void store_columns(float *o, size_t part, vec x)
{
    if (part)
        vec_store_part(o, part, x);
    else
        vec_store(o, x);
}

/* o = o * old + x * next. */
SIMD_INLINE void fold_output(float *o, size_t part, float old, vec x, float next)
{
    vec mine = vec_fma(load_columns(o, part), vec_set1(old), vec_mul(x, vec_set1(next)));
    store_columns(o, part, mine);
}

/* Fold (m, l) of what comes next into a state's; *old and *next are what either is multiplied by to
 * have the same maximum. */
SIMD_INLINE void fold(float *m, float *l, float next_m, float next_l, float *old, float *next)
{
    const float top = *m > next_m ? *m : next_m;
    float below[LANES] = {*m - top, next_m - top}, factor[LANES];
    vec_store(factor, vec_exp(vec_load(below, KVP_F32)));
    *old = factor[0];
    *next = factor[1];
    *l = fmaf(*l, *old, next_l * *next);
    *m = top;
}

SIMD_TARGET static void merge(const kvp_partial *into, const kvp_partial *next, size_t v_width)
{
    float old, factor;
    if (*next->l == 0) /* saw no key; a NaN goes on */
        return;
    fold(into->m, into->l, *next->m, *next->l, &old, &factor);
    for (size_t c = 0; c < v_width; c += LANES) {
        size_t part = v_width - c < LANES ? v_width - c : 0;
        fold_output(into->o + c, part, old, load_columns(next->o + c, part), factor);
    }
}

/* ---- statistics of pages --------------------------------------------------------------------- */

SIMD_TARGET static void normalise(float *x, size_t n)
{
    const vec nothing = vec_set1(-INFINITY);
    vec top = nothing, sum = vec_set1(0);
    for (size_t i = 0; i < n; i += LANES) {
        size_t part = n - i < LANES ? n - i : 0;
        top = vec_max(vec_first(n - i, load_columns(x + i, part), nothing), top);
    }
    const float largest = vec_max_across(top);
    const vec m = vec_set1(largest > -INFINITY ? largest : 0);
    for (size_t i = 0; i < n; i += LANES) {
        size_t part = n - i < LANES ? n - i : 0;
        vec p = vec_exp(vec_sub(vec_first(n - i, load_columns(x + i, part), nothing), m));
        store_columns(x + i, part, p);
        sum = vec_add(sum, p);
    }
    const float all = vec_sum_across(sum);
    const vec inverse = vec_set1(all > 0 ? 1 / all : 0);
    for (size_t i = 0; i < n; i += LANES) {
        size_t part = n - i < LANES ? n - i : 0;
        store_columns(x + i, part, vec_mul(load_columns(x + i, part), inverse));
    }
}

SIMD_TARGET static float distance(const float *a, const float *b, float factor, size_t n)
{
    vec sum = vec_set1(0);
    for (size_t i = 0; i < n; i += LANES) {
        size_t part = n - i < LANES ? n - i : 0;
        vec d = vec_sub(load_columns(a + i, part),
                        vec_mul(load_columns(b + i, part), vec_set1(factor)));
        sum = vec_fma(d, d, sum);
    }
    return sqrtf(vec_sum_across(sum));
}
