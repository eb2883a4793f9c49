/* Joining extents: what continues what, one difference at a time. */
#include "make_qcow2.h"

#include <stdio.h>

struct collected {
    struct img_extent list[8];
    unsigned count;
    int answer;
};

static int collect(void *opaque, const struct img_extent *e)
{
    struct collected *c = opaque;
    c->list[c->count++] = *e;
    return c->answer;
}

static const char name_a[] = "a", name_b[] = "a"; /* alike, but two files */

static const struct img_extent first = {.start = 4096,
                                        .length = 4096,
                                        .kind = IMG_EXTENT_DATA,
                                        .has_offset = true,
                                        .offset = 1 << 20,
                                        .filename = name_a};
static const struct img_extent second = {.start = 8192,
                                         .length = 100,
                                         .kind = IMG_EXTENT_DATA,
                                         .has_offset = true,
                                         .offset = (1 << 20) + 4096,
                                         .filename = name_a};

static unsigned joined_count(struct img_extent a, struct img_extent b)
{
    struct collected c = {0};
    struct extent_joiner j = {.fn = collect, .opaque = &c};
    assert_int_equal(extent_join(&j, &a), 0);
    assert_int_equal(c.count, 0); /* the next one may continue it */
    assert_int_equal(extent_join(&j, &b), 0);
    assert_int_equal(extent_join_finish(&j), 0);
    assert_int_equal(extent_join_finish(&j), 0);
    uint64_t total = 0;
    for (unsigned i = 0; i < c.count; i++)
        total += c.list[i].length;
    assert_int_equal(total, a.length + b.length);
    assert_int_equal(c.list[0].start, a.start);
    return c.count;
}

static void what_joins(void **state)
{
    (void)state;
    struct img_extent e = second;
    assert_int_equal(joined_count(first, e), 1);
    e.offset++;
    assert_int_equal(joined_count(first, e), 2);
    e = second;
    e.kind = IMG_EXTENT_ZERO;
    assert_int_equal(joined_count(first, e), 2);
    e = second;
    e.depth = 1;
    assert_int_equal(joined_count(first, e), 2);
    e = second;
    e.reads_zero = true;
    assert_int_equal(joined_count(first, e), 2);
    e = second;
    e.has_offset = false;
    assert_int_equal(joined_count(first, e), 2);
    e = second;
    e.filename = name_b + 1;
    assert_int_equal(joined_count(first, e), 2);
    /* without a place, none has to continue */
    struct img_extent zero = {.start = 0, .length = 512, .kind = IMG_EXTENT_ZERO, .offset = 5};
    struct img_extent more = {.start = 512, .length = 512, .kind = IMG_EXTENT_ZERO, .offset = 9};
    assert_int_equal(joined_count(zero, more), 1);
}

static void a_walk_that_is_stopped(void **state)
{
    (void)state;
    struct collected c = {.answer = 3};
    struct extent_joiner j = {.fn = collect, .opaque = &c};
    struct img_extent other = second;
    other.depth = 9;
    assert_int_equal(extent_join(&j, &first), 0);
    assert_int_equal(extent_join(&j, &other), 3);
    assert_int_equal(extent_join_finish(&j), 3);
    assert_int_equal(c.count, 2);
}

static void cutting_and_continuing(void **state)
{
    (void)state;
    struct file *file = (struct file *)&first; /* never looked into */
    struct extent a = {.length = 100, .kind = IMG_EXTENT_DATA, .file = file, .host = host(1000)};
    struct extent b = {.length = 100, .kind = IMG_EXTENT_DATA, .file = file, .host = host(1100)};
    assert_true(extent_continues(&a, &b));
    extent_skip(&b, 1);
    assert_int_equal(b.length, 99);
    assert_int_equal(b.host.v, 1101);
    assert_false(extent_continues(&a, &b));
    struct extent none = {.length = 100, .kind = IMG_EXTENT_UNALLOCATED};
    extent_skip(&none, 10);
    assert_int_equal(none.host.v, 0);
    assert_true(extent_continues(&none, &none));
    assert_false(extent_continues(&a, &none));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_joins),
        cmocka_unit_test(a_walk_that_is_stopped),
        cmocka_unit_test(cutting_and_continuing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
