/* proc.h - figures that the kernel keeps. */
#ifndef KVPAGER_CLI_PROC_H
#define KVPAGER_CLI_PROC_H

#include <stdint.h>

/* The line "<key>: <n> kB" of /proc/self/status ("VmHWM") or /proc/meminfo ("MemAvailable"), in
 * bytes; 0 if there is none. */
uint64_t proc_self_bytes(const char *key);
uint64_t proc_machine_bytes(const char *key);

#endif
