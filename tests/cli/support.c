#define _GNU_SOURCE
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIGNALLED 1000

#define MAX_SCRATCH_PATHS 128

static char scratch_dir[96];
static char *scratch_paths[MAX_SCRATCH_PATHS];
static size_t n_scratch_paths;
static json_t *golden_object;

/* ---- files ---- */

int support_init(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(scratch_dir, sizeof scratch_dir, "%s/kvpager-cli-XXXXXX", tmp ? tmp : "/var/tmp");
    if (!getenv("KVPAGER_BIN") || !mkdtemp(scratch_dir))
        return fprintf(stderr, "KVPAGER_BIN must name the kvpager binary\n"), -1;
    json_error_t error;
    golden_object = json_load_file(golden_file("golden.json"), JSON_ALLOW_NUL, &error);
    if (!golden_object)
        return fprintf(stderr, "golden.json: %s\n", error.text), -1;
    return 0;
}

int support_fini(void **state)
{
    (void)state;
    char command[128];
    json_decref(golden_object);
    while (n_scratch_paths)
        free(scratch_paths[--n_scratch_paths]);
    snprintf(command, sizeof command, "rm -rf '%s'", scratch_dir);
    return system(command);
}

const char *demo_model(void)
{
    const char *dir = getenv("KVP_DEMO_MODEL");
    return dir ? dir : "models/demo";
}

const json_t *golden(void)
{
    return golden_object;
}

const char *golden_file(const char *name)
{
    static char path[256];
    const char *dir = getenv("KVP_DEMO_GOLDEN");
    snprintf(path, sizeof path, "%s/%s", dir ? dir : "tests/data/demo", name);
    return path;
}

const char *scratch(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", scratch_dir, name);
    for (size_t i = 0; i < n_scratch_paths; i++)
        if (strcmp(scratch_paths[i], path) == 0)
            return scratch_paths[i];
    assert_true(n_scratch_paths < MAX_SCRATCH_PATHS);
    char *copy = strdup(path);
    assert_non_null(copy);
    return scratch_paths[n_scratch_paths++] = copy;
}

void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static char *read_fd(int fd, size_t *n)
{
    size_t capacity = 1 << 16;
    char *bytes = malloc(capacity);
    *n = 0;
    for (;;) {
        assert_non_null(bytes);
        ssize_t got = read(fd, bytes + *n, capacity - *n - 1);
        if (got < 0 && errno == EINTR)
            continue;
        assert_true(got >= 0);
        *n += (size_t)got;
        bytes[*n] = 0;
        if (got == 0)
            return bytes;
        if (capacity - *n < 4096)
            bytes = realloc(bytes, capacity *= 2);
    }
}

char *read_file(const char *path, size_t *n)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        fail_msg("%s: %s", path, strerror(errno));
    char *bytes = read_fd(fd, n);
    close(fd);
    return bytes;
}

const char *ids_file(const char *array, size_t first, size_t n)
{
    char name[64];
    const json_t *ids = member(golden_object, array);
    assert_true(first + n <= json_array_size(ids));
    snprintf(name, sizeof name, "%s-%zu-%zu.json", array, first, n);
    const char *path = scratch(name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (size_t i = 0; i < n; i++)
        fprintf(f, "%c%lld", i ? ',' : '[',
                (long long)json_integer_value(json_array_get(ids, first + i)));
    fprintf(f, "%s]\n", n ? "" : "[");
    fclose(f);
    return path;
}

const char *model_with(const char *name, const void *bytes, size_t n)
{
    static const char *const files[] = {"config.json", "model.safetensors",     "vocab.json",
                                        "merges.txt",  "tokenizer_config.json", "recall.json"};
    const char *dir = scratch("model"), *model = demo_model();
    mkdir(dir, 0700);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char from[1024], to[512], cwd[256] = "";
        assert_non_null(getcwd(cwd, sizeof cwd));
        snprintf(from, sizeof from, "%s/%s/%s", *model == '/' ? "" : cwd, model, files[i]);
        snprintf(to, sizeof to, "%s/%s", dir, files[i]);
        unlink(to);
        if (strcmp(files[i], name) != 0)
            assert_int_equal(symlink(from, to), 0);
        else if (bytes)
            write_file(to, bytes, n);
    }
    return dir;
}

