/* test_weights.c - tensors of folders, sharded folders and GGUF files; what leaves memory again. */
#include "integration/models/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/gguf_writer.h"
#include "tests/support/temp_dir.h"

#define INDEX "model.safetensors.index.json"
#define MIB ((size_t)1 << 20)

typedef struct fixture {
    char dir[TEMP_DIR_BYTES];
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    temp_dir_make(f->dir);
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

static void write_safetensors(const fixture *f, const char *name, const char *header,
                              const void *data, size_t n)
{
    unsigned char bytes[1024] = {0};
    size_t length = strlen(header);
    assert_true(8 + length + n <= sizeof bytes);
    bytes[0] = (unsigned char)length;
    bytes[1] = (unsigned char)(length >> 8);
    memcpy(bytes + 8, header, length);
    memcpy(bytes + 8 + length, data, n);
    temp_dir_write(f->dir, name, bytes, 8 + length + n);
}

static weights *open_good(const char *path)
{
    weights *w = NULL;
    if (weights_open(path, &w))
        fail_msg("%s", kvp_error());
    return w;
}

static void expect_path(const char *path, kvp_status wanted, const char *message)
{
    weights *w = NULL;
    kvp_status status = weights_open(path, &w);
    if (status != wanted || !strstr(kvp_error(), message))
        fail_msg("status %d, \"%s\"; \"%s\" was expected", (int)status, kvp_error(), message);
    assert_null(w);
}

static void expect(const fixture *f, kvp_status wanted, const char *message)
{
    expect_path(f->dir, wanted, message);
}

/* ---- one file -------------------------------------------------------------------------------- */

#define TENSOR(name, dtype, shape, begin, end)                                                     \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end   \
    "]}"

#define ODD TENSOR("odd", "U8", "[1]", "0", "1")
#define HALF TENSOR("half", "F16", "[2,2]", "1", "9")
#define BRAIN TENSOR("brain", "BF16", "[4]", "9", "17")
#define FULL TENSOR("full", "F32", "[2,1,2]", "17", "33")
#define ONE TENSOR("one", "F32", "[]", "33", "37")
#define NONE TENSOR("none", "F32", "[0,4]", "37", "37")

/* Everything at odd addresses. 1.0, -2.0, 0.5, 3.0 in each dtype. */
static void write_plain(const fixture *f)
{
    static const char header[] = "{" ODD "," HALF "," BRAIN "," FULL "," ONE "," NONE "}";
    static const unsigned char data[] =
        "\1"
        "\x00\x3C\x00\xC0\x00\x38\x00\x42"
        "\x80\x3F\x00\xC0\x00\x3F\x40\x40"
        "\x00\x00\x80\x3F\x00\x00\x00\xC0\x00\x00\x00\x3F\x00\x00\x40\x40"
        "\x00\x00\x40\x40";
    write_safetensors(f, "model.safetensors", header, data, sizeof data - 1);
}

static void expect_rows(const tensor *t, uint64_t first, uint64_t n, const float *wanted,
                        size_t count)
{
    float rows[64];
    for (size_t i = 0; i < 64; i++)
        rows[i] = -77;
    weights_read_rows(t, first, n, rows);
    for (size_t i = 0; i < 64; i++)
        assert_true(rows[i] == (i < count ? wanted[i] : -77));
}

static void test_folder_gives_rows_of_every_dtype(void **state)
{
    fixture *f = *state;
    static const float all[] = {1.0f, -2.0f, 0.5f, 3.0f};
    write_plain(f);
    weights *w = open_good(f->dir);
    assert_int_equal(weights_count(w), 6);
    assert_null(weights_gguf(w));
    assert_string_equal(weights_at(w, 0)->name, "brain");
    const tensor *full = weights_find(w, "full");
    assert_true(full->rank == 3 && full->shape[0] == 2 && full->shape[1] == 1 &&
                full->shape[2] == 2);
    assert_true(full->n_elements == 4 && full->n_bytes == 16 && full->is_readable);
    assert_string_equal(full->dtype, "F32");
    expect_rows(full, 0, 2, all, 4);
    expect_rows(full, 1, 1, all + 2, 2);
    expect_rows(full, 2, 0, NULL, 0);
    expect_rows(weights_find(w, "half"), 0, 2, all, 4);
    expect_rows(weights_find(w, "half"), 1, 1, all + 2, 2);
    expect_rows(weights_find(w, "brain"), 0, 1, all, 4); /* a vector has one row */
    expect_rows(weights_find(w, "one"), 0, 1, all + 3, 1);
    expect_rows(weights_find(w, "none"), 0, 0, NULL, 0);
    assert_false(weights_find(w, "odd")->is_readable);
    assert_null(weights_find(w, "ful"));
    weights_release(w, weights_find(w, "none"));
    weights_close(w);
    weights_close(NULL);
}

static void test_gguf_gives_rows_of_blocks(void **state)
{
    fixture *f = *state;
    char path[TEMP_DIR_BYTES + 16];
    gguf_writer g = {0};
    gguf_put_header(&g, 2, 0);
    gguf_put_tensor(&g, "q", 2, (uint64_t[]){32, 3}, 8, 0); /* Q8_0 */
    gguf_put_tensor(&g, "i", 1, (uint64_t[]){5}, 26, 128);  /* I32 */
    gguf_pad(&g, 32);
    for (unsigned char row = 0; row < 3; row++) {
        gguf_put(&g, "\x00\x38", 2); /* 0.5 */
        for (unsigned char i = 0; i < 32; i++)
            gguf_put(&g, &(unsigned char){(unsigned char)(100 * row + i)}, 1);
    }
    gguf_pad(&g, 128);
    gguf_put_data(&g, 128);
    temp_dir_write(f->dir, "model.gguf", g.bytes, g.n);
    gguf_writer_fini(&g);
    snprintf(path, sizeof path, "%s/model.gguf", f->dir);

    weights *w = open_good(path);
    float wanted[64];
    for (int i = 0; i < 64; i++)
        wanted[i] = 0.5f * (float)(int8_t)(100 * (1 + i / 32) + i % 32);
    const tensor *q = weights_find(w, "q");
    assert_true(q->is_readable && q->shape[0] == 3 && q->shape[1] == 32 && q->n_bytes == 102);
    assert_string_equal(q->dtype, "Q8_0");
    expect_rows(q, 1, 2, wanted, 64);
    expect_rows(q, 2, 1, wanted + 32, 32);
    assert_false(weights_find(w, "i")->is_readable);
    assert_non_null(weights_gguf(w));
    weights_close(w);
}

static void test_folders_without_weights_say_what_to_do(void **state)
{
    fixture *f = *state;
    char path[TEMP_DIR_BYTES + 32];
    snprintf(path, sizeof path, "%s/not-there", f->dir);
    expect_path(path, KVP_E_IO, "no such folder");
    snprintf(path, sizeof path, "%s/not-there.gguf", f->dir);
    expect_path(path, KVP_E_IO, "No such file");
    expect(f, KVP_E_IO, "model.safetensors: No such file");
    temp_dir_write(f->dir, "pytorch_model.bin", "x", 1);
    expect(f, KVP_E_UNSUPPORTED, "only pytorch_model.bin is there: convert it");
    temp_dir_write(f->dir, "model.safetensors", "x", 1);
    expect(f, KVP_E_CORRUPT, "model.safetensors: 1 bytes are too few");
    snprintf(path, sizeof path, "%s/model.safetensors", f->dir);
    expect_path(path, KVP_E_IO, "is neither a model folder nor a file");
}

/* ---- shards ---------------------------------------------------------------------------------- */

#define A_ONE TENSOR("a", "F32", "[1]", "0", "4")
#define B_ONE TENSOR("b", "F32", "[1]", "0", "4")

/* Two shards, the first in the index second: "b" is 1.0 in the one, "a" 0.5 in the other. */
static void write_shards(const fixture *f)
{
    write_safetensors(f, "x-1.safetensors", "{" B_ONE "}", "\x00\x00\x80\x3F", 4);
    write_safetensors(f, "x-2.safetensors", "{" A_ONE "}", "\x00\x00\x00\x3F", 4);
}

static void write_index(const fixture *f, const char *map)
{
    char text[512];
    snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":8},\"weight_map\":%s}", map);
    temp_dir_write_text(f->dir, INDEX, text);
}

