/* cmd_logits.c - kvpager logits: the logits of every token of a text, as a .npy file. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "integration/cli/commands.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/message.h"
#include "integration/cli/output.h"
#include "integration/cli/progress.h"
#include "integration/cli/report.h"

typedef struct logits_options {
    const char *path;
} logits_options;

typedef struct logits_run {
    session session;
    context context;
    progress progress;
    report report;
    const char *path;
    char *target;    /* what `path` leads to; NULL: `path` is no regular file, written as it is */
    char *temporary; /* beside it, and renamed to it when it is whole */
    FILE *file;
    size_t row_bytes;
} logits_run;

/* ---- the file ---- */

static kvp_status write_failed(const logits_run *l)
{
    return kvp_fail(KVP_E_IO, "%s: cannot write: %s", l->path, strerror(errno));
}

/* NumPy's format, version 1.0: magic, length of the header, a Python dict padded so that the data
 * begins at a multiple of 64. */
static kvp_status write_header(const logits_run *l, size_t n_rows, size_t n_columns)
{
    unsigned char header[128] = "\x93NUMPY\x01";
    const size_t prefix = 10, n_header = sizeof header - prefix;
    header[8] = (unsigned char)n_header;
    memset(header + prefix, ' ', n_header);
    char dict[sizeof header];
    int n = snprintf(dict, sizeof dict,
                     "{'descr': '%cf4', 'fortran_order': False, 'shape': (%zu, %zu), }",
                     __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>', n_rows, n_columns);
    memcpy(header + prefix, dict, (size_t)n);
    header[sizeof header - 1] = '\n';
    return fwrite(header, sizeof header, 1, l->file) == 1 ? KVP_OK : write_failed(l);
}

static kvp_status create_failed(const logits_run *l)
{
    return kvp_fail(KVP_E_IO, "%s: cannot create: %s", l->path, strerror(errno));
}

/* A temporary file with the permissions that the target has or would get. */
static int create_temporary(logits_run *l, const struct stat *existing)
{
    if (existing && access(l->target, W_OK) != 0)
        return -1;
    int fd = mkostemp(l->temporary, O_CLOEXEC);
    mode_t mask = umask(0);
    umask(mask);
    if (fd >= 0 && fchmod(fd, existing ? existing->st_mode & 0777 : 0666 & ~mask) != 0) {
        unlink(l->temporary);
        close(fd);
        return -1;
    }
    return fd;
}

static kvp_status open_output(logits_run *l)
{
    struct stat st;
    bool exists = stat(l->path, &st) == 0;
    if (exists && !S_ISREG(st.st_mode)) {
        l->file = fopen(l->path, "wbe");
        return l->file ? KVP_OK : create_failed(l);
    }
    l->target = exists ? realpath(l->path, NULL) : strdup(l->path);
    if (!l->target || asprintf(&l->temporary, "%s.XXXXXX", l->target) < 0) {
        l->temporary = NULL;
        return create_failed(l);
    }
    int fd = create_temporary(l, exists ? &st : NULL);
    l->file = fd >= 0 ? fdopen(fd, "wb") : NULL;
    return l->file ? KVP_OK : create_failed(l);
}

/* Put the whole file in its place, or remove what there is of it. */
static kvp_status close_output(logits_run *l, kvp_status status)
{
    if (l->file && fclose(l->file) != 0 && !status)
        status = write_failed(l);
    if (l->file && l->target && !status && rename(l->temporary, l->target) != 0)
        status = write_failed(l);
    if (l->file && l->target && status)
        unlink(l->temporary);
    free(l->temporary);
    free(l->target);
    return status;
}

/* ---- the run ---- */

static bool watch_forward(void *opaque, size_t done, size_t total)
{
    logits_run *l = opaque;
    (void)done, (void)total;
    if (progress_is_due(&l->progress))
        progress_draw(&l->progress, NULL, "%" PRIu64 " of %zu tokens", l->context.next,
                      l->session.n_tokens);
    return !interrupted();
}

static kvp_status take_rows_to_file(void *opaque, uint64_t first, size_t n, const float *logits)
{
    logits_run *l = opaque;
    (void)first;
    if (interrupted())
        return KVP_E_AGAIN;
    return fwrite(logits, l->row_bytes, n, l->file) == n ? KVP_OK : write_failed(l);
}

static kvp_status compute(logits_run *l)
{
    session *s = &l->session;
    double begin = now_seconds();
    kvp_status status = write_header(l, s->n_tokens, s->info->n_vocab);
    if (!status)
        status = context_init(&l->context, s->model, s->pager, &s->rule);
    l->context.progress = watch_forward;
    l->context.progress_opaque = l;
    if (!status && s->memory)
        status = context_use_memory(&l->context, s->memory);
    if (!status)
        status = context_rows(&l->context, s->tokens, 0, s->n_tokens, take_rows_to_file, l);
    if (!status && fflush(l->file) != 0)
        status = write_failed(l);
    run_seconds seconds = {.prefill = now_seconds() - begin};
    if (!status)
        status = report_take(s, &seconds, &l->report);
    l->report.prefill_tokens = s->n_tokens;
    return status;
}

static kvp_status print_result(const logits_run *l)
{
    const session *s = &l->session;
    if (report_is_wanted(s->options))
        report_print(&l->report, stderr);
    if (!s->options->json)
        return output_line("%s: float32 [%zu, %u]", l->path, s->n_tokens, s->info->n_vocab);
    json_t *object = json_pack("{s:s, s:[I, I]}", "output", l->path, "shape",
                               (json_int_t)s->n_tokens, (json_int_t)s->info->n_vocab);
    if (object)
        report_add_json(&l->report, object);
    return output_json(object);
}

static int compute_and_report(logits_run *l)
{
    l->row_bytes = l->session.info->n_vocab * sizeof(float);
    kvp_status status = open_output(l);
    if (!status)
        status = compute(l);
    progress_fini(&l->progress);
    status = close_output(l, status);
    if (!status)
        status = print_result(l);
    return status ? report_failure(status) : EXIT_DONE;
}

/* As context_rows() does it. */
static window_feed all_rows(const session *s)
{
    uint64_t step = context_max_rows(s->info), first = step;
    first = first < s->n_tokens ? first : s->n_tokens;
    first = first < s->rule.n_ctx ? first : s->rule.n_ctx;
    return (window_feed){.first = first, .step = step, .end = s->n_tokens};
}

static int run(int argc, char **argv)
{
    options o;
    logits_options own = {0};
    logits_run l = {0};
    int code;
    if (!options_parse(&cmd_logits, argc, argv, &o, &own, &code))
        return code;
    if (!own.path)
        return usage_error("no output: give a file with -o OUT.npy");
    if (strcmp(own.path, "-") == 0)
        return usage_error("-o - is not possible: name a file (/dev/stdout is one)");
    l.path = own.path;
    code = session_open(&l.session, &o, 0);
    if (!code) {
        const window_feed feed = all_rows(&l.session);
        code = session_open_pager(&l.session, &feed);
    }
    if (!code) {
        progress_init(&l.progress);
        code = compute_and_report(&l);
    }
    context_fini(&l.context);
    return session_close(&l.session, code);
}

static const option_row rows[] = {
    {"output", 'o', &value_text, offsetof(logits_options, path), "OUT.npy",
     "NumPy file to write (required); an existing one is replaced when all is done", 0},
};

const command cmd_logits = {
    .name = "logits",
    .summary = "write the logits of every token of a text to a NumPy file",
    .synopsis = "-m PATH (-p TEXT | -f FILE | --ids FILE) -o OUT.npy [options]",
    .details = "Writes float32 [tokens, vocabulary]: row i is what the model says after token i, "
               "having seen what\n--beyond and --keep leave of the text up to there. With --beyond "
               "recall: log probabilities, where\nthe memory has a say (approximate).\n\n"
               "--json prints: output, shape, seconds and stats.",
    .groups = OPTIONS_MODEL | OPTIONS_INPUT | OPTIONS_BUDGET | OPTIONS_KEEP | OPTIONS_BEYOND |
              OPTIONS_OUTPUT,
    .own = rows,
    .n_own = sizeof rows / sizeof *rows,
    .can_recall = true,
    .run = run,
};
