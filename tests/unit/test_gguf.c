/* test_gguf.c - GGUF files that are good, damaged, and lying in every field. */
#include "integration/files/gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/gguf_writer.h"
#include "tests/support/temp_dir.h"

#define PATH "model.gguf"

enum { U8, I8, U16, I16, U32, I32, F32, FLAG, TEXT, ARRAY, U64, I64, F64 }; /* as in files */

static uint64_t float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint64_t double_bits(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static gguf *open_good(const gguf_writer *w)
{
    gguf *g = NULL;
    if (gguf_open_bytes(w->bytes, w->n, PATH, &g))
        fail_msg("%s", kvp_error());
    return g;
}

/* Opening must fail so, with a message that names the file and has `message`. Empties w. */
static void expect(gguf_writer *w, kvp_status wanted, const char *message)
{
    gguf *g = NULL;
    kvp_status status = gguf_open_bytes(w->bytes, w->n, PATH, &g);
    if (status != wanted || !strstr(kvp_error(), message) || !strstr(kvp_error(), PATH))
        fail_msg("status %d, \"%s\"; \"%s\" was expected", (int)status, kvp_error(), message);
    assert_null(g);
    gguf_writer_fini(w);
}

/* ---- a good file ----------------------------------------------------------------------------- */

/* A value of each type, three arrays, tensors plain, quantised, empty and of rank 0. */
static gguf_writer good_file(void)
{
    gguf_writer w = {0};
    gguf_put_header(&w, 4, 16);
    gguf_put_value(&w, "u8", U8, 200, 1);
    gguf_put_value(&w, "i8", I8, 0x80, 1);
    gguf_put_value(&w, "u16", U16, 60000, 2);
    gguf_put_value(&w, "i16", I16, 0x8000, 2);
    gguf_put_value(&w, "u32", U32, 4000000000, 4);
    gguf_put_value(&w, "i32", I32, 0xFFFFFFFE, 4);
    gguf_put_value(&w, "u64", U64, UINT64_MAX, 8);
    gguf_put_value(&w, "i64", I64, 1ull << 63, 8);
    gguf_put_value(&w, "f32", F32, float_bits(0.1f), 4);
    gguf_put_value(&w, "f64", F64, double_bits(0.1), 8);
    gguf_put_value(&w, "flag", FLAG, 1, 1);
    gguf_put_key(&w, "text", TEXT);
    gguf_put_text(&w, "caf\xC3\xA9");
    gguf_put_array(&w, "words", TEXT, 3);
    gguf_put_text(&w, "a");
    gguf_put_text(&w, "");
    gguf_put_text(&w, "ccc");
    gguf_put_array(&w, "numbers", I16, 3);
    gguf_put(&w, "\x01\x00\xFF\xFF\x00\x80", 6);
    gguf_put_array(&w, "scores", F32, 1);
    gguf_put_u32(&w, (uint32_t)float_bits(-INFINITY));
    gguf_put_array(&w, "nothing", U32, 0);
    gguf_put_tensor(&w, "plain", 2, (uint64_t[]){3, 2}, 0, 64);
    gguf_put_tensor(&w, "blocks", 1, (uint64_t[]){64}, 3, 0); /* Q4_1 */
    gguf_put_tensor(&w, "none", 3, (uint64_t[]){2, 0, 5}, 1, 64);
    gguf_put_tensor(&w, "scalar", 0, NULL, 30, 96); /* BF16 */
    gguf_pad(&w, 32);
    gguf_put_data(&w, 98);
    return w;
}

static void test_every_type_of_value_is_read(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        int64_t value;
    } whole[] = {{"u8", 200},          {"i8", -128}, {"u16", 60000},    {"i16", -32768},
                 {"u32", 4000000000l}, {"i32", -2},  {"i64", INT64_MIN}};
    gguf_writer w = good_file();
    gguf *g = open_good(&w);
    int64_t i;
    double x;
    bool flag = false;
    const char *text;
    size_t n;
    for (size_t k = 0; k < sizeof whole / sizeof *whole; k++) {
        assert_true(gguf_get_int(g, whole[k].key, &i));
        assert_true(i == whole[k].value);
        assert_true(gguf_get_number(g, whole[k].key, &x));
        assert_true(x == (double)whole[k].value);
    }
    assert_true(gguf_get_number(g, "f32", &x));
    assert_true(x == (double)0.1f);
    assert_true(gguf_get_number(g, "f64", &x));
    assert_true(x == 0.1);
    assert_true(gguf_get_flag(g, "flag", &flag) && flag);
    assert_true(gguf_get_text(g, "text", &text, &n));
    assert_int_equal(n, 5);
    assert_memory_equal(text, "caf\xC3\xA9", 5);
    assert_string_equal(gguf_path(g), PATH);
    gguf_close(g);
    gguf_writer_fini(&w);
}

