/* kvpager/status.h - what every call returns, and what went wrong.
 *
 * Every fallible call returns a kvp_status: 0, or one of the negative codes below. Results leave
 * through out-parameters, which are untouched on failure. kvp_error() has the text of the last
 * failure in the calling thread: what failed, where, errno, and what to do about it. */
#ifndef KVPAGER_STATUS_H
#define KVPAGER_STATUS_H

#if defined(__GNUC__)
#define KVP_NODISCARD __attribute__((warn_unused_result))
#define KVP_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define KVP_API __attribute__((visibility("default")))
#else
#define KVP_NODISCARD
#define KVP_PRINTF(fmt, args)
#define KVP_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, value, text). Values are part of the ABI: append, never renumber. */
#define KVP_STATUS_LIST(X)                                                                         \
    X(KVP_OK, 0, "success")                                                                        \
    X(KVP_E_INVALID, -1, "invalid argument")                                                       \
    X(KVP_E_NOMEM, -2, "out of memory")                                                            \
    X(KVP_E_NOSPACE, -3, "no room left in any tier, or everything is pinned")                      \
    X(KVP_E_IO, -4, "input/output error")                                                          \
    X(KVP_E_CORRUPT, -5, "a page failed its checksum")                                             \
    X(KVP_E_LOST, -6, "the only copy of a page was lost")                                          \
    X(KVP_E_AGAIN, -7, "not ready yet: the work goes on, call again")                              \
    X(KVP_E_TIMEOUT, -8, "the deadline passed: the work goes on, call again")                      \
    X(KVP_E_RANGE, -9, "a value or position is out of range")                                      \
    X(KVP_E_UNSUPPORTED, -10, "not supported here")                                                \
    X(KVP_E_BUSY, -11, "in use")                                                                   \
    X(KVP_E_BUDGET, -12, "the budget is too small")

typedef enum kvp_status {
#define KVP_STATUS_ENUM(name, value, text) name = value,
    KVP_STATUS_LIST(KVP_STATUS_ENUM)
#undef KVP_STATUS_ENUM
} kvp_status;

/* The general text of a code; never NULL. */
KVP_API const char *kvp_status_str(kvp_status status);

/* The message of the last failed call in this thread ("" if none): specific, one line, no newline.
 * Owns: valid until the thread's next failing kvp_ call. */
KVP_API const char *kvp_error(void);

/* Set this thread's message and return `status`: for code that extends kvpager (backends,
 * policies). `status` must not be KVP_OK. */
KVP_API kvp_status kvp_fail(kvp_status status, const char *format, ...) KVP_PRINTF(2, 3);

#ifdef __cplusplus
}
#endif
#endif
