/*
 * What of two backing files differs under an image, and copying that into it.
 *
 * Only ranges that the image does not hold itself count. Those that the mappings show to be equal
 * are passed over, as long as they may be; the rest is cut into pieces that several threads read
 * and compare. A unit of the image (a subcluster, or a cluster where it is to be compressed) in
 * which a byte differs is copied whole, as what is left of it would have to be read anyway to fill
 * it. Pieces end at fixed offsets, so that the image does not depend on how many threads there are.
 */
#include "lib/checked.h"
#include "lib/ops/rebase.h"
#include "lib/ops/sweep.h"
#include "lib/workers.h"
#include "lib/zero.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 20, MAX_RUNS = PIECE / 512, BEGIN_FLUSH = 32 << 20 };

/* Units next to each other of which the same has to be done. */
struct run {
    uint32_t from, length; /* in the piece */
    bool zero;             /* the old base reads as zeroes there */
};

struct piece {
    uint64_t offset;
    size_t length;
    bool zero[2]; /* all of it, in the old and the new base: not to be read */
    uint8_t *data[2];
    size_t room;
    struct run runs[MAX_RUNS];
    size_t run_count;
    struct rebase_pack pack;
};

struct job {
    struct rebase *r;
    enum rebase_mode mode;
    struct pair pair;
    uint64_t unit, piece;
    bool compress, merges;
    struct rebase_merge merge;
    bool swept;           /* of what an interrupted run has left in the image */
    uint64_t unflushed;   /* bytes written since the host was told to begin */
    uint64_t at;          /* the next byte to look at */
    uint64_t gap;         /* the image is known to hold nothing from AT up to here */
    pthread_mutex_t lock; /* the image is written while it is mapped */
};

/* ---- what to look at ----------------------------------------------------------------------- */

static int map_image(struct job *j, uint64_t off, struct extent *e, struct img_error *err)
{
    struct layer *l = j->r->img->layers[0];
    if (j->r->all) {
        *e = (struct extent){.length = j->r->size - off, .kind = IMG_EXTENT_UNALLOCATED};
        return 0;
    }
    pthread_mutex_lock(&j->lock);
    int ret = l->driver->map(l, guest(off), l->size - off, MAP_ALLOCATION, e, err);
    pthread_mutex_unlock(&j->lock);
    return ret < 0 ? img_prefix(err, ret, "Could not read the mapping of '%s': ", l->filename) : 0;
}

/* Brings AT to a byte that the image does not hold; to its end when it has all the rest. */
static int find_gap(struct job *j, struct img_error *err)
{
    uint64_t size = j->r->size;
    while (j->at >= j->gap && j->at < size) {
        struct extent e;
        int ret = map_image(j, j->at, &e, err);
        if (ret < 0)
            return ret;
        if (e.kind == IMG_EXTENT_UNALLOCATED)
            j->gap = j->at + e.length;
        else
            j->at += e.length;
    }
    return 0;
}

/* Lets the gap reach at least to END, if the image holds nothing until there. */
static int widen_gap(struct job *j, uint64_t end, struct img_error *err)
{
    end = min_u64(end, j->r->size);
    while (j->gap < end) {
        struct extent e;
        int ret = map_image(j, j->gap, &e, err);
        if (ret < 0 || e.kind != IMG_EXTENT_UNALLOCATED)
            return ret;
        j->gap += e.length;
    }
    return 0;
}

static uint64_t unit_end(const struct job *j, uint64_t off)
{
    return min_u64(align_down(off, j->unit) + j->unit, j->gap);
}

/* Passes over what is known to be equal: whole units, or to the end of the gap. */
static int skip_equal(struct job *j, struct img_error *err)
{
    while (j->at < j->gap) {
        struct pair_stretch s;
        uint64_t length = 0;
        int ret = 0;
        do { /* a unit may have several reasons to be equal */
            ret = pair_map(&j->pair, j->at + length, j->gap - j->at - length, &s, err);
            length += !ret && s.same ? s.length : 0;
        } while (!ret && s.same && j->at + length < unit_end(j, j->at));
        if (ret < 0)
            return ret;
        uint64_t end = j->at + length;
        end = end == j->gap ? end : align_down(end, j->unit);
        if (end <= j->at)
            return 0;
        j->r->result.shared_bytes += end - j->at;
        j->at = end;
    }
    return 0;
}

/* The piece at AT: up to where a whole unit is equal again, or to the next of the fixed offsets. */
static int cut_piece(struct job *j, struct piece *p, struct img_error *err)
{
    uint64_t limit = align_down(j->at, j->piece) + j->piece, end = j->at;
    int ret = widen_gap(j, limit, err);
    limit = min_u64(limit, j->gap);
    p->offset = j->at;
    p->zero[0] = p->zero[1] = true;
    while (!ret && end < limit) {
        struct pair_stretch s = {0};
        ret = pair_map(&j->pair, end, limit - end, &s, err);
        uint64_t in_unit = unit_end(j, end) - end;
        if (!ret && s.same && end > j->at && is_aligned(end, j->unit) && s.length >= in_unit)
            break;
        s.length = min_u64(s.length, s.same ? in_unit : s.length);
        for (size_t i = 0; i < 2; i++)
            p->zero[i] &= s.zero[i];
        end += s.length;
    }
    end = min_u64(align_up(end, j->unit), limit);
    p->length = (size_t)(end - j->at);
    j->at = end;
    return ret;
}