static void test_absent_and_other_types_leave_the_result_alone(void **state)
{
    (void)state;
    gguf_writer w = good_file();
    gguf *g = open_good(&w);
    int64_t i = 77;
    double x = 77;
    bool flag = true;
    const char *text = NULL;
    size_t n = 77;
    static const char *const no_int[] = {"f32",   "f64",     "flag", "text",
                                         "words", "numbers", "u64",  "z"};
    static const char *const no_text[] = {"f32", "flag", "words", "u8", "tex", "textt", ""};
    for (size_t k = 0; k < sizeof no_int / sizeof *no_int; k++)
        assert_false(gguf_get_int(g, no_int[k], &i));
    for (size_t k = 0; k < sizeof no_text / sizeof *no_text; k++)
        assert_false(gguf_get_text(g, no_text[k], &text, &n));
    assert_false(gguf_get_number(g, "text", &x) || gguf_get_number(g, "flag", &x));
    assert_false(gguf_get_number(g, "scores", &x));
    assert_false(gguf_get_flag(g, "u8", &flag) || gguf_get_flag(g, "z", &flag));
    assert_true(i == 77 && x == 77 && flag && !text && n == 77);
    assert_true(gguf_has(g, "words") && gguf_has(g, "u8") && !gguf_has(g, "z"));
    gguf_close(g);
    gguf_writer_fini(&w);
}

static kvp_status join(void *opaque, size_t i, const char *text, size_t n)
{
    char *all = opaque;
    sprintf(all + strlen(all), "%zu=%.*s;", i, (int)n, text);
    return i == 1 && all[0] == '!' ? kvp_fail(KVP_E_NOSPACE, "enough") : KVP_OK;
}

static void test_arrays_give_their_elements(void **state)
{
    (void)state;
    gguf_writer w = good_file();
    gguf *g = open_good(&w);
    char all[64] = "", some[64] = "!";
    int64_t i = 0;
    double x = 0;
    assert_int_equal(gguf_array_length(g, "words"), 3);
    assert_int_equal(gguf_array_length(g, "nothing"), 0);
    assert_int_equal(gguf_array_length(g, "u8"), 0);
    assert_int_equal(gguf_array_length(g, "z"), 0);
    assert_int_equal(gguf_each_text(g, "words", join, all), KVP_OK);
    assert_string_equal(all, "0=a;1=;2=ccc;");
    assert_int_equal(gguf_each_text(g, "words", join, some), KVP_E_NOSPACE);
    assert_string_equal(some, "!0=a;1=;");
    assert_int_equal(gguf_each_text(g, "numbers", join, all), KVP_E_INVALID);
    assert_int_equal(gguf_each_text(g, "text", join, all), KVP_E_INVALID);
    assert_int_equal(gguf_each_text(g, "z", join, all), KVP_E_INVALID);
    assert_non_null(strstr(kvp_error(), "\"z\" is missing"));

    assert_true(gguf_array_int(g, "numbers", 1, &i) && i == -1);
    assert_true(gguf_array_number(g, "numbers", 2, &x) && x == -32768);
    assert_true(gguf_array_number(g, "scores", 0, &x) && x == (double)-INFINITY);
    i = 77;
    assert_false(gguf_array_int(g, "numbers", 3, &i) || gguf_array_int(g, "scores", 0, &i));
    assert_false(gguf_array_int(g, "words", 0, &i) || gguf_array_int(g, "u8", 0, &i));
    assert_false(gguf_array_int(g, "nothing", 0, &i) || gguf_array_int(g, "z", 0, &i));
    assert_true(i == 77);
    gguf_close(g);
    gguf_writer_fini(&w);
}

