/* raw.c - bench_offload raw: GB/s of a bare io_uring loop over a file in $TMPDIR, by block size. */
#include "offload.h"

#include <stdio.h>
#include <stdlib.h>

#include "bench/raw_read.h"

#define FILE_BYTES ((size_t)256 << 20)
#define N_SAMPLES 3u

static const raw_shape shapes[] = {{64u << 10, 8}, {256u << 10, 8}, {1u << 20, 4}};

/* The samples of every shape, turn by turn, in GB/s. */
static kvp_status sample(raw_file *f, json_t *result)
{
    const size_t n_shapes = sizeof shapes / sizeof *shapes;
    json_t *columns[sizeof shapes / sizeof *shapes];
    for (size_t i = 0; i < n_shapes; i++) {
        char name[32];
        snprintf(name, sizeof name, "%zuk_qd%u", shapes[i].block_bytes >> 10, shapes[i].depth);
        columns[i] = json_array();
        json_object_set_new(result, name, columns[i]);
    }
    for (size_t i = 0; i < N_SAMPLES * n_shapes; i++) {
        double gb_per_s = raw_read(f, shapes[i % n_shapes]);
        if (gb_per_s <= 0)
            return kvp_fail(KVP_E_IO, "a bare io_uring read failed");
        json_array_append_new(columns[i % n_shapes], json_real(gb_per_s));
    }
    return KVP_OK;
}

kvp_status offload_raw(const offload_options *o, json_t *result)
{
    const char *tmp = getenv("TMPDIR");
    (void)o;
    raw_file *f = raw_open(tmp && *tmp ? tmp : "/var/tmp", FILE_BYTES);
    if (!f)
        return kvp_fail(KVP_E_UNSUPPORTED, "no bare io_uring here");
    json_t *gb_per_s = json_object();
    json_object_set_new(result, "gb_per_s", gb_per_s);
    json_object_set_new(result, "is_direct", json_boolean(raw_is_direct(f)));
    kvp_status status = sample(f, gb_per_s);
    raw_close(f);
    return status;
}
