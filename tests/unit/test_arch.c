/* test_arch.c - config.json of Llama, Mistral, Qwen2 and OPT: what is read, what is refused and
 * how. GPT-2's: test_config.c. */
#include "integration/models/arch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Single quotes in `members` stand for double ones. */
#define LLAMA                                                                                      \
    "'num_hidden_layers':2,'hidden_size':96,'intermediate_size':200,'vocab_size':300,"             \
    "'num_attention_heads':6,'max_position_embeddings':2048"
#define OPT                                                                                        \
    "'num_hidden_layers':2,'hidden_size':96,'ffn_dim':200,'vocab_size':300,"                       \
    "'num_attention_heads':6,'max_position_embeddings':2048"

static kvp_status read_config(const model_arch *arch, const char *members, decoder_config *out)
{
    json_t *root = NULL;
    char text[2048];
    snprintf(text, sizeof text, "{%s}", members);
    for (char *c = text; *c; c++)
        *c = *c == '\'' ? '"' : *c;
    assert_int_equal(json_parse_object(text, strlen(text), "config.json", KVP_E_INVALID, &root),
                     KVP_OK);
    const config_file file = {.root = root, .where = "config.json"};
    kvp_status status = arch->read_config(&file, out);
    json_decref(root);
    return status;
}

static decoder_config good(const model_arch *arch, const char *members)
{
    decoder_config c = {0};
    if (read_config(arch, members, &c))
        fail_msg("%s: %s", members, kvp_error());
    return c;
}

static void refused(const model_arch *arch, const char *members, kvp_status wanted,
                    const char *message)
{
    decoder_config c = {.n_layers = 77};
    kvp_status status = read_config(arch, members, &c);
    if (status != wanted || !strstr(kvp_error(), message) || !strstr(kvp_error(), "config.json"))
        fail_msg("%s: status %d, \"%s\"", members, (int)status, kvp_error());
    assert_int_equal(c.n_layers, 77);
}

/* ---- Llama ----------------------------------------------------------------------------------- */

static void test_llama_takes_defaults(void **state)
{
    (void)state;
    decoder_config c = good(&llama_arch, LLAMA);
    assert_int_equal(c.n_layers, 2);
    assert_int_equal(c.n_heads, 6);
    assert_int_equal(c.n_kv_heads, 6);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.d_model, 96);
    assert_int_equal(c.d_inner, 200);
    assert_int_equal(c.n_vocab, 300);
    assert_int_equal(c.n_ctx, 2048);
    assert_int_equal(c.window, 0);
    assert_true(c.norm == NORM_RMS && c.mlp == MLP_GATED_SILU && !c.tied);
    assert_true(!c.bias_qkv && !c.bias_attn_out && !c.bias_mlp && !c.scale_by_layer);
    assert_true(fabsf(c.epsilon - 1e-6f) <= 1e-13f && fabsf(c.scale - 0.25f) <= 1e-7f);
    assert_true(c.rope.dim == 16 && c.rope.theta == 10000 && c.rope.scaling == ROPE_UNSCALED);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_ids[0], 2);
}

static void test_llama_members_override_defaults(void **state)
{
    (void)state;
    decoder_config c = good(&llama_arch, LLAMA ",'num_key_value_heads':2,'head_dim':48,"
                                               "'rms_norm_eps':1e-5,'tie_word_embeddings':true,"
                                               "'attention_bias':true,'mlp_bias':true,"
                                               "'rope_theta':500000.0,'eos_token_id':[7,9,7],"
                                               "'hidden_act':'silu','pretraining_tp':2,"
                                               "'torch_dtype':'bfloat16'");
    assert_int_equal(c.n_kv_heads, 2);
    assert_int_equal(c.head_dim, 48);
    assert_true(c.tied && c.bias_qkv && c.bias_attn_out && c.bias_mlp);
    assert_true(fabsf(c.epsilon - 1e-5f) <= 1e-12f && c.rope.theta == 500000 && c.rope.dim == 48);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos_ids[0], 7);
    assert_int_equal(c.eos_ids[1], 9);
    assert_int_equal(good(&llama_arch, LLAMA ",'eos_token_id':null").n_eos, 0);
    assert_int_equal(good(&llama_arch, LLAMA ",'head_dim':null").head_dim, 16);
}