static void test_tensors_have_shape_and_data(void **state)
{
    (void)state;
    gguf_writer w = good_file();
    gguf *g = open_good(&w);
    assert_int_equal(gguf_n_tensors(g), 4);
    assert_string_equal(gguf_tensor_at(g, 0)->name, "blocks");
    const gguf_tensor *plain = gguf_find_tensor(g, "plain");
    assert_ptr_equal(plain, gguf_tensor_at(g, 2));
    assert_int_equal(plain->type, 0);
    assert_int_equal(plain->rank, 2);
    assert_int_equal(plain->shape[0], 2); /* outermost first */
    assert_int_equal(plain->shape[1], 3);
    assert_int_equal(plain->n_elements, 6);
    assert_int_equal(plain->n_bytes, 24);
    assert_ptr_equal(plain->data, w.bytes + w.n - 98 + 64);
    const gguf_tensor *blocks = gguf_find_tensor(g, "blocks");
    assert_int_equal(blocks->n_bytes, 40);
    assert_int_equal(blocks->data[0], 1);
    const gguf_tensor *scalar = gguf_find_tensor(g, "scalar");
    assert_true(scalar->rank == 0 && scalar->n_elements == 1 && scalar->n_bytes == 2);
    assert_int_equal(gguf_find_tensor(g, "none")->n_bytes, 0);
    assert_null(gguf_find_tensor(g, "plai"));
    gguf_close(g);
    gguf_writer_fini(&w);
}

static void test_version_2_and_files_without_anything_open(void **state)
{
    (void)state;
    gguf_writer w = good_file();
    w.bytes[4] = 2;
    gguf_close(open_good(&w));
    gguf_writer_fini(&w);
    gguf_put_header(&w, 0, 0);
    gguf *g = open_good(&w);
    assert_int_equal(gguf_n_tensors(g), 0);
    assert_null(gguf_find_tensor(g, "a"));
    assert_false(gguf_has(g, "a"));
    gguf_close(g);
    gguf_writer_fini(&w);
    gguf_close(NULL);
}

static void test_alignment_is_obeyed(void **state)
{
    (void)state;
    gguf_writer w = {0};
    gguf_put_header(&w, 1, 1);
    gguf_put_value(&w, "general.alignment", U32, 256, 4);
    gguf_put_tensor(&w, "a", 1, (uint64_t[]){4}, 0, 256);
    gguf_pad(&w, 256);
    size_t data_begin = w.n;
    gguf_put_data(&w, 272);
    gguf *g = open_good(&w);
    assert_ptr_equal(gguf_find_tensor(g, "a")->data, w.bytes + data_begin + 256);
    gguf_close(g);
    gguf_writer_fini(&w);
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void test_every_truncation_is_corrupt(void **state)
{
    (void)state;
    gguf_writer w = good_file();
    for (size_t n = 0; n < w.n; n++) {
        gguf_writer part = {0};
        gguf_put(&part, w.bytes, n);
        expect(&part, KVP_E_CORRUPT, "");
    }
    gguf_writer_fini(&w);
}

/* Any status, but nothing out of bounds (sanitizers watch). */
static void test_random_damage_stays_in_bounds(void **state)
{
    (void)state;
    uint64_t seed = 20250611;
    size_t n_opened = 0, n_refused = 0;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 2000; round++) {
        gguf_writer w = good_file();
        gguf *g = NULL;
        for (int i = 0; i < 1 + round % 3; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            w.bytes[(seed >> 33) % w.n] = (unsigned char)(seed >> 24);
        }
        if (gguf_open_bytes(w.bytes, w.n, PATH, &g) == KVP_OK) {
            n_opened++;
            for (size_t i = 0; i < gguf_n_tensors(g); i++) {
                const gguf_tensor *t = gguf_tensor_at(g, i);
                assert_true(t->data >= w.bytes && t->data + t->n_bytes <= w.bytes + w.n);
            }
        } else {
            n_refused++;
        }
        gguf_close(g);
        gguf_writer_fini(&w);
    }
    assert_true(n_opened > 100 && n_refused > 500);
}

static void test_files_that_are_none_are_named(void **state)
{
    (void)state;
    char dir[TEMP_DIR_BYTES], path[TEMP_DIR_BYTES + 16];
    gguf *g = NULL;
    temp_dir_make(dir);
    snprintf(path, sizeof path, "%s/" PATH, dir);
    assert_int_equal(gguf_open(path, &g), KVP_E_IO);
    assert_non_null(strstr(kvp_error(), path));
    assert_non_null(strstr(kvp_error(), "No such file"));
    assert_int_equal(gguf_open(dir, &g), KVP_E_IO);
    assert_non_null(strstr(kvp_error(), "is a directory"));
    temp_dir_write(dir, PATH, "", 0);
    assert_int_equal(gguf_open(path, &g), KVP_E_CORRUPT);
    assert_non_null(strstr(kvp_error(), "is empty"));
    assert_null(g);

    gguf_writer w = good_file();
    temp_dir_write(dir, PATH, w.bytes, w.n);
    assert_int_equal(gguf_open(path, &g), KVP_OK);
    assert_int_equal(gguf_n_tensors(g), 4);
    gguf_close(g);
    gguf_writer_fini(&w);
    temp_dir_remove(dir);
    assert_true(gguf_is_named("a/b.gguf") && gguf_is_named(".gguf"));
    assert_false(gguf_is_named("a.gguf/b") || gguf_is_named("gguf") || gguf_is_named(""));
}

