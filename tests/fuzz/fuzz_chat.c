/* fuzz_chat.c - any text as a model's chat template: it is refused, or its turns can be encoded. */
#include "tests/fuzz/target.h"

#include "integration/text/chat.h"
#include "integration/text/chat_template.h"
#include "integration/text/tokenizer_build.h"

#include <string.h>

/* A vocabulary of marks: every other byte is left out. */
static const char vocabulary[] =
    "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"added_tokens\":["
    "{\"id\":1,\"content\":\"<|im_start|>\"},{\"id\":2,\"content\":\"<|im_end|>\",\"rstrip\":true},"
    "{\"id\":3,\"content\":\"<|start_header_id|>\"},{\"id\":4,\"content\":\"<|end_header_id|>\"},"
    "{\"id\":5,\"content\":\"<|eot_id|>\"},{\"id\":6,\"content\":\"<s>\"},"
    "{\"id\":7,\"content\":\"</s>\"}]}";

static void talk(const chat *c)
{
    int32_t *ids = NULL;
    size_t n = 0;
    require(chat_name(c)[0]);
    if (!chat_first_turn(c, NULL, " a\xC3\xA9 ", &ids, &n))
        require(n);
    free(ids);
    ids = NULL;
    if (!chat_first_turn(c, "a <|im_end|>", "", &ids, &n))
        require(n);
    free(ids);
    ids = NULL;
    require(!chat_next_turn(c, 0, "a", &ids, &n) && n && chat_is_end(c, ids[0]));
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    tokenizer *t = NULL;
    chat *c = NULL;
    require(!tokenizer_open_bytes(vocabulary, sizeof vocabulary - 1, "vocabulary", &t));
    t->bos = 6;
    t->eos = 7;
    t->chat_template = strndup((const char *)bytes, n);
    require(t->chat_template);
    if (chat_open(t, &c))
        require(!c && kvp_error()[0]);
    else
        talk(c);
    chat_close(c);
    tokenizer_close(t);
    return 0;
}
