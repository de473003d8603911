/* isa.h - which instructions the arithmetic of the models may use. */
#ifndef KVPAGER_MODELS_ISA_H
#define KVPAGER_MODELS_ISA_H

#include "kvpager/status.h"

/* Each has what those before it have. */
typedef enum model_isa {
    MODEL_ISA_SCALAR,
    MODEL_ISA_AVX2, /* with FMA and F16C */
    MODEL_ISA_AVX512,
    MODEL_ISA_AVX512_BF16
} model_isa;

/* The best that this CPU has, or what the environment variable KVP_ISA (kvp_isa()) restricts it to.
 * Errors: KVP_E_UNSUPPORTED, KVP_ISA names one that is unknown or not here. */
KVP_NODISCARD kvp_status model_isa_find(model_isa *out);

#endif