#define GOOD_MAP "{\"a\":\"x-2.safetensors\",\"b\":\"x-1.safetensors\"}"

static void test_shards_are_one_set_of_tensors(void **state)
{
    fixture *f = *state;
    write_shards(f);
    write_index(f, GOOD_MAP);
    weights *w = open_good(f->dir);
    assert_int_equal(weights_count(w), 2);
    assert_string_equal(weights_at(w, 0)->name, "a");
    expect_rows(weights_find(w, "a"), 0, 1, (float[]){0.5f}, 1);
    expect_rows(weights_find(w, "b"), 0, 1, (float[]){1.0f}, 1);
    weights_release(w, weights_find(w, "a"));
    weights_release(w, weights_find(w, "b"));
    expect_rows(weights_find(w, "b"), 0, 1, (float[]){1.0f}, 1);
    weights_close(w);
    write_plain(f); /* one whole file goes first */
    w = open_good(f->dir);
    assert_int_equal(weights_count(w), 6);
    weights_close(w);
}

static void test_missing_shard_is_named(void **state)
{
    fixture *f = *state;
    write_shards(f);
    write_index(f, "{\"a\":\"x-2.safetensors\",\"b\":\"x-3.safetensors\"}");
    expect(f, KVP_E_INVALID, "x-3.safetensors, one of the 2 files that it names, is missing");
    assert_non_null(strstr(kvp_error(), INDEX));
    write_index(f, GOOD_MAP);
    temp_dir_write(f->dir, "x-2.safetensors", "\x09\0\0\0\0\0\0\0{}", 10);
    expect(f, KVP_E_CORRUPT, "x-2.safetensors: truncated");
}

