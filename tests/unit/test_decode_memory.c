/* test_decode_memory.c - decoding allocates nothing: neither the model nor the pager, token after
 * token within a page. Every allocation of the program is counted (the linker's --wrap). */
#include "integration/models/model.h"
#include "tests/support/golden_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#define N_PROMPT ((size_t)70) /* the second page has begun */
#define N_TOKENS ((size_t)50)

static atomic_size_t n_allocations;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t alignment, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t alignment, size_t n);

void *__wrap_malloc(size_t n)
{
    atomic_fetch_add(&n_allocations, 1);
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    atomic_fetch_add(&n_allocations, 1);
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    atomic_fetch_add(&n_allocations, 1);
    return __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t alignment, size_t n)
{
    atomic_fetch_add(&n_allocations, 1);
    return __real_aligned_alloc(alignment, n);
}

static void check_decode(kvp_dtype weights)
{
    model *m;
    kvp_pager *pager;
    kvp_seq *seq;
    const model_options options = {.weights = weights, .n_threads = 2};
    int32_t tokens[N_PROMPT];
    need(model_open("models/demo", &options, &m));
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(m), KVP_F16, 0);
    cfg.pool = model_pool(m);
    need(kvp_pager_open(&cfg, &pager));
    need(kvp_seq_create(pager, &seq));
    float *logits = malloc(model_get_info(m)->n_vocab * sizeof *logits);
    assert_non_null(logits);
    for (size_t i = 0; i < N_PROMPT; i++)
        tokens[i] = (int32_t)(i * 7919 % 8192);
    model_forward_args args = {
        .tokens = tokens, .n_tokens = N_PROMPT, .logits = logits, .n_logits = 1};
    need(model_forward(m, seq, &args));
    args.n_tokens = 1;
    need(model_forward(m, seq, &args));
    const size_t before = atomic_load(&n_allocations);
    assert_true(before > 0);
    for (size_t i = 0; i < N_TOKENS; i++) {
        args.tokens = &tokens[i];
        logits[0] = NAN;
        need(model_forward(m, seq, &args));
        assert_true(isfinite(logits[0]));
    }
    assert_int_equal(atomic_load(&n_allocations) - before, 0);
    free(logits);
    kvp_pager_close(pager);
    model_close(m);
}

static void test_a_token_allocates_nothing(void **state)
{
    (void)state;
    for (kvp_dtype weights = KVP_F32; weights <= KVP_BF16; weights++)
        check_decode(weights);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_token_allocates_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