static void test_llama_wrong_members_are_named(void **state)
{
    (void)state;
    const model_arch *a = &llama_arch;
    refused(a, "'hidden_size':96", KVP_E_INVALID, "\"num_hidden_layers\" is missing");
    refused(a, LLAMA ",'num_key_value_heads':4", KVP_E_INVALID,
            "\"num_attention_heads\" 6 is not a multiple of \"num_key_value_heads\" 4");
    refused(a, LLAMA ",'head_dim':15", KVP_E_INVALID, "15 elements of a head would be rotated");
    refused(a, LLAMA ",'head_dim':65537", KVP_E_INVALID, "\"head_dim\" is 65537");
    refused(a,
            "'num_hidden_layers':2,'hidden_size':96,'intermediate_size':200,'vocab_size':300,"
            "'num_attention_heads':4096,'head_dim':1024,'max_position_embeddings':2048",
            KVP_E_INVALID, "4096 heads of 1024 elements are too many");
    refused(a, LLAMA ",'hidden_act':'gelu'", KVP_E_UNSUPPORTED, "\"hidden_act\" gelu");
    refused(a, LLAMA ",'eos_token_id':300", KVP_E_INVALID, "must lie in 0 .. 299");
    refused(a, LLAMA ",'eos_token_id':[1,'x']", KVP_E_INVALID, "eos_token_id");
    refused(a, LLAMA ",'eos_token_id':[0,1,2,3,4,5,6,7,8]", KVP_E_UNSUPPORTED, "more than 8");
    refused(a, LLAMA ",'quantization_config':{'bits':4}", KVP_E_UNSUPPORTED, "quantization_config");
    refused(a, LLAMA ",'architectures':['LlamaForSequenceClassification']", KVP_E_UNSUPPORTED,
            "LlamaForSequenceClassification");
}

/* ---- rotary positions ------------------------------------------------------------------------ */

#define SCALING(members) LLAMA ",'rope_scaling':{" members "}"

static void test_scalings_are_read_in_every_spelling(void **state)
{
    (void)state;
    decoder_config c = good(&llama_arch, SCALING("'type':'linear','factor':2.5"));
    assert_true(c.rope.scaling == ROPE_LINEAR && c.rope.factor == 2.5);
    assert_int_equal(c.n_ctx, 2048); /* includes the factor */
    assert_true(good(&llama_arch, SCALING("'type':'default'")).rope.scaling == ROPE_UNSCALED);
    assert_true(good(&llama_arch, LLAMA ",'rope_scaling':null").rope.scaling == ROPE_UNSCALED);
    c = good(&llama_arch, LLAMA ",'rope_parameters':{'rope_type':'linear','factor':2,"
                                "'rope_theta':77.0},'rope_theta':5.0");
    assert_true(c.rope.scaling == ROPE_LINEAR && c.rope.theta == 77);
    c = good(&llama_arch, LLAMA ",'rope_parameters':{'rope_theta':77.0}");
    assert_true(c.rope.scaling == ROPE_UNSCALED && c.rope.theta == 77);
    /* Both: transformers drops the latter, with all that is in it. */
    c = good(&llama_arch, SCALING("'type':'linear','factor':4") ",'rope_parameters':{'rope_type':"
                                                                "'default','rope_theta':77.0}");
    assert_true(c.rope.scaling == ROPE_LINEAR && c.rope.factor == 4 && c.rope.theta == 10000);
    c = good(&llama_arch, SCALING("") ",'rope_parameters':{'rope_theta':77.0}");
    assert_true(c.rope.scaling == ROPE_UNSCALED && c.rope.theta == 77);
}

/* Only GGUF says, in a member of its own, that a part of a head is rotated. */
static void test_folders_rotate_whole_heads(void **state)
{
    (void)state;
    const model_arch *a = &llama_arch;
    static const char message[] = "\"partial_rotary_factor\" 0.5 is not supported";
    assert_int_equal(good(a, LLAMA ",'partial_rotary_factor':1.0").rope.dim, 16);
    refused(a, LLAMA ",'partial_rotary_factor':0.5", KVP_E_UNSUPPORTED, message);
    refused(&qwen2_arch, LLAMA ",'partial_rotary_factor':0.5", KVP_E_UNSUPPORTED, message);
    refused(a, SCALING("'type':'linear','factor':2,'partial_rotary_factor':0.5"), KVP_E_UNSUPPORTED,
            message);
    refused(a, LLAMA ",'partial_rotary_factor':1.5", KVP_E_UNSUPPORTED, "1.5 is not supported");
    assert_int_equal(good(a, LLAMA ",'rope.dimension_count':8").rope.dim, 8);
    refused(a, LLAMA ",'rope.dimension_count':7", KVP_E_INVALID, "7 elements of a head");
    refused(a, LLAMA ",'rope.dimension_count':0", KVP_E_INVALID, "must lie in 1 .. 16");
    refused(a, LLAMA ",'rope.dimension_count':18", KVP_E_INVALID, "must lie in 1 .. 16");
}

