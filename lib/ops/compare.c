/*
 * Two disks side by side. One thread at a time walks both maps and cuts out pieces of what cannot
 * be known without a look; many look at pieces; differences are told in order.
 */
#include "lib/ops/compare.h"
#include "lib/checked.h"
#include "lib/workers.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 20, MAX_RANGES = 4096 };

struct comparison {
    struct img *images[2];
    const struct img_compare_options *options;
    struct img_comparison *result;
    uint64_t *tables[2]; /* strict: how much of the disk a table of each layer is for; 0: none */
    /* for the one that takes */
    struct copy_source sources[2];
    struct copy_part parts[2]; /* the current ones: what is left of them, from AT on */
    uint64_t at, end;
    uint64_t taken;
    /* for the one that settles */
    struct img_difference pending; /* length 0: none */
    bool stopped;                  /* no more is wanted: no failure */
    /* under LOCK: the first piece that failed, and for what */
    pthread_mutex_t lock;
    uint64_t failed;
};

static bool wants(const struct comparison *c, enum img_compare_flags flag)
{
    return c->options->flags & flag;
}

/* Notes what went wrong with which image, unless something did in an earlier piece; returns RET. */
static int blame(struct comparison *c, uint64_t piece, enum img_compare_step step, unsigned image,
                 uint64_t offset, int ret)
{
    pthread_mutex_lock(&c->lock);
    if (piece < c->failed) {
        c->failed = piece;
        c->result->step = step;
        c->result->image = image;
        c->result->offset = offset;
    }
    pthread_mutex_unlock(&c->lock);
    return ret;
}

/* ---- taking: both maps, side by side ---- */

/*
 * QEMU asks how far a range goes in one table at a time, and one compressed cluster; a strict
 * comparison sees by that whether it goes to the disk's end.
 */
static void cut_at_table(const struct comparison *c, unsigned i, struct copy_part *p)
{
    const struct img *img = c->images[i];
    for (unsigned k = 0; k < img->depth; k++) {
        uint64_t span = c->tables[i][k];
        if (span)
            p->length = min_u64(p->length, span - c->at % span);
        if (img->layers[k] == p->layer)
            break;
    }
    if (p->extent.kind == IMG_EXTENT_COMPRESSED)
        p->length = min_u64(p->length, p->layer->cluster_size - c->at % p->layer->cluster_size);
    p->extent.length = p->length;
}

static int measure_tables(struct comparison *c, unsigned i, struct img_error *err)
{
    const struct img *img = c->images[i];
    int ret = 0;
    c->tables[i] = calloc(img->depth, sizeof *c->tables[i]);
    if (!c->tables[i])
        return img_fail_nomem(err);
    for (unsigned k = 0; k < img->depth && !ret; k++) {
        struct layer *l = img->layers[k];
        struct layer_tables t;
        if (!l->driver->tables)
            continue;
        ret = l->driver->tables(l, &t, err);
        c->tables[i][k] = l->cluster_size / (t.extended_l2 ? 16 : 8) * l->cluster_size;
    }
    return ret;
}

/* Makes the part of image I the one at AT. Past the end of a disk there is nothing. */
static int refill(struct comparison *c, unsigned i, struct img_error *err)
{
    struct copy_part *p = &c->parts[i];
    uint64_t size = img_size(c->images[i]);
    if (p->length)
        return 0;
    if (c->at >= size) {
        *p = (struct copy_part){.kind = COPY_ABSENT, .length = c->end - c->at};
        return 0;
    }
    int ret = copy_source_map(&c->sources[i], c->at, size - c->at, p, err);
    if (!ret && wants(c, IMG_COMPARE_STRICT))
        cut_at_table(c, i, p);
    return ret;
}

static void part_skip(struct copy_part *p, uint64_t n)
{
    p->length -= n;
    p->offset += n;
    if (p->layer)
        extent_skip(&p->extent, n);
}

static void advance(struct comparison *c, uint64_t n)
{
    part_skip(&c->parts[0], n);
    part_skip(&c->parts[1], n);
    c->at += n;
}