/* ---- processes ---- */

static process start_words(const char *setting, void (*prepare)(void), const char *words)
{
    static unsigned n_started;
    process p;
    int pipe_fds[2];
    char *command;
    snprintf(p.err_path, sizeof p.err_path, "%s/stderr-%u", scratch_dir, n_started++);
    assert_true(asprintf(&command, "exec env %s \"$KVPAGER_BIN\" %s", setting, words) > 0);
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    p.pid = fork();
    assert_true(p.pid >= 0);
    if (p.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* an endless run does not outlive a test that failed */
        int err = open(p.err_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(pipe_fds[1], STDOUT_FILENO);
        dup2(err, STDERR_FILENO);
        if (prepare)
            prepare();
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    close(pipe_fds[1]);
    free(command);
    p.out = pipe_fds[0];
    return p;
}

process start(const char *setting, void (*prepare)(void), const char *format, ...)
{
    char *words;
    va_list args;
    va_start(args, format);
    assert_true(vasprintf(&words, format, args) >= 0);
    va_end(args);
    process p = start_words(setting, prepare, words);
    free(words);
    return p;
}

outcome finish(process *p)
{
    outcome o = {0};
    size_t n_err;
    int status;
    o.out = read_fd(p->out, &o.n_out);
    close(p->out);
    assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
    o.code = WIFEXITED(status) ? WEXITSTATUS(status) : SIGNALLED + WTERMSIG(status);
    o.err = read_file(p->err_path, &n_err);
    unlink(p->err_path);
    return o;
}

static void parse_json(outcome *o)
{
    json_error_t error;
    o->json = json_loadb(o->out, o->n_out, JSON_ALLOW_NUL, &error);
    if (!o->json || !json_is_object(o->json))
        fail_msg("stdout is not one JSON object: %s\n%s%s", error.text, o->out, o->err);
}

outcome run(const char *setting, const char *format, ...)
{
    char *words;
    va_list args;
    va_start(args, format);
    assert_true(vasprintf(&words, format, args) >= 0);
    va_end(args);
    process p = start_words(setting, NULL, words);
    free(words);
    return finish(&p);
}

outcome run_expecting(int code, const char *setting, const char *format, ...)
{
    char *words;
    va_list args;
    va_start(args, format);
    assert_true(vasprintf(&words, format, args) >= 0);
    va_end(args);
    process p = start_words(setting, NULL, words);
    outcome o = finish(&p);
    if (o.code != code)
        fail_msg("exit code %d, not %d: %s kvpager %s\n%s", o.code, code, setting, words, o.err);
    if (strstr(words, "--json"))
        parse_json(&o);
    free(words);
    return o;
}

json_t *json_lines(const outcome *o)
{
    json_t *lines = json_array();
    for (const char *line = o->out, *end; *line; line = end + 1) {
        json_error_t error;
        end = strchr(line, '\n');
        if (!end)
            fail_msg("the last line has no end: %s", line);
        json_t *object = json_loadb(line, (size_t)(end - line), JSON_ALLOW_NUL, &error);
        if (!json_is_object(object))
            fail_msg("not a JSON object: %s\n%s", error.text, line);
        json_array_append_new(lines, object);
    }
    return lines;
}

void outcome_free(outcome *o)
{
    free(o->out);
    free(o->err);
    json_decref(o->json);
    *o = (outcome){0};
}

void expect_failure(const outcome *o, int code, const char *text)
{
    if (o->code != code)
        fail_msg("exit code %d, not %d: %s", o->code, code, o->err);
    for (const char *line = o->err; *line; line = strchr(line, '\n') + 1)
        if (strncmp(line, "kvpager: ", 9) != 0 || !strchr(line, '\n'))
            fail_msg("not a message: %s", line);
    if (!*o->err || (text && !strstr(o->err, text)))
        fail_msg("no '%s' in: %s", text ? text : "message", o->err);
}

/* ---- files that appear ---- */

int watch_scratch(void)
{
    int watch = inotify_init1(IN_CLOEXEC);
    assert_true(watch >= 0 && inotify_add_watch(watch, scratch_dir, IN_CREATE) >= 0);
    return watch;
}

void wait_for_file(int watch, const char *name)
{
    union {
        struct inotify_event event;
        char bytes[4096];
    } buffer;
    for (;;) {
        ssize_t n = read(watch, &buffer, sizeof buffer);
        assert_true(n > 0);
        for (char *at = buffer.bytes; at < buffer.bytes + n;) {
            const struct inotify_event *e = (const struct inotify_event *)(void *)at;
            if (e->len && strcmp(e->name, name) == 0)
                return;
            at += sizeof *e + e->len;
        }
    }
}

/* ---- JSON ---- */

json_t *member(const json_t *object, const char *path)
{
    char key[64];
    const json_t *at = object;
    for (const char *p = path; at && *p;) {
        size_t n = strcspn(p, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, p);
        at = json_object_get(at, key);
        p += n + (p[n] == '.');
    }
    if (!at)
        fail_msg("no member %s", path);
    return (json_t *)at;
}

int64_t int_member(const json_t *object, const char *path)
{
    const json_t *value = member(object, path);
    if (!json_is_integer(value))
        fail_msg("%s is not an integer", path);
    return json_integer_value(value);
}

double real_member(const json_t *object, const char *path)
{
    const json_t *value = member(object, path);
    if (!json_is_number(value))
        fail_msg("%s is not a number", path);
    return json_number_value(value);
}

const char *text_member(const json_t *object, const char *path)
{
    const json_t *value = member(object, path);
    if (!json_is_string(value))
        fail_msg("%s is not a string", path);
    return json_string_value(value);
}

void expect_same_tokens(const json_t *a, const json_t *b)
{
    size_t n = json_array_size(a);
    assert_int_equal(n, json_array_size(b));
    for (size_t i = 0; i < n; i++)
        if (json_integer_value(json_array_get(a, i)) != json_integer_value(json_array_get(b, i)))
            fail_msg("token %zu differs", i);
}

/* ---- what is there ---- */

static bool setting_works(const char *setting, const char *more)
{
    outcome o = run(setting, "generate -m %s -p hello -n 1 %s", demo_model(), more);
    bool works = o.code == 0;
    outcome_free(&o);
    return works;
}

bool isa_works(const char *isa)
{
    char setting[64];
    snprintf(setting, sizeof setting, "KVP_ISA=%s", isa);
    return setting_works(setting, "");
}

bool engine_works(const char *engine)
{
    char setting[64];
    snprintf(setting, sizeof setting, "KVP_DISK_ENGINE=%s", engine);
    return setting_works(setting, "--ram 2M --disk 2M");
}

uint64_t smallest_budget(const char *setting, const char *arguments)
{
    outcome o = run(setting, "generate -m %s -p x -n 1 --ram 1 %s", demo_model(), arguments);
    expect_failure(&o, 1, "needs at least ");
    uint64_t bytes = strtoull(strstr(o.err, "needs at least ") + 15, NULL, 10);
    assert_true(bytes > 1);
    outcome_free(&o);
    return bytes;
}

bool is_full_run(void)
{
    const char *full = getenv("KVP_TEST_FULL");
    return full && strcmp(full, "1") == 0;
}

/* ---- logits ---- */

float *read_npy(const char *path, size_t *n_rows, size_t *n_columns)
{
    size_t n;
    char *bytes = read_file(path, &n);
    assert_true(n >= 128);
    assert_memory_equal(bytes, "\x93NUMPY\x01\0", 8);
    size_t data = 10 + (size_t)(unsigned char)bytes[8] + 256 * (size_t)(unsigned char)bytes[9];
    assert_int_equal(data % 64, 0);
    assert_int_equal(bytes[data - 1], '\n');
    const char *shape = strstr(bytes + 10, "'shape': (");
    assert_non_null(strstr(bytes + 10, "'descr': '<f4'"));
    assert_non_null(strstr(bytes + 10, "'fortran_order': False"));
    assert_non_null(shape);
    assert_int_equal(sscanf(shape, "'shape': (%zu, %zu)", n_rows, n_columns), 2);
    assert_int_equal(n, data + *n_rows * *n_columns * sizeof(float));
    memmove(bytes, bytes + data, n - data);
    return (float *)(void *)bytes;
}

double nll(const float *logits, size_t n, int64_t id)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - (double)logits[id]);
    return log(sum);
}
