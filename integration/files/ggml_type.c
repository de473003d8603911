/* ggml_type.c - sizes of ggml's tensor types. Source: enum ggml_type of ggml.h, and the block
 * structs of ggml-common.h. Gaps are types that were withdrawn, or never stored. */
#include "integration/files/ggml_type.h"

#include <stddef.h>

static const ggml_type types[] = {[GGML_F32] = {"F32", 1, 4},
                                  [GGML_F16] = {"F16", 1, 2},
                                  [GGML_Q4_0] = {"Q4_0", 32, 18},
                                  [GGML_Q4_1] = {"Q4_1", 32, 20},
                                  [6] = {"Q5_0", 32, 22},
                                  [7] = {"Q5_1", 32, 24},
                                  [GGML_Q8_0] = {"Q8_0", 32, 34},
                                  [10] = {"Q2_K", 256, 84},
                                  [11] = {"Q3_K", 256, 110},
                                  [GGML_Q4_K] = {"Q4_K", 256, 144},
                                  [13] = {"Q5_K", 256, 176},
                                  [GGML_Q6_K] = {"Q6_K", 256, 210},
                                  [16] = {"IQ2_XXS", 256, 66},
                                  [17] = {"IQ2_XS", 256, 74},
                                  [18] = {"IQ3_XXS", 256, 98},
                                  [19] = {"IQ1_S", 256, 50},
                                  [20] = {"IQ4_NL", 32, 18},
                                  [21] = {"IQ3_S", 256, 110},
                                  [22] = {"IQ2_S", 256, 82},
                                  [23] = {"IQ4_XS", 256, 136},
                                  [24] = {"I8", 1, 1},
                                  [25] = {"I16", 1, 2},
                                  [26] = {"I32", 1, 4},
                                  [27] = {"I64", 1, 8},
                                  [28] = {"F64", 1, 8},
                                  [29] = {"IQ1_M", 256, 56},
                                  [GGML_BF16] = {"BF16", 1, 2},
                                  [34] = {"TQ1_0", 256, 54},
                                  [35] = {"TQ2_0", 256, 66},
                                  [39] = {"MXFP4", 32, 17}};

const ggml_type *ggml_type_find(uint32_t number)
{
    if (number >= sizeof types / sizeof *types || !types[number].name)
        return NULL;
    return &types[number];
}