/* ---- lies ------------------------------------------------------------------------------------ */

static void test_other_formats_and_versions_are_refused(void **state)
{
    (void)state;
    gguf_writer w = {0};
    gguf_put(&w, "GGML", 4);
    gguf_put_u32(&w, 3);
    expect(&w, KVP_E_CORRUPT, "not a GGUF file");
    static const struct {
        uint32_t version;
        const char *message;
    } versions[] = {{0, "version 0"}, {1, "version 1"}, {4, "version 4"}, {3u << 24, "big-endian"}};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        gguf_put(&w, "GGUF", 4);
        gguf_put_u32(&w, versions[i].version);
        gguf_put(&w, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
        expect(&w, KVP_E_UNSUPPORTED, versions[i].message);
    }
}

/* As corrupt, not as out of memory: what is not there is not allocated. */
static void test_counts_that_lie_are_corrupt(void **state)
{
    (void)state;
    static const uint64_t counts[] = {1, 1u << 31, 1ull << 40, 1ull << 61, UINT64_MAX};
    gguf_writer w = {0};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        gguf_put_header(&w, counts[i], 0);
        expect(&w, KVP_E_CORRUPT, "a tensor's name");
        gguf_put_header(&w, 0, counts[i]);
        expect(&w, KVP_E_CORRUPT, "a metadata key");
        gguf_put_header(&w, 0, 1);
        gguf_put_array(&w, "a", TEXT, counts[i]);
        expect(&w, KVP_E_CORRUPT, "a text of the metadata");
        gguf_put_header(&w, 0, 1);
        gguf_put_array(&w, "a", U64, counts[i]);
        expect(&w, KVP_E_CORRUPT, counts[i] > 1ull << 60 ? "\"a\": it has more elements" : "lies");
        gguf_put_header(&w, 0, 1);
        gguf_put_u64(&w, counts[i]); /* length of a key */
        expect(&w, KVP_E_CORRUPT, "byte 32: a metadata key takes");
    }
}

/* One metadata value, put by the caller behind this. */
static gguf_writer *value_file(gguf_writer *w)
{
    *w = (gguf_writer){0};
    gguf_put_header(w, 0, 1);
    return w;
}

static void test_keys_that_lie_are_corrupt(void **state)
{
    (void)state;
    gguf_writer w;
    gguf_put_value(value_file(&w), "", U8, 1, 1);
    expect(&w, KVP_E_CORRUPT, "a metadata key has 0 bytes");
    gguf_put_value(value_file(&w), "a\xFFz", U8, 1, 1);
    expect(&w, KVP_E_CORRUPT, "byte 24: a metadata key is not UTF-8");
    char *long_key = calloc(65537, 1);
    memset(long_key, 'k', 65536);
    gguf_put_value(value_file(&w), long_key, U8, 1, 1);
    expect(&w, KVP_E_CORRUPT, "a metadata key has 65536 bytes");
    long_key[65535] = '\0';
    gguf_put_value(value_file(&w), long_key, FLAG, 2, 1);
    expect(&w, KVP_E_CORRUPT, "kkk\": a flag");
    free(long_key);

    gguf_put_header(&w, 0, 3);
    gguf_put_value(&w, "same", U8, 1, 1);
    gguf_put_value(&w, "other", U8, 1, 1);
    gguf_put_value(&w, "same", U32, 1, 4);
    expect(&w, KVP_E_CORRUPT, "\"same\": the file has two");
}

