/* test_safetensors.c - weights files that are good, damaged, and lying. */
#include "integration/files/safetensors.h"
#include "tests/support/temp_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_BYTES 4096

typedef struct fixture {
    char dir[TEMP_DIR_BYTES];
    char path[TEMP_DIR_BYTES + 32];
    unsigned char bytes[FILE_BYTES];
    size_t n;
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    temp_dir_make(f->dir);
    snprintf(f->path, sizeof f->path, "%s/model.safetensors", f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    temp_dir_remove(f->dir);
    free(f);
    return 0;
}

static void build(fixture *f, const char *header, uint64_t header_bytes, size_t data_bytes)
{
    size_t length = strlen(header);
    assert_true(8 + length + data_bytes <= FILE_BYTES);
    for (size_t i = 0; i < 8; i++)
        f->bytes[i] = (unsigned char)(header_bytes >> (8 * i));
    memcpy(f->bytes + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++)
        f->bytes[8 + length + i] = (unsigned char)(i + 1);
    f->n = 8 + length + data_bytes;
}

static kvp_status try_open(fixture *f, size_t n)
{
    safetensors *st = NULL;
    unsigned char *bytes = malloc(n); /* exactly: sanitizers see reads past its end */
    memcpy(bytes, f->bytes, n);
    kvp_status status = safetensors_open_bytes(bytes, n, f->path, &st);
    if (status)
        assert_null(st);
    safetensors_close(st);
    free(bytes);
    return status;
}

static void expect(fixture *f, const char *header, size_t data_bytes, kvp_status wanted,
                   const char *message)
{
    build(f, header, strlen(header), data_bytes);
    kvp_status status = try_open(f, f->n);
    if (status != wanted || !strstr(kvp_error(), message))
        fail_msg("status %d, \"%s\"; \"%s\" was expected", (int)status, kvp_error(), message);
}

#define A(dtype, shape, begin, end)                                                                \
    "\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"
#define B(dtype, shape, begin, end)                                                                \
    "\"b\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

#define EMPTY "\"e\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[20,20]}"
#define METADATA "\"__metadata__\":{\"format\":\"pt\"}"

/* Not in the order of the data, with an empty tensor, metadata and padding. */
static const char good[] =
    "{" METADATA "," B("BF16", "[2,3]", "8", "20") "," A("F32", "[2]", "0", "8") "," EMPTY "}  ";

static void test_good_file_gives_its_tensors(void **state)
{
    fixture *f = *state;
    safetensors *st = NULL;
    build(f, good, sizeof good - 1, 20);
    temp_dir_write(f->dir, "model.safetensors", f->bytes, f->n);
    assert_int_equal(safetensors_open(f->path, &st), KVP_OK);
    assert_int_equal(safetensors_count(st), 3);
    assert_string_equal(safetensors_at(st, 0)->name, "a");
    const safetensors_tensor *b = safetensors_at(st, 1);
    assert_string_equal(b->name, "b");
    assert_string_equal(b->dtype, "BF16");
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->n_elements, 6);
    assert_int_equal(safetensors_data(st, b)[0], 9);
    assert_int_equal(safetensors_data(st, b)[11], 20);
    assert_string_equal(safetensors_at(st, 2)->name, "e");
    assert_int_equal(safetensors_mapping(st)->n_bytes, f->n);
    assert_memory_equal(safetensors_mapping(st)->bytes, f->bytes, f->n);
    safetensors_close(st);
}

static void test_every_truncation_is_corrupt(void **state)
{
    fixture *f = *state;
    build(f, good, sizeof good - 1, 20);
    for (size_t n = 0; n < f->n; n++) {
        assert_int_equal(try_open(f, n), KVP_E_CORRUPT);
        assert_non_null(strstr(kvp_error(), f->path));
    }
    assert_int_equal(try_open(f, f->n), KVP_OK);
    f->bytes[f->n] = 0; /* one byte too many */
    assert_int_equal(try_open(f, f->n + 1), KVP_E_CORRUPT);
}

static void test_lying_header_sizes_are_corrupt(void **state)
{
    fixture *f = *state;
    static const uint64_t sizes[] = {
        0,         1,          sizeof good - 2, sizeof good + 20, 99999999,
        100000001, 1ull << 32, 1ull << 63,      UINT64_MAX,       UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        build(f, good, sizes[i], 20);
        assert_int_equal(try_open(f, f->n), KVP_E_CORRUPT);
    }
}

static void test_missing_file_and_directory_are_named(void **state)
{
    fixture *f = *state;
    safetensors *st = NULL;
    assert_int_equal(safetensors_open(f->path, &st), KVP_E_IO);
    assert_non_null(strstr(kvp_error(), "No such file"));
    assert_int_equal(safetensors_open(f->dir, &st), KVP_E_IO);
    assert_non_null(strstr(kvp_error(), "directory"));
    assert_int_equal(safetensors_open("/dev/null", &st), KVP_E_IO);
    temp_dir_write(f->dir, "model.safetensors", "", 0);
    assert_int_equal(safetensors_open(f->path, &st), KVP_E_CORRUPT);
    assert_non_null(strstr(kvp_error(), "is empty"));
    assert_null(st);
}

