/* linear_fill.c - linear views, touched where they are not there: rows are gathered from pages that
 * are faulted in and verified like for anybody else, and copied to where they are expected. */
#define _GNU_SOURCE 1
#include "tiers/linear.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static char *block_at(const kvpi_linear *v, uint32_t block)
{
    return v->base + block * v->block_bytes;
}

static bool is_settled(const kvpi_linear *v, uint32_t block)
{
    return v->settled[block / 64] >> block % 64 & 1;
}

static void settle(kvpi_linear *v, uint32_t block)
{
    v->settled[block / 64] |= (uint64_t)1 << block % 64;
}

/* It is there, or it is not any more. */
static void count(kvpi_linear *v, uint32_t block, bool is_there)
{
    kvp_pager *p = v->all->p;
    v->settled[block / 64] ^= (uint64_t)1 << block % 64;
    v->n_resident += is_there ? 1 : UINT32_MAX;
    kvpi_lock(p);
    p->stats.linear_resident_bytes += is_there ? v->block_bytes : -v->block_bytes;
    p->stats.linear_evictions += !is_there;
    kvpi_unlock(p);
}

/* ---- rows ---- */

/* With the lock held. */
static uint32_t page_number(const kvpi_linear *v, uint64_t strip)
{
    const kvpi_layer *l = &v->all->p->geometry.layers[v->layer];
    return v->seq->lanes[l->lane_base + v->group].entries[v->first_entry + strip].page;
}

static const char *strip_of(const kvpi_linear *v, const kvp_page_view *page)
{
    return v->plane == KVP_PLANE_K ? kvp_page_k(page, v->head) : kvp_page_v(page, v->head);
}

/* n bytes of a strip. The frame is one of n_frames. */
static kvp_status copy_strip(const kvpi_linear *v, uint64_t strip, size_t offset, char *to,
                             size_t n)
{
    kvp_pager *p = v->all->p;
    kvpi_lock(p);
    uint32_t number = page_number(v, strip);
    kvp_status status = kvpi_fault_in(v->seq, number, KVP_FOREVER);
    kvp_page_view page;
    if (!status)
        kvpi_fill_view(p, v->seq, v->layer, v->group, v->first_entry + (uint32_t)strip, &page);
    kvpi_unlock(p);
    if (status)
        return status;
    memcpy(to, strip_of(v, &page) + offset, n);
    kvpi_lock(p);
    kvpi_unpin(p, number);
    kvpi_unlock(p);
    return KVP_OK;
}

/* The block's bytes into the block behind the last one; zeros behind the last row. */
static kvp_status gather(const kvpi_linear *v, uint32_t block)
{
    char *to = block_at(v, v->n_blocks);
    uint64_t at = (uint64_t)block * v->block_bytes, end = at + v->block_bytes;
    end = end < v->n_bytes ? end : v->n_bytes;
    memset(to + (end - at), 0, v->block_bytes - (end - at));
    while (at < end) {
        size_t offset = at % v->strip_bytes, n = v->strip_bytes - offset;
        n = n < end - at ? n : end - at;
        kvp_status status = copy_strip(v, at / v->strip_bytes, offset, to, n);
        if (status)
            return status;
        at += n;
        to += n;
    }
    return KVP_OK;
}

/* ---- blocks ---- */

static kvp_status drop_oldest(kvpi_linear *v)
{
    uint32_t block = v->ring[v->ring_first];
    if (madvise(block_at(v, block), v->block_bytes, MADV_DONTNEED))
        return kvp_fail(KVP_E_NOMEM, "a linear view cannot give OS pages back: %m; nobody else may "
                                     "lock or map its range");
    count(v, block, false);
    v->ring_first = (v->ring_first + 1) % v->ring_blocks;
    v->n_in_ring--;
    return KVP_OK;
}

kvp_status kvpi_linear_fill(kvpi_linear *v, uint32_t block)
{
    kvp_status status = gather(v, block);
    if (!status)
        status = kvpi_uffd_copy(&v->all->uffd, block_at(v, block), block_at(v, v->n_blocks),
                                v->block_bytes);
    if (!status)
        count(v, block, true);
    return status;
}

static kvp_status fill_for_a_while(kvpi_linear *v, uint32_t block)
{
    kvp_status status = v->n_in_ring == v->ring_blocks ? drop_oldest(v) : KVP_OK;
    if (!status)
        status = kvpi_linear_fill(v, block);
    if (!status)
        v->ring[(v->ring_first + v->n_in_ring++) % v->ring_blocks] = block;
    return status;
}

