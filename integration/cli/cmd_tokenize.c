/* cmd_tokenize.c - kvpager tokenize: text to token ids, and back. */
#include <stdlib.h>

#include "integration/cli/commands.h"
#include "integration/cli/input.h"
#include "integration/cli/message.h"
#include "integration/cli/output.h"
#include "integration/cli/report.h"

typedef struct tokenize_options {
    bool decode;
} tokenize_options;

static kvp_status print_ids(const options *o, const int32_t *ids, size_t n)
{
    json_t *array = json_ids(ids, n);
    if (!o->json)
        return output_json(array);
    json_t *object = json_pack("{s:o}", "ids", array);
    if (object)
        report_add_json(NULL, object);
    return output_json(object);
}

static kvp_status print_text(const options *o, const tokenizer *t, const int32_t *ids, size_t n)
{
    text_output text = {.tokenizer = t, .print = !o->json};
    kvp_status status = KVP_OK;
    for (size_t i = 0; !status && i < n; i++)
        status = text_output_token(&text, ids[i]);
    if (!status)
        status = text_output_finish(&text);
    if (!status && o->json) {
        json_t *object = json_pack("{s:s%, s:o}", "text", text.text ? text.text : "", text.n, "ids",
                                   json_ids(ids, n));
        if (object)
            report_add_json(NULL, object);
        status = output_json(object);
    }
    text_output_fini(&text);
    return status;
}

static kvp_status convert(const options *o, bool decode, const input *in)
{
    tokenizer *t = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    kvp_status status = tokenizer_open(o->model_path, &t);
    if (!status)
        status = decode || o->ids_file ? input_parse_ids(in, tokenizer_n_vocab(t), &ids, &n)
                                       : input_encode(in, t, &ids, &n);
    if (!status)
        status = decode ? print_text(o, t, ids, n) : print_ids(o, ids, n);
    free(ids);
    tokenizer_close(t);
    return status;
}

static int run(int argc, char **argv)
{
    options o;
    tokenize_options own = {0};
    int code;
    if (!options_parse(&cmd_tokenize, argc, argv, &o, &own, &code))
        return code;
    input in;
    kvp_status status = input_read(&o, &in);
    if (!status)
        status = convert(&o, own.decode, &in);
    input_free(&in);
    return status ? report_failure(status) : EXIT_DONE;
}

static const option_row rows[] = {
    {"decode", 0, NULL, offsetof(tokenize_options, decode), NULL,
     "the other way: the input is a JSON array of ids, whichever option names it, and text comes "
     "out",
     0},
};

static const char *const shown[] = {"model", "prompt", "file", "ids", "json", NULL};

const command cmd_tokenize = {
    .name = "tokenize",
    .summary = "turn text into token ids, or ids into text",
    .synopsis = "-m PATH (-p TEXT | -f FILE | --ids FILE) [--decode] [options]",
    .details =
        "Prints the ids of a text as a JSON array, as generate sees them: with the token that "
        "begins every text, if\nthe model was trained with one (--ids FILE feeds ids without it). "
        "With --decode, prints the text of such an\narray, and nothing else.\nNo model is run: "
        "only the tokenizer's files are read. The options of "
        "model and pages that other commands\nhave are taken, but change nothing.\n\n"
        "--json prints: ids, with --decode also text; seconds and stats, whose members are "
        "null.",
    .groups = OPTIONS_MODEL | OPTIONS_INPUT | OPTIONS_BUDGET | OPTIONS_OUTPUT,
    .own = rows,
    .n_own = sizeof rows / sizeof *rows,
    .shown = shown,
    .run = run,
};
