/* golden.c - what models must compute. */
#include "tests/support/golden.h"
#include "tests/support/larger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define PATH_BYTES 4096

json_t *golden_load(const char *dir)
{
    char path[PATH_BYTES];
    json_error_t error;
    snprintf(path, sizeof path, "%s/golden.json", dir);
    json_t *golden = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!golden)
        fail_msg("%s: %s", path, error.text);
    return golden;
}

double *golden_numbers(const json_t *from, const char *key, size_t *n)
{
    const json_t *array = json_object_get(from, key);
    *n = json_array_size(array);
    assert_true(*n > 0);
    double *numbers = malloc(*n * sizeof *numbers);
    assert_non_null(numbers);
    for (size_t i = 0; i < *n; i++)
        numbers[i] = json_number_value(json_array_get(array, i));
    return numbers;
}

int32_t *golden_ids(const json_t *from, const char *key, size_t *n)
{
    double *numbers = golden_numbers(from, key, n);
    int32_t *ids = malloc(*n * sizeof *ids);
    assert_non_null(ids);
    for (size_t i = 0; i < *n; i++)
        ids[i] = (int32_t)numbers[i];
    free(numbers);
    return ids;
}

float *golden_logits(const char *dir, size_t rows, size_t width)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/logits.npy", dir);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    unsigned char head[10]; /* magic, version, u16 header length */
    assert_int_equal(fread(head, 1, sizeof head, file), sizeof head);
    assert_memory_equal(head, "\x93NUMPY\x01", 7);
    assert_int_equal(fseek(file, head[8] | head[9] << 8, SEEK_CUR), 0);
    float *logits = malloc(rows * width * sizeof *logits);
    assert_non_null(logits);
    assert_int_equal(fread(logits, sizeof *logits, rows * width, file), rows * width);
    assert_int_equal(fgetc(file), EOF);
    fclose(file);
    return logits;
}

double max_difference(const float *a, const float *b, size_t n)
{
    double highest = 0;
    for (size_t i = 0; i < n; i++)
        highest = larger(highest, fabs((double)a[i] - (double)b[i]));
    return highest;
}

int32_t argmax(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    return (int32_t)best;
}

double nll_of(const float *logits, size_t n, int32_t next)
{
    double highest = (double)logits[argmax(logits, n)], total = 0;
    for (size_t i = 0; i < n; i++)
        total += exp((double)logits[i] - highest);
    return highest + log(total) - (double)logits[next];
}