/* 1: there is a piece. */
static int next_piece(struct job *j, struct piece *p, struct img_error *err)
{
    uint64_t size = j->r->size;
    while (j->at < size) {
        int ret = file_go_on(j->r->img->layers[0]->file, err);
        if (!ret)
            ret = find_gap(j, err);
        if (!ret && j->at < size)
            ret = skip_equal(j, err);
        if (ret < 0)
            return ret;
        if (j->at >= j->gap)
            continue;
        ret = cut_piece(j, p, err);
        return ret < 0 ? ret : 1;
    }
    return 0;
}

static int sweep(struct job *j, struct img_error *err)
{
    if (j->swept || j->mode != REBASE_COPY)
        return 0;
    j->swept = true;
    return sweep_leaks(j->r->img->layers[0], err);
}

/* Before the first piece is handed out, nobody else looks at the image. */
static int take(void *opaque, void *slot, struct img_error *err)
{
    struct job *j = opaque;
    int ret = next_piece(j, slot, err), swept = ret > 0 ? sweep(j, err) : 0;
    return swept < 0 ? swept : ret;
}

/* ---- comparing ----------------------------------------------------------------------------- */

static int make_room(struct piece *p, struct img_error *err)
{
    if (p->room >= p->length)
        return 0;
    for (size_t i = 0; i < 2; i++) {
        free(p->data[i]);
        p->data[i] = malloc(p->length);
    }
    p->room = p->data[0] && p->data[1] ? p->length : 0;
    return p->room ? 0 : img_fail_nomem(err);
}

static int read_both(const struct job *j, struct piece *p, struct img_error *err)
{
    static const char *const names[] = {"old", "new"};
    int ret = make_room(p, err);
    for (size_t i = 0; i < 2 && !ret; i++) {
        if (p->zero[i])
            continue;
        ret = pair_read(&j->pair.sides[i], p->data[i], p->length, p->offset, err);
        if (ret < 0)
            img_prefix(err, ret, "Error while reading from the %s backing file: ", names[i]);
    }
    return ret;
}

static bool unit_differs(const struct piece *p, size_t at, size_t length, bool *old_zero)
{
    const uint8_t *old = p->data[0] + at, *new = p->data[1] + at;
    if (p->zero[0] || p->zero[1]) {
        *old_zero = p->zero[0] || zero_all(old, length);
        return !zero_all(p->zero[0] ? new : old, length);
    }
    if (!memcmp(old, new, length))
        return false;
    *old_zero = zero_all(old, length);
    return true;
}

static void add_run(struct piece *p, size_t at, size_t length, bool zero)
{
    struct run *last = p->run_count ? &p->runs[p->run_count - 1] : NULL;
    if (last && last->zero == zero && last->from + last->length == at)
        last->length += (uint32_t)length;
    else
        p->runs[p->run_count++] = (struct run){(uint32_t)at, (uint32_t)length, zero};
}

/* QEMU does that only behind the old base's end, and copies all other zeroes as data. */
static bool may_say_zero(const struct job *j, uint64_t off)
{
    const struct rebase *r = j->r;
    bool as_qemu = r->open.flags & IMG_OPEN_PROBE_LIKE_QEMU;
    return !as_qemu || !r->has_old || off >= img_size(&r->old_base);
}

static int compare(void *opaque, void *slot, struct img_error *err)
{
    const struct job *j = opaque;
    struct piece *p = slot;
    int ret = read_both(j, p, err);
    p->run_count = 0;
    if (!ret && j->compress)
        ret = rebase_pack_start(&p->pack, j->r->img, p->offset, p->length, err);
    if (ret < 0 || (p->zero[0] && p->zero[1]))
        return ret;
    for (size_t at = 0, n; at < p->length && !ret; at += n) {
        uint64_t off = p->offset + at;
        bool old_zero;
        n = (size_t)min_u64(align_down(off, j->unit) + j->unit - off, p->length - at);
        if (!unit_differs(p, at, n, &old_zero))
            continue;
        old_zero = old_zero && may_say_zero(j, off);
        if (!old_zero && p->zero[0])
            memset(p->data[0] + at, 0, n);
        add_run(p, at, n, old_zero);
        if (!old_zero && j->compress)
            ret = rebase_pack(&p->pack, j->r->img, p->data[0], p->offset, at, n, err);
    }
    return ret;
}

/* ---- copying ------------------------------------------------------------------------------- */

