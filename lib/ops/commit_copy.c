/*
 * What the layers above a base hold, written into it.
 *
 * Pieces are read by several threads and written in their order, so that the base does not depend
 * on how many there are. Only what a layer above says is written: the base may be read through by
 * the image at every instant.
 */
#include "lib/checked.h"
#include "lib/ops/commit.h"
#include "lib/workers.h"
#include "lib/zero.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum { PIECE = 1 << 20, BEGIN_FLUSH = 32 << 20, LONGEST = 1 << 30 /* of zeroes at once */ };

struct piece {
    uint64_t offset, length;
    bool zero;     /* the layers say so */
    bool all_zero; /* their data is */
    uint8_t *data;
};

struct job {
    struct commit *c;
    struct chain_walk walk;
    uint64_t at;
    struct timespec start;
    uint64_t written;   /* bytes of data, since START */
    uint64_t unflushed; /* since the host was told to begin */
};

/* ---- what there is ------------------------------------------------------------------------- */

enum kind { BELOW, ZEROES, DATA };

/* What the layers above the base have at OFF. */
static int look(struct job *j, uint64_t off, uint64_t max, enum kind *kind, uint64_t *length,
                struct img_error *err)
{
    struct img *upper = &j->c->upper;
    struct extent e;
    unsigned depth;
    int ret = chain_map(upper, guest(off), max, MAP_ALLOCATION, &j->walk, &e, &depth, err);
    if (ret < 0)
        return img_prefix(err, ret,
                          "Could not read the mapping of '%s': ", upper->layers[0]->filename);
    *length = e.length;
    if (e.kind == IMG_EXTENT_UNALLOCATED) /* a shorter layer between hides what is below it */
        *kind = depth + 1 == upper->depth ? BELOW : ZEROES;
    else
        *kind = e.kind == IMG_EXTENT_ZERO ? ZEROES : DATA;
    return 0;
}

/* 1: there is a piece. */
static int take(void *opaque, void *slot, struct img_error *err)
{
    struct job *j = opaque;
    struct piece *p = slot;
    uint64_t size = img_size(&j->c->upper), length = 0;
    enum kind kind = BELOW;
    int ret = 0;
    while (!ret && kind == BELOW && j->at < size) {
        ret = file_go_on(j->c->img->layers[0]->file, err);
        if (!ret)
            ret = look(j, j->at, size - j->at, &kind, &length, err);
        j->at += kind == BELOW ? length : 0;
    }
    if (ret < 0 || j->at >= size)
        return ret;
    uint64_t limit = kind == ZEROES ? min_u64(size, j->at + LONGEST)
                                    : min_u64(size, align_down(j->at, PIECE) + PIECE);
    p->offset = j->at;
    p->zero = kind == ZEROES;
    for (enum kind next = kind; !ret && next == kind;) {
        j->at = min_u64(j->at + length, limit);
        if (j->at == limit)
            break;
        ret = look(j, j->at, limit - j->at, &next, &length, err);
    }
    p->length = j->at - p->offset;
    return ret < 0 ? ret : 1;
}

static int read_piece(void *opaque, void *slot, struct img_error *err)
{
    const struct job *j = opaque;
    struct piece *p = slot;
    if (p->zero)
        return 0;
    if (!p->data)
        p->data = malloc(PIECE);
    if (!p->data)
        return img_fail_nomem(err);
    int ret = img_read(&j->c->upper, p->data, p->length, p->offset, err);
    p->all_zero = !ret && zero_all(p->data, p->length);
    return ret;
}

/* ---- where it goes ------------------------------------------------------------------------- */

/* Seconds since the job began. */
static double elapsed(const struct job *j)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - j->start.tv_sec) + (double)(now.tv_nsec - j->start.tv_nsec) / 1e9;
}

/* Waits until LENGTH more bytes may be written. */
static int keep_rate(struct job *j, uint64_t length, struct img_error *err)
{
    const struct timespec slice = {.tv_nsec = 20 * 1000 * 1000};
    uint64_t rate = j->c->options->rate;
    int ret = 0;
    while (rate && !ret && (double)j->written > elapsed(j) * (double)rate) {
        ret = file_go_on(j->c->img->layers[0]->file, err);
        nanosleep(&slice, NULL);
    }
    j->written += length;
    return ret;
}

static void tell_progress(const struct commit *c, uint64_t done)
{
    const struct img_commit_options *o = c->options;
    if (o->progress)
        o->progress(o->opaque, "copy", done, img_size(c->img));
}

static int write_piece(void *opaque, void *slot, struct img_error *err)
{
    struct job *j = opaque;
    struct commit *c = j->c;
    const struct piece *p = slot;
    int ret = commit_sweep(c, err);
    if (!ret && !p->zero)
        ret = keep_rate(j, p->length, err);
    if (ret < 0)
        return ret;
    if (p->zero || p->all_zero) {
        ret = img_write_zeroes(&c->base, p->offset, p->length, p->zero ? IMG_ZERO_UNMAP : 0, err);
        c->result.zeroed_bytes += p->length;
    } else {
        ret = img_write(&c->base, p->data, p->length, p->offset, err);
        c->result.copied_bytes += p->length;
        j->unflushed += p->length;
    }
    if (j->unflushed >= BEGIN_FLUSH) {
        file_begin_flush(c->base.layers[0]->file);
        j->unflushed = 0;
    }
    if (!ret)
        tell_progress(c, p->offset + p->length);
    return ret;
}

static void clear(void *opaque, void *slot)
{
    struct piece *p = slot;
    (void)opaque;
    free(p->data);
}

int commit_copy(struct commit *c, struct img_error *err)
{
    struct job j = {.c = c};
    const struct workers_job work = {
        .opaque = &j,
        .slot_size = sizeof(struct piece),
        .take = take,
        .work = read_piece,
        .settle = write_piece,
        .clear = clear,
    };
    clock_gettime(CLOCK_MONOTONIC, &j.start);
    j.walk.steps = calloc(c->upper.depth, sizeof *j.walk.steps);
    int ret = j.walk.steps ? 0 : img_fail_nomem(err);
    tell_progress(c, 0);
    if (!ret)
        ret = workers_run(&work, workers_processors(), err);
    free(j.walk.steps);
    if (!ret)
        tell_progress(c, img_size(c->img));
    return ret;
}
