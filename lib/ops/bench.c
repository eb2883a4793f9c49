/*
 * bench: a fixed number of requests, so many of them in flight at a time. Each thread carries one
 * request; they take their offsets in turn. A flush waits until nothing is in flight, and holds the
 * next requests back, unless it need not.
 */
#include "lib/checked.h"
#include "lib/image.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_THREADS = 1024, STACK = 256 << 10 };

struct bench {
    struct img *img;
    const struct img_bench_options *o;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t drained;
    uint64_t left; /* requests that are yet to be taken */
    uint64_t offset;
    unsigned in_flight;
    bool flushed; /* since the last request was taken */
    int result;
    struct img_error *err;
    pthread_mutex_t writing; /* an image that is written is for one thread at a time */
};

static uint64_t step(const struct img_bench_options *o)
{
    return o->step ? o->step : o->size;
}

/* Remembers the first failure. CAUSE is cleared. Under the lock. */
static void fail(struct bench *b, int ret, const char *what, struct img_error *cause)
{
    if (!b->result && ret == -ECANCELED)
        b->result = img_fail(b->err, ECANCELED, "Interrupted");
    else if (!b->result)
        /* a request past the end of the disk: QEMU has this, too, from its I/O */
        b->result = img_fail_errno(b->err, ret == -EINVAL ? EIO : -ret, "%s", what);
    if (b->err && cause->message && !b->err->context)
        img_context(b->err, "%s", cause->message);
    img_error_clear(cause);
}

static int flush_image(struct bench *b, struct img_error *err)
{
    pthread_mutex_lock(&b->writing);
    int ret = img_flush(b->img, err);
    pthread_mutex_unlock(&b->writing);
    return ret;
}

static bool flush_is_due(const struct bench *b)
{
    const struct img_bench_options *o = b->o;
    return o->flush_interval && !b->flushed && b->left < o->count &&
           b->left % o->flush_interval == 0;
}

/* Flushes, if it is time, once all before it is done; under the lock, which it gives up meanwhile.
 */
static void flush_if_due(struct bench *b)
{
    while (!b->result && flush_is_due(b)) {
        if (b->in_flight && !b->o->no_drain) {
            pthread_cond_wait(&b->drained, &b->lock);
            continue;
        }
        struct img_error err = IMG_ERROR_INIT;
        b->flushed = true;
        if (b->o->no_drain) /* the others go on */
            pthread_mutex_unlock(&b->lock);
        int ret = flush_image(b, &err);
        if (b->o->no_drain)
            pthread_mutex_lock(&b->lock);
        if (ret < 0)
            fail(b, ret, "Failed flush request", &err);
        pthread_cond_broadcast(&b->drained);
    }
}

static int request(struct bench *b, uint8_t *buf, uint64_t offset, struct img_error *err)
{
    const struct img_bench_options *o = b->o;
    if (!o->write)
        return img_read(b->img, buf, o->size, offset, err);
    pthread_mutex_lock(&b->writing);
    int ret = img_write(b->img, buf, o->size, offset, err);
    if (!ret && o->flush_each)
        ret = img_flush(b->img, err);
    pthread_mutex_unlock(&b->writing);
    return ret;
}

/* The next request's offset; false: there is none. Under the lock. */
static bool take(struct bench *b, uint64_t *offset)
{
    uint64_t size = img_size(b->img);
    flush_if_due(b);
    if (b->result || !b->left)
        return false;
    *offset = b->offset;
    b->offset = size ? (b->offset + step(b->o)) % size : 0;
    b->left--;
    b->in_flight++;
    b->flushed = false;
    return true;
}

static void *worker(void *opaque)
{
    struct bench *b = opaque;
    struct img_error err = IMG_ERROR_INIT;
    uint64_t offset;
    uint8_t *buf = aligned_alloc(4096, align_up(b->o->size, 4096));
    pthread_mutex_lock(&b->lock);
    if (buf)
        memset(buf, b->o->pattern, b->o->size);
    else
        fail(b, -ENOMEM, "Out of memory", &err);
    while (buf && take(b, &offset)) {
        pthread_mutex_unlock(&b->lock);
        bool stop = b->o->cancelled && b->o->cancelled(b->o->opaque);
        int ret = stop ? -ECANCELED : request(b, buf, offset, &err);
        pthread_mutex_lock(&b->lock);
        b->in_flight--;
        if (ret < 0)
            fail(b, ret, "Failed request", &err);
        if (!b->in_flight || b->result)
            pthread_cond_broadcast(&b->drained);
    }
    pthread_mutex_unlock(&b->lock);
    free(buf);
    return NULL;
}

static void run(struct bench *b)
{
    pthread_t threads[MAX_THREADS];
    unsigned started = 0, count = (unsigned)min_u64(min_u64(b->o->depth, b->o->count), MAX_THREADS);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    while (started + 1 < count && !pthread_create(&threads[started], &attr, worker, b))
        started++;
    worker(b);
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    pthread_attr_destroy(&attr);
}

int img_bench(struct img *img, const struct img_bench_options *o, double *seconds,
              struct img_error *err)
{
    struct bench b = {
        .img = img, .o = o, .left = o->count, .offset = o->offset, .flushed = true, .err = err};
    struct timespec start, end;
    if (!o->depth || !o->size || !o->count)
        return img_fail(err, EINVAL, "Nothing to do: no requests, or none of any length");
    if (!o->write && o->flush_interval)
        return img_fail(err, EINVAL, "Only writes can be flushed");
    pthread_mutex_init(&b.lock, NULL);
    pthread_mutex_init(&b.writing, NULL);
    pthread_cond_init(&b.drained, NULL);
    clock_gettime(CLOCK_MONOTONIC, &start);
    run(&b);
    clock_gettime(CLOCK_MONOTONIC, &end);
    pthread_cond_destroy(&b.drained);
    pthread_mutex_destroy(&b.writing);
    pthread_mutex_destroy(&b.lock);
    *seconds = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    return b.result;
}
