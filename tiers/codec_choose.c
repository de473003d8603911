/* codec_choose.c - which codec a page gets, and what its K and V are told against: nobody else
 * decides that.
 *
 * Nothing is tried out. A few rows spread over the part are split with each predictor; the entropy
 * of their top bytes says what Huffman codes would make of the part (within 1 % or so), their
 * number beyond the 15 most frequent what a palette would. The smallest sum is taken; a slower way
 * of decoding must save 1/64 more than a faster one: less is not worth the time. */
#include "tiers/codec_impl.h"

#include <math.h>
#include <string.h>

#define MIN_GAIN ((size_t)64) /* one byte in so many */
#define PIECE ((size_t)128)   /* elements of a row that are looked at, at most */
#define HUFFMAN_BLOCK ((size_t)1 << 14)
#define UNIT 256u /* bits are counted in 1/256 */

typedef struct sample {
    uint32_t n;
    uint32_t counts[KVPI_N_PREDICTORS][256]; /* of top bytes */
    bool has[KVPI_N_PREDICTORS];
} sample;

void kvpi_choose_init(kvpi_codec *c)
{
    c->n_log_n[0] = 0;
    for (size_t n = 1; n <= KVPI_MAX_SAMPLE; n++)
        c->n_log_n[n] = (uint32_t)lround((double)n * log2((double)n) * UNIT);
}

/* ---- samples ---- */

/* n elements at `column` of a row, split with predictor p. */
static void count_piece(kvpi_codec *c, const kvpi_part *part, kvpi_predictor p, size_t slice,
                        size_t row, size_t column, size_t n, uint32_t *counts)
{
    const kvpi_plane_shape *s = &part->planes;
    const size_t bytes = s->element_bytes, i = slice * (s->n / s->n_slices) + row * s->width;
    const uint8_t *src = part->live + (i + column) * bytes, *ref = NULL;
    kvpi_against against = KVPI_AGAINST_NOTHING;
    if (p == KVPI_PREDICT_TOKEN && row > 0) {
        against = KVPI_AGAINST_VALUE;
        ref = src - s->width * bytes;
    } else if (p == KVPI_PREDICT_SCALE) {
        against = KVPI_AGAINST_EXPONENT;
        ref = part->refs + slice * s->width + column;
    }
    uint8_t high[PIECE], low[3 * PIECE];
    kvpi_split_of(c->kernels, bytes, against)(src, ref, n, high, low, PIECE);
    for (size_t k = 0; k < n; k++)
        counts[high[k]]++;
}

/* Pieces of rows, evenly over all slices: an eighth of the part, but no more and (if it has them)
 * no less than makes an estimate good. */
static void take_sample(kvpi_codec *c, kvpi_part *part, sample *out)
{
    const kvpi_plane_shape *s = &part->planes;
    size_t slice_n = s->n / s->n_slices, rows = slice_n / s->width;
    size_t piece = s->width < PIECE ? s->width : PIECE;
    size_t wanted = s->n / 8 < KVPI_MAX_SAMPLE / 2 ? KVPI_MAX_SAMPLE / 2 : s->n / 8;
    size_t n_pieces = (wanted < KVPI_MAX_SAMPLE ? wanted : KVPI_MAX_SAMPLE) / piece;
    size_t all = s->n_slices * rows;
    if (n_pieces > all)
        n_pieces = all;
    memset(out, 0, sizeof *out);
    for (kvpi_predictor p = KVPI_PREDICT_NONE; p < KVPI_N_PREDICTORS; p++)
        out->has[p] = rows > 0 && kvpi_part_refer(part, p);
    for (size_t k = 0; k < n_pieces; k++) {
        size_t at = (2 * k + 1) * all / (2 * n_pieces);
        size_t column = k * piece % s->width;
        if (column + piece > s->width)
            column = s->width - piece;
        for (kvpi_predictor p = KVPI_PREDICT_NONE; p < KVPI_N_PREDICTORS; p++)
            if (out->has[p])
                count_piece(c, part, p, at / rows, at % rows, column, piece, out->counts[p]);
        out->n += (uint32_t)piece;
    }
}

