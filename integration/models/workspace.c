/* workspace.c - the activations of a forward, in one block. */
#include "integration/models/workspace.h"

#include <stdlib.h>
#include <string.h>

/* Cut `n` floats, rounded up to a cache line, from the block. With no block, only count. */
static float *cut(size_t *used, float *block, size_t n)
{
    float *piece = block ? block + *used : NULL;
    *used += (n + 15) & ~(size_t)15;
    return piece;
}

static size_t lay_out(const decoder_config *c, workspace *w)
{
    size_t used = 0, rows = w->n_tokens < CHUNK_TOKENS ? w->n_tokens : CHUNK_TOKENS;
    size_t sinks_rows = w->has_sinks ? rows : 0;
    size_t gated_rows = c->mlp == MLP_GATED_SILU ? rows : 0;
    w->hidden = cut(&used, w->block, w->n_tokens * c->d_model);
    w->norm = cut(&used, w->block, rows * c->d_model);
    w->qkv = cut(&used, w->block, rows * decoder_qkv_width(c));
    w->q_sinks = cut(&used, w->block, sinks_rows * decoder_qkv_width(c));
    w->angles = cut(&used, w->block, rows * c->rope.dim);
    w->sinks_angles = cut(&used, w->block, sinks_rows * c->rope.dim);
    w->attended = cut(&used, w->block, rows * decoder_attended_width(c));
    w->up = cut(&used, w->block, rows * decoder_up_width(c));
    w->gated = cut(&used, w->block, gated_rows * c->d_inner);
    w->delta = cut(&used, w->block, rows * c->d_model);
    return used * sizeof(float);
}

kvp_status workspace_reserve(workspace *w, const decoder_config *c, size_t n_tokens, bool has_sinks)
{
    if (n_tokens <= w->n_tokens && (!has_sinks || w->has_sinks))
        return KVP_OK;
    workspace larger = {.n_tokens = n_tokens > w->n_tokens ? n_tokens : w->n_tokens,
                        .has_sinks = has_sinks || w->has_sinks};
    larger.bytes = lay_out(c, &larger);
    workspace_fini(w); /* first: both at once would be the peak of the whole run */
    larger.block = aligned_alloc(64, larger.bytes);
    if (!larger.block)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes of activations for %zu tokens",
                        larger.bytes, larger.n_tokens);
    (void)lay_out(c, &larger);
    *w = larger;
    return KVP_OK;
}

void workspace_fini(workspace *w)
{
    free(w->block);
    *w = (workspace){0};
}
