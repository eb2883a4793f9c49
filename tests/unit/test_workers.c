/* Workers: every piece once, settled in order; the first failure counts; threads make no
 * difference. */
#include "lib/workers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { PIECES = 500, NEVER = PIECES };

enum step { TAKE, WORK, SETTLE, FINISH };

struct scene {
    unsigned taken, settled;
    atomic_uint worked, finished, cleared;
    enum step fail_step;
    unsigned fail_at;  /* the piece that fails, and */
    unsigned fail_too; /* a later one that does */
    bool out_of_order;
};

struct piece {
    unsigned number;
    char *gathered;
};

static int result(struct scene *s, enum step step, unsigned n, struct img_error *err)
{
    if (step == s->fail_step && (n == s->fail_at || n == s->fail_too))
        return img_fail(err, EIO, "piece %u", n);
    return 0;
}

static int take(void *opaque, void *slot, struct img_error *err)
{
    struct scene *s = opaque;
    struct piece *p = slot;
    p->number = s->taken;
    if (s->taken == PIECES)
        return 0;
    s->taken++;
    int ret = result(s, TAKE, p->number, err);
    return ret < 0 ? ret : 1;
}

static int work(void *opaque, void *slot, struct img_error *err)
{
    struct scene *s = opaque;
    struct piece *p = slot;
    if (!p->gathered)
        p->gathered = strdup("kept from piece to piece");
    if (p->number % 7 == 3) /* some take longer than those behind them */
        usleep(200);
    atomic_fetch_add(&s->worked, 1);
    return result(s, WORK, p->number, err);
}

static int settle(void *opaque, void *slot, struct img_error *err)
{
    struct scene *s = opaque;
    struct piece *p = slot;
    s->out_of_order |= p->number != s->settled;
    int ret = result(s, SETTLE, p->number, err);
    s->settled += !ret;
    return ret;
}

static int finish(void *opaque, void *slot, struct img_error *err)
{
    struct scene *s = opaque;
    struct piece *p = slot;
    int ret = result(s, FINISH, p->number, err);
    if (!ret)
        atomic_fetch_add(&s->finished, 1);
    return ret;
}

static void clear(void *opaque, void *slot)
{
    struct scene *s = opaque;
    struct piece *p = slot;
    atomic_fetch_add(&s->cleared, 1);
    free(p->gathered);
}

static int run(struct scene *s, unsigned threads, struct img_error *err)
{
    const struct workers_job job = {s, sizeof(struct piece), take, work, settle, finish, clear};
    return workers_run(&job, threads, err);
}

static void every_piece_in_order(void **state)
{
    (void)state;
    for (unsigned threads = 1; threads <= 8; threads++) {
        struct scene s = {.fail_at = NEVER, .fail_too = NEVER};
        assert_int_equal(run(&s, threads, NULL), 0);
        assert_int_equal(s.settled, PIECES);
        assert_int_equal(s.finished, PIECES);
        assert_false(s.out_of_order);
        assert_int_equal(s.cleared, threads);
    }
}

/* What came before the failure is complete, and the error is that of the first piece. */
static void first_failure_counts(void **state)
{
    (void)state;
    for (enum step step = TAKE; step <= FINISH; step++)
        for (unsigned threads = 1; threads <= 5; threads += 2) {
            struct scene s = {.fail_step = step, .fail_at = 100, .fail_too = 101};
            struct img_error err = IMG_ERROR_INIT;
            assert_int_equal(run(&s, threads, &err), -EIO);
            assert_string_equal(err.message, "piece 100");
            assert_false(s.out_of_order);
            assert_true(s.finished >= 100);
            assert_true(step == FINISH ? s.settled >= 101 : s.settled == 100);
            img_error_clear(&err);
        }
}

static void steps_may_be_missing(void **state)
{
    (void)state;
    struct scene s = {.fail_at = NEVER, .fail_too = NEVER};
    const struct workers_job job = {.opaque = &s,
                                    .slot_size = sizeof(struct piece),
                                    .take = take,
                                    .work = work,
                                    .clear = clear};
    assert_int_equal(workers_run(&job, 3, NULL), 0);
    assert_int_equal(s.worked, PIECES);
    assert_true(workers_processors() >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_piece_in_order),
        cmocka_unit_test(first_failure_counts),
        cmocka_unit_test(steps_may_be_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
