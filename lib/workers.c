/*
 * Each thread carries one piece at a time through all of its steps. Pieces are numbered when they
 * are taken, and settled in that order; a thread whose piece is not next waits for its turn.
 */
#include "lib/workers.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>

enum { MAX_WORKERS = 64 };

struct run {
    const struct workers_job *job;
    pthread_mutex_t taking; /* held while a piece is taken */
    pthread_mutex_t lock;   /* guards the rest */
    pthread_cond_t turn;
    uint64_t taken, settled;
    uint64_t failed; /* the first piece that failed; UINT64_MAX: none did */
    bool ended;      /* there are no more pieces */
    int result;
    struct img_error *err;
};

/* Remembers a failure, unless an earlier piece has failed. E is taken over. */
static void fail(struct run *r, uint64_t piece, int ret, struct img_error *e)
{
    pthread_mutex_lock(&r->lock);
    if (piece < r->failed) {
        r->failed = piece;
        r->result = ret;
        if (r->err) {
            img_error_clear(r->err);
            *r->err = *e;
            *e = (struct img_error)IMG_ERROR_INIT;
        }
    }
    pthread_cond_broadcast(&r->turn);
    pthread_mutex_unlock(&r->lock);
    img_error_clear(e);
}

/* 1: a piece was taken, and *PIECE is its number. */
static int take(struct run *r, void *slot, uint64_t *piece, struct img_error *e)
{
    pthread_mutex_lock(&r->taking);
    pthread_mutex_lock(&r->lock);
    bool stop = r->ended || r->failed != UINT64_MAX;
    *piece = r->taken;
    pthread_mutex_unlock(&r->lock);
    int ret = stop ? 0 : r->job->take(r->job->opaque, slot, e);
    pthread_mutex_lock(&r->lock);
    r->taken += ret > 0;
    r->ended |= ret <= 0;
    pthread_mutex_unlock(&r->lock);
    pthread_mutex_unlock(&r->taking);
    return ret;
}

/* False: an earlier piece has failed, the turn never comes. */
static bool wait_for_turn(struct run *r, uint64_t piece)
{
    pthread_mutex_lock(&r->lock);
    while (r->settled != piece && r->failed > piece)
        pthread_cond_wait(&r->turn, &r->lock);
    bool mine = r->failed > piece;
    pthread_mutex_unlock(&r->lock);
    return mine;
}

static void pass_turn(struct run *r)
{
    pthread_mutex_lock(&r->lock);
    r->settled++;
    pthread_cond_broadcast(&r->turn);
    pthread_mutex_unlock(&r->lock);
}

/* 0: this piece is done, or nobody needs it any more. */
static int carry(struct run *r, void *slot, uint64_t piece, struct img_error *e)
{
    const struct workers_job *job = r->job;
    int ret = job->work ? job->work(job->opaque, slot, e) : 0;
    if (ret < 0)
        return ret;
    if (job->settle) {
        if (!wait_for_turn(r, piece))
            return 0;
        ret = job->settle(job->opaque, slot, e);
        if (ret < 0)
            return ret;
        pass_turn(r);
    }
    return job->finish ? job->finish(job->opaque, slot, e) : 0;
}

static void *worker(void *opaque)
{
    struct run *r = opaque;
    struct img_error e = IMG_ERROR_INIT;
    uint64_t piece = 0;
    void *slot = calloc(1, r->job->slot_size ? r->job->slot_size : 1);
    int ret = slot ? 1 : img_fail_nomem(&e);
    while (ret > 0) {
        ret = take(r, slot, &piece, &e);
        if (ret > 0) {
            int carried = carry(r, slot, piece, &e);
            ret = carried < 0 ? carried : 1;
        }
    }
    if (ret < 0)
        fail(r, piece, ret, &e);
    if (slot && r->job->clear)
        r->job->clear(r->job->opaque, slot);
    free(slot);
    return NULL;
}

int workers_run(const struct workers_job *job, unsigned count, struct img_error *err)
{
    struct run r = {.job = job, .failed = UINT64_MAX, .err = err};
    pthread_t threads[MAX_WORKERS];
    unsigned started = 0;
    pthread_mutex_init(&r.taking, NULL);
    pthread_mutex_init(&r.lock, NULL);
    pthread_cond_init(&r.turn, NULL);
    count = count < MAX_WORKERS ? count : MAX_WORKERS;
    /* one that cannot be started is not needed: the caller's does all of it, if it must */
    while (started + 1 < count && !pthread_create(&threads[started], NULL, worker, &r))
        started++;
    worker(&r);
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    pthread_cond_destroy(&r.turn);
    pthread_mutex_destroy(&r.lock);
    pthread_mutex_destroy(&r.taking);
    return r.result;
}

unsigned workers_processors(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    return n > 0 ? (unsigned)n : 1;
}