static int write_run(struct job *j, const struct piece *p, const struct run *run,
                     struct img_error *err)
{
    struct rebase *r = j->r;
    uint64_t off = p->offset + run->from, end = off + run->length;
    if (run->zero) {
        r->result.zeroed_bytes += run->length;
        off = min_u64(max_u64(off, j->merge.end), end);
        return off < end ? img_write_zeroes(r->img, off, end - off, 0, err) : 0;
    }
    r->result.copied_bytes += run->length;
    if (j->compress)
        return rebase_pack_write(&p->pack, &j->merge, r->img, p->data[0], p->offset, run->from,
                                 run->length, err);
    return img_write(r->img, p->data[0] + run->from, run->length, off, err);
}

void rebase_progress(const struct rebase *r, uint64_t done)
{
    const struct img_rebase_options *o = r->options;
    if (o->progress)
        o->progress(o->opaque, r->phase, done, r->size);
}

/* The first byte of a run that differs. */
static uint64_t first_difference(const struct piece *p, const struct run *run)
{
    size_t i = run->from;
    for (; i + 1 < p->length; i++)
        if ((p->zero[0] ? 0 : p->data[0][i]) != (p->zero[1] ? 0 : p->data[1][i]))
            break;
    return p->offset + i;
}

static int differ(struct rebase *r, uint64_t offset, struct img_error *err)
{
    r->differs = true;
    r->difference = offset;
    return img_fail(err, EINVAL,
                    "The new backing file '%s' does not read the same as the old one: the "
                    "first difference is at offset %" PRIu64,
                    r->new_name ? r->new_name : "", offset);
}

static int settle(void *opaque, void *slot, struct img_error *err)
{
    struct job *j = opaque;
    struct rebase *r = j->r;
    const struct piece *p = slot;
    int ret = 0;
    if (j->mode == REBASE_COMPARE && p->run_count)
        return differ(r, first_difference(p, &p->runs[0]), err);
    pthread_mutex_lock(&j->lock);
    for (size_t i = 0; i < p->run_count && !ret; i++)
        ret = write_run(j, p, &p->runs[i], err);
    for (size_t i = 0; i < p->run_count; i++)
        j->unflushed += p->runs[i].zero ? 0 : p->runs[i].length;
    pthread_mutex_unlock(&j->lock);
    if (!ret && j->unflushed >= BEGIN_FLUSH) {
        file_begin_flush(r->img->layers[0]->file);
        j->unflushed = 0;
    }
    r->result.read_bytes += (p->zero[0] ? 0 : p->length) + (p->zero[1] ? 0 : p->length);
    if (!ret)
        rebase_progress(r, p->offset + p->length);
    return ret;
}

static void clear(void *opaque, void *slot)
{
    const struct job *j = opaque;
    struct piece *p = slot;
    free(p->data[0]);
    free(p->data[1]);
    rebase_pack_free(&p->pack, j->r->img);
}

/* ---- the whole ----------------------------------------------------------------------------- */

static int survey(struct job *j, struct img_error *err)
{
    struct img_rebase_result *result = &j->r->result;
    struct rebase_growth growth;
    struct piece *p = calloc(1, sizeof *p);
    int ret = p ? rebase_growth_init(&growth, j->r->img, err) : img_fail_nomem(err);
    while (!ret) {
        ret = next_piece(j, p, err);
        if (ret <= 0)
            break;
        ret = 0;
        result->read_bytes += (p->zero[0] ? 0 : p->length) + (p->zero[1] ? 0 : p->length);
        *(p->zero[0] ? &result->zeroed_bytes : &result->copied_bytes) += p->length;
        rebase_growth_add(&growth, p->offset, p->length, p->zero[0]);
        rebase_progress(j->r, j->at);
    }
    if (!ret)
        result->growth_bytes = rebase_growth_bytes(&growth);
    free(p);
    return ret;
}

static int copy(struct job *j, struct img_error *err)
{
    const struct workers_job work = {
        .opaque = j,
        .slot_size = sizeof(struct piece),
        .take = take,
        .work = compare,
        .settle = settle,
        .clear = clear,
    };
    /* what a merged cluster was before may leak although nothing is left to copy */
    int ret = j->merges ? sweep(j, err) : 0;
    return ret < 0 ? ret : workers_run(&work, workers_processors(), err);
}

int rebase_differences(struct rebase *r, enum rebase_mode mode, struct img_error *err)
{
    const struct layer *l = r->img->layers[0];
    struct job j = {.r = r, .mode = mode};
    j.compress = mode == REBASE_COPY && (r->options->flags & IMG_REBASE_COMPRESS);
    j.unit = l->driver->writing ? l->driver->writing->zero_unit(l) : 512;
    j.merges = j.compress && j.unit < l->cluster_size;
    if (r->options->flags & IMG_REBASE_COMPRESS)
        j.unit = l->cluster_size;
    j.piece = max_u64(PIECE, j.unit);
    int ret = pair_init(&j.pair, r->has_old ? &r->old_base : NULL, r->new_base, err);
    pthread_mutex_init(&j.lock, NULL);
    rebase_progress(r, 0);
    if (!ret)
        ret = mode == REBASE_SURVEY ? survey(&j, err) : copy(&j, err);
    pthread_mutex_destroy(&j.lock);
    rebase_merge_free(&j.merge, r->img);
    pair_free(&j.pair);
    return ret;
}
