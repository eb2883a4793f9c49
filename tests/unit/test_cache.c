/* The cache: hits, misses, what leaves first, pages in hand, failures, and threads. */
#include "formats/qcow2/cache.h"
#include "make_qcow2.h"

enum { PAGE = 64 };

struct source {
    atomic_uint fills;
    int fail; /* -errno, or 0 */
};

/* A page says which key it is. */
static int fill(void *opaque, uint64_t key, uint8_t *data, struct img_error *err)
{
    struct source *s = opaque;
    atomic_fetch_add(&s->fills, 1);
    if (s->fail)
        return img_fail(err, -s->fail, "no page for %d", (int)key);
    for (size_t i = 0; i < PAGE; i += 8)
        memcpy(data + i, &key, 8);
    return 0;
}

static uint64_t key_in(const struct page *p)
{
    uint64_t first, last;
    memcpy(&first, p->data, 8);
    memcpy(&last, p->data + PAGE - 8, 8);
    assert_int_equal(first, last);
    return first;
}

static struct page *get(struct cache *c, struct source *s, size_t capacity, uint64_t key)
{
    struct page *p = NULL;
    assert_int_equal(cache_get(c, PAGE, capacity, key, false, fill, s, &p, NULL), 0);
    assert_int_equal(key_in(p), key);
    return p;
}

static void touch(struct cache *c, struct source *s, size_t capacity, uint64_t key)
{
    cache_put(c, get(c, s, capacity, key));
}

static void miss_then_hit(void **state)
{
    (void)state;
    struct cache c;
    struct source s = {0};
    cache_init(&c);
    touch(&c, &s, 1 << 16, 0); /* 0 is a key like any other */
    touch(&c, &s, 1 << 16, 0);
    touch(&c, &s, 1 << 16, UINT64_MAX);
    touch(&c, &s, 1 << 16, UINT64_MAX);
    assert_int_equal(s.fills, 2);
    cache_forget(&c);
    touch(&c, &s, 1 << 16, 0);
    assert_int_equal(s.fills, 3);
    cache_destroy(&c);
}

/* One set of eight ways: the least recently used leaves. */
static void the_oldest_leaves(void **state)
{
    (void)state;
    struct cache c;
    struct source s = {0};
    cache_init(&c);
    for (uint64_t key = 0; key < CACHE_WAYS; key++)
        touch(&c, &s, 1, key);
    assert_int_equal(s.fills, CACHE_WAYS);
    touch(&c, &s, 1, 0); /* now 1 is the oldest */
    touch(&c, &s, 1, 100);
    assert_int_equal(s.fills, CACHE_WAYS + 1);
    touch(&c, &s, 1, 0);
    for (uint64_t key = 2; key < CACHE_WAYS; key++)
        touch(&c, &s, 1, key);
    touch(&c, &s, 1, 100);
    assert_int_equal(s.fills, CACHE_WAYS + 1); /* all of them still there */
    touch(&c, &s, 1, 1);
    assert_int_equal(s.fills, CACHE_WAYS + 2);
    cache_destroy(&c);
}

static void memory_stays_within_the_capacity(void **state)
{
    (void)state;
    struct cache c;
    struct source s = {0};
    cache_init(&c);
    for (uint64_t key = 0; key < 10000; key++)
        touch(&c, &s, 100 * PAGE, key << 16);
    assert_true(c.set_count * CACHE_WAYS <= 100);
    size_t pages = 0;
    for (uint64_t key = 0; key < 10000; key++) {
        unsigned before = s.fills;
        struct page *p = get(&c, &s, 100 * PAGE, key << 16);
        pages += s.fills == before;
        cache_put(&c, p);
    }
    assert_true(pages <= 100);
    cache_destroy(&c);
}

static void a_page_in_hand_survives_eviction(void **state)
{
    (void)state;
    struct cache c;
    struct source s = {0};
    cache_init(&c);
    struct page *held = get(&c, &s, 1, 7);
    for (uint64_t key = 1000; key < 1100; key++)
        touch(&c, &s, 1, key);
    assert_int_equal(key_in(held), 7);
    struct page *again = get(&c, &s, 1, 7); /* it had left: read anew */
    assert_ptr_not_equal(again, held);
    cache_put(&c, again);
    cache_forget(&c);
    assert_int_equal(key_in(held), 7);
    touch(&c, &s, 1, 8);
    assert_int_equal(key_in(held), 7);
    cache_put(&c, held);
    cache_destroy(&c);
}

