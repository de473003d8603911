/* demo.h - the demo model's folder and its expected outputs. */
#ifndef TESTS_DEMO_H
#define TESTS_DEMO_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/* Where the source tree is: tests run from its root unless the build says otherwise. */
#ifndef KVP_SOURCE_DIR
#define KVP_SOURCE_DIR "."
#endif

#define DEMO_DIR KVP_SOURCE_DIR "/models/demo"

/* golden.json; fails the test if it cannot be read. The caller decrefs. */
json_t *demo_golden(void);
/* The array `key` (of object `from`) as ids or doubles; *n its length; the caller frees. */
int32_t *demo_ids(const json_t *from, const char *key, size_t *n);
double *demo_numbers(const json_t *from, const char *key, size_t *n);
/* logits.npy, float32 [rows][width]; the caller frees. */
float *demo_logits(size_t rows, size_t width);

#endif
