/* fuzz_tokenizer.c - a tokenizer.json that is opened encodes any text to ids that it knows, whose
 * bytes are the text again where nothing in the file says otherwise. */
#include "tests/fuzz/target.h"

#include "integration/text/tokenizer_build.h"

#include <string.h>

static const char *const texts[] = {
    "",
    " ",
    "aab ab  ba\n\n ab12 3 4567\r\n\tx",
    "I'll DON'T they'VE '\u017fx",
    "na\u00efve cafe\u0301 \u6771\u4eac \u0663\u00bd \U0001f469\u200d\U0001f469 \u0898\u0316",
    "<s>a<s> b </s>foo foobar<|im_end|>",
};

/* What is left of a text: the bytes that the vocabulary has. */
static size_t known_bytes(const tokenizer *t, const char *text, char *out)
{
    size_t n = 0;
    for (; *text; text++) {
        if (t->bpe.byte_ids[(unsigned char)*text] >= 0)
            out[n++] = *text;
    }
    return n;
}

/* Nothing but words and merges. */
static bool is_plain(const tokenizer *t)
{
    return !t->added.n && !t->composes && !t->add_prefix_space && !t->ignores_merges &&
           t->bpe.unknown_id < 0;
}

static void check_ids(const tokenizer *t, const char *text, const int32_t *ids, size_t n_ids)
{
    char wanted[256];
    size_t n = 0, n_wanted = known_bytes(t, text, wanted);
    for (size_t i = 0; i < n_ids; i++) {
        size_t length = 0;
        require(ids[i] >= 0 && (uint32_t)ids[i] < tokenizer_n_vocab(t));
        const char *bytes = tokenizer_token_bytes(t, ids[i], &length);
        require(length || t->added.n || t->bpe.unknown_id >= 0);
        if (is_plain(t))
            require(n + length <= n_wanted && memcmp(wanted + n, bytes, length) == 0);
        n += length;
    }
    require(n == n_wanted || !is_plain(t));
}

static void encode(const tokenizer *t, const char *text)
{
    const text_piece pieces[] = {{.text = text, .n = strlen(text)},
                                 {.text = text, .n = strlen(text), .is_foreign = true}};
    int32_t *ids = NULL;
    size_t n = 0;
    require(!tokenizer_encode(t, text, strlen(text), &ids, &n));
    check_ids(t, text, ids, n);
    free(ids);
    ids = NULL;
    require(!tokenizer_encode_pieces(t, pieces, 2, &ids, &n));
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    tokenizer *t = NULL;
    if (tokenizer_open_bytes(bytes, n, "input", &t)) {
        require(!t && kvp_error()[0]);
        return 0;
    }
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        encode(t, texts[i]);
    tokenizer_close(t);
    return 0;
}
