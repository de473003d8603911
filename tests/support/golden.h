/* golden.h - where models are, and what they must compute: golden.json and logits.npy of a folder,
 * from Hugging Face transformers in float32. */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/* Where the source tree is: tests run from its root unless the build says otherwise. */
#ifndef KVP_SOURCE_DIR
#define KVP_SOURCE_DIR "."
#endif

#define DEMO_DIR KVP_SOURCE_DIR "/models/demo"
#define DEMO_GOLDEN KVP_SOURCE_DIR "/tests/data/demo"
#define SMOLLM2_GOLDEN KVP_SOURCE_DIR "/tests/data/smollm2"

/* golden.json of a folder; fails the test if it cannot be read. The caller decrefs. */
json_t *golden_load(const char *dir);
/* The array `key` (of object `from`) as ids or doubles; *n its length; the caller frees. */
int32_t *golden_ids(const json_t *from, const char *key, size_t *n);
double *golden_numbers(const json_t *from, const char *key, size_t *n);
/* logits.npy of a folder, float32 [rows][width]; the caller frees. */
float *golden_logits(const char *dir, size_t rows, size_t width);

/* max |a - b|, NaN if there is one. */
double max_difference(const float *a, const float *b, size_t n);
int32_t argmax(const float *logits, size_t n);
/* -log softmax(logits [n])[next] */
double nll_of(const float *logits, size_t n, int32_t next);

#endif
