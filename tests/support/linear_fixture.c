/* linear_fixture.c - see linear_fixture.h. */
#include "linear_fixture.h"

#include "pattern.h"

#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const kvp_layer_kind linear_kind = {2, WIDTH, WIDTH, KVP_F16};

void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

kvp_config linear_config(const kvp_env *env)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = (kvp_geometry){
        .n_layers = 1, .layers = &linear_kind, .page_tokens = PAGE_TOKENS, .page_heads = 1};
    cfg.ram_bytes = (128 << 10) + VIEWS_BYTES; /* for 1 MiB of KV */
    cfg.linear_bytes = VIEWS_BYTES;
    cfg.disk_bytes = KVP_UNLIMITED;
    cfg.n_threads = 2;
    cfg.env = env;
    return cfg;
}

void linear_append(linear_fixture *f, uint64_t n)
{
    static float k[CHUNK * 2 * WIDTH], v[CHUNK * 2 * WIDTH];
    for (uint64_t done = 0; done < n; done += CHUNK)
        must(pattern_append(f->seq, 0, &linear_kind, f->salts + kvp_seq_length(f->seq),
                            n - done < CHUNK ? n - done : CHUNK, k, v));
}

linear_fixture *linear_set_up(const kvp_env *env)
{
    linear_fixture *f = calloc(1, sizeof *f);
    for (uint32_t i = 0; i < 2 * TOKENS; i++)
        f->salts[i] = i + 5;
    kvp_config cfg = linear_config(env);
    must(kvp_pager_open(&cfg, &f->pager));
    must(kvp_seq_create(f->pager, &f->seq));
    linear_append(f, TOKENS);
    return f;
}

void linear_tear_down(linear_fixture *f)
{
    must(kvp_pager_check(f->pager));
    kvp_pager_close(f->pager);
    free(f);
}

uint64_t linear_faults_of(kvp_pager *pager)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    return s.linear_faults;
}

kvp_linear linear_view(linear_fixture *f, uint32_t head, kvp_plane plane)
{
    kvp_linear_args args = {.kv_head = head, .plane = plane, .max_bytes = SHARE_BYTES};
    kvp_linear view;
    must(kvp_linear_open(f->seq, &args, &view));
    return view;
}

/* Values of a pattern are exact in binary16, and normal unless they are 0. */
static uint16_t f16_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t exponent = bits >> 23 & 255;
    return x == 0
               ? 0
               : (uint16_t)((bits >> 16 & 0x8000u) | (exponent - 112) << 10 | (bits >> 13 & 1023));
}

uint16_t *linear_expected(const linear_fixture *f, uint32_t head, kvp_plane plane)
{
    uint16_t *rows = malloc(TOKENS * ROW_BYTES), *to = rows;
    for (uint64_t t = 0; t < TOKENS; t++)
        for (uint32_t d = 0; d < WIDTH; d++)
            *to++ = f16_of(pattern_value(f->salts[t], plane == KVP_PLANE_V, head, d));
    return rows;
}

_Thread_local sigjmp_buf linear_on_signal;
_Thread_local volatile sig_atomic_t linear_expects_signal;

static void jump(int signal)
{
    if (!linear_expects_signal)
        _exit(99);
    linear_expects_signal = 0;
    siglongjmp(linear_on_signal, signal);
}

void linear_catch_signals(void)
{
    struct sigaction action = {.sa_handler = jump};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
}

int linear_try_row(const kvp_linear *view, const uint16_t *expected, uint64_t row)
{
    int signal = sigsetjmp(linear_on_signal, 1);
    if (signal)
        return signal;
    linear_expects_signal = 1;
    int difference =
        memcmp((const char *)view->base + row * ROW_BYTES, expected + row * WIDTH, ROW_BYTES);
    linear_expects_signal = 0;
    assert_int_equal(difference, 0);
    return 0;
}

bool linear_is_unsupported(void)
{
    linear_fixture *f = linear_set_up(NULL);
    kvp_linear view;
    kvp_status status = kvp_linear_open(f->seq, &(kvp_linear_args){0}, &view);
    if (status == KVP_E_UNSUPPORTED)
        print_message("skipped: %s\n", kvp_error());
    linear_tear_down(f);
    return status == KVP_E_UNSUPPORTED;
}