/* How a range is stored, as far as strict comparison looks at it. */
static unsigned status(const struct comparison *c, unsigned i)
{
    enum { DATA = 1, ZERO = 2, PLACED = 4, COMPRESSED = 8, LAST = 16 };
    const struct copy_part *p = &c->parts[i];
    enum img_extent_kind kind = p->extent.kind;
    bool data = kind != IMG_EXTENT_UNALLOCATED && kind != IMG_EXTENT_ZERO;
    bool last = c->at + p->length == img_size(c->images[i]);
    return (data ? DATA : 0u) | (p->kind != COPY_DATA ? ZERO : 0u) |
           (kind != IMG_EXTENT_UNALLOCATED && p->extent.file ? PLACED : 0u) |
           (kind == IMG_EXTENT_COMPRESSED ? COMPRESSED : 0u) | (last ? LAST : 0u);
}

/* Is it the same file, which both read in the same way? */
static bool same_bytes(const struct copy_part *a, const struct copy_part *b)
{
    const struct layer *x = a->layer, *y = b->layer;
    const struct extent *e = &a->extent, *f = &b->extent;
    if (e->kind != f->kind)
        return false;
    if (e->kind == IMG_EXTENT_DATA)
        return e->file->id.device == f->file->id.device && e->file->id.inode == f->file->id.inode &&
               e->host.v == f->host.v;
    return e->kind == IMG_EXTENT_COMPRESSED && x->driver == y->driver && !x->other_view &&
           !y->other_view && a->offset == b->offset && x->file->id.device == y->file->id.device &&
           x->file->id.inode == y->file->id.inode;
}

/* Compressed clusters are better read whole. */
static uint64_t largest_span(const struct copy_part *p)
{
    bool compressed = p->layer && p->extent.kind == IMG_EXTENT_COMPRESSED;
    return compressed ? max_u64(PIECE, p->layer->cluster_size) : PIECE;
}

/* Adds the range at AT to P unless there is nothing to look at. */
static void take_range(struct comparison *c, struct piece *p)
{
    const struct copy_part *a = &c->parts[0], *b = &c->parts[1];
    uint64_t n = min_u64(a->length, b->length);
    bool zeroes = a->kind != COPY_DATA && b->kind != COPY_DATA;
    if (!zeroes && !same_bytes(a, b)) {
        n = min_u64(n, max_u64(largest_span(a), largest_span(b)));
        p->spans[p->count++] = (struct span){c->at, n, {*a, *b}};
        p->bytes += n;
    }
    advance(c, n);
}

/* A range that is not stored alike ends a strict comparison, so that it needs no look. */
static bool take_status(struct comparison *c, struct piece *p)
{
    if (!wants(c, IMG_COMPARE_STRICT) || status(c, 0) == status(c, 1))
        return false;
    p->kind = IMG_DIFFERENCE_STATUS;
    p->status_at = c->at;
    p->status_length = min_u64(c->parts[0].length, c->parts[1].length);
    c->at = c->end;
    return true;
}

static int take(void *opaque, void *slot, struct img_error *err)
{
    struct comparison *c = opaque;
    struct piece *p = slot;
    int ret = 0;
    unsigned image = 0, ranges = 0;
    piece_reset(p, c->taken, c->at);
    if (c->options->cancelled && c->options->cancelled(c->options->opaque))
        return img_fail(err, ECANCELED, "Interrupted");
    for (; c->at < c->end && p->count < MAX_SPANS && p->bytes < PIECE && ranges < MAX_RANGES;
         ranges++) {
        for (image = 0; image < 2 && !ret; image++)
            ret = refill(c, image, err);
        if (ret < 0 || take_status(c, p))
            break;
        take_range(c, p);
    }
    p->end = c->at;
    if (ret < 0 && p->end == p->start)
        return blame(c, c->taken, IMG_COMPARE_MAPPING, image - 1, c->at, ret);
    img_error_clear(err); /* what was taken comes first; the next call finds the same */
    c->taken++;
    return p->end > p->start || p->kind == IMG_DIFFERENCE_STATUS;
}

static int look(void *opaque, void *slot, struct img_error *err)
{
    struct comparison *c = opaque;
    struct piece *p = slot;
    unsigned image = 0;
    uint64_t offset = 0;
    int ret = piece_look(p, !wants(c, IMG_COMPARE_ALL), &image, &offset, err);
    return ret < 0 ? blame(c, p->number, IMG_COMPARE_READING, image, offset, ret) : 0;
}

/* ---- settling: differences in order ---- */

static int tell(struct comparison *c, const struct img_difference *d)
{
    const struct img_compare_options *o = c->options;
    c->result->differ = true;
    c->result->differing += d->length;
    int stop = o->difference ? o->difference(o->opaque, d) : 0;
    c->stopped = stop || !wants(c, IMG_COMPARE_ALL);
    return c->stopped ? -ECANCELED : 0;
}

