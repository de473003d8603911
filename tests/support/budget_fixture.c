/* budget_fixture.c - see budget_fixture.h. */
#include "budget_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

static const kvp_layer_kind kind = {1, 8, 8, KVP_F32};
static uint32_t salts[PAGE_TOKENS * MAX_PAGES];

void must(kvp_status status)
{
    if (status)
        fail_msg("%s: %s", kvp_status_str(status), kvp_error());
}

void assert_fails(kvp_status status, kvp_status expected, const char *with)
{
    assert_int_equal(status, expected);
    if (!strstr(kvp_error(), with))
        fail_msg("\"%s\" is not in: %s", with, kvp_error());
}

kvp_config config(uint32_t n_frames, uint32_t zram_pages, uint32_t disk_slots)
{
    kvp_config cfg = kvp_config_default();
    for (uint32_t i = 0; i < PAGE_TOKENS * MAX_PAGES; i++)
        salts[i] = i * 7; /* what a token is goes by its position */
    cfg.geometry = (kvp_geometry){.n_layers = 1,
                                  .n_kv_heads = 1,
                                  .head_dim = 8,
                                  .dtype = KVP_F32,
                                  .page_tokens = PAGE_TOKENS};
    cfg.n_threads = 1;
    cfg.zram_bytes = zram_pages * (uint64_t)PAGE;
    cfg.disk_bytes = disk_slots ? (disk_slots + 2) * (uint64_t)PAGE : 0;
    cfg.ram_bytes = (n_frames + 1 + (zram_pages > 0)) * (uint64_t)PAGE - 1;
    return cfg;
}

kvp_pager *open_pager(uint32_t n_frames, uint32_t zram_pages, uint32_t disk_slots)
{
    kvp_config cfg = config(n_frames, zram_pages, disk_slots);
    kvp_pager *pager;
    must(kvp_pager_open(&cfg, &pager));
    return pager;
}

void close_pager(kvp_pager *pager)
{
    must(kvp_pager_check(pager));
    kvp_pager_close(pager);
}

kvp_group *group_of(kvp_pager *pager, kvp_group *parent, const char *name, uint32_t min,
                    uint32_t max)
{
    kvp_budget b = kvp_budget_default();
    kvp_group *g;
    b.name = name;
    b.min[KVP_TIER_RAM] = min * (uint64_t)PAGE;
    if (max)
        b.max[KVP_TIER_RAM] = max * (uint64_t)PAGE;
    must(kvp_group_create(pager, parent, &b, &g));
    return g;
}

kvp_seq *seq_in(kvp_group *g)
{
    kvp_seq *seq;
    must(kvp_seq_create_in(g, &seq));
    return seq;
}

kvp_status append_page(kvp_seq *seq)
{
    float k[PAGE_TOKENS * 8], v[PAGE_TOKENS * 8];
    pattern_rows(&kind, salts + kvp_seq_length(seq), PAGE_TOKENS, k, v);
    return kvp_seq_append(seq, 0, k, v, PAGE_TOKENS);
}

void append_pages(kvp_seq *seq, uint32_t n)
{
    while (n-- > 0)
        must(append_page(seq));
}

uint32_t fill(kvp_seq *seq)
{
    uint32_t n = 0;
    kvp_status status;
    while (!(status = append_page(seq)) && n < MAX_PAGES - 1)
        n++;
    assert_int_equal(status, KVP_E_NOSPACE);
    return n;
}

bool is_as_appended(const kvp_page_view *page)
{
    return pattern_page_ok(page, salts);
}

void read_all(kvp_seq *seq)
{
    kvp_scan *scan;
    kvp_scan_item item;
    kvp_page_view page;
    must(kvp_scan_open(seq, &(kvp_scan_args){.max_parts = 1, .end = UINT64_MAX}, &scan));
    for (must(kvp_scan_claim(scan, 0, &item)); item.n_pages; must(kvp_scan_claim(scan, 0, &item)))
        for (uint32_t i = 0; i < item.n_pages; i++) {
            must(kvp_scan_next(scan, 0, &page));
            assert_true(is_as_appended(&page));
        }
    kvp_scan_close(scan);
}

kvp_group_usage usage_of(kvp_group *g)
{
    kvp_group_usage u = {.size = sizeof u};
    must(kvp_group_stats(g, &u));
    return u;
}

uint64_t pages_in(kvp_group *g, kvp_tier_id tier)
{
    return usage_of(g).bytes[tier] / PAGE;
}

kvp_stats stats_of(kvp_pager *pager)
{
    kvp_stats s = {.size = sizeof s};
    must(kvp_pager_stats(pager, &s));
    return s;
}
