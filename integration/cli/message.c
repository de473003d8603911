/* message.c - everything that is not a result goes to stderr, prefixed with the program's name. */
#include "integration/cli/message.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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

/* Names of configuration members, and the options that set them. */
static const struct {
    const char *member, *option;
} names[] = {
    {"zram_bytes", "--zram"}, {"ram_bytes", "--ram"},           {"disk_bytes", "--disk"},
    {"disk_path", "--swap"},  {"page_tokens", "--page-tokens"},
};

static size_t match(const char *text, const char **option)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n = strlen(names[i].member);
        if (strncmp(text, names[i].member, n) == 0) {
            *option = names[i].option;
            return n;
        }
    }
    return 0;
}

void complain_of_library(const char *message)
{
    char text[1024];
    size_t n = 0;
    while (*message && n + 32 < sizeof text) {
        const char *option;
        size_t n_member = match(message, &option);
        if (n_member)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s", option);
        else
            text[n++] = *message;
        message += n_member ? n_member : 1;
    }
    complain("%.*s", (int)n, text);
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
    complain_of_library(*message ? message : kvp_status_str(status));
    return EXIT_FAILED;
}
