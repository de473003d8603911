/* quants.c - numbers as weights files have them, to floats.
 *
 * The layout of each block stands above its reader. Source: the block structs of ggml-common.h;
 * little-endian, packed. d and m are F16; nibbles hold the first half of a run low, the second half
 * high. */
#include "integration/models/quants.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#include "integration/files/ggml_type.h"
#include "integration/models/convert.h"

static uint16_t load_u16(const unsigned char *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return le16toh(value);
}

static float load_f16(const unsigned char *at)
{
    return convert_f16(load_u16(at));
}

/* ---- one number a block ---------------------------------------------------------------------- */

static void read_f32(const unsigned char *from, float *to, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, from + 4 * i, sizeof bits);
        to[i] = convert_bits(le32toh(bits));
    }
}

static void read_f16(const unsigned char *from, float *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = load_f16(from + 2 * i);
}

static void read_bf16(const unsigned char *from, float *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = convert_bits((uint32_t)load_u16(from + 2 * i) << 16);
}

/* ---- blocks of 32 ---------------------------------------------------------------------------- */

/* d; 32 int8 q: d q */
static void read_q8_0(const unsigned char *from, float *to, size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, from += 34, to += 32) {
        float d = load_f16(from);
        for (size_t i = 0; i < 32; i++)
            to[i] = d * (float)(int8_t)from[2 + i];
    }
}

/* d; 32 nibbles q: d (q - 8) */
static void read_q4_0(const unsigned char *from, float *to, size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, from += 18, to += 32) {
        float d = load_f16(from);
        for (size_t i = 0; i < 16; i++) {
            to[i] = d * (float)((from[2 + i] & 15) - 8);
            to[i + 16] = d * (float)((from[2 + i] >> 4) - 8);
        }
    }
}

/* d, m; 32 nibbles q: d q + m */
static void read_q4_1(const unsigned char *from, float *to, size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, from += 20, to += 32) {
        float d = load_f16(from), m = load_f16(from + 2);
        for (size_t i = 0; i < 16; i++) {
            to[i] = d * (float)(from[4 + i] & 15) + m;
            to[i + 16] = d * (float)(from[4 + i] >> 4) + m;
        }
    }
}

/* ---- blocks of 256 --------------------------------------------------------------------------- */

/* Scale and minimum j of eight, 6 bits each in 12 bytes: of the first four in the low bits of bytes
 * 0 to 3 and 4 to 7; of the others the low 4 bits in the nibbles of bytes 8 to 11, the high 2 bits
 * at the top of bytes 0 to 7. */
static void unpack_scale(const unsigned char *packed, size_t j, float *scale, float *minimum)
{
    if (j < 4) {
        *scale = (float)(packed[j] & 63);
        *minimum = (float)(packed[j + 4] & 63);
    } else {
        *scale = (float)((packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4);
        *minimum = (float)(packed[j + 4] >> 4 | (packed[j] >> 6) << 4);
    }
}

/* d, m; 12 bytes with 8 pairs (s, t), one per 32 elements; 256 nibbles q in runs of 64:
 * (d s) q - (m t) */
static void read_q4_k(const unsigned char *from, float *to, size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, from += 144) {
        float d = load_f16(from), m = load_f16(from + 2);
        const unsigned char *q = from + 16;
        for (size_t j = 0; j < 8; j += 2, q += 32, to += 64) {
            float s[2], t[2];
            unpack_scale(from + 4, j, &s[0], &t[0]);
            unpack_scale(from + 4, j + 1, &s[1], &t[1]);
            for (size_t i = 0; i < 32; i++) {
                to[i] = d * s[0] * (float)(q[i] & 15) - m * t[0];
                to[i + 32] = d * s[1] * (float)(q[i] >> 4) - m * t[1];
            }
        }
    }
}

/* 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 int8 s, d: (d s) (q - 32), an s per 16.
 * Of each 128 elements, number i + 32 k has its nibble in byte i + 32 (k % 2), low for k < 2, and
 * its pair in byte i, from bit 2 k on. */
static void read_q6_k(const unsigned char *from, float *to, size_t n_blocks)
{
    for (size_t b = 0; b < n_blocks; b++, from += 210) {
        float d = load_f16(from + 208);
        for (size_t half = 0; half < 2; half++, to += 128) {
            const unsigned char *low = from + 64 * half, *high = from + 128 + 32 * half;
            const unsigned char *scales = from + 192 + 8 * half;
            for (size_t k = 0; k < 4; k++) {
                for (size_t i = 0; i < 32; i++) {
                    int nibble = low[i + 32 * (k % 2)] >> 4 * (k / 2) & 15;
                    int pair = high[i] >> 2 * k & 3;
                    float scale = d * (float)(int8_t)scales[2 * k + i / 16];
                    to[i + 32 * k] = scale * (float)((nibble | pair << 4) - 32);
                }
            }
        }
    }
}

/* ---- all of them ----------------------------------------------------------------------------- */

typedef void reader(const unsigned char *from, float *to, size_t n_blocks);

static reader *const readers[] = {
    [GGML_F32] = read_f32,   [GGML_F16] = read_f16,   [GGML_BF16] = read_bf16,
    [GGML_Q8_0] = read_q8_0, [GGML_Q4_0] = read_q4_0, [GGML_Q4_1] = read_q4_1,
    [GGML_Q4_K] = read_q4_k, [GGML_Q6_K] = read_q6_k};

bool quants_can_read(uint32_t type)
{
    return type < sizeof readers / sizeof *readers && readers[type];
}

void quants_read(uint32_t type, const unsigned char *from, float *to, size_t n)
{
    assert(quants_can_read(type));
    size_t block_elements = ggml_type_find(type)->block_elements;
    assert(n % block_elements == 0);
    readers[type](from, to, n / block_elements);
}