static void test_llama3_scaling_keeps_the_positions(void **state)
{
    (void)state;
    decoder_config c =
        good(&llama_arch, SCALING("'rope_type':'llama3','factor':8.0,'low_freq_factor':1.0,"
                                  "'high_freq_factor':4.0,"
                                  "'original_max_position_embeddings':256"));
    assert_int_equal(c.n_ctx, 2048);
    assert_true(c.rope.scaling == ROPE_LLAMA3 && c.rope.original_n_ctx == 256);
    assert_true(c.rope.low_freq_factor == 1 && c.rope.high_freq_factor == 4);
}

static void test_yarn_defaults_and_parameters(void **state)
{
    (void)state;
    decoder_config c = good(&llama_arch, SCALING("'rope_type':'yarn','factor':4"));
    const rope_config *r = &c.rope;
    assert_true(r->scaling == ROPE_YARN && r->original_n_ctx == 2048 && r->truncate);
    assert_true(r->beta_fast == 32 && r->beta_slow == 1);
    assert_true(fabs(r->attention_factor - (0.1 * log(4) + 1)) <= 1e-12);
    assert_int_equal(c.n_ctx, 8192);
    c = good(&llama_arch, SCALING("'rope_type':'yarn','factor':4,'beta_fast':8,'beta_slow':3,"
                                  "'truncate':false,'attention_factor':1.5,"
                                  "'original_max_position_embeddings':512"));
    assert_true(r->beta_fast == 8 && r->beta_slow == 3 && !r->truncate);
    assert_true(r->attention_factor == 1.5 && r->original_n_ctx == 512);
    assert_int_equal(c.n_ctx, 2048); /* the config says so already */
    c = good(&llama_arch, SCALING("'rope_type':'yarn','factor':4,'mscale':2,'mscale_all_dim':0.5"));
    assert_true(fabs(r->attention_factor - (0.2 * log(4) + 1) / (0.05 * log(4) + 1)) <= 1e-12);
    c = good(&llama_arch, SCALING("'rope_type':'yarn','original_max_position_embeddings':512,"
                                  "'factor':null"));
    assert_true(r->factor == 4);
    c = good(&llama_arch, SCALING("'rope_type':'yarn','factor':4") ",'original_max_position_"
                                                                   "embeddings':1024");
    assert_true(r->original_n_ctx == 1024); /* beside the parameters: Phi-3's way */
}

/* transformers: max_position_embeddings is the length after the stretch, unless it equals the
 * length before or that is not given. */
static void test_positions_with_yarn_are_those_of_the_config(void **state)
{
    static const struct {
        const char *members;
        uint32_t n_ctx;
    } cases[] = {
        {"'factor':4", 8192},
        {"'factor':4,'original_max_position_embeddings':2048", 8192},
        {"'factor':4,'original_max_position_embeddings':512", 2048},
        {"'factor':8,'original_max_position_embeddings':512", 2048},
        {"'factor':2,'original_max_position_embeddings':512", 2048},
        {"'factor':2,'original_max_position_embeddings':4096", 2048},
        {"'original_max_position_embeddings':512", 2048},
        {"'factor':0.5", 2048},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char config[1024];
        snprintf(config, sizeof config, LLAMA ",'rope_scaling':{'rope_type':'yarn',%s}",
                 cases[i].members);
        assert_int_equal(good(&llama_arch, config).n_ctx, cases[i].n_ctx);
    }
}

static void test_bad_scalings_are_named(void **state)
{
    (void)state;
    const model_arch *a = &llama_arch;
    refused(a, SCALING("'type':'dynamic','factor':2"), KVP_E_UNSUPPORTED, "scaling dynamic");
    refused(a, SCALING("'rope_type':'longrope','factor':2"), KVP_E_UNSUPPORTED,
            "linear, llama3 and yarn are");
    refused(a, SCALING("'type':7"), KVP_E_UNSUPPORTED, "rope_scaling");
    refused(a, SCALING("'type':'linear'"), KVP_E_INVALID, "\"factor\" is missing");
    refused(a, SCALING("'type':'linear','factor':0"), KVP_E_INVALID, "\"factor\" is 0");
    refused(a, SCALING("'type':'yarn','factor':100000"), KVP_E_INVALID, "too many");
    refused(a, SCALING("'type':'llama3','factor':2"), KVP_E_INVALID, "low_freq_factor");
    refused(a, SCALING("'type':'llama3','factor':2,'low_freq_factor':4,'high_freq_factor':4"),
            KVP_E_INVALID, "must be above");
    refused(a, SCALING("'type':'yarn','factor':2,'beta_fast':1,'beta_slow':2"), KVP_E_INVALID,
            "beta_fast");
    refused(a, LLAMA ",'rope_scaling':[1]", KVP_E_INVALID, "is not an object");
    refused(a, LLAMA ",'rope_parameters':{'full_attention':{'rope_type':'default'}}",
            KVP_E_UNSUPPORTED, "differ by layer");
    refused(a, LLAMA ",'rope_theta':1", KVP_E_INVALID, "rope_theta");
}

