/* test_workspace.c - activations that grow: how much is held, and what is left without memory. */
#include "integration/models/workspace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>

#include "tests/support/child.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_SANITIZED 1
#endif
#endif
#ifndef IS_SANITIZED
#define IS_SANITIZED 0
#endif

/* A hidden state of 64 KiB. */
static const decoder_config config = {
    .n_heads = 1, .n_kv_heads = 1, .head_dim = 2, .d_model = 1u << 14, .d_inner = 1};

static void test_grows_and_never_shrinks(void **state)
{
    (void)state;
    workspace w = {0};
    assert_int_equal(workspace_reserve(&w, &config, 300, false), KVP_OK);
    size_t bytes = w.bytes;
    assert_true(w.n_tokens == 300 && !w.has_sinks && bytes > 300 * sizeof(float) << 14);
    w.hidden[(300u << 14) - 1] = 7;
    assert_int_equal(workspace_reserve(&w, &config, 20, false), KVP_OK);
    assert_true(w.n_tokens == 300 && w.bytes == bytes && w.hidden[(300u << 14) - 1] == 7);
    assert_int_equal(workspace_reserve(&w, &config, 20, true), KVP_OK);
    assert_true(w.n_tokens == 300 && w.has_sinks && w.bytes > bytes);
    workspace_fini(&w);
    assert_null(w.block);
}

/* The most that this process has held so far. */
static size_t peak_bytes(void)
{
    char line[128];
    size_t kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) && sscanf(line, "VmHWM: %zu", &kib) != 1)
        continue;
    fclose(f);
    return kib << 10;
}

/* In a child: a peak stays. */
static int grow(void *arg)
{
    (void)arg;
    workspace w = {0};
    if (workspace_reserve(&w, &config, 1000, false))
        return 1;
    size_t before = peak_bytes(), bytes = w.bytes;
    if (workspace_reserve(&w, &config, 1500, false))
        return 2;
    if (peak_bytes() >= before + w.bytes - bytes / 2) /* the old one besides: + w.bytes */
        return 3;
    if (workspace_reserve(&w, &config, (size_t)1 << 40, false) != KVP_E_NOMEM)
        return 4;
    if (w.block || w.n_tokens || w.bytes)
        return 5;
    return workspace_reserve(&w, &config, 1000, false) ? 6 : 0;
}

static void test_old_and_new_are_never_held_at_once(void **state)
{
    (void)state;
    if (IS_SANITIZED) {
        print_message("skipped: sanitizers hold on to what is freed\n");
        return;
    }
    assert_int_equal(child_run(grow, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grows_and_never_shrinks),
        cmocka_unit_test(test_old_and_new_are_never_held_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
