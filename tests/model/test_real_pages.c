/* test_real_pages.c - pages that the demo model makes come back from every codec, and are stored in
 * what the bars ask for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "alloc/mem.h"
#include "tests/support/real_pages.h"

#include <stdlib.h>
#include <string.h>

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s", kvp_error());
}

/* By every plan; returns the least size. */
static size_t check_plans(kvpi_codec *c, const real_pages *p, const uint8_t *page, uint8_t *dst,
                          uint8_t *back)
{
    size_t n, least = p->page_bytes;
    for (int id = 0; id < KVPI_N_CODECS; id++)
        for (int k = 0; k < KVPI_N_PREDICTORS * KVPI_N_PREDICTORS; k++) {
            const kvpi_plan plan = {.codec = (kvpi_codec_id)id,
                                    .predictor = {(kvpi_predictor)(k / KVPI_N_PREDICTORS),
                                                  (kvpi_predictor)(k % KVPI_N_PREDICTORS)}};
            if (!kvpi_codec_encode_by(c, &p->shape, &plan, page, dst, &n))
                continue;
            must(kvpi_codec_decode(c, plan.codec, &p->shape, dst, n, back));
            assert_memory_equal(back, page, p->page_bytes);
            least = n < least ? n : least;
        }
    return least;
}

/* Every page of a text, or every full one; returns the ratio of what is chosen. */
static double check_pages(kvp_dtype dtype, bool is_full)
{
    real_pages p;
    must(real_pages_make("models/demo", "models/demo/excerpt.txt", 300, dtype, is_full, &p));
    assert_int_not_equal(p.n_tokens % p.shape.n_tokens, 0); /* there are open pages */
    assert_true(p.n >= 6 * (p.n_tokens / p.shape.n_tokens + !is_full));
    kvpi_codec *c;
    size_t workspace_bytes, n, chosen = 0, least = 0;
    must(kvpi_codec_open(&kvpi_mem_default, p.page_bytes, false, &c, &workspace_bytes));
    uint8_t *dst = malloc(p.page_bytes), *back = malloc(p.page_bytes);
    for (size_t i = 0; i < p.n; i++) {
        kvpi_codec_id id;
        kvpi_codec_encode(c, &p.shape, real_page(&p, i), dst, &n, &id);
        must(kvpi_codec_decode(c, id, &p.shape, dst, n, back));
        assert_memory_equal(back, real_page(&p, i), p.page_bytes);
        chosen += n;
        least += check_plans(c, &p, real_page(&p, i), dst, back);
    }
    double ratio = (double)(p.n * p.page_bytes) / (double)chosen;
    print_message("%zu pages: %.3f, could be %.3f\n", p.n, ratio,
                  (double)(p.n * p.page_bytes) / (double)least);
    assert_true(chosen <= least + least / 100);
    kvpi_codec_close(c);
    free(dst);
    free(back);
    real_pages_free(&p);
    return ratio;
}

/* The ratio of full pages: open ones are mostly zeros. */
static double check_dtype(kvp_dtype dtype)
{
    (void)check_pages(dtype, false);
    return check_pages(dtype, true);
}

static void test_bf16_pages(void **state)
{
    (void)state;
    double ratio = check_dtype(KVP_BF16);
#ifdef KVP_HAVE_ZSTD
    assert_true(ratio >= 1.45);
#else
    assert_true(ratio >= 1.3);
#endif
}

static void test_f16_pages(void **state)
{
    (void)state;
    double ratio = check_dtype(KVP_F16);
#ifdef KVP_HAVE_ZSTD
    assert_true(ratio >= 1.15);
#else
    assert_true(ratio >= 1);
#endif
}

static void test_f32_pages(void **state)
{
    (void)state;
    assert_true(check_dtype(KVP_F32) >= 1.1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16_pages),
        cmocka_unit_test(test_f16_pages),
        cmocka_unit_test(test_f32_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
