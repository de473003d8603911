/* fit.c - the file beside the model. */
#define _GNU_SOURCE
#include "integration/recall/fit.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "integration/files/folder.h"
#include "integration/files/json_file.h"

#define FORMAT "kvpager recall 1"

/* Folder and name of the file. */
typedef struct place {
    char folder[FOLDER_PATH_BYTES], name[FOLDER_PATH_BYTES];
} place;

static bool is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static place place_of(const char *path)
{
    place p;
    const char *slash = strrchr(path, '/');
    if (is_folder(path)) {
        snprintf(p.folder, sizeof p.folder, "%s", path);
        snprintf(p.name, sizeof p.name, RECALL_FILE);
        return p;
    }
    int n_folder = slash ? (int)(slash - path) : 1;
    snprintf(p.folder, sizeof p.folder, "%.*s", n_folder ? n_folder : 1, slash ? path : ".");
    snprintf(p.name, sizeof p.name, "%s." RECALL_FILE, slash ? slash + 1 : path);
    return p;
}

kvp_status recall_fit_default(uint64_t fingerprint, uint32_t width, recall_fit *fit)
{
    *fit = (recall_fit){.fingerprint = fingerprint, .width = width, .theta = 16};
    for (size_t i = 0; i < RECALL_BUCKETS; i++)
        fit->lambda[i] = 0.1;
    fit->centre = calloc(width, sizeof *fit->centre);
    return fit->centre ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory for the fit of a memory");
}

void recall_fit_fini(recall_fit *fit)
{
    free(fit->centre);
    *fit = (recall_fit){0};
}

size_t recall_bucket(const recall_fit *fit, float best)
{
    size_t i = 0;
    while (i + 1 < RECALL_BUCKETS && best >= fit->edges[i])
        i++;
    return i;
}

/* ---- reading --------------------------------------------------------------------------------- */

static kvp_status refuse(const place *p, const char *key, const char *what)
{
    return kvp_fail(KVP_E_INVALID, "%s/%s: %s: %s; kvpager memory-fit makes a new one", p->folder,
                    p->name, key, what);
}

/* n numbers within [low, high]. */
static kvp_status read_numbers(const json_t *root, const place *p, const char *key, size_t n,
                               double low, double high, double *out)
{
    const json_t *array = json_object_get(root, key);
    if (!json_is_array(array) || json_array_size(array) != n)
        return refuse(p, key, "is not an array of as many numbers as there must be");
    for (size_t i = 0; i < n; i++) {
        const json_t *x = json_array_get(array, i);
        out[i] = json_is_number(x) ? json_number_value(x) : NAN;
        if (!(out[i] >= low && out[i] <= high))
            return refuse(p, key, "has an element that is no number, or out of range");
    }
    return KVP_OK;
}

static kvp_status read_edges(const json_t *root, const place *p, recall_fit *fit)
{
    double edges[RECALL_BUCKETS - 1];
    kvp_status status = read_numbers(root, p, "edges", RECALL_BUCKETS - 1, -2, 2, edges);
    for (size_t i = 0; i + 1 < RECALL_BUCKETS && !status; i++) {
        fit->edges[i] = (float)edges[i];
        if (i && edges[i] < edges[i - 1])
            status = refuse(p, "edges", "do not ascend");
    }
    return status;
}

static kvp_status read_centre(const json_t *root, const place *p, recall_fit *fit)
{
    double *centre = malloc(fit->width * sizeof *centre);
    if (!centre)
        return kvp_fail(KVP_E_NOMEM, "out of memory for the fit of a memory");
    kvp_status status = read_numbers(root, p, "centre", fit->width, -1e6, 1e6, centre);
    for (size_t i = 0; i < fit->width && !status; i++)
        fit->centre[i] = (float)centre[i];
    free(centre);
    return status;
}

static kvp_status read_fit(const json_t *root, const place *p, recall_fit *fit)
{
    char fingerprint[24];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, fit->fingerprint);
    if (!json_is_text(json_object_get(root, "format"), FORMAT))
        return refuse(p, "format", "is not \"" FORMAT "\"");
    if (!json_is_text(json_object_get(root, "fingerprint"), fingerprint))
        return refuse(p, "fingerprint",
                      "was fitted to another model, to another revision of its files or with other "
                      "--weights");
    kvp_status status = read_numbers(root, p, "lambda", RECALL_BUCKETS, 0, 1, fit->lambda);
    if (!status)
        status = read_edges(root, p, fit);
    const json_t *theta = json_object_get(root, "theta");
    fit->theta = json_is_number(theta) ? json_number_value(theta) : NAN;
    if (!status && !(fit->theta > 0 && fit->theta < 1e6))
        status = refuse(p, "theta", "is no positive number");
    return status ? status : read_centre(root, p, fit);
}

kvp_status recall_fit_load(const char *path, uint64_t fingerprint, uint32_t width, recall_fit *fit,
                           bool *is_fitted)
{
    const place p = place_of(path);
    kvp_status status = recall_fit_default(fingerprint, width, fit);
    *is_fitted = folder_has(p.folder, p.name);
    if (status || !*is_fitted)
        return status;
    json_t *root = NULL;
    status = json_file_load(p.folder, p.name, &root);
    if (!status)
        status = read_fit(root, &p, fit);
    json_decref(root);
    return status;
}

/* ---- writing --------------------------------------------------------------------------------- */

static json_t *numbers(const double *x, const float *y, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, json_real(x ? x[i] : (double)y[i]));
    return array;
}

static json_t *to_json(const recall_fit *fit, const char *tuned_on, uint64_t n_tokens)
{
    char fingerprint[24];
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, fit->fingerprint);
    return json_pack("{s:s, s:s, s:s, s:I, s:f, s:o, s:o, s:o}", "format", FORMAT, "fingerprint",
                     fingerprint, "tuned_on", tuned_on, "tuned_tokens", (json_int_t)n_tokens,
                     "theta", fit->theta, "edges", numbers(NULL, fit->edges, RECALL_BUCKETS - 1),
                     "lambda", numbers(fit->lambda, NULL, RECALL_BUCKETS), "centre",
                     numbers(NULL, fit->centre, fit->width));
}

static kvp_status write_file(const char *path, const char *text)
{
    char *temporary;
    if (asprintf(&temporary, "%s.new", path) < 0)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %s", path);
    FILE *f = fopen(temporary, "we");
    bool ok = f && fputs(text, f) >= 0 && fputc('\n', f) != EOF;
    ok = f && fclose(f) == 0 && ok;
    ok = ok && rename(temporary, path) == 0;
    kvp_status status =
        ok ? KVP_OK
           : kvp_fail(KVP_E_IO, "%s: cannot write: %s; may the folder be written to?", path,
                      strerror(errno));
    if (f && !ok)
        unlink(temporary);
    free(temporary);
    return status;
}

kvp_status recall_fit_save(const char *path, const recall_fit *fit, const char *tuned_on,
                           uint64_t n_tokens)
{
    const place p = place_of(path);
    char file[FOLDER_PATH_BYTES];
    kvp_status status = folder_path(p.folder, p.name, file);
    json_t *root = to_json(fit, tuned_on, n_tokens);
    char *text = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    if (!status && !text)
        status = kvp_fail(KVP_E_NOMEM, "out of memory: %s", file);
    if (!status)
        status = write_file(file, text);
    free(text);
    json_decref(root);
    return status;
}
