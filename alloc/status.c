/* status.c - texts of status codes and the message of a thread's last failure. */
#include "kvpager/status.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#define MESSAGE_BYTES 512

/* Fixed size: reporting that memory ran out must not need memory. */
static _Thread_local char thread_message[MESSAGE_BYTES];

const char *kvp_status_str(kvp_status status)
{
    switch (status) {
#define STATUS_TEXT(name, value, text)                                                             \
    case name:                                                                                     \
        return text;
        KVP_STATUS_LIST(STATUS_TEXT)
#undef STATUS_TEXT
    }
    return "unknown status";
}

const char *kvp_error(void)
{
    return thread_message;
}

kvp_status kvp_fail(kvp_status status, const char *format, ...)
{
    assert(status != KVP_OK);
    /* Formatted aside first: an argument may be kvp_error() itself. */
    char text[MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    /* Arguments may come from files: what is shown stays one line, and commands no terminal. */
    for (char *c = text; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7F)
            *c = '?';
    }
    snprintf(thread_message, sizeof thread_message, "%s", text);
    return status;
}
