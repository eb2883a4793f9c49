#include "formats/qcow2/cache.h"

#include <stdlib.h>
#include <string.h>

struct cache_set {
    uint64_t keys[CACHE_WAYS];
    struct page *pages[CACHE_WAYS]; /* NULL: free */
    uint64_t used[CACHE_WAYS];      /* the clock when it was last asked for; 0: a walk's, once */
    uint64_t clock;
};

void cache_init(struct cache *c)
{
    memset(c, 0, sizeof *c);
    for (unsigned i = 0; i < CACHE_LOCKS; i++)
        pthread_mutex_init(&c->locks[i], NULL);
    pthread_mutex_init(&c->setup, NULL);
}

void cache_put(struct cache *c, struct page *page)
{
    if (page && atomic_fetch_sub_explicit(&page->holders, 1, memory_order_acq_rel) == 1)
        free(atomic_exchange(&c->spare, page));
}

static struct page *new_page(struct cache *c, uint64_t key)
{
    struct page *page = atomic_exchange(&c->spare, NULL);
    if (!page)
        page = malloc(sizeof *page + c->page_size);
    if (!page)
        return NULL;
    atomic_init(&page->holders, 1);
    page->key = key;
    return page;
}

void cache_forget(struct cache *c)
{
    for (size_t i = 0; i < c->set_count; i++) {
        for (unsigned way = 0; way < CACHE_WAYS; way++)
            cache_put(c, c->sets[i].pages[way]);
        memset(&c->sets[i], 0, sizeof c->sets[i]);
    }
}

void cache_destroy(struct cache *c)
{
    cache_forget(c);
    free(atomic_load(&c->spare));
    free(c->sets);
    for (unsigned i = 0; i < CACHE_LOCKS; i++)
        pthread_mutex_destroy(&c->locks[i]);
    pthread_mutex_destroy(&c->setup);
}

static int set_up(struct cache *c, size_t page_size, size_t capacity, struct img_error *err)
{
    int ret = 0;
    pthread_mutex_lock(&c->setup);
    if (!atomic_load(&c->ready)) {
        size_t wanted = capacity / page_size / CACHE_WAYS, count = 1;
        while (count * 2 <= wanted)
            count *= 2;
        c->sets = calloc(count, sizeof *c->sets);
        if (c->sets) {
            c->page_size = page_size;
            c->set_count = count;
            atomic_store(&c->ready, true);
        } else {
            ret = img_fail_nomem(err);
        }
    }
    pthread_mutex_unlock(&c->setup);
    return ret;
}

/* Mixes a key whose low bits are all alike. */
static size_t set_of(const struct cache *c, uint64_t key)
{
    key *= 0x9e3779b97f4a7c15ull;
    return (size_t)(key >> 32) & (c->set_count - 1);
}

/* Under the set's lock. */
static struct page *find(struct cache_set *s, uint64_t key, bool passing)
{
    for (unsigned way = 0; way < CACHE_WAYS; way++) {
        if (s->pages[way] && s->keys[way] == key) {
            if (!passing)
                s->used[way] = ++s->clock;
            atomic_fetch_add_explicit(&s->pages[way]->holders, 1, memory_order_relaxed);
            return s->pages[way];
        }
    }
    return NULL;
}

/* The way to give up: one that a walk left behind, else a free one, else the longest unused. */
static unsigned choose_victim(const struct cache_set *s, bool passing)
{
    unsigned victim = 0;
    for (unsigned way = 0; way < CACHE_WAYS; way++) {
        if (passing && s->pages[way] && !s->used[way])
            return way;
        if (s->pages[victim] && (!s->pages[way] || s->used[way] < s->used[victim]))
            victim = way;
    }
    return victim;
}

/* Under the set's lock: puts PAGE in, returns what had to leave. */
static struct page *insert(struct cache_set *s, struct page *page, bool passing)
{
    unsigned victim = choose_victim(s, passing);
    struct page *old = s->pages[victim];
    s->keys[victim] = page->key;
    s->pages[victim] = page;
    s->used[victim] = passing ? 0 : ++s->clock;
    atomic_fetch_add_explicit(&page->holders, 1, memory_order_relaxed);
    return old;
}

int cache_get(struct cache *c, size_t page_size, size_t capacity, uint64_t key, bool passing,
              cache_fill fill, void *opaque, struct page **out, struct img_error *err)
{
    int ret;
    if (!atomic_load_explicit(&c->ready, memory_order_acquire)) {
        ret = set_up(c, page_size, capacity, err);
        if (ret < 0)
            return ret;
    }
    size_t index = set_of(c, key);
    struct cache_set *s = &c->sets[index];
    pthread_mutex_t *lock = &c->locks[index % CACHE_LOCKS];
    pthread_mutex_lock(lock);
    *out = find(s, key, passing);
    pthread_mutex_unlock(lock);
    if (*out)
        return 0;

    struct page *page = new_page(c, key);
    if (!page)
        return img_fail_nomem(err);
    ret = fill(opaque, key, page->data, err);
    if (ret < 0) {
        free(page);
        return ret;
    }
    pthread_mutex_lock(lock);
    struct page *other = find(s, key, passing);
    struct page *old = other ? page : insert(s, page, passing);
    pthread_mutex_unlock(lock);
    cache_put(c, old);
    *out = other ? other : page;
    return 0;
}

void cache_drop(struct cache *c, uint64_t key)
{
    if (!atomic_load_explicit(&c->ready, memory_order_acquire))
        return;
    size_t index = set_of(c, key);
    struct cache_set *s = &c->sets[index];
    struct page *old = NULL;
    pthread_mutex_lock(&c->locks[index % CACHE_LOCKS]);
    for (unsigned way = 0; way < CACHE_WAYS; way++) {
        if (!s->pages[way] || s->keys[way] != key)
            continue;
        old = s->pages[way];
        s->pages[way] = NULL;
    }
    pthread_mutex_unlock(&c->locks[index % CACHE_LOCKS]);
    cache_put(c, old);
}