static void test_tensors_where_the_index_does_not_say_are_errors(void **state)
{
    fixture *f = *state;
    write_shards(f);
    write_index(f, "{\"a\":\"x-1.safetensors\",\"b\":\"x-2.safetensors\"}");
    expect(f, KVP_E_INVALID, "tensor \"a\" is not in x-1.safetensors, but in ");
    assert_non_null(strstr(kvp_error(), "x-2.safetensors"));
    write_index(f,
                "{\"a\":\"x-2.safetensors\",\"b\":\"x-1.safetensors\",\"c\":\"x-1.safetensors\"}");
    expect(f, KVP_E_INVALID, "tensor \"c\" is not in x-1.safetensors, but nowhere");
    write_safetensors(f, "x-1.safetensors", "{" A_ONE "}", "\0\0\0\0", 4);
    write_index(f, GOOD_MAP);
    expect(f, KVP_E_INVALID, "tensor \"a\" is both in ");
}

static void test_indexes_that_lie_are_invalid(void **state)
{
    fixture *f = *state;
    static const char *const paths[] = {
        "\"../x-1.safetensors\"", "\"/etc/passwd\"", "\"\"", "\"..\"",
        "\"a/x-1.safetensors\"",  "\".hidden\"",     "7",    "null"};
    write_shards(f);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        char map[128];
        snprintf(map, sizeof map, "{\"a\":\"x-2.safetensors\",\"b\":%s}", paths[i]);
        write_index(f, map);
        expect(f, KVP_E_INVALID, "tensor \"b\" is said to be in");
    }
    write_index(f, "{}");
    expect(f, KVP_E_INVALID, "\"weight_map\" names no tensors");
    write_index(f, "[\"a\"]");
    expect(f, KVP_E_INVALID, "\"weight_map\" names no tensors");
    temp_dir_write_text(f->dir, INDEX, "{}");
    expect(f, KVP_E_INVALID, "\"weight_map\" names no tensors");
    temp_dir_write_text(f->dir, INDEX, "{\"weight_map\":{\"a\":\"x\",\"a\":\"y\"}}");
    expect(f, KVP_E_INVALID, "duplicate");
    temp_dir_write_text(f->dir, INDEX, "{");
    expect(f, KVP_E_INVALID, "bad JSON");
}

/* ---- fingerprints ---------------------------------------------------------------------------- */

static uint64_t fingerprint_of(const char *path, uint64_t seed)
{
    weights *w = open_good(path);
    uint64_t result = weights_fingerprint(w, seed);
    assert_true(weights_fingerprint(w, seed) == result);
    weights_close(w);
    return result;
}

static void test_fingerprint_is_of_every_shard(void **state)
{
    fixture *f = *state;
    write_shards(f);
    write_index(f, GOOD_MAP);
    uint64_t before = fingerprint_of(f->dir, 0);
    assert_true(fingerprint_of(f->dir, 1) != before);
    write_safetensors(f, "x-1.safetensors", "{" B_ONE "}", "\x01\x00\x80\x3F", 4);
    assert_true(fingerprint_of(f->dir, 0) != before);
    write_shards(f);
    assert_true(fingerprint_of(f->dir, 0) == before);
    write_safetensors(f, "x-2.safetensors", "{" A_ONE "}", "\x00\x00\x00\x3E", 4);
    assert_true(fingerprint_of(f->dir, 0) != before);
    write_safetensors(f, "x-2.safetensors", "{" A_ONE " }", "\x00\x00\x00\x3F", 4);
    assert_true(fingerprint_of(f->dir, 0) != before);
}

