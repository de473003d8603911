/* linear.c - linear views: open and close. */
#define _GNU_SOURCE 1
#include "tiers/account.h"
#include "tiers/linear.h"

#include "alloc/mem.h"

#include <sys/mman.h>
#include <unistd.h>

/* ---- the pager's views ---- */

kvp_status kvpi_linears_open(kvp_pager *p)
{
    if (!p->cfg.linear_bytes)
        return KVP_OK;
    kvp_status status = kvpi_alloc(&p->mem, sizeof *p->linears, "linear views", &p->linears);
    if (status)
        return status;
    p->linears->p = p;
    p->linears->uffd = (kvpi_uffd){.fd = -1, .stop_fd = -1};
    p->linears->empty_fd = -1;
    pthread_mutex_init(&p->linears->lock, NULL);
    pthread_cond_init(&p->linears->idle, NULL);
    return KVP_OK;
}

static void close_fds(kvpi_linears *all)
{
    kvpi_uffd_close(&all->uffd);
    if (all->empty_fd >= 0)
        close(all->empty_fd);
    all->empty_fd = -1;
}

void kvpi_linears_close(kvp_pager *p)
{
    kvpi_linears *all = p->linears;
    if (!all)
        return;
    while (all->first)
        kvp_linear_close(&(kvp_linear){.view = all->first});
    if (all->thread) {
        kvpi_uffd_stop(&all->uffd);
        p->env.thread_join(p->env.opaque, all->thread);
    }
    close_fds(all);
    pthread_cond_destroy(&all->idle);
    pthread_mutex_destroy(&all->lock);
    kvpi_free(&p->mem, all, sizeof *all);
    p->linears = NULL;
}

/* With the views' lock held: who holds the account's frames; NULL: it has no views. */
static kvpi_linear *find_holder(const kvpi_linears *all, const kvp_group *account)
{
    kvpi_linear *v = all->first;
    while (v && !(v->is_holder && v->seq->account == account))
        v = v->next;
    return v;
}

kvp_status kvpi_linears_check(const kvp_pager *p)
{
    kvpi_linears *all = p->linears;
    if (!all)
        return KVP_OK;
    uint64_t shared = 0;
    uint32_t n_views = 0;
    pthread_mutex_lock(&all->lock);
    bool v4 = true;
    for (const kvpi_linear *v = all->first; v; v = v->next, n_views++) {
        shared += v->share_bytes;
        v4 = v4 && v->n_frames && find_holder(all, v->seq->account);
    }
    bool v1 = p->stats.linear_resident_bytes <= all->shared_bytes && shared <= all->shared_bytes &&
              all->shared_bytes <= p->cfg.linear_bytes;
    v4 = v4 && n_views <= all->n_views;
    pthread_mutex_unlock(&all->lock);
    if (v1 && v4)
        return KVP_OK;
    return kvp_fail(KVP_E_CORRUPT, "pager invariant: %s: %u linear views have shares of %llu bytes",
                    v1 ? "V4" : "V1", n_views, (unsigned long long)shared);
}

/* With the views' lock held: the thread runs from the first view on. */
static kvp_status start_thread(kvpi_linears *all)
{
    if (all->thread)
        return KVP_OK;
    kvp_pager *p = all->p;
    kvp_status status = kvpi_uffd_open(&all->uffd);
    if (status)
        return status;
    all->empty_fd = memfd_create("kvpager-nothing", MFD_CLOEXEC);
    if (all->empty_fd < 0)
        status = kvp_fail(KVP_E_IO, "memfd_create: %m");
    if (!status)
        status = p->env.thread_start(p->env.opaque, kvpi_linear_run, all, &all->thread);
    if (status)
        close_fds(all);
    return status;
}

/* ---- what is viewed ---- */

static kvp_status check_args(const kvp_seq *seq, const kvp_linear_args *args)
{
    const kvpi_geometry *g = &seq->pager->geometry;
    if (!seq->pager->linears)
        return kvp_fail(KVP_E_BUDGET, "linear view: the pager has no RAM for any: set "
                                      "kvp_config.linear_bytes");
    if (args->layer >= g->n_layers)
        return kvp_fail(KVP_E_INVALID, "linear view: layer %u, but there are %u", args->layer,
                        g->n_layers);
    const kvpi_layer *l = &g->layers[args->layer];
    if (args->kv_head >= l->n_kv_heads)
        return kvp_fail(KVP_E_INVALID, "linear view: KV head %u, but layer %u has %u",
                        args->kv_head, args->layer, l->n_kv_heads);
    if (args->plane != KVP_PLANE_K && args->plane != KVP_PLANE_V)
        return kvp_fail(KVP_E_INVALID, "linear view: there is no plane %d", (int)args->plane);
    if (args->plane == KVP_PLANE_V && !l->v_width)
        return kvp_fail(KVP_E_INVALID, "linear view: layer %u has no V", args->layer);
    uint64_t length = kvp_seq_layer_length(seq, args->layer);
    if (args->first >= length || args->n_tokens > length - args->first)
        return kvp_fail(KVP_E_RANGE, "linear view: tokens %llu..%llu, but layer %u has %llu",
                        (unsigned long long)args->first,
                        (unsigned long long)(args->first + args->n_tokens), args->layer,
                        (unsigned long long)length);
    return KVP_OK;
}