/* ---- estimates, in bytes ---- */

/* Of n top bytes as Huffman codes: entropy, corrected for what a sample does not show (Miller and
 * Madow), at least a bit each; and tables. */
static size_t estimate_huffman(const kvpi_codec *c, const uint32_t *counts, uint32_t n_sample,
                               size_t n)
{
    uint64_t bits = c->n_log_n[n_sample];
    size_t n_symbols = 0;
    for (size_t b = 0; b < 256; b++) {
        bits -= c->n_log_n[counts[b]];
        n_symbols += counts[b] > 0;
    }
    if (n_symbols > 1) {
        bits += (uint64_t)(n_symbols - 1) * (UNIT * 72 / 100);
        bits = bits > (uint64_t)n_sample * UNIT ? bits : (uint64_t)n_sample * UNIT;
    }
    size_t n_blocks = (n + HUFFMAN_BLOCK - 1) / HUFFMAN_BLOCK;
    return (size_t)(bits * n / n_sample / UNIT / 8) + n_blocks * (20 + n_symbols / 2);
}

static size_t estimate_palette(const uint32_t *counts, uint32_t n_sample, size_t n)
{
    uint8_t palette[KVPI_PALETTE_COLOURS];
    size_t n_escapes = n_sample - kvpi_palette_choose(counts, palette);
    return sizeof palette + kvpi_nibble_bytes(n) + n_escapes * n / n_sample;
}

static size_t estimate(const kvpi_codec *c, kvpi_codec_id codec, const sample *s, kvpi_predictor p,
                       size_t n)
{
    return codec == KVPI_CODEC_HUFFMAN ? estimate_huffman(c, s->counts[p], s->n, n)
                                       : estimate_palette(s->counts[p], s->n, n);
}

/* What a part would take with the best predictor for that codec. */
static size_t estimate_part(const kvpi_codec *c, const kvpi_part *part, const sample *s,
                            kvpi_codec_id codec, kvpi_predictor *best)
{
    const kvpi_plane_shape *planes = &part->planes;
    size_t least = SIZE_MAX;
    for (kvpi_predictor p = KVPI_PREDICT_NONE; p < KVPI_N_PREDICTORS; p++) {
        if (!s->has[p])
            continue;
        size_t n = kvpi_reference_bytes(planes, p) + estimate(c, codec, s, p, planes->n);
        if (n < least) {
            least = n;
            *best = p;
        }
    }
    return least + planes->n * (planes->element_bytes - 1);
}

/* ---- choice ---- */

/* The estimate, and the plan that it belongs to. */
static size_t make_plan(const kvpi_codec *c, const sample samples[2], kvpi_codec_id codec,
                        kvpi_plan *plan)
{
    size_t n = 0;
    *plan = (kvpi_plan){.codec = codec};
    for (size_t which = 0; which < 2; which++)
        if (samples[which].n)
            n +=
                estimate_part(c, &c->parts[which], &samples[which], codec, &plan->predictor[which]);
        else
            n += c->parts[which].n_live; /* a few elements, or none */
    return n;
}

void kvpi_choose(kvpi_codec *c, kvpi_plan *plan)
{
    /* By what decoding takes. */
    static const kvpi_codec_id tried[] = {KVPI_CODEC_PALETTE, KVPI_CODEC_HUFFMAN};
    sample samples[2];
    size_t least = c->parts[0].bytes + c->parts[1].bytes;
    for (size_t which = 0; which < 2; which++)
        if (c->parts[which].planes.n)
            take_sample(c, &c->parts[which], &samples[which]);
        else
            samples[which].n = 0;
    *plan = (kvpi_plan){.codec = KVPI_CODEC_RAW};
    for (size_t i = 0; i < sizeof tried / sizeof tried[0]; i++) {
        kvpi_plan candidate;
        if (tried[i] == KVPI_CODEC_HUFFMAN && !c->entropy)
            continue;
        size_t estimated = make_plan(c, samples, tried[i], &candidate);
        if (estimated + estimated / MIN_GAIN < least) {
            least = estimated;
            *plan = candidate;
        }
    }
}
