/*
 * A cache of equal-sized pages, keyed by a number: for pieces of L2 tables (by host offset) and for
 * decompressed clusters (by L2 entry).
 *
 * Set-associative, a lock for each group of sets, so that threads seldom meet. A page is counted by
 * those who hold it: eviction only drops the cache's own hold, so a page in hand stays valid and
 * immutable. Memory: the capacity, and a page for each thread at most.
 */
#ifndef QCOW2_CACHE_H
#define QCOW2_CACHE_H

#include "lib/error.h"

#include <pthread.h>
#include <stdatomic.h>

struct page {
    atomic_uint holders;
    uint64_t key;
    uint8_t data[];
};

enum { CACHE_WAYS = 8, CACHE_LOCKS = 8 };

struct cache_set;

struct cache {
    size_t page_size;
    size_t set_count; /* a power of two */
    struct cache_set *sets;
    pthread_mutex_t locks[CACHE_LOCKS];
    pthread_mutex_t setup;
    atomic_bool ready;
    _Atomic(struct page *) spare; /* the memory of a page nobody holds, for the next one */
};

/* Takes no memory for pages until the first use. */
void cache_init(struct cache *c);
void cache_destroy(struct cache *c);

/* Fills DATA (page_size bytes) for KEY. */
typedef int (*cache_fill)(void *opaque, uint64_t key, uint8_t *data, struct img_error *err);

/*
 * The page of KEY, filled when it is not there. Two threads that miss at once may both fill; one of
 * the pages stays. Give it back with cache_put. PAGE_SIZE and CAPACITY (bytes) count on first use.
 * PASSING: a walk over everything, whose pages make room for each other before all others, unless
 * somebody else asks for them.
 */
int cache_get(struct cache *c, size_t page_size, size_t capacity, uint64_t key, bool passing,
              cache_fill fill, void *opaque, struct page **out, struct img_error *err);
void cache_put(struct cache *c, struct page *page);

/* Forgets the page of KEY, if it is there. */
void cache_drop(struct cache *c, uint64_t key);

/* Forgets every page. */
void cache_forget(struct cache *c);

#endif