/* Whoever reads these rows gets SIGBUS from now on: what is behind the end of a file does not
 * exist. (UFFDIO_POISON does the same, on Linux 6.6 and later only.) */
static void give_up(kvpi_linear *v, uint32_t block, kvp_status status)
{
    kvpi_linears *all = v->all;
    pthread_mutex_lock(&all->lock);
    if (!v->status)
        snprintf(v->message, sizeof v->message, "%s", kvp_error());
    v->status = v->status ? v->status : status;
    pthread_mutex_unlock(&all->lock);
    const int how = MAP_SHARED | MAP_FIXED | MAP_NORESERVE;
    char *at = block_at(v, block);
    size_t n = v->block_bytes;
    if (mmap(at, n, PROT_READ, how, all->empty_fd, 0) == MAP_FAILED) {
        at = v->base; /* UNTESTED: no more mappings can be had; the whole range takes none */
        n = v->n_blocks * v->block_bytes;
        (void)!mmap(at, n, PROT_READ, how, all->empty_fd, 0);
    }
    settle(v, block);
    kvpi_uffd_wake(&all->uffd, at, n);
}

/* ---- runs ---- */

/* Blocks to fill for a touch of this one: more and more, while the view is read in order. */
static uint32_t run_length(kvpi_linear *v, uint32_t block)
{
    uint32_t max = v->ring_blocks / 4 < v->n_frames ? v->ring_blocks / 4 : v->n_frames;
    if (block != v->expected || max < 2)
        v->run = 1;
    else
        v->run = 2 * v->run < max ? 2 * v->run : max;
    uint32_t n = 1;
    while (n < v->run && block + n < v->n_blocks && !is_settled(v, block + n))
        n++;
    return n;
}

/* The pages of the run are fetched together. */
static void start_faults(const kvpi_linear *v, uint32_t block, uint32_t n_blocks)
{
    kvp_pager *p = v->all->p;
    uint64_t end = (uint64_t)(block + n_blocks) * v->block_bytes;
    end = end < v->n_bytes ? end : v->n_bytes;
    uint64_t first = (uint64_t)block * v->block_bytes / v->strip_bytes;
    uint64_t last = (end - 1) / v->strip_bytes;
    last = last - first < v->n_frames ? last : first + v->n_frames - 1;
    kvpi_lock(p);
    p->stats.linear_faults++;
    for (uint64_t strip = first; strip <= last; strip++)
        if (kvpi_fault_start(p, page_number(v, strip), false))
            break; /* no frame or transfer now, or an error that copy_strip() will meet */
    kvpi_unlock(p);
}

static void serve(kvpi_linear *v, uint32_t block)
{
    if (is_settled(v, block)) { /* by now */
        kvpi_uffd_wake(&v->all->uffd, block_at(v, block), v->block_bytes);
        return;
    }
    uint32_t n = run_length(v, block);
    start_faults(v, block, n);
    kvp_status status = fill_for_a_while(v, block);
    if (status)
        give_up(v, block, status);
    for (uint32_t i = 1; i < n && !status; i++) /* a failure is for whoever touches that block */
        status = fill_for_a_while(v, block + i);
    v->expected = block + n;
}

/* ---- the thread ---- */

static kvpi_linear *find(kvpi_linears *all, uintptr_t address)
{
    for (kvpi_linear *v = all->first; v; v = v->next)
        if (address - (uintptr_t)v->base < v->n_blocks * v->block_bytes)
            return v;
    return NULL;
}

void kvpi_linear_run(void *arg)
{
    kvpi_linears *all = arg;
    uintptr_t address;
    while (kvpi_uffd_next(&all->uffd, &address)) {
        pthread_mutex_lock(&all->lock);
        kvpi_linear *v = find(all, address); /* NULL: it is being closed, which wakes its readers */
        all->busy = v;
        pthread_mutex_unlock(&all->lock);
        if (v)
            serve(v, (uint32_t)((address - (uintptr_t)v->base) / v->block_bytes));
        pthread_mutex_lock(&all->lock);
        all->busy = NULL;
        pthread_cond_broadcast(&all->idle);
        pthread_mutex_unlock(&all->lock);
    }
}
