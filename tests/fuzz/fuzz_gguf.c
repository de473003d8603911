/* fuzz_gguf.c - a GGUF file that is opened has all of its metadata and tensors inside it, and they
 * can be read. */
#include "tests/fuzz/target.h"

#include "integration/files/ggml_type.h"
#include "integration/files/gguf_file.h"
#include "integration/models/quants.h"

#include <math.h>
#include <string.h>

#define READ_ELEMENTS ((uint64_t)1 << 16)

typedef struct span {
    const uint8_t *begin, *end;
} span;

static void require_inside(span all, const void *at, uint64_t n)
{
    const uint8_t *begin = at;
    require(begin >= all.begin && begin <= all.end && n <= (uint64_t)(all.end - begin));
}

static kvp_status take_text(void *opaque, size_t i, const char *text, size_t n)
{
    (void)i;
    require_inside(*(const span *)opaque, text, n);
    return KVP_OK;
}

static void read_single(const gguf *g, const char *key, span all)
{
    const char *text = NULL;
    size_t n = 0;
    int64_t whole;
    double number = 0;
    bool flag;
    require(gguf_array_length(g, key) == 0 && gguf_each_text(g, key, take_text, &all));
    int n_ways = gguf_get_text(g, key, &text, &n) + gguf_get_flag(g, key, &flag);
    require_inside(all, text ? text : (const char *)all.begin, n);
    bool is_whole = gguf_get_int(g, key, &whole);
    n_ways += is_whole;
    if (gguf_get_number(g, key, &number))
        require(isfinite(number) && (!is_whole || number == (double)whole));
    require(n_ways <= 1);
}

static void read_array(const gguf *g, const char *key, uint32_t type, span all)
{
    size_t n = gguf_array_length(g, key);
    int64_t whole;
    double number;
    bool are_texts = gguf_each_text(g, key, take_text, &all) == KVP_OK;
    require(are_texts == (type == GGUF_TEXT));
    for (size_t i = 0; i < n; i++) {
        bool is_whole = gguf_array_int(g, key, i, &whole);
        bool is_number = gguf_array_number(g, key, i, &number);
        require(!is_whole || (is_number && number == (double)whole));
        require(is_number != (type == GGUF_TEXT || type == GGUF_BOOL) || type == GGUF_U64);
    }
    require(!gguf_array_int(g, key, n, &whole) && !gguf_array_number(g, key, n, &number));
}

static void read_values(const gguf *g, span all)
{
    for (size_t i = 0; i < g->n_values; i++) {
        const gguf_value *value = &g->values[i];
        char *key = strndup(value->key, value->key_bytes);
        bool has_nul = strlen(key) < value->key_bytes;
        require(has_nul || gguf_has(g, key));
        if (!has_nul && value->is_array)
            read_array(g, key, value->type, all);
        else if (!has_nul)
            read_single(g, key, all);
        free(key);
    }
}

static void read_tensors(const gguf *g, span all)
{
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        require(gguf_find_tensor(g, t->name) == t && ggml_type_find(t->type));
        require_inside(all, t->data, t->n_bytes);
        if (!quants_can_read(t->type) || t->n_elements > READ_ELEMENTS)
            continue;
        float *rows = malloc((t->n_elements + 1) * sizeof *rows);
        quants_read(t->type, t->data, rows, t->n_elements);
        free(rows);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    gguf *g = NULL;
    if (gguf_open_bytes(bytes, n, "input", &g)) {
        require(!g && kvp_error()[0]);
        return 0;
    }
    const span all = {bytes, bytes + n};
    read_values(g, all);
    read_tensors(g, all);
    gguf_close(g);
    return 0;
}