static void test_values_that_lie_are_corrupt(void **state)
{
    (void)state;
    gguf_writer w;
    gguf_put_value(value_file(&w), "a", 13, 1, 4);
    expect(&w, KVP_E_CORRUPT, "\"a\": its type is unknown");
    gguf_put_array(value_file(&w), "a", UINT32_MAX, 1);
    expect(&w, KVP_E_CORRUPT, "\"a\": its type is unknown");
    gguf_put_array(value_file(&w), "a", ARRAY, 1);
    gguf_put_u32(&w, U8);
    gguf_put_u64(&w, 0);
    expect(&w, KVP_E_UNSUPPORTED, "array of arrays");
    gguf_put_value(value_file(&w), "a", FLAG, 2, 1);
    expect(&w, KVP_E_CORRUPT, "a flag is neither 0 nor 1");
    gguf_put_array(value_file(&w), "a", FLAG, 2);
    gguf_put(&w, "\1\xFF", 2);
    expect(&w, KVP_E_CORRUPT, "a flag is neither 0 nor 1");
    gguf_put_value(value_file(&w), "a", F32, float_bits(NAN), 4);
    expect(&w, KVP_E_CORRUPT, "not a finite number");
    gguf_put_value(value_file(&w), "a", F64, double_bits(-INFINITY), 8);
    expect(&w, KVP_E_CORRUPT, "not a finite number");
    gguf_put_key(value_file(&w), "a", TEXT);
    gguf_put_text(&w, "\xED\xA0\x80"); /* a surrogate */
    expect(&w, KVP_E_CORRUPT, "a text of the metadata is not UTF-8");
    gguf_put_array(value_file(&w), "a", TEXT, 2);
    gguf_put_text(&w, "fine");
    gguf_put_text(&w, "\xC3");
    expect(&w, KVP_E_CORRUPT, "a text of the metadata is not UTF-8");
}

static void test_alignments_that_lie_are_corrupt(void **state)
{
    (void)state;
    static const char key[] = "general.alignment";
    static const char message[] = "\"general.alignment\" is not a power of two";
    gguf_writer w;
    gguf_put_value(value_file(&w), key, U32, 0, 4);
    expect(&w, KVP_E_CORRUPT, message);
    gguf_put_value(value_file(&w), key, U32, 48, 4);
    expect(&w, KVP_E_CORRUPT, message);
    gguf_put_value(value_file(&w), key, I32, 0x80000000, 4);
    expect(&w, KVP_E_CORRUPT, message);
    gguf_put_value(value_file(&w), key, U64, 1ull << 63, 8);
    expect(&w, KVP_E_CORRUPT, message);
    gguf_put_key(value_file(&w), key, TEXT);
    gguf_put_text(&w, "32");
    expect(&w, KVP_E_CORRUPT, message);
    gguf_put_header(&w, 1, 1); /* a valid one beyond the file */
    gguf_put_value(&w, key, U64, 1ull << 62, 8);
    gguf_put_tensor(&w, "a", 1, (uint64_t[]){1}, 0, 0);
    gguf_put_data(&w, 64);
    expect(&w, KVP_E_CORRUPT, "of 0 bytes of data");
}

/* One tensor "t", 96 bytes of data. */
static void expect_tensor(uint32_t rank, const uint64_t *dimensions, uint32_t type, uint64_t offset,
                          kvp_status wanted, const char *message)
{
    gguf_writer w = {0};
    gguf_put_header(&w, 1, 0);
    gguf_put_tensor(&w, "t", rank, dimensions, type, offset);
    gguf_pad(&w, 32);
    gguf_put_data(&w, 96);
    expect(&w, wanted, message);
}

static void test_tensors_that_lie_are_corrupt(void **state)
{
    (void)state;
    static const uint64_t four[] = {4}, seven[] = {7}, ones[] = {1, 1, 1, 1, 1};
    static const uint64_t huge[] = {1ull << 32, 1ull << 32}, wide[] = {1ull << 62};
    static const uint64_t hidden[] = {1ull << 33, 1ull << 33,
                                      0}; /* 0 elements, if one may say so */
    expect_tensor(5, ones, 0, 0, KVP_E_CORRUPT, "\"t\": it has too many dimensions");
    expect_tensor(2, huge, 0, 0, KVP_E_CORRUPT, "more elements than can be counted");
    expect_tensor(3, hidden, 0, 0, KVP_E_CORRUPT, "more elements than can be counted");
    expect_tensor(1, wide, 0, 0, KVP_E_CORRUPT, "more bytes than can be counted");
    expect_tensor(1, wide, 24, 0, KVP_E_CORRUPT, "of 96 bytes of data");
    expect_tensor(1, four, 4, 0, KVP_E_UNSUPPORTED, "the unknown type 4");
    expect_tensor(1, four, 1000, 0, KVP_E_UNSUPPORTED, "the unknown type 1000");
    expect_tensor(1, four, UINT32_MAX, 0, KVP_E_UNSUPPORTED, "the unknown type");
    expect_tensor(1, seven, 2, 0, KVP_E_CORRUPT, "7 elements are not whole blocks of Q4_0's 32");
    expect_tensor(0, NULL, 8, 0, KVP_E_CORRUPT, "1 elements are not whole blocks of Q8_0's 32");
    expect_tensor(2, (uint64_t[]){16, 2}, 8, 0, KVP_E_CORRUPT, "16 elements are not whole blocks");
    expect_tensor(1, four, 0, 8, KVP_E_CORRUPT, "not a multiple of the alignment");
    expect_tensor(1, four, 0, 96, KVP_E_CORRUPT, "16 bytes from 96 of 96 bytes of data");
    expect_tensor(1, four, 0, UINT64_MAX - 31, KVP_E_CORRUPT, "of 96 bytes of data");
    expect_tensor(1, (uint64_t[]){25}, 0, 0, KVP_E_CORRUPT, "100 bytes from 0 of 96");
}

