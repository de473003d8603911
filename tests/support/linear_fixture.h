/* linear_fixture.h - what tests of linear views share where things go wrong: a sequence of known
 * tokens under an eighth of the RAM that it needs, its rows as they must be, and readers that
 * survive SIGBUS and SIGSEGV. Whatever goes wrong fails the test. */
#ifndef TESTS_LINEAR_FIXTURE_H
#define TESTS_LINEAR_FIXTURE_H

#include "kvpager.h"

#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>

/* A page has one head of two. The last one of each is open: half an OS page of a view. */
enum { TOKENS = 2040, PAGE_TOKENS = 16, WIDTH = 64, ROW_BYTES = 2 * WIDTH, CHUNK = 128 };
enum { VIEWS_BYTES = 256 << 10, SHARE_BYTES = 64 << 10 };

extern const kvp_layer_kind linear_kind;

typedef struct linear_fixture {
    kvp_pager *pager;
    kvp_seq *seq;
    uint32_t salts[2 * TOKENS];
} linear_fixture;

void must(kvp_status status);

/* env NULL: the real world. */
kvp_config linear_config(const kvp_env *env);
/* TOKENS tokens in a pager of that kind. */
linear_fixture *linear_set_up(const kvp_env *env);
void linear_tear_down(linear_fixture *f);
void linear_append(linear_fixture *f, uint64_t n);
uint64_t linear_faults_of(kvp_pager *pager);

/* Of all tokens, with SHARE_BYTES. */
kvp_linear linear_view(linear_fixture *f, uint32_t head, kvp_plane plane);
/* What its rows must be; to be freed. */
uint16_t *linear_expected(const linear_fixture *f, uint32_t head, kvp_plane plane);

/* Where SIGBUS and SIGSEGV go, if they are expected; else the process ends with 99. */
extern _Thread_local sigjmp_buf linear_on_signal;
extern _Thread_local volatile sig_atomic_t linear_expects_signal;
void linear_catch_signals(void);
/* Compare a row. Returns the signal that this got, or 0. */
int linear_try_row(const kvp_linear *view, const uint16_t *expected, uint64_t row);

/* There are no linear views here; it has said why. */
bool linear_is_unsupported(void);

#endif
