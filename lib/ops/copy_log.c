/* The log of a copy while it goes on: pieces become complete in any order, and are logged in
 * theirs. */
#include "lib/ops/copy_log.h"
#include "lib/checked.h"
#include "lib/ops/copy_engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RUNS_MAX = 4 << 20, NUMBER_MAX = 10 };

#define EVERY_BYTES       (256ull << 20)
#define EVERY_NANOSECONDS 1000000000ull

struct logged_piece {
    size_t runs_end; /* of its runs among those at hand */
    struct copy_progress p;
    bool finished;
};

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void copy_log_begin(struct copy_log *log)
{
    log->settled = log->logged;
    log->settled_end = log->last_end;
    log->time_since = now();
}

/* ---- pieces -------------------------------------------------------------------------------- */

static void put_number(struct copy_log *log, uint64_t n)
{
    for (; n > 127; n >>= 7)
        log->runs[log->runs_length++] = (uint8_t)(128 | (n & 127));
    log->runs[log->runs_length++] = (uint8_t)n;
}

static int make_room(struct copy_log *log, size_t run_count, struct img_error *err)
{
    size_t wanted = log->runs_length + run_count * 3 * NUMBER_MAX;
    if (wanted > log->runs_room) {
        uint8_t *runs = realloc(log->runs, 2 * wanted);
        if (!runs)
            return img_fail_nomem(err);
        log->runs = runs;
        log->runs_room = 2 * wanted;
    }
    if (log->piece_count < log->piece_room)
        return 0;
    size_t room = 2 * log->piece_room + 64;
    struct logged_piece *pieces = realloc(log->pieces, room * sizeof *pieces);
    if (!pieces)
        return img_fail_nomem(err);
    log->pieces = pieces;
    log->piece_room = room;
    return 0;
}

static void add_run(struct copy_log *log, const struct copy_run *r, uint64_t size)
{
    unsigned kind = r->kind == RUN_SHARED ? RUN_DATA : r->kind;
    put_number(log, (r->offset - log->settled_end) << 2 | kind);
    put_number(log, r->length);
    if (kind == RUN_COMPRESSED)
        put_number(log, r->stored);
    log->settled_end = r->offset + r->length;
    if (r->kind != RUN_ZERO)
        log->settled.end = max_u64(log->settled.end, copy_run_end(r, size));
}

int copy_log_settled(struct copy_log *log, const struct copy_run *runs, size_t count,
                     uint64_t piece_end, uint64_t data, uint64_t size, uint64_t *number,
                     struct img_error *err)
{
    pthread_mutex_lock(&log->lock);
    int ret = make_room(log, count, err);
    for (size_t i = 0; i < count && !ret; i++)
        add_run(log, &runs[i], size);
    if (!ret) {
        log->settled.at = piece_end;
        log->settled.done += data;
        *number = log->first_piece + log->piece_count;
        log->pieces[log->piece_count++] = (struct logged_piece){.runs_end = log->runs_length,
                                                                .p = log->settled};
    }
    pthread_mutex_unlock(&log->lock);
    return ret;
}

/* ---- committing ---------------------------------------------------------------------------- */

/* What was finished, taken out of what is at hand; LOG is locked. */
struct batch {
    uint8_t *runs;
    size_t length, pieces;
    struct copy_progress p;
};

static int take_batch(struct copy_log *log, struct batch *b, struct img_error *err)
{
    *b = (struct batch){.pieces = log->ready};
    if (!b->pieces)
        return 0;
    const struct logged_piece *last = &log->pieces[b->pieces - 1];
    b->length = last->runs_end;
    b->p = last->p;
    b->runs = malloc(b->length + 1);
    if (!b->runs)
        return img_fail_nomem(err);
    if (b->length)
        memcpy(b->runs, log->runs, b->length);
    return 0;
}

static void drop_batch(struct copy_log *log, const struct batch *b)
{
    log->runs_length -= b->length;
    memmove(log->runs, log->runs + b->length, log->runs_length);
    log->piece_count -= b->pieces;
    memmove(log->pieces, log->pieces + b->pieces, log->piece_count * sizeof *log->pieces);
    for (size_t i = 0; i < log->piece_count; i++)
        log->pieces[i].runs_end -= b->length;
    log->first_piece += b->pieces;
    log->ready -= b->pieces;
}

/* Not through file_flush: who asked to stop wants to go on later. */
static int flush_files(struct copy_log *log, struct img_error *err)
{
    for (size_t i = 0; i < 2; i++) {
        struct file *f = log->files[i];
        int ret = f ? f->ops->flush(f) : 0;
        if (ret < 0)
            return img_fail_errno(err, -ret, "Could not flush '%s' to disk", f->name);
    }
    return 0;
}

/* LOG->committing is held. */
static int commit(struct copy_log *log, struct img_error *err)
{
    struct batch b;
    pthread_mutex_lock(&log->lock);
    int ret = take_batch(log, &b, err);
    pthread_mutex_unlock(&log->lock);
    if (ret < 0 || !b.pieces)
        return ret;
    ret = flush_files(log, err);
    if (!ret)
        ret = copy_log_append(log, b.runs, b.length, &b.p, err);
    log->broken |= ret < 0;
    pthread_mutex_lock(&log->lock);
    if (!ret) {
        drop_batch(log, &b);
        log->logged = b.p;
    }
    log->time_since = now();
    pthread_mutex_unlock(&log->lock);
    free(b.runs);
    return ret;
}

int copy_log_finished(struct copy_log *log, uint64_t number, struct img_error *err)
{
    pthread_mutex_lock(&log->lock);
    log->pieces[number - log->first_piece].finished = true;
    while (log->ready < log->piece_count && log->pieces[log->ready].finished)
        log->ready++;
    const struct copy_progress *p = log->ready ? &log->pieces[log->ready - 1].p : NULL;
    bool much = log->runs_length > RUNS_MAX;
    bool due = p && (much || p->done - log->logged.done >= EVERY_BYTES ||
                     now() - log->time_since >= EVERY_NANOSECONDS);
    pthread_mutex_unlock(&log->lock);
    /* who finds that another one is at it goes on, unless more than enough is at hand */
    if (!due || (much ? pthread_mutex_lock : pthread_mutex_trylock)(&log->committing))
        return 0;
    int ret = log->broken ? 0 : commit(log, err);
    pthread_mutex_unlock(&log->committing);
    return ret;
}

void copy_log_stop(struct copy_log *log)
{
    if (!log->broken && log->ready)
        (void)commit(log, NULL);
}
