/* demo.c - the demo model's folder and its expected outputs. */
#include "tests/support/demo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

json_t *demo_golden(void)
{
    json_error_t error;
    json_t *golden =
        json_load_file(KVP_SOURCE_DIR "/tests/data/demo/golden.json", JSON_ALLOW_NUL, &error);
    if (!golden)
        fail_msg("golden.json: %s", error.text);
    return golden;
}

double *demo_numbers(const json_t *from, const char *key, size_t *n)
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

int32_t *demo_ids(const json_t *from, const char *key, size_t *n)
{
    double *numbers = demo_numbers(from, key, n);
    int32_t *ids = malloc(*n * sizeof *ids);
    assert_non_null(ids);
    for (size_t i = 0; i < *n; i++)
        ids[i] = (int32_t)numbers[i];
    free(numbers);
    return ids;
}

float *demo_logits(size_t rows, size_t width)
{
    FILE *file = fopen(KVP_SOURCE_DIR "/tests/data/demo/logits.npy", "rb");
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