/* A GGUF file with n tensors "t0", "t1" ... of `bytes` each (F32), which are holes of the file. */
static void write_big(const char *path, uint64_t n, size_t bytes)
{
    gguf_writer g = {0};
    gguf_put_header(&g, n, 0);
    for (uint64_t i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "t%llu", (unsigned long long)i);
        gguf_put_tensor(&g, name, 1, (uint64_t[]){bytes / 4}, 0, i * bytes);
    }
    gguf_pad(&g, 32);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(g.bytes, 1, g.n, file), g.n);
    assert_int_equal(fseek(file, (long)(n * bytes - 1), SEEK_CUR), 0);
    assert_int_equal(fputc(0, file), 0);
    assert_int_equal(fclose(file), 0);
    gguf_writer_fini(&g);
}

static void put_byte(const char *path, size_t at, int byte)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)at, SEEK_SET), 0);
    assert_int_equal(fputc(byte, file), byte);
    assert_int_equal(fclose(file), 0);
}

static void test_fingerprint_is_of_every_byte_of_a_large_file(void **state)
{
    fixture *f = *state;
    char path[TEMP_DIR_BYTES + 16];
    snprintf(path, sizeof path, "%s/big.gguf", f->dir);
    write_big(path, 1, 9 * MIB);
    static const size_t at[] = {5000, 4 * MIB - 1, 4 * MIB, 6 * MIB, 8 * MIB - 1, 8 * MIB, 9 * MIB};
    uint64_t seen[sizeof at / sizeof *at + 1] = {fingerprint_of(path, 0)};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        put_byte(path, at[i], 1);
        seen[i + 1] = fingerprint_of(path, 0);
        for (size_t k = 0; k <= i; k++)
            assert_true(seen[k] != seen[i + 1]);
        put_byte(path, at[i], 0);
    }
    assert_true(fingerprint_of(path, 0) == seen[0]);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Bytes of the file at `path` that are mapped in. */
static size_t resident_bytes(const char *path)
{
    char line[4096], rights[5];
    size_t kib = 0, total = 0;
    bool is_ours = false;
    FILE *file = fopen("/proc/self/smaps", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%*x-%*x %4s", rights) == 1) /* a mapping begins */
            is_ours = strstr(line, path) != NULL;
        if (is_ours && sscanf(line, "Rss: %zu kB", &kib) == 1)
            total += kib << 10;
    }
    fclose(file);
    return total;
}

static void read_all(const tensor *t)
{
    float *row = malloc(t->n_elements * sizeof *row);
    weights_read_rows(t, 0, 1, row);
    assert_true(row[0] == 0 && row[t->n_elements - 1] == 0);
    free(row);
}

/* n tensors one after another, as loading reads them: never more than one of them is in memory, and
 * hardly anything stays. */
static void check_release(const char *path, size_t n, size_t bytes, bool is_last_first)
{
    const size_t slack = MIB / 4;
    write_big(path, n, bytes);
    weights *w = open_good(path);
    assert_int_equal(weights_count(w), n);
    for (size_t i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "t%zu", is_last_first ? n - 1 - i : i);
        const tensor *t = weights_find(w, name);
        read_all(t);
        assert_in_range(resident_bytes(path), bytes, bytes + slack);
        weights_release(w, t);
        assert_in_range(resident_bytes(path), 0, slack);
    }
    read_all(weights_at(w, 0)); /* it comes back */
    (void)weights_fingerprint(w, 0);
    assert_in_range(resident_bytes(path), 0, slack);
    weights_close(w);
}

static void test_released_tensors_leave_memory(void **state)
{
    fixture *f = *state;
    char path[TEMP_DIR_BYTES + 16];
    snprintf(path, sizeof path, "%s/big.gguf", f->dir);
    check_release(path, 4, 2 * MIB, false);
    check_release(path, 100, 9 * 4096 + 32, false);
    check_release(path, 100, 9 * 4096 + 32, true);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_folder_gives_rows_of_every_dtype),
        CASE(test_gguf_gives_rows_of_blocks),
        CASE(test_folders_without_weights_say_what_to_do),
        CASE(test_shards_are_one_set_of_tensors),
        CASE(test_missing_shard_is_named),
        CASE(test_tensors_where_the_index_does_not_say_are_errors),
        CASE(test_indexes_that_lie_are_invalid),
        CASE(test_fingerprint_is_of_every_shard),
        CASE(test_fingerprint_is_of_every_byte_of_a_large_file),
        CASE(test_released_tensors_leave_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