static void expect_name(const char *name, size_t n, const char *message)
{
    gguf_writer w = {0};
    gguf_put_header(&w, 1, 0);
    gguf_put_u64(&w, n);
    gguf_put(&w, name, n);
    gguf_put_u32(&w, 9); /* rank */
    expect(&w, KVP_E_CORRUPT, message);
}

static void test_names_that_lie_are_corrupt(void **state)
{
    (void)state;
    char name[66];
    memset(name, 'n', sizeof name);
    expect_name(name, 65, "a tensor's name is longer than 64 bytes");
    expect_name(name, 64, "nnn\": it has too many dimensions");
    expect_name("a\0b", 3, "a tensor's name has a NUL in it");
    expect_name("\x80", 1, "a tensor's name is not UTF-8");
    /* What a terminal would take for a command, or a new line, does not get there. */
    expect_name("a\x1B[2J\nb\x7F", 8, "\"a?[2J?b?\": it has too many dimensions");
}

static void test_tensors_that_collide_are_corrupt(void **state)
{
    (void)state;
    static const uint64_t four[] = {4}, none[] = {0};
    gguf_writer w = {0};
    gguf_put_header(&w, 3, 0);
    gguf_put_tensor(&w, "b", 1, four, 0, 32);
    gguf_put_tensor(&w, "a", 1, four, 0, 64);
    gguf_put_tensor(&w, "b", 1, four, 0, 0);
    gguf_pad(&w, 32);
    gguf_put_data(&w, 96);
    expect(&w, KVP_E_CORRUPT, "\"b\": the file has two of this name");

    gguf_put_header(&w, 2, 0);
    gguf_put_tensor(&w, "b", 1, (uint64_t[]){9}, 0, 0);
    gguf_put_tensor(&w, "a", 1, four, 0, 32);
    gguf_pad(&w, 32);
    gguf_put_data(&w, 96);
    expect(&w, KVP_E_CORRUPT, "\"b\" and \"a\" overlap");

    gguf_put_header(&w, 3, 0); /* empty ones lie anywhere between */
    gguf_put_tensor(&w, "a", 1, four, 0, 32);
    gguf_put_tensor(&w, "b", 1, none, 0, 32);
    gguf_put_tensor(&w, "c", 1, four, 0, 0);
    gguf_pad(&w, 32);
    gguf_put_data(&w, 48);
    gguf_close(open_good(&w));
    gguf_writer_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type_of_value_is_read),
        cmocka_unit_test(test_absent_and_other_types_leave_the_result_alone),
        cmocka_unit_test(test_arrays_give_their_elements),
        cmocka_unit_test(test_tensors_have_shape_and_data),
        cmocka_unit_test(test_version_2_and_files_without_anything_open),
        cmocka_unit_test(test_alignment_is_obeyed),
        cmocka_unit_test(test_every_truncation_is_corrupt),
        cmocka_unit_test(test_random_damage_stays_in_bounds),
        cmocka_unit_test(test_files_that_are_none_are_named),
        cmocka_unit_test(test_other_formats_and_versions_are_refused),
        cmocka_unit_test(test_counts_that_lie_are_corrupt),
        cmocka_unit_test(test_keys_that_lie_are_corrupt),
        cmocka_unit_test(test_values_that_lie_are_corrupt),
        cmocka_unit_test(test_alignments_that_lie_are_corrupt),
        cmocka_unit_test(test_tensors_that_lie_are_corrupt),
        cmocka_unit_test(test_names_that_lie_are_corrupt),
        cmocka_unit_test(test_tensors_that_collide_are_corrupt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
