/* message.c - everything that is not a result goes to stderr, prefixed with the program's name. */
#include "integration/cli/message.h"

#include <stdarg.h>
#include <stdio.h>

#include "integration/cli/interrupt.h"

static void say(const char *format, va_list args)
{
    fflush(stdout); /* on a terminal, messages come after the text that was printed before them */
    fputs("kvpager: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

void complain(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(format, args);
    va_end(args);
}

int usage_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(format, args);
    va_end(args);
    return EXIT_USAGE;
}

int report_failure(kvp_status status)
{
    if (interrupted()) {
        complain("interrupted");
        return interrupt_exit_code();
    }
    const char *message = kvp_error();
    complain("%s", *message ? message : kvp_status_str(status));
    return EXIT_FAILED;
}
