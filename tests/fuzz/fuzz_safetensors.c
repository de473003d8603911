/* fuzz_safetensors.c - a weights file that is opened has its tensors inside it, side by side.
 *
 * Each input is tried twice: as it is, and with a header that ends at the last brace. Hardly any
 * change to a header would get past its length otherwise. */
#include "tests/fuzz/target.h"

#include "integration/files/safetensors.h"

#include <string.h>

#define LENGTH_BYTES 8u

static void try_open(const uint8_t *bytes, size_t n)
{
    safetensors *st = NULL;
    if (safetensors_open_bytes(bytes, n, "input", &st)) {
        require(!st && kvp_error()[0]);
        return;
    }
    uint64_t total = 0;
    for (size_t i = 0; i < safetensors_count(st); i++) {
        const safetensors_tensor *t = safetensors_at(st, i);
        const unsigned char *data = safetensors_data(st, t);
        uint64_t n_elements = 1;
        for (uint32_t k = 0; k < t->rank; k++)
            n_elements *= t->shape[k];
        require(n_elements == t->n_elements);
        require(data >= bytes && t->end - t->begin <= (uint64_t)(bytes + n - data));
        if (strcmp(t->dtype, "F32") == 0)
            require(t->end - t->begin == 4 * n_elements);
        require(strlen(t->name) < n && strlen(t->dtype));
        total += t->end - t->begin;
    }
    require(total < n);
    safetensors_close(st);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    try_open(bytes, n);
    size_t end = n;
    while (end > LENGTH_BYTES && bytes[end - 1] != '}')
        end--;
    if (end <= LENGTH_BYTES)
        return 0;
    uint8_t *mended = malloc(n);
    memcpy(mended, bytes, n);
    for (size_t i = 0; i < LENGTH_BYTES; i++)
        mended[i] = (uint8_t)((end - LENGTH_BYTES) >> 8 * i);
    try_open(mended, n);
    free(mended);
    return 0;
}
