#include "formats/qcow2/cache.h"

#include <stdlib.h>
#include <string.h>

struct cache_set {
    uint64_t keys[CACHE_WAYS];
    struct page *pages[CACHE_WAYS]; /* NULL: free */
    uint32_t used[CACHE_WAYS];      /* the clock when it was last asked for */
    uint32_t clock;
};

void cache_init(struct cache *c)
{
    memset(c, 0, sizeof *c);
    for (unsigned i = 0; i < CACHE_LOCKS; i++)
        pthread_mutex_init(&c->locks[i], NULL);
    pthread_mutex_init(&c->setup, NULL);
}

void cache_put(struct page *page)
{
    if (page && atomic_fetch_sub_explicit(&page->holders, 1, memory_order_acq_rel) == 1)
        free(page);
}

void cache_forget(struct cache *c)
{
    for (size_t i = 0; i < c->set_count; i++) {
        for (unsigned way = 0; way < CACHE_WAYS; way++)
            cache_put(c->sets[i].pages[way]);
        memset(&c->sets[i], 0, sizeof c->sets[i]);
    }
}

void cache_destroy(struct cache *c)
{
    cache_forget(c);
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
        size_t wanted = capacity / page_size / CACHE_WAYS;
        c->page_size = page_size;
        c->set_count = 1;
        while (c->set_count * 2 <= wanted)
            c->set_count *= 2;
        c->sets = calloc(c->set_count, sizeof *c->sets);
        if (c->sets)
            atomic_store(&c->ready, true);
        else
            ret = img_fail_nomem(err);
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
static struct page *find(struct cache_set *s, uint64_t key)
{
    for (unsigned way = 0; way < CACHE_WAYS; way++) {
        if (s->pages[way] && s->keys[way] == key) {
            s->used[way] = ++s->clock;
            atomic_fetch_add_explicit(&s->pages[way]->holders, 1, memory_order_relaxed);
            return s->pages[way];
        }
    }
    return NULL;
}

/* Under the set's lock: puts PAGE in, returns what had to leave. */
static struct page *insert(struct cache_set *s, struct page *page)
{
    unsigned victim = 0;
    for (unsigned way = 0; way < CACHE_WAYS && s->pages[victim]; way++)
        if (!s->pages[way] || s->clock - s->used[way] > s->clock - s->used[victim])
            victim = way;
    struct page *old = s->pages[victim];
    s->keys[victim] = page->key;
    s->pages[victim] = page;
    s->used[victim] = ++s->clock;
    atomic_fetch_add_explicit(&page->holders, 1, memory_order_relaxed);
    return old;
}

int cache_get(struct cache *c, size_t page_size, size_t capacity, uint64_t key, cache_fill fill,
              void *opaque, struct page **out, struct img_error *err)
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
    *out = find(s, key);
    pthread_mutex_unlock(lock);
    if (*out)
        return 0;

    struct page *page = malloc(sizeof *page + c->page_size);
    if (!page)
        return img_fail_nomem(err);
    atomic_init(&page->holders, 1);
    page->key = key;
    ret = fill(opaque, key, page->data, err);
    if (ret < 0) {
        free(page);
        return ret;
    }
    pthread_mutex_lock(lock);
    struct page *other = find(s, key);
    struct page *old = other ? page : insert(s, page);
    pthread_mutex_unlock(lock);
    cache_put(old);
    *out = other ? other : page;
    return 0;
}