static size_t row_bytes(const kvpi_layer *l, kvp_plane plane)
{
    return plane == KVP_PLANE_K ? kvpi_layer_k_row(l) : kvpi_layer_v_row(l);
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* What the view is of: pages from the one with token `first` on, to token `end`. */
static kvp_status locate(kvpi_linear *v, uint64_t first, uint64_t end)
{
    kvp_pager *p = v->all->p;
    const kvpi_layer *l = &p->geometry.layers[v->layer];
    const kvpi_lane *lane = &v->seq->lanes[l->lane_base + v->group];
    const uint32_t tokens = p->geometry.page_tokens;
    const uint64_t origin = first / tokens * tokens, last = (end - 1) / tokens * tokens;
    v->first_entry = kvpi_lane_find(lane, first, tokens);
    const uint64_t last_entry = v->first_entry + (last - origin) / tokens;
    if (last_entry >= lane->n_entries ||
        kvpi_lane_first_position(lane, v->first_entry, tokens) != origin ||
        kvpi_lane_first_position(lane, (uint32_t)last_entry, tokens) != last)
        return kvp_fail(KVP_E_RANGE,
                        "linear view: of tokens %llu..%llu some were evicted: view the rest in "
                        "parts",
                        (unsigned long long)first, (unsigned long long)end);
    size_t row = row_bytes(l, v->plane);
    v->strip_bytes = row * tokens;
    v->n_bytes = (end - origin) * row;
    v->block_bytes = round_up(v->strip_bytes, (size_t)sysconf(_SC_PAGESIZE));
    if (v->n_bytes / v->block_bytes >= UINT32_MAX / 2)
        return kvp_fail(KVP_E_RANGE, "linear view: %llu bytes are too many",
                        (unsigned long long)v->n_bytes);
    v->n_blocks = (uint32_t)((v->n_bytes + v->block_bytes - 1) / v->block_bytes);
    const uint64_t open = lane->n_tokens / tokens * tokens; /* the page that may change */
    if (end > open)
        v->n_kept = v->n_blocks - (uint32_t)((open - origin) * row / v->block_bytes);
    return KVP_OK;
}

/* ---- RAM for it ---- */

static kvp_status fail_share(const kvpi_linears *all, uint64_t needed, uint64_t max_bytes)
{
    uint64_t budget = all->p->cfg.linear_bytes;
    return kvp_fail(KVP_E_BUDGET,
                    "linear view: needs at least %llu bytes; max_bytes is %llu, of linear_bytes "
                    "%llu are left: raise them, or close other views",
                    (unsigned long long)needed, (unsigned long long)max_bytes,
                    (unsigned long long)(budget - all->shared_bytes));
}

/* With the views' lock held: V1. */
static kvp_status take_share(kvpi_linear *v, uint64_t max_bytes)
{
    kvpi_linears *all = v->all;
    uint64_t left = all->p->cfg.linear_bytes - all->shared_bytes;
    left = max_bytes && max_bytes < left ? max_bytes : left;
    const uint64_t n_loose = v->n_blocks - v->n_kept, fixed = v->n_kept + 1;
    const uint64_t least = fixed + (n_loose < 2 ? n_loose : 2), most = fixed + n_loose;
    uint64_t n = left / v->block_bytes < most ? left / v->block_bytes : most;
    if (n < least)
        return fail_share(all, least * v->block_bytes, max_bytes);
    v->ring_blocks = (uint32_t)(n - fixed);
    v->share_bytes = n * v->block_bytes;
    all->shared_bytes += v->share_bytes;
    return KVP_OK;
}

/* After its memory has gone. */
static void give_share(kvpi_linears *all, uint64_t share_bytes)
{
    pthread_mutex_lock(&all->lock);
    all->shared_bytes -= share_bytes;
    pthread_mutex_unlock(&all->lock);
}

static kvp_status join(kvpi_linear *v, uint64_t max_bytes)
{
    pthread_mutex_lock(&v->all->lock);
    kvp_status status = start_thread(v->all);
    if (!status)
        status = take_share(v, max_bytes);
    pthread_mutex_unlock(&v->all->lock);
    return status;
}

/* ---- the range ---- */

/* Registered before it may be read, so that nothing (a program that has locked all of its memory)
 * can fill it with zeros first. */
static kvp_status map(kvpi_linear *v)
{
    const size_t n = v->n_blocks * v->block_bytes;
    const int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *base = mmap(NULL, n + v->block_bytes, PROT_NONE, how, -1, 0);
    if (base == MAP_FAILED)
        return kvp_fail(KVP_E_NOMEM, "linear view: no address range of %zu bytes: %m", n);
    v->base = base;
    v->map_bytes = n + v->block_bytes;
    (void)munlock(base, v->map_bytes);                  /* or nothing could be dropped */
    (void)madvise(base, v->map_bytes, MADV_NOHUGEPAGE); /* dropped in small pieces */
    (void)madvise(base, v->map_bytes, MADV_DONTDUMP);
    if (madvise(base, v->map_bytes, MADV_DONTFORK)) /* a child's would be filled with zeros */
        return kvp_fail(KVP_E_UNSUPPORTED, "linear view: madvise(MADV_DONTFORK): %m");
    kvp_status status = kvpi_uffd_register(&v->all->uffd, base, n);
    if (!status && (mprotect(base, n, PROT_READ) ||
                    mprotect(v->base + n, v->block_bytes, PROT_READ | PROT_WRITE)))
        status = kvp_fail(KVP_E_NOMEM, "linear view: mprotect: %m");
    return status;
}

/* Nobody may be stopped in it for ever, nor go on with zeros. */
static void unmap(kvpi_linear *v)
{
    if (!v->map_bytes)
        return;
    (void)mprotect(v->base, v->map_bytes, PROT_NONE);
    kvpi_uffd_unregister(&v->all->uffd, v->base, v->n_blocks * v->block_bytes);
    (void)munmap(v->base, v->map_bytes);
}

/* ---- open and close ---- */

static size_t settled_words(uint32_t n_blocks)
{
    return n_blocks / 64 + 1;
}

/* `plan`, and room for what goes with it. */
static kvp_status create(const kvpi_linear *plan, kvpi_linear **out)
{
    size_t n = sizeof *plan + settled_words(plan->n_blocks) * sizeof(uint64_t) +
               (size_t)plan->ring_blocks * sizeof(uint32_t);
    kvpi_linear *v;
    kvp_status status = kvpi_alloc(&plan->all->p->mem, n, "a linear view", &v);
    if (status)
        return status;
    *v = *plan;
    v->bytes = n;
    v->run = 1;
    v->settled = (uint64_t *)(v + 1);
    v->ring = (uint32_t *)(v->settled + settled_words(v->n_blocks));
    *out = v;
    return KVP_OK;
}

static void destroy(kvpi_linear *v)
{
    kvp_pager *p = v->all->p;
    unmap(v);
    kvpi_lock(p);
    p->stats.linear_resident_bytes -= v->n_resident * v->block_bytes;
    kvpi_unlock(p);
    kvpi_free(&p->mem, v, v->bytes);
}

/* Rows that may still change are there from the start: V3. */
static kvp_status keep_open_page(kvpi_linear *v)
{
    kvp_status status = KVP_OK;
    for (uint32_t i = v->n_blocks - v->n_kept; i < v->n_blocks && !status; i++)
        status = kvpi_linear_fill(v, i);
    return status;
}

/* The thread may fill it from now on. Returns how many of its frames it does not need. */
static uint32_t publish(kvpi_linear *v)
{
    kvpi_linears *all = v->all;
    uint32_t n_spare = v->n_frames;
    pthread_mutex_lock(&all->lock);
    const kvpi_linear *holder = find_holder(all, v->seq->account);
    v->is_holder = !holder;
    if (holder)
        v->n_frames = holder->n_frames;
    v->next = all->first;
    all->first = v;
    all->n_views++;
    pthread_mutex_unlock(&all->lock);
    return holder ? n_spare : 0;
}

/* Another view of the account holds the frames from now on; false: there is none. */
static bool hand_over(const kvpi_linears *all, const kvp_group *account)
{
    kvpi_linear *heir = all->first;
    while (heir && heir->seq->account != account)
        heir = heir->next;
    if (heir)
        heir->is_holder = true;
    return heir != NULL;
}

/* The thread has forgotten it. Returns how many frames it needs no more. */
static uint32_t withdraw(kvpi_linear *v)
{
    kvpi_linears *all = v->all;
    pthread_mutex_lock(&all->lock);
    kvpi_linear **at = &all->first;
    while (*at != v)
        at = &(*at)->next;
    *at = v->next;
    while (all->busy == v)
        pthread_cond_wait(&all->idle, &all->lock);
    all->n_views--;
    bool is_needed = !v->is_holder || hand_over(all, v->seq->account);
    pthread_mutex_unlock(&all->lock);
    return is_needed ? 0 : v->n_frames;
}

/* Frames to fill with: one will do, more are read at once. */
static kvp_status hold_frames(kvp_seq *seq, uint32_t *n_frames)
{
    kvp_pager *p = seq->pager;
    kvpi_lock(p);
    uint32_t n = kvpi_account_frames(seq->account) / 16;
    n = n < 1 ? 1 : n < KVPI_LINEAR_MAX_RUN ? n : KVPI_LINEAR_MAX_RUN;
    kvpi_claim claim = {.account = seq->account, .n_min = 1, .n_max = n, .is_user = true};
    kvp_status status = kvpi_hold(p, &claim, KVP_FOREVER, n_frames);
    kvpi_unlock(p);
    return status;
}

/* n_pins: so many more, or less, that the sequence has; tickets change that too. */
static void unhold_frames(kvp_seq *seq, uint32_t n_frames, int32_t n_pins)
{
    kvpi_lock(seq->pager);
    kvpi_unhold(seq->pager, seq->account, n_frames, true);
    seq->n_pins += (uint32_t)n_pins;
    kvpi_unlock(seq->pager);
}

/* A view as planned, whose share is taken. */
static kvp_status build(const kvpi_linear *plan, kvpi_linear **out)
{
    kvpi_linear *v;
    kvp_status status = create(plan, &v);
    if (status)
        return status;
    status = map(v);
    if (!status)
        status = keep_open_page(v);
    if (status)
        destroy(v);
    else
        *out = v;
    return status;
}

kvp_status kvp_linear_open(kvp_seq *seq, const kvp_linear_args *args, kvp_linear *linear)
{
    if (!seq || !args || !linear)
        return kvp_fail(KVP_E_INVALID, "kvp_linear_open: an argument is NULL");
    kvp_status status = check_args(seq, args);
    if (status)
        return status;
    kvp_pager *p = seq->pager;
    const kvpi_layer *l = &p->geometry.layers[args->layer];
    const uint64_t end =
        args->n_tokens ? args->first + args->n_tokens : kvp_seq_layer_length(seq, args->layer);
    kvpi_linear plan = {.all = p->linears,
                        .seq = seq,
                        .layer = args->layer,
                        .group = args->kv_head / l->page_heads,
                        .head = args->kv_head % l->page_heads,
                        .plane = args->plane};
    kvpi_linear *v;
    status = locate(&plan, args->first, end);
    if (!status)
        status = hold_frames(seq, &plan.n_frames);
    if (status)
        return status;
    status = join(&plan, args->max_bytes);
    if (!status && (status = build(&plan, &v)))
        give_share(plan.all, plan.share_bytes);
    if (status) {
        unhold_frames(seq, plan.n_frames, 0);
        return status;
    }
    unhold_frames(seq, publish(v), 1);
    size_t row = row_bytes(l, args->plane);
    *linear = (kvp_linear){.base = v->base + args->first % p->geometry.page_tokens * row,
                           .row_bytes = row,
                           .n_rows = end - args->first,
                           .has_system_calls = p->linears->uffd.has_system_calls,
                           .view = v};
    return KVP_OK;
}

void kvp_linear_close(kvp_linear *linear)
{
    if (!linear || !linear->view)
        return;
    kvpi_linear *v = linear->view;
    kvpi_linears *all = v->all;
    const uint64_t share_bytes = v->share_bytes;
    unhold_frames(v->seq, withdraw(v), -1);
    destroy(v);
    give_share(all, share_bytes);
    linear->view = NULL;
}

kvp_status kvp_linear_status(const kvp_linear *linear)
{
    if (!linear || !linear->view)
        return kvp_fail(KVP_E_INVALID, "kvp_linear_status: the view is not open");
    kvpi_linear *v = linear->view;
    pthread_mutex_lock(&v->all->lock);
    kvp_status status = v->status ? kvp_fail(v->status, "%s", v->message) : KVP_OK;
    pthread_mutex_unlock(&v->all->lock);
    return status;
}
