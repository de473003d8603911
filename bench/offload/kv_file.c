/* kv_file.c - layout: the head, then for each layer K and V, each [head][token][width]. */
#define _GNU_SOURCE 1
#include "kv_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC 0x3130564b70766bu /* "kvpKV01" */
#define CHUNK_TOKENS 512u       /* moved at a time: small beside any budget */
#define MAX_PAGES 4096u

/* Where a layer's rows lie. */
typedef struct place {
    kvp_layer_kind kind;
    uint64_t n_tokens;
    uint64_t k, v; /* offsets in the file */
    size_t k_row, v_row;
} place;

static kvp_status fail_io(const char *path, const char *what)
{
    return kvp_fail(KVP_E_IO, "%s: %s: %s", path, what, strerror(errno ? errno : EIO));
}

static kvp_status put(int fd, const char *path, const void *bytes, size_t n, uint64_t at)
{
    errno = 0;
    return pwrite(fd, bytes, n, (off_t)at) == (ssize_t)n ? KVP_OK : fail_io(path, "write");
}

static kvp_status get(int fd, const char *path, void *bytes, size_t n, uint64_t at)
{
    errno = 0;
    return pread(fd, bytes, n, (off_t)at) == (ssize_t)n ? KVP_OK : fail_io(path, "read");
}

/* The place of `layer`, whose predecessor ends at *at; moves *at behind it. */
static kvp_status locate(const kvp_seq *seq, uint32_t layer, uint64_t n_tokens, uint64_t *at,
                         place *out)
{
    kvp_layer_info info;
    kvp_status status = kvp_seq_layer_info(seq, layer, &info);
    if (status)
        return status;
    size_t element = kvp_dtype_bytes(info.kind.dtype);
    *out = (place){.kind = info.kind,
                   .n_tokens = n_tokens,
                   .k_row = info.kind.k_width * element,
                   .v_row = info.kind.v_width * element,
                   .k = *at};
    out->v = out->k + info.kind.n_kv_heads * n_tokens * out->k_row;
    *at = out->v + info.kind.n_kv_heads * n_tokens * out->v_row;
    return KVP_OK;
}

/* ---- save ---- */

static kvp_status save_page(int fd, const char *path, const place *p, const kvp_page_view *page)
{
    kvp_status status = KVP_OK;
    for (uint32_t h = 0; h < page->n_heads && !status; h++) {
        uint64_t row = (page->first_head + h) * p->n_tokens + page->first_position;
        status =
            put(fd, path, kvp_page_k(page, h), page->n_valid * p->k_row, p->k + row * p->k_row);
        if (!status)
            status =
                put(fd, path, kvp_page_v(page, h), page->n_valid * p->v_row, p->v + row * p->v_row);
    }
    return status;
}

static kvp_status save_layer(int fd, const char *path, kvp_seq *seq, uint32_t layer, const place *p,
                             kvp_page_view *pages)
{
    kvp_status status = KVP_OK;
    for (uint64_t at = 0, n; at < p->n_tokens && !status; at += n) {
        n = p->n_tokens - at < CHUNK_TOKENS ? p->n_tokens - at : CHUNK_TOKENS;
        kvp_view view = {.pages = pages, .max_pages = MAX_PAGES};
        status = kvp_seq_pin(seq, layer, at, n, KVP_FOREVER, &view);
        if (status)
            return status;
        for (size_t i = 0; i < view.n_pages && !status; i++)
            status = save_page(fd, path, p, &pages[i]);
        kvp_view_unpin(&view);
    }
    return status;
}

kvp_status kv_file_save(const char *path, kv_file_head *head, kvp_seq *seq)
{
    head->magic = MAGIC;
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    kvp_page_view *pages = malloc(MAX_PAGES * sizeof *pages);
    kvp_status status = fd < 0   ? fail_io(path, "open")
                        : !pages ? kvp_fail(KVP_E_NOMEM, "out of memory for a view")
                                 : put(fd, path, head, sizeof *head, 0);
    uint64_t at = sizeof *head;
    for (uint32_t layer = 0; layer < head->n_layers && !status; layer++) {
        place p;
        status = locate(seq, layer, head->n_tokens, &at, &p);
        if (!status)
            status = save_layer(fd, path, seq, layer, &p, pages);
    }
    free(pages);
    if (fd >= 0 && close(fd) && !status)
        status = fail_io(path, "close");
    return status;
}

/* ---- plant ---- */

kvp_status kv_file_head_read(const char *path, kv_file_head *head)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    kvp_status status = fd < 0 ? fail_io(path, "open") : get(fd, path, head, sizeof *head, 0);
    if (!status && head->magic != MAGIC)
        status = kvp_fail(KVP_E_INVALID, "%s: not a KV file of this benchmark", path);
    if (fd >= 0)
        close(fd);
    return status;
}

/* Tokens [at, at + n) of K or V into rows [head][n][width]. */
static kvp_status read_rows(int fd, const char *path, const place *p, uint64_t base, size_t row,
                            uint64_t at, uint64_t n, char *rows)
{
    kvp_status status = KVP_OK;
    for (uint32_t h = 0; h < p->kind.n_kv_heads && !status; h++)
        status = get(fd, path, rows + h * n * row, n * row, base + (h * p->n_tokens + at) * row);
    return status;
}

static kvp_status plant_chunk(int fd, const char *path, kvp_seq *seq, uint32_t layer,
                              const place *p, uint64_t at, uint64_t n, char *rows)
{
    char *k = rows, *v = rows + p->kind.n_kv_heads * n * p->k_row;
    kvp_status status = read_rows(fd, path, p, p->k, p->k_row, at, n, k);
    if (!status)
        status = read_rows(fd, path, p, p->v, p->v_row, at, n, v);
    const kvp_rows source = {.k = k,
                             .v = v,
                             .dtype = p->kind.dtype,
                             .k_token_stride = p->k_row,
                             .v_token_stride = p->v_row,
                             .k_head_stride = n * p->k_row,
                             .v_head_stride = n * p->v_row};
    return status ? status : kvp_seq_append_rows(seq, layer, &source, n);
}

static kvp_status plant_layer(int fd, const char *path, kvp_seq *seq, uint32_t layer,
                              const place *p)
{
    char *rows = malloc(p->kind.n_kv_heads * CHUNK_TOKENS * (p->k_row + p->v_row));
    kvp_status status = rows ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory for rows");
    for (uint64_t at = 0, n; at < p->n_tokens && !status; at += n) {
        n = p->n_tokens - at < CHUNK_TOKENS ? p->n_tokens - at : CHUNK_TOKENS;
        status = plant_chunk(fd, path, seq, layer, p, at, n, rows);
    }
    free(rows);
    return status;
}

kvp_status kv_file_plant(const char *path, kvp_seq *seq)
{
    kv_file_head head;
    kvp_status status = kv_file_head_read(path, &head);
    if (status)
        return status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_io(path, "open");
    uint64_t at = sizeof head;
    for (uint32_t layer = 0; layer < head.n_layers && !status; layer++) {
        place p;
        status = locate(seq, layer, head.n_tokens, &at, &p);
        if (!status)
            status = plant_layer(fd, path, seq, layer, &p);
    }
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* no contender should be charged for it */
    close(fd);
    return status;
}