/* ---- Mistral, Qwen2, OPT --------------------------------------------------------------------- */

static void test_mistral_has_a_window_unless_it_is_null(void **state)
{
    (void)state;
    assert_int_equal(good(&mistral_arch, LLAMA).window, 4096);
    assert_int_equal(good(&mistral_arch, LLAMA ",'sliding_window':128").window, 128);
    assert_int_equal(good(&mistral_arch, LLAMA ",'sliding_window':null").window, 0);
    refused(&mistral_arch, LLAMA ",'sliding_window':0", KVP_E_INVALID, "sliding_window");
}

static void test_qwen2_has_biases_and_a_window_if_it_is_used(void **state)
{
    (void)state;
    decoder_config c = good(&qwen2_arch, LLAMA);
    assert_true(c.bias_qkv && !c.bias_attn_out && !c.bias_mlp);
    assert_int_equal(c.window, 0);
    assert_int_equal(c.n_eos, 0);
    assert_int_equal(good(&qwen2_arch, LLAMA ",'use_sliding_window':true").window, 0);
    assert_int_equal(good(&qwen2_arch, LLAMA ",'use_sliding_window':true,'sliding_window':64,"
                                             "'max_window_layers':1")
                         .window,
                     64);
    assert_int_equal(good(&qwen2_arch, LLAMA ",'use_sliding_window':false,'sliding_window':64,"
                                             "'max_window_layers':1")
                         .window,
                     0);
    assert_int_equal(good(&qwen2_arch, LLAMA ",'use_sliding_window':true,'sliding_window':64,"
                                             "'layer_types':['full_attention','full_attention']")
                         .window,
                     0);
    assert_int_equal(good(&qwen2_arch, LLAMA ",'use_sliding_window':true,'sliding_window':64,"
                                             "'layer_types':['full_attention','sliding_attention']")
                         .window,
                     64);
    assert_int_equal(good(&qwen2_arch, LLAMA ",'use_sliding_window':true,'sliding_window':null,"
                                             "'max_window_layers':1")
                         .window,
                     0);
}

static void test_opt_is_read(void **state)
{
    (void)state;
    decoder_config c = good(&opt_arch, OPT);
    assert_int_equal(c.position_offset, 2);
    assert_int_equal(c.rope.dim, 0);
    assert_true(c.norm == NORM_LAYER && c.mlp == MLP_RELU && c.tied);
    assert_true(c.bias_qkv && c.bias_attn_out && c.bias_mlp);
    assert_int_equal(c.eos_ids[0], 2);
    c = good(&opt_arch, OPT ",'enable_bias':false,'tie_word_embeddings':false,"
                            "'word_embed_proj_dim':96,'do_layer_norm_before':true");
    assert_true(!c.bias_qkv && !c.bias_attn_out && !c.bias_mlp && !c.tied);
}

static void test_opt_of_another_build_is_refused(void **state)
{
    (void)state;
    refused(&opt_arch, OPT ",'do_layer_norm_before':false", KVP_E_UNSUPPORTED,
            "\"do_layer_norm_before\" false");
    refused(&opt_arch, OPT ",'word_embed_proj_dim':48", KVP_E_UNSUPPORTED, "word_embed_proj_dim");
    refused(&opt_arch, OPT ",'_remove_final_layer_norm':true", KVP_E_UNSUPPORTED,
            "_remove_final_layer_norm");
    refused(&opt_arch, OPT ",'activation_function':'gelu'", KVP_E_UNSUPPORTED, "supported: relu");
    refused(&opt_arch, LLAMA, KVP_E_INVALID, "\"ffn_dim\" is missing");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_takes_defaults),
        cmocka_unit_test(test_llama_members_override_defaults),
        cmocka_unit_test(test_llama_wrong_members_are_named),
        cmocka_unit_test(test_scalings_are_read_in_every_spelling),
        cmocka_unit_test(test_folders_rotate_whole_heads),
        cmocka_unit_test(test_llama3_scaling_keeps_the_positions),
        cmocka_unit_test(test_yarn_defaults_and_parameters),
        cmocka_unit_test(test_positions_with_yarn_are_those_of_the_config),
        cmocka_unit_test(test_bad_scalings_are_named),
        cmocka_unit_test(test_mistral_has_a_window_unless_it_is_null),
        cmocka_unit_test(test_qwen2_has_biases_and_a_window_if_it_is_used),
        cmocka_unit_test(test_opt_is_read),
        cmocka_unit_test(test_opt_of_another_build_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
