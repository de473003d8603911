/* bench_offload.c - one contender's part of an offload run; ./run puts them together. Prints one
 * JSON object. */
#include "offload.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: bench_offload COMMAND -m PATH [options]\n"
    "One contender of bench/offload/run, which is what to start. Commands:\n"
    "  info       what the model and --tokens N of its KV take\n"
    "  prefill    read --tokens N of --text FILE; --kv FILE saves their KV\n"
    "  decode     plant the KV of --kv FILE and decode\n"
    "  raw        GB/s of a bare io_uring loop; needs no model\n"
    "Options:\n"
    "  -m, --model PATH     folder or .gguf file\n"
    "      --ctx N, --yarn  positions of the model, and that RoPE is stretched to them\n"
    "      --bf16           weights are held as bf16 (default f32)\n"
    "      --threads N      (default: one per CPU)\n"
    "      --ram BYTES      RAM for KV, the rest goes to a file in $TMPDIR (default: all in RAM)\n"
    "      --new N, --warm N, --seconds N\n"
    "                       decode: tokens that count, tokens before those, and a limit of time\n"
    "      --frames FILE    decode: frames lie in a shared mapping of FILE\n"
    "      --advice A       decode: of the frames' memory, small or sequential\n"
    "      --lock           decode: lock what is in memory before the KV is\n"
    "      --wait           decode: say \"ready\" then, and go on after a line on stdin\n";

enum {
    OPTION_CTX = 256,
    OPTION_YARN,
    OPTION_BF16,
    OPTION_THREADS,
    OPTION_RAM,
    OPTION_TOKENS,
    OPTION_TEXT,
    OPTION_KV,
    OPTION_NEW,
    OPTION_WARM,
    OPTION_SECONDS,
    OPTION_FRAMES,
    OPTION_ADVICE,
    OPTION_LOCK,
    OPTION_WAIT,
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, 'm'},
    {"ctx", required_argument, NULL, OPTION_CTX},
    {"yarn", no_argument, NULL, OPTION_YARN},
    {"bf16", no_argument, NULL, OPTION_BF16},
    {"threads", required_argument, NULL, OPTION_THREADS},
    {"ram", required_argument, NULL, OPTION_RAM},
    {"tokens", required_argument, NULL, OPTION_TOKENS},
    {"text", required_argument, NULL, OPTION_TEXT},
    {"kv", required_argument, NULL, OPTION_KV},
    {"new", required_argument, NULL, OPTION_NEW},
    {"warm", required_argument, NULL, OPTION_WARM},
    {"seconds", required_argument, NULL, OPTION_SECONDS},
    {"frames", required_argument, NULL, OPTION_FRAMES},
    {"advice", required_argument, NULL, OPTION_ADVICE},
    {"lock", no_argument, NULL, OPTION_LOCK},
    {"wait", no_argument, NULL, OPTION_WAIT},
    {0},
};

static int die(const char *text)
{
    fprintf(stderr, "bench_offload: %s\n", text);
    return 2;
}

/* False: not a number; the harness that calls this gives none that are too large. */
static bool parse_number(const char *text, uint64_t *value)
{
    char *end;
    *value = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end;
}

static bool take(offload_options *o, int option, const char *text)
{
    uint64_t n = 0;
    bool ok = true;
    switch (option) {
    case 'm':
        o->model = text;
        break;
    case OPTION_TEXT:
        o->text = text;
        break;
    case OPTION_KV:
        o->kv = text;
        break;
    case OPTION_FRAMES:
        o->frames_file = text;
        break;
    case OPTION_ADVICE:
        o->advice = text;
        break;
    case OPTION_YARN:
        o->yarn = true;
        break;
    case OPTION_BF16:
        o->bf16 = true;
        break;
    case OPTION_LOCK:
        o->lock = true;
        break;
    case OPTION_WAIT:
        o->wait = true;
        break;
    case OPTION_CTX:
        ok = parse_number(text, &o->n_ctx);
        break;
    case OPTION_RAM:
        ok = parse_number(text, &o->ram_bytes);
        break;
    case OPTION_TOKENS:
        ok = parse_number(text, &o->n_tokens);
        break;
    case OPTION_NEW:
        ok = parse_number(text, &o->n_new);
        break;
    case OPTION_WARM:
        ok = parse_number(text, &o->n_warm);
        break;
    case OPTION_SECONDS:
        ok = parse_number(text, &o->limit_seconds);
        break;
    case OPTION_THREADS:
        ok = parse_number(text, &n);
        o->n_threads = (uint32_t)n;
        break;
    default:
        ok = false;
    }
    return ok;
}

kvp_status offload_info(const offload_options *o, json_t *result)
{
    workload w = {0};
    uint64_t kv_bytes;
    kvp_status status = workload_load(o, 1, &w);
    if (!status)
        status = workload_open_pager(&w, 0);
    if (!status)
        status = workload_kv_bytes(&w, o->n_tokens, &kv_bytes);
    if (!status)
        status = workload_describe(&w, result);
    if (!status) {
        kv_bytes *= model_real_layers(w.m); /* they are alike */
        json_object_set_new(result, "kv_bytes", json_integer((json_int_t)kv_bytes));
        json_object_set_new(result, "n_ctx_trained", json_integer(w.info->n_ctx_trained));
        json_object_set_new(result, "has_rope", json_boolean(w.info->has_rope));
    }
    workload_close(&w);
    return status;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        kvp_status (*run)(const offload_options *o, json_t *result);
    } commands[] = {{"info", offload_info},
                    {"prefill", offload_prefill},
                    {"decode", offload_decode},
                    {"raw", offload_raw}};
    offload_options o = {.n_new = 8, .n_warm = 2, .limit_seconds = 60, .n_tokens = 1};
    size_t i = 0, n = sizeof commands / sizeof *commands;
    int option;
    if (argc < 2 || strcmp(argv[1], "--help") == 0)
        return fputs(usage, stdout), 0;
    while (i < n && strcmp(commands[i].name, argv[1]) != 0)
        i++;
    if (i == n)
        return die("no such command; see --help");
    while ((option = getopt_long(argc - 1, argv + 1, "m:", long_options, NULL)) != -1)
        if (!take(&o, option, optarg))
            return die("an option or a value makes no sense; see --help");
    if ((!o.model && strcmp(argv[1], "raw") != 0) || (strcmp(argv[1], "prefill") == 0 && !o.text) ||
        (strcmp(argv[1], "decode") == 0 && !o.kv))
        return die("an option is missing; see --help");
    json_t *result = json_object();
    kvp_status status = commands[i].run(&o, result);
    if (status)
        die(kvp_error());
    else
        json_dumpf(result, stdout, JSON_COMPACT), putchar('\n');
    json_decref(result);
    return status != KVP_OK;
}
