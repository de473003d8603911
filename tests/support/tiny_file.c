/* tiny_file.c - writes small safetensors files. */
#include "tests/support/tiny_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/temp_dir.h"

#define MAX_BYTES ((size_t)1 << 20) /* of the header */
#define MAX_DATA_BYTES ((size_t)16 << 20)

struct tiny_file {
    const char *dtype;
    size_t n_header, n_data;
    char header[MAX_BYTES];
    unsigned char data[MAX_DATA_BYTES];
};

float tiny_value(const char *name, size_t i)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a, then a round of mixing */
    for (const char *c = name; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    hash = (hash ^ i) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
    hash *= 0xBF58476D1CE4E5B9u;
    float value = (float)((int)(hash >> 40 & 63) - 32) / 64.0f;
    bool is_of_norm = strstr(name, "ln_") || strstr(name, "norm");
    return is_of_norm && strstr(name, "weight") ? 1.0f + value / 2 : value;
}

tiny_file *tiny_file_begin(const char *dtype)
{
    tiny_file *f = malloc(sizeof *f);
    assert_non_null(f);
    f->dtype = dtype;
    f->n_data = 0;
    f->n_header = 1;
    f->header[0] = '{';
    return f;
}

/* The tensor whose bytes are data[begin .. n_data). */
static void describe(tiny_file *f, const char *name, const char *dtype, const char *shape,
                     size_t begin)
{
    f->n_header +=
        (size_t)snprintf(f->header + f->n_header, MAX_BYTES - f->n_header,
                         "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,"
                         "\"data_offsets\":[%zu,%zu]}",
                         f->n_header > 1 ? "," : "", name, dtype, shape, begin, f->n_data);
    assert_true(f->n_header < MAX_BYTES - 1);
}

static void put_data(tiny_file *f, const void *bytes, size_t n)
{
    assert_true(n <= MAX_DATA_BYTES - f->n_data);
    memcpy(f->data + f->n_data, bytes, n);
    f->n_data += n;
}

static void put_element(tiny_file *f, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t half = (uint16_t)(bits >> 16); /* exact: see the header */
    if (strcmp(f->dtype, "F16") == 0)
        half = value == 0.0f
                   ? 0
                   : (uint16_t)((bits >> 16 & 0x8000u) | (((bits >> 23 & 0xFFu) - 112u) << 10) |
                                (bits >> 13 & 0x3FFu));
    if (strcmp(f->dtype, "F32") == 0)
        put_data(f, &value, sizeof value);
    else
        put_data(f, &half, sizeof half);
}

void tiny_file_put(tiny_file *f, const char *prefix, const char *name, size_t rows, size_t width)
{
    char full[128], shape[64];
    size_t begin = f->n_data;
    for (size_t i = 0; i < (rows ? rows : 1) * width; i++)
        put_element(f, tiny_value(name, i));
    snprintf(full, sizeof full, "%s%s", prefix, name);
    if (rows)
        snprintf(shape, sizeof shape, "[%zu,%zu]", rows, width);
    else
        snprintf(shape, sizeof shape, "[%zu]", width);
    describe(f, full, f->dtype, shape, begin);
}

void tiny_file_put_bytes(tiny_file *f, const char *name, const char *dtype, const char *shape,
                         const void *bytes, size_t n)
{
    size_t begin = f->n_data;
    put_data(f, bytes, n);
    describe(f, name, dtype, shape, begin);
}

void tiny_file_end(tiny_file *f, const char *dir)
{
    f->header[f->n_header++] = '}';
    unsigned char *file = malloc(8 + f->n_header + f->n_data);
    assert_non_null(file);
    for (size_t i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)f->n_header >> (8 * i));
    memcpy(file + 8, f->header, f->n_header);
    memcpy(file + 8 + f->n_header, f->data, f->n_data);
    temp_dir_write(dir, "model.safetensors", file, 8 + f->n_header + f->n_data);
    free(file);
    free(f);
}
