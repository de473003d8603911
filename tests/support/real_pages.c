/* real_pages.c - see real_pages.h. */
#include "tests/support/real_pages.h"

#include "integration/models/model.h"
#include "integration/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXT ((size_t)1 << 20)

/* What is open on the way; all of it NULL at first. */
typedef struct work {
    model *m;
    tokenizer *t;
    kvp_pager *pager;
    kvp_seq *seq;
    char *text;
    int32_t *ids;
    size_t n_ids;
    kvp_page_view *views;
} work;

static kvp_status read_text(work *w, const char *path)
{
    FILE *f = fopen(path, "rb");
    w->text = malloc(MAX_TEXT);
    size_t n = f && w->text ? fread(w->text, 1, MAX_TEXT, f) : 0;
    if (f)
        fclose(f);
    if (!n)
        return kvp_fail(KVP_E_IO, "%s: cannot be read", path);
    return tokenizer_encode(w->t, w->text, utf8_valid_prefix(w->text, n), &w->ids, &w->n_ids);
}

static kvp_status run_model(work *w, size_t max_tokens, kvp_dtype dtype)
{
    kvp_config cfg = kvp_config_default();
    cfg.geometry = model_geometry(model_get_info(w->m), dtype, 0);
    cfg.pool = model_pool(w->m);
    const model_forward_args args = {.tokens = w->ids,
                                     .n_tokens = w->n_ids < max_tokens ? w->n_ids : max_tokens};
    kvp_status status = kvp_pager_open(&cfg, &w->pager);
    if (!status)
        status = kvp_seq_create(w->pager, &w->seq);
    return status ? status : model_forward(w->m, w->seq, &args);
}

static kvpi_codec_shape shape_of(const kvp_page_view *v)
{
    return (kvpi_codec_shape){.dtype = v->dtype,
                              .n_heads = v->n_heads,
                              .n_tokens = v->page_tokens,
                              .k_width = v->k_width,
                              .v_width = v->v_width};
}

static kvp_status take_layer(work *w, uint32_t layer, bool is_full, real_pages *out)
{
    uint64_t n_tokens = kvp_seq_length(w->seq);
    kvp_view view = {.pages = w->views, .max_pages = n_tokens};
    kvp_status status = kvp_seq_pin(w->seq, layer, 0, n_tokens, KVP_FOREVER, &view);
    for (size_t i = 0; i < view.n_pages && !status; i++) {
        const kvp_page_view *v = &w->views[i];
        kvpi_codec_shape shape = shape_of(v);
        size_t n = kvpi_shape_bytes(&shape);
        if ((is_full && v->n_valid < v->page_tokens) || (out->n && n != out->page_bytes))
            continue; /* a last group of fewer heads is left out */
        uint8_t *bytes = realloc(out->bytes, (out->n + 1) * n);
        if (!bytes) {
            status = kvp_fail(KVP_E_NOMEM, "no memory for the pages of a model");
            break;
        }
        memcpy(bytes + out->n * n, v->k, n); /* V follows K */
        *out = (real_pages){
            .shape = shape, .n_tokens = n_tokens, .n = out->n + 1, .page_bytes = n, .bytes = bytes};
    }
    kvp_view_unpin(&view);
    return status;
}

kvp_status real_pages_make(const char *model_path, const char *text_path, size_t max_tokens,
                           kvp_dtype dtype, bool is_full, real_pages *out)
{
    work w = {0};
    *out = (real_pages){0};
    kvp_status status = model_open(model_path, &(model_options){0}, &w.m);
    if (!status)
        status = tokenizer_open(model_path, &w.t);
    if (!status)
        status = read_text(&w, text_path);
    if (!status)
        status = run_model(&w, max_tokens, dtype);
    w.views = malloc((max_tokens + 1) * sizeof *w.views);
    if (!w.views && !status)
        status = kvp_fail(KVP_E_NOMEM, "no memory for the pages of a model");
    for (uint32_t layer = 0; !status && layer < model_get_info(w.m)->n_layers; layer++)
        status = take_layer(&w, layer, is_full, out);
    if (status)
        real_pages_free(out);
    kvp_seq_destroy(w.seq);
    kvp_pager_close(w.pager);
    tokenizer_close(w.t);
    model_close(w.m);
    free(w.text);
    free(w.ids);
    free(w.views);
    return status;
}

void real_pages_free(real_pages *r)
{
    free(r->bytes);
    *r = (real_pages){0};
}