static bool hits(struct cache *c, struct source *s, uint64_t key, bool passing)
{
    struct page *p = NULL;
    unsigned before = s->fills;
    assert_int_equal(cache_get(c, PAGE, 1, key, passing, fill, s, &p, NULL), 0);
    assert_int_equal(key_in(p), key);
    cache_put(c, p);
    return s->fills == before;
}

/* A walk over everything takes one way of a set, not the working set's. */
static void a_walk_pushes_out_only_itself(void **state)
{
    (void)state;
    struct cache c;
    struct source s = {0};
    cache_init(&c);
    for (uint64_t key = 0; key < CACHE_WAYS; key++)
        touch(&c, &s, 1, key);
    for (uint64_t key = 1000; key < 1100; key++)
        assert_false(hits(&c, &s, key, true));
    assert_true(hits(&c, &s, 1099, true));
    for (uint64_t key = 1; key < CACHE_WAYS; key++)
        assert_true(hits(&c, &s, key, false));
    /* the walk's last page leaves before any other */
    assert_false(hits(&c, &s, 0, false));
    assert_false(hits(&c, &s, 1099, true));
    cache_destroy(&c);
}

static void a_page_of_a_walk_that_others_ask_for_stays(void **state)
{
    (void)state;
    struct cache c;
    struct source s = {0};
    cache_init(&c);
    assert_false(hits(&c, &s, 5, true));
    assert_true(hits(&c, &s, 5, false));
    for (uint64_t key = 1000; key < 1100; key++)
        hits(&c, &s, key, true);
    assert_true(hits(&c, &s, 5, false));
    cache_destroy(&c);
}

static void a_failed_fill_is_not_kept(void **state)
{
    (void)state;
    struct cache c;
    struct source s = {.fail = -EIO};
    struct img_error err = IMG_ERROR_INIT;
    struct page *p;
    cache_init(&c);
    expect_error(&err, cache_get(&c, PAGE, 1, 5, false, fill, &s, &p, &err), EIO, "no page for 5");
    s.fail = 0;
    touch(&c, &s, 1, 5);
    assert_int_equal(s.fills, 2);
    cache_destroy(&c);
}

struct worker {
    struct cache *cache;
    struct source *source;
    uint64_t seed;
    unsigned wrong;
};

static void *work(void *opaque)
{
    struct worker *w = opaque;
    struct page *held[4] = {0};
    for (unsigned i = 0; i < 20000; i++) {
        w->seed = w->seed * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t key = (w->seed >> 33) % 64;
        struct page *p = NULL;
        if (cache_get(w->cache, PAGE, 32 * PAGE, key, i % 3 == 0, fill, w->source, &p, NULL) < 0) {
            w->wrong++;
            continue;
        }
        w->wrong += memcmp(p->data, &key, 8) || memcmp(p->data + PAGE - 8, &key, 8);
        struct page **slot = &held[i % 4];
        w->wrong += *slot && memcmp((*slot)->data, &(*slot)->key, 8);
        cache_put(w->cache, *slot);
        *slot = p;
    }
    for (unsigned i = 0; i < 4; i++)
        cache_put(w->cache, held[i]);
    return NULL;
}

static void threads(void **state)
{
    (void)state;
    enum { THREADS = 4 };
    struct cache c;
    struct source s = {0};
    struct worker workers[THREADS];
    pthread_t ids[THREADS];
    cache_init(&c);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){&c, &s, i, 0};
        assert_int_equal(pthread_create(&ids[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(ids[i], NULL);
        assert_int_equal(workers[i].wrong, 0);
    }
    assert_true(s.fills < THREADS * 20000u);
    cache_destroy(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(miss_then_hit),
        cmocka_unit_test(the_oldest_leaves),
        cmocka_unit_test(memory_stays_within_the_capacity),
        cmocka_unit_test(a_page_in_hand_survives_eviction),
        cmocka_unit_test(a_walk_pushes_out_only_itself),
        cmocka_unit_test(a_page_of_a_walk_that_others_ask_for_stays),
        cmocka_unit_test(a_failed_fill_is_not_kept),
        cmocka_unit_test(threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
