/* mooncake.c - reads the block hashes of the Mooncake traces (JSON Lines) as a trace. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "integration/files/json_file.h"
#include "integration/files/mapped_file.h"
#include "integration/replay/trace.h"

/* Ids of blocks, and the pages that they are. Open addressing, at most half full. */
typedef struct block_map {
    struct {
        uint64_t id;
        uint32_t page;
        bool is_taken;
    } * slots;
    size_t n_slots; /* a power of two */
    uint32_t n;
} block_map;

static size_t find_slot(const block_map *m, uint64_t id)
{
    size_t i = (size_t)(id * 0x9e3779b97f4a7c15u) & (m->n_slots - 1);
    while (m->slots[i].is_taken && m->slots[i].id != id)
        i = (i + 1) & (m->n_slots - 1);
    return i;
}

static kvp_status make_room(block_map *m)
{
    if (2 * ((size_t)m->n + 1) <= m->n_slots)
        return KVP_OK;
    block_map larger = {.n_slots = m->n_slots ? 2 * m->n_slots : 1024, .n = m->n};
    larger.slots = calloc(larger.n_slots, sizeof *larger.slots);
    if (!larger.slots)
        return kvp_fail(KVP_E_NOMEM, "out of memory for %zu blocks", larger.n_slots);
    for (size_t i = 0; i < m->n_slots; i++)
        if (m->slots[i].is_taken)
            larger.slots[find_slot(&larger, m->slots[i].id)] = m->slots[i];
    free(m->slots);
    *m = larger;
    return KVP_OK;
}

/* Block `index` of a prompt. */
static kvp_status add_block(trace *t, block_map *m, uint64_t id, uint32_t index)
{
    kvp_status status = make_room(m);
    if (status)
        return status;
    size_t i = find_slot(m, id);
    if (m->slots[i].is_taken)
        return trace_add(t, KVP_TRACE_PAGE_USED, m->slots[i].page, 0);
    m->slots[i].id = id;
    m->slots[i].page = m->n++;
    m->slots[i].is_taken = true;
    status = trace_add_new(t, m->slots[i].page, 0, index);
    return status ? status : trace_add(t, KVP_TRACE_PAGE_SEALED, m->slots[i].page, 0);
}

static kvp_status add_request(trace *t, block_map *m, const json_t *request, const char *where)
{
    const json_t *ids = json_object_get(request, "hash_ids");
    if (!json_is_array(ids))
        return kvp_fail(KVP_E_INVALID, "%s: hash_ids is no array", where);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return kvp_fail(KVP_E_INVALID, "%s: hash_ids[%zu] is no number from 0 on", where, i);
        kvp_status status = add_block(t, m, (uint64_t)json_integer_value(id), (uint32_t)i);
        if (status)
            return kvp_fail(status, "%s: %s", where, kvp_error());
    }
    t->n_seqs++;
    return KVP_OK;
}

static kvp_status read_lines(trace *t, block_map *m, const char *text, size_t n)
{
    const char *end = text + n;
    for (size_t line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t n_line = (size_t)((stop ? stop : end) - text);
        char where[512];
        json_t *request = NULL;
        snprintf(where, sizeof where, "%s: line %zu", t->name, line);
        kvp_status status = KVP_OK;
        if (strspn(text, " \t\r") < n_line)
            status = json_parse_object(text, n_line, where, KVP_E_INVALID, &request);
        if (!status && request)
            status = add_request(t, m, request, where);
        json_decref(request);
        if (status)
            return status;
        text += n_line + 1;
    }
    return KVP_OK;
}

kvp_status trace_parse_mooncake(const char *text, size_t n, const char *name, trace *t)
{
    block_map blocks = {0};
    kvp_status status = trace_init(t, name);
    if (status)
        return status;
    status = read_lines(t, &blocks, text, n);
    free(blocks.slots);
    if (status)
        trace_free(t);
    return status;
}

kvp_status trace_read_mooncake(const char *path, trace *t)
{
    mapped_file file = {0};
    kvp_status status = mapped_file_open(path, &file);
    if (!status)
        status = trace_parse_mooncake((const char *)file.bytes, file.n_bytes, path, t);
    mapped_file_close(&file);
    return status;
}
