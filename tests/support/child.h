/* child.h - run a piece of a test in a forked process, where it may give up rights for good. */
#ifndef TESTS_CHILD_H
#define TESTS_CHILD_H

#include <stdbool.h>
#include <stddef.h>

/* Run body(arg) in a child; returns what it returned (0 .. 255), or -signal. */
int child_run(int (*body)(void *arg), void *arg);

/* From now on the system call fails with `error`, in every thread of this process. */
bool child_deny_syscall(long number, int error);

/* The same, only for calls whose argument number `arg` (from 0) has a bit of `mask` set. */
bool child_deny_flags(long number, unsigned arg, unsigned mask, int error);

/* Become an unprivileged user that no other process is, who may lock `bytes` of memory in all: the
 * kernel counts per user. Needs root. */
bool child_limit_memlock(size_t bytes);

#endif
