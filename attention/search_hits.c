/* search_hits.c - the k best of what is offered, in any order: which they are does not depend on
 * the order, since no two keys are equally good (the lower position wins).
 *
 * Until all have been offered, a hit's `place` is that of its value: a hit that comes in takes the
 * place of the one that leaves. */
#include "attention/search.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static bool is_worse(const kvp_hit *a, const kvp_hit *b)
{
    return a->score != b->score ? a->score < b->score : a->position > b->position;
}

void kvpi_hits_init(kvpi_hits *h, kvp_hit *heap, size_t k, char *values, size_t value_bytes)
{
    h->heap = heap;
    h->n = 0;
    h->k = k;
    h->values = values;
    h->value_bytes = value_bytes;
    h->least = k ? -INFINITY : INFINITY;
}

/* Let `hit` sink from place i until no worse one is below it. */
static void sink(kvp_hit *heap, size_t n, size_t i, kvp_hit hit)
{
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && is_worse(&heap[child + 1], &heap[child]))
            child++;
        if (!is_worse(&heap[child], &hit))
            break;
        heap[i] = heap[child];
    }
    heap[i] = hit;
}

static void rise(kvp_hit *heap, size_t i, kvp_hit hit)
{
    for (; i && is_worse(&hit, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = hit;
}

void kvpi_hits_offer(kvpi_hits *h, uint64_t position, float score, const void *value)
{
    kvp_hit hit = {.position = position, .score = score, .place = (uint32_t)h->n};
    if (h->n < h->k) {
        rise(h->heap, h->n++, hit);
    } else {
        hit.place = h->heap[0].place;
        if (!is_worse(&h->heap[0], &hit))
            return;
        sink(h->heap, h->n, 0, hit);
    }
    if (h->values)
        memcpy(h->values + hit.place * h->value_bytes, value, h->value_bytes);
    if (h->n == h->k)
        h->least = h->heap[0].score;
}

static void swap_bytes(char *a, char *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char x = a[i];
        a[i] = b[i];
        b[i] = x;
    }
}

/* Values into the order of hits. What lay at a place that has been filled since has gone to the one
 * that the hit of that place names. */
static void sort_values(kvpi_hits *h)
{
    for (size_t i = 0; i < h->n && h->values; i++) {
        size_t from = h->heap[i].place;
        while (from < i)
            from = h->heap[from].place;
        if (from != i)
            swap_bytes(h->values + i * h->value_bytes, h->values + from * h->value_bytes,
                       h->value_bytes);
    }
}

void kvpi_hits_sort(kvpi_hits *h)
{
    for (size_t n = h->n; n > 1; n--) {
        kvp_hit worst = h->heap[0];
        sink(h->heap, n - 1, 0, h->heap[n - 1]);
        h->heap[n - 1] = worst;
    }
    sort_values(h);
    for (size_t i = 0; i < h->n; i++)
        h->heap[i].place = (uint32_t)i;
}
