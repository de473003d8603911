/* test_budget.c - budgets are hard limits: 256 MiB of KV under 16 MiB of RAM and 8 MiB of zram. */
#include "tests/support/pattern.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1u << 20)
#define RAM_BYTES (16u * MIB)
#define ZRAM_BYTES (8u * MIB)
#define SLACK_BYTES (4u * MIB)
#define KV_BYTES (256u * MIB)
#define CHUNK 256u

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1 /* shadow memory grows too */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* A "VmXXX:  n kB" line of this process's status. */
static uint64_t vm_bytes(const char *key)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)))
            sscanf(line + strlen(key), ": %llu", &kib);
    fclose(f);
    assert_true(kib > 0);
    return kib * 1024;
}

static void reset_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    assert_non_null(f);
    fputs("5", f);
    fclose(f);
}

static void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

static void test_256_mib_of_kv_stay_within_the_budgets(void **state)
{
    (void)state;
    static float k[CHUNK * 256], v[CHUNK * 256], q[256], out[256];
    static uint32_t salts[CHUNK];
    kvp_layer_kind kind = {4, 64, 64, KVP_F16};
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){.n_layers = 4, .n_kv_heads = 4, .head_dim = 64, .dtype = KVP_F16};
    cfg.ram_bytes = RAM_BYTES;
    cfg.zram_bytes = ZRAM_BYTES;
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.n_threads = 2;
    for (uint32_t i = 0; i < CHUNK; i++)
        salts[i] = i;
    pattern_rows(&kind, salts, CHUNK, k, v);
    q[0] = 1.0f;
    reset_peak();
    uint64_t before = vm_bytes("VmHWM");

    kvp_pager *pager;
    kvp_seq *seq;
    must(kvp_pager_open(&cfg, &pager));
    must(kvp_seq_create(pager, &seq));
    size_t token_bytes = 2 * 4 * 64 * 2;
    for (uint32_t layer = 0; layer < 4; layer++) {
        for (size_t t = 0; t < KV_BYTES / 4 / token_bytes; t += CHUNK)
            must(kvp_seq_append(seq, layer, k, v, CHUNK));
        must(kvp_attend(
            seq, layer,
            &(kvp_attend_args){.q = q, .out = out, .n_queries = 1, .n_heads = 4, .scale = 0.125f}));
    }
    uint64_t grown = vm_bytes("VmHWM") - before;
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    print_message("grown by %.1f MiB, ram peak %.1f, zram peak %.1f, tables %.2f, workspace %.2f\n",
                  (double)grown / MIB, (double)s.ram_peak_bytes / MIB,
                  (double)s.zram_peak_bytes / MIB, (double)s.table_bytes / MIB,
                  (double)s.workspace_bytes / MIB);
    assert_int_equal(kvp_seq_length(seq) * token_bytes * 4, KV_BYTES);
    assert_true(s.demotions > 3000 && s.major_faults > 0 && s.minor_faults > 0);
    assert_true(s.bytes_read > 0 && s.bytes_written > 0);
    assert_true(s.ram_peak_bytes <= RAM_BYTES);
    assert_true(s.zram_peak_bytes <= ZRAM_BYTES);
    if (!SANITIZED)
        assert_true(grown <= RAM_BYTES + ZRAM_BYTES + SLACK_BYTES);
    kvp_pager_close(pager);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_256_mib_of_kv_stay_within_the_budgets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
