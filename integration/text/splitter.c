/* splitter.c - cuts text into words, through PCRE2.
 *
 * The patterns are those of OpenAI's encoder.py (2019) and cl100k_base (tiktoken), in the meaning
 * that Hugging Face's tokenizers give them. \s is written out: PCRE2's own also takes U+180E, which
 * is not White_Space. Every pattern takes every character. */
#include "integration/text/splitter.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define SPACES                                                                                     \
    "\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"  \
    "\\x{205f}\\x{3000}"

/* Letters and numbers of Unicode 15 and 16, which Hugging Face's tokenizers 0.23 knows
 * and PCRE2 10.42 (Unicode 14) does not. */
#define NEW_LETTERS                                                                                \
    "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}"               \
    "\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}"                              \
    "\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}"                               \
    "\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}"           \
    "\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}\\x{13441}-\\x{13446}"                    \
    "\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}\\x{16d40}-\\x{16d6c}\\x{18cff}"                    \
    "\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}"                               \
    "\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}"                               \
    "\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"
#define NEW_NUMBERS                                                                                \
    "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}"                              \
    "\\x{11f50}-\\x{11f59}\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}"                              \
    "\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}"                              \
    "\\x{1e5f1}-\\x{1e5fa}"

/* Of Unicode 17, which those know where they look for digits. */
#define NEWER_NUMBERS "\\x{11de0}-\\x{11de9}\\x{16ff4}-\\x{16ff6}"

#define LETTERS "\\p{L}" NEW_LETTERS
#define NUMBERS "\\p{N}" NEW_NUMBERS

/* GPT-2's pattern, with other words of numbers; spaces before an `end` stay together, as they do at
 * the end of the text: there the text has been cut. */
#define GPT2(words, numbers, end)                                                                  \
    "'s|'t|'re|'ve|'m|'ll|'d"                                                                      \
    "| ?[" LETTERS "]+"                                                                            \
    "|" words "| ?[^" SPACES LETTERS numbers "]+"                                                  \
    "|[" SPACES "]+(?![^" SPACES end "])"                                                          \
    "|[" SPACES "]+"

#define CL100K(numbers)                                                                            \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)"                                                                 \
    "|[^\\r\\n" LETTERS NUMBERS "]?[" LETTERS "]+"                                                 \
    "|[" NUMBERS "]" numbers "| ?[^" SPACES LETTERS NUMBERS "]+[\\r\\n]*"                          \
    "|[" SPACES "]*[\\r\\n]+"                                                                      \
    "|[" SPACES "]+(?![^" SPACES "])"                                                              \
    "|[" SPACES "]+"

/* The same as a file spells it. */
#define CL100K_REGEX(numbers)                                                                      \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" numbers                    \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const struct {
    const char *regex; /* of a Split in tokenizer.json; NULL: it is spelled in another way */
    const char *pattern;
} kinds[] = {
    [SPLITTER_GPT2] = {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
                       "|\\s+(?!\\S)|\\s+",
                       GPT2(" ?[" NUMBERS "]+", NUMBERS, "")},
    [SPLITTER_SMOLLM] = {NULL, GPT2("[" NUMBERS NEWER_NUMBERS "]", NUMBERS NEWER_NUMBERS,
                                    NUMBERS NEWER_NUMBERS)},
    [SPLITTER_DIGITS] = {NULL,
                         GPT2("[0-9]| ?(?:[^\\P{N}0-9]|[" NEW_NUMBERS "])++", NUMBERS, "0-9")},
    [SPLITTER_QWEN2] = {CL100K_REGEX(""), CL100K("")},
    [SPLITTER_LLAMA3] = {CL100K_REGEX("{1,3}"), CL100K("{1,3}")},
};

bool splitter_kind_of_regex(const char *regex, splitter_kind *kind)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (kinds[i].regex && strcmp(kinds[i].regex, regex) == 0) {
            *kind = (splitter_kind)i;
            return true;
        }
    }
    return false;
}

static const char word_char_pattern[] = "^[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]$";

struct splitter {
    pcre2_code *words;
    pcre2_code *word_char;
};

bool text_is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

static kvp_status compile(const char *pattern, pcre2_code **out)
{
    int error;
    PCRE2_SIZE offset;
    /* Anchored here: said at every match, it would keep PCRE2 from using machine code. */
    *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_ANCHORED,
                         &error, &offset, NULL);
    if (!*out) {
        char text[256];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text);
        return kvp_fail(error == PCRE2_ERROR_HEAP_FAILED ? KVP_E_NOMEM : KVP_E_UNSUPPORTED,
                        "PCRE2 %d.%d does not take the tokenizer's pattern (at %zu): %s",
                        PCRE2_MAJOR, PCRE2_MINOR, (size_t)offset, text);
    }
    (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* where it may not, it interprets */
    return KVP_OK;
}

kvp_status splitter_open(splitter_kind kind, splitter **out)
{
    splitter *s = calloc(1, sizeof *s);
    if (!s)
        return kvp_fail(KVP_E_NOMEM, "out of memory: the tokenizer's splitter");
    kvp_status status = compile(kinds[kind].pattern, &s->words);
    if (!status)
        status = compile(word_char_pattern, &s->word_char);
    if (status) {
        splitter_close(s);
        return status;
    }
    *out = s;
    return KVP_OK;
}

void splitter_close(splitter *s)
{
    if (!s)
        return;
    pcre2_code_free(s->words);
    pcre2_code_free(s->word_char);
    free(s);
}

kvp_status splitter_each(const splitter *s, const char *text, size_t n,
                         kvp_status (*word)(void *opaque, const char *word, size_t n), void *opaque)
{
    pcre2_match_data *match = pcre2_match_data_create_from_pattern(s->words, NULL);
    if (!match)
        return kvp_fail(KVP_E_NOMEM, "out of memory: matching the tokenizer's pattern");
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(match);
    kvp_status status = KVP_OK;
    for (size_t at = 0; at < n && !status; at = ends[1]) {
        int found = pcre2_match(s->words, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, match, NULL);
        if (found > 0) { /* the pattern takes every character, so this always is */
            status = word(opaque, text + at, ends[1] - at);
        } else {
            status = kvp_fail(found == PCRE2_ERROR_NOMEMORY ? KVP_E_NOMEM : KVP_E_INVALID,
                              "PCRE2 could not split the text at byte %zu (error %d)", at, found);
        }
    }
    pcre2_match_data_free(match);
    return status;
}

bool splitter_is_word_char(const splitter *s, const char *c, size_t length)
{
    pcre2_match_data *match = pcre2_match_data_create_from_pattern(s->word_char, NULL);
    bool is_word = match && pcre2_match(s->word_char, (PCRE2_SPTR)c, length, 0, PCRE2_NO_UTF_CHECK,
                                        match, NULL) > 0;
    pcre2_match_data_free(match);
    return is_word;
}