/* Neighbours are one, also where they come from two pieces. */
static int add_run(struct comparison *c, const struct run *r)
{
    struct img_difference d = {IMG_DIFFERENCE_DATA, r->start, r->length};
    if (c->pending.length && c->pending.start + c->pending.length >= d.start) {
        c->pending.length = d.start + d.length - c->pending.start;
        return 0;
    }
    int ret = c->pending.length ? tell(c, &c->pending) : 0;
    c->pending = d;
    return ret;
}

static int settle(void *opaque, void *slot, struct img_error *err)
{
    struct comparison *c = opaque;
    const struct piece *p = slot;
    const struct img_compare_options *o = c->options;
    (void)err;
    int ret = 0;
    c->result->read += p->read;
    for (size_t i = 0; i < p->run_count && !ret; i++) {
        ret = add_run(c, &p->runs[i]);
        if (!ret && !wants(c, IMG_COMPARE_ALL))
            ret = tell(c, &c->pending);
    }
    if (!ret && p->kind == IMG_DIFFERENCE_STATUS)
        ret = tell(c, &(struct img_difference){p->kind, p->status_at, p->status_length});
    if (!ret && o->progress)
        o->progress(o->opaque, "compare", p->end, c->end);
    return ret;
}

/* ---- all of it ---- */

/* Each has two buffers, and as much again where clusters are compressed: that is bounded, too. */
static unsigned count_threads(const struct comparison *c)
{
    enum { MEMORY = 40 << 20, MOST = 16, LEAST = 256 << 10 };
    unsigned wanted = c->options->threads ? c->options->threads : workers_processors();
    uint64_t largest = LEAST;
    for (unsigned i = 0; i < 2; i++)
        for (unsigned k = 0; k < c->images[i]->depth; k++)
            largest = max_u64(largest, c->images[i]->layers[k]->cluster_size);
    uint64_t most = min_u64(MEMORY / (4 * largest), MOST);
    return wanted < most ? wanted : (unsigned)most;
}

static int compare(struct comparison *c, struct img_error *err)
{
    uint64_t sizes[2] = {img_size(c->images[0]), img_size(c->images[1])};
    c->end = max_u64(sizes[0], sizes[1]);
    if (wants(c, IMG_COMPARE_STRICT) && sizes[0] != sizes[1]) {
        uint64_t least = min_u64(sizes[0], sizes[1]);
        tell(c, &(struct img_difference){IMG_DIFFERENCE_SIZE, least, c->end - least});
        return 0;
    }
    int ret = 0;
    for (unsigned i = 0; i < 2 && wants(c, IMG_COMPARE_STRICT) && !ret; i++)
        ret = measure_tables(c, i, err);
    if (ret < 0)
        return ret;
    const struct workers_job job = {.opaque = c,
                                    .slot_size = sizeof(struct piece),
                                    .take = take,
                                    .work = look,
                                    .settle = settle,
                                    .clear = piece_clear};
    ret = workers_run(&job, count_threads(c), err);
    if (c->pending.length && !c->stopped && wants(c, IMG_COMPARE_ALL)) /* an error is behind it */
        tell(c, &c->pending);
    if (c->stopped) {
        img_error_clear(err);
        ret = 0;
    }
    return ret;
}

int img_compare(struct img *a, struct img *b, const struct img_compare_options *options,
                struct img_comparison *result, struct img_error *err)
{
    static const struct img_compare_options none;
    struct comparison c = {.images = {a, b},
                           .options = options ? options : &none,
                           .result = result,
                           .failed = UINT64_MAX};
    *result = (struct img_comparison){0};
    if ((a->flags | b->flags) & IMG_OPEN_NO_DATA)
        return img_fail(err, EINVAL, "The image was opened for its metadata only");
    if (wants(&c, IMG_COMPARE_STRICT) && wants(&c, IMG_COMPARE_ALL))
        return img_fail(err, EINVAL, "A strict comparison ends at the first difference");
    pthread_mutex_init(&c.lock, NULL);
    int ret = copy_source_init(&c.sources[0], &a, 1, false, err);
    if (!ret)
        ret = copy_source_init(&c.sources[1], &b, 1, false, err);
    if (!ret)
        ret = compare(&c, err);
    free(c.tables[0]);
    free(c.tables[1]);
    copy_source_free(&c.sources[0]);
    copy_source_free(&c.sources[1]);
    pthread_mutex_destroy(&c.lock);
    return ret;
}