static void test_offsets_that_lie_are_corrupt(void **state)
{
    fixture *f = *state;
    expect(f, "{" A("F32", "[2]", "0", "8") "," B("F32", "[2]", "4", "12") "}", 12, KVP_E_CORRUPT,
           "\"a\" and \"b\" overlap");
    expect(f, "{" A("F32", "[2]", "0", "8") "," B("F32", "[2]", "0", "8") "}", 8, KVP_E_CORRUPT,
           "overlap");
    expect(f, "{" A("F32", "[2]", "0", "8") "," B("F32", "[1]", "12", "16") "}", 16, KVP_E_CORRUPT,
           "belong to no tensor");
    expect(f, "{" A("F32", "[2]", "4", "12") "}", 12, KVP_E_CORRUPT, "belong to no tensor");
    expect(f, "{" A("F32", "[2]", "0", "8") "}", 9, KVP_E_CORRUPT, "after the last tensor");
    expect(f, "{" A("F32", "[2]", "8", "0") "}", 8, KVP_E_CORRUPT, "ends before it begins");
    expect(f, "{" A("F32", "[2]", "0", "8") "}", 7, KVP_E_CORRUPT, "truncated");
    expect(f, "{" A("F32", "[2]", "-8", "0") "}", 8, KVP_E_CORRUPT, "data_offsets");
    expect(f, "{" A("F32", "[2]", "0", "9223372036854775807") "}", 8, KVP_E_CORRUPT, "truncated");
    expect(f, "{" A("F32", "[2]", "0", "99999999999999999999") "}", 8, KVP_E_CORRUPT, "bad JSON");
    expect(f, "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, KVP_E_CORRUPT,
           "data_offsets");
}

static void test_shapes_and_dtypes_that_lie_are_corrupt(void **state)
{
    fixture *f = *state;
    expect(f, "{" A("F32", "[3]", "0", "8") "}", 8, KVP_E_CORRUPT, "do not take");
    expect(f, "{" A("F16", "[2]", "0", "8") "}", 8, KVP_E_CORRUPT, "do not take");
    expect(f, "{" A("F32", "[4294967296,4294967296]", "0", "8") "}", 8, KVP_E_CORRUPT,
           "more elements than can be counted");
    expect(f, "{" A("F64", "[2305843009213693953]", "0", "8") "}", 8, KVP_E_CORRUPT, "do not take");
    expect(f, "{" A("F32", "[-2]", "0", "8") "}", 8, KVP_E_CORRUPT, "not a whole number");
    expect(f, "{" A("F32", "[2.0]", "0", "8") "}", 8, KVP_E_CORRUPT, "not a whole number");
    expect(f, "{" A("F32", "2", "0", "8") "}", 8, KVP_E_CORRUPT, "no shape");
    expect(f, "{" A("F32", "[1,1,1,1,1,1,1,1,2]", "0", "8") "}", 8, KVP_E_CORRUPT, "too many");
    expect(f, "{" A("FLOAT", "[2]", "0", "8") "}", 8, KVP_E_UNSUPPORTED, "unknown dtype \"FLOAT\"");
    expect(f, "{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, KVP_E_CORRUPT, "no dtype");
}

static void test_bad_json_is_corrupt(void **state)
{
    fixture *f = *state;
    static const char *const bad[] = {"",       "{",          "[]",         "7",
                                      "{\"a\"", "{\"a\":1}",  "{\"a\":[]}", "nonsense",
                                      "{} {}",  "{\"a\":{}}", "\xFF\xFE{}", "{\"\\u0000\":1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect(f, bad[i], 0, KVP_E_CORRUPT, f->path);
    expect(f, "{" A("F32", "[2]", "0", "8") "," A("F32", "[2]", "0", "8") "}", 8, KVP_E_CORRUPT,
           "duplicate");
    expect(f, "{" A("F32", "[]", "0", "4") "}", 5, KVP_E_CORRUPT, "after the last");
    expect(f, "{}", 1, KVP_E_CORRUPT, "after the last");
}

/* Random damage: any status, but never a tensor out of bounds (sanitizers watch). */
static void test_random_damage_stays_in_bounds(void **state)
{
    fixture *f = *state;
    uint64_t seed = 20240611;
    size_t n_opened = 0, n_refused = 0;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 600; round++) {
        safetensors *st = NULL;
        build(f, good, sizeof good - 1, 20);
        for (int i = 0; i < 1 + round % 3; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            f->bytes[(seed >> 33) % f->n] = (unsigned char)(seed >> 24);
        }
        if (safetensors_open_bytes(f->bytes, f->n, f->path, &st)) {
            n_refused++;
            continue;
        }
        n_opened++;
        for (size_t i = 0; i < safetensors_count(st); i++) {
            const safetensors_tensor *t = safetensors_at(st, i);
            const mapped_file *file = safetensors_mapping(st);
            const unsigned char *data = safetensors_data(st, t);
            assert_true(data >= file->bytes &&
                        data + (t->end - t->begin) <= file->bytes + file->n_bytes);
        }
        safetensors_close(st);
    }
    assert_true(n_opened > 20 && n_refused > 200);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_good_file_gives_its_tensors),
        CASE(test_every_truncation_is_corrupt),
        CASE(test_lying_header_sizes_are_corrupt),
        CASE(test_missing_file_and_directory_are_named),
        CASE(test_offsets_that_lie_are_corrupt),
        CASE(test_shapes_and_dtypes_that_lie_are_corrupt),
        CASE(test_bad_json_is_corrupt),
        CASE(test_random_damage_stays_in_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
