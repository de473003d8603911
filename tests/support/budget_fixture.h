/* budget_fixture.h - what tests of budgets share: pagers of small pages whose bytes are known from
 * their positions, groups with budgets in pages, and what they use. Whatever goes wrong fails the
 * test. */
#ifndef TESTS_BUDGET_FIXTURE_H
#define TESTS_BUDGET_FIXTURE_H

#include "kvpager.h"
#include "kvpager/budget.h"
#include "pattern.h"

#define PAGE_TOKENS 64u
#define PAGE 4096u /* 64 tokens of one head, K and V 8 floats wide */
#define MAX_PAGES 512u

void must(kvp_status status);
/* The call failed so, and its message has `with`. */
void assert_fails(kvp_status status, kvp_status expected, const char *with);

/* One thread. Each of the last two may be 0: there is no such tier. */
kvp_config config(uint32_t n_frames, uint32_t zram_pages, uint32_t disk_slots);
kvp_pager *open_pager(uint32_t n_frames, uint32_t zram_pages, uint32_t disk_slots);
/* After kvp_pager_check(). */
void close_pager(kvp_pager *pager);

/* With a budget of RAM, in pages; max 0: none. */
kvp_group *group_of(kvp_pager *pager, kvp_group *parent, const char *name, uint32_t min,
                    uint32_t max);
kvp_seq *seq_in(kvp_group *g);
kvp_status append_page(kvp_seq *seq);
void append_pages(kvp_seq *seq, uint32_t n);
/* Pages appended until there is no room. */
uint32_t fill(kvp_seq *seq);
/* And compare. */
void read_all(kvp_seq *seq);
bool is_as_appended(const kvp_page_view *page);

kvp_group_usage usage_of(kvp_group *g);
uint64_t pages_in(kvp_group *g, kvp_tier_id tier);
kvp_stats stats_of(kvp_pager *pager);

#endif
