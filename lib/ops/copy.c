#include "lib/ops/copy_engine.h"
#include "lib/checked.h"
#include "lib/bytes.h"
#include "lib/ops/copy_log.h"
#include "lib/workers.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* ---- taking pieces ------------------------------------------------------------------------- */

/* What has to be done about a stretch, given where it goes. */
static void judge(const struct copy_job *j, uint64_t off, struct copy_part *p)
{
    const struct copy_target *t = j->target;
    if (p->kind != COPY_ZERO || !j->sparse)
        return;
    if (t->zero_is_nothing) {
        p->kind = COPY_ABSENT;
    } else if (off >= t->below_size) {
        p->kind = COPY_ABSENT;
    } else if (t->below_size != UINT64_MAX) {
        p->length = min_u64(p->length, t->below_size - off);
    }
}

/* Has the stretch to go through a buffer? */
static bool is_data(const struct copy_job *j, const struct copy_part *p)
{
    if (p->kind == COPY_ZERO)
        return !j->sparse || !j->target->says_zero;
    return p->kind == COPY_DATA;
}

static int map_one(const struct copy_job *j, uint64_t off, uint64_t max, struct copy_part *out,
                   struct img_error *err)
{
    int ret = copy_source_map(j->source, off, max, out, err);
    if (ret < 0)
        return img_prefix(err, ret, "error while reading block status at offset %" PRIu64 ": ",
                          off);
    judge(j, off, out);
    return 0;
}

/* What is no data is one part, however many things say so. */
static int map(const struct copy_job *j, uint64_t off, uint64_t max, struct copy_part *out,
               struct img_error *err)
{
    struct copy_part next;
    int ret = map_one(j, off, max, out, err);
    while (!ret && !is_data(j, out) && out->length < max) {
        ret = map_one(j, off + out->length, max - out->length, &next, err);
        if (ret < 0 || next.kind != out->kind)
            break;
        out->length += next.length;
    }
    return ret;
}

/* Does P, which starts a unit at OFF, fill a whole one without data? *LENGTH: all it fills. */
static bool fills_units(const struct copy_job *j, uint64_t off, const struct copy_part *p,
                        uint64_t *length)
{
    bool to_the_end = off + p->length == j->source->size;
    *length = to_the_end ? p->length : align_down(p->length, j->target->unit);
    return !is_data(j, p) && *length;
}

enum { SHARE_UNIT = 4096, SHARE_LEAST = 32 << 10, SHARE_MOST = 256 << 20 };

/* Can P, which starts a unit at OFF, be shared? *LENGTH: how much of it. */
static bool is_shared(const struct copy_job *j, uint64_t off, const struct copy_part *p,
                      uint64_t *length)
{
    uint64_t unit = max_u64(j->target->unit, SHARE_UNIT);
    *length = align_down(min_u64(p->length, SHARE_MOST), unit);
    return j->share && p->kind == COPY_DATA && p->extent.kind == IMG_EXTENT_DATA &&
           is_aligned(off, unit) && is_aligned(p->extent.host.v, SHARE_UNIT) &&
           *length >= SHARE_LEAST;
}

uint64_t copy_piece_size(const struct copy_job *j)
{
    return max_u64(max_u64(j->target->unit, j->source->largest), COPY_PIECE);
}

int copy_next(const struct copy_job *j, uint64_t *at, struct copy_piece *piece,
              struct img_error *err)
{
    const uint64_t size = j->source->size, unit = j->target->unit;
    struct copy_part p;
    piece->part_count = 0;
    piece->start = *at;
    int ret = map(j, *at, size - *at, &p, err);
    if (ret < 0)
        return ret;
    if (fills_units(j, *at, &p, &piece->length)) {
        piece->kind = p.kind;
        *at += piece->length;
        return 0;
    }
    if (is_shared(j, *at, &p, &piece->length)) {
        piece->kind = COPY_SHARED;
        *at += piece->length;
        return copy_piece_add(piece, &p, err);
    }
    piece->kind = COPY_DATA;
    uint64_t off = *at, most = copy_piece_size(j), whole;
    uint64_t end = min_u64(align_down(off + most, most > COPY_PIECE ? most : 1), size);
    for (;;) {
        p.length = min_u64(p.length, end - off);
        if (!is_data(j, &p) && !is_aligned(off, unit)) /* no more of it than belongs to the unit */
            p.length = min_u64(p.length, align_up(off, unit) - off);
        ret = copy_piece_add(piece, &p, err);
        off += p.length;
        if (ret < 0 || off == end)
            break;
        ret = map(j, off, size - off, &p, err);
        bool apart = is_aligned(off, unit) &&
                     (fills_units(j, off, &p, &whole) || is_shared(j, off, &p, &whole));
        if (ret < 0 || apart)
            break;
    }
    piece->length = off - *at;
    *at = off;
    return ret;
}

/* Two maps that say the same are the same, however they are cut into parts. */
static void sum_up(struct copy_job *j, uint64_t off, const struct copy_part *p)
{
    uint8_t buf[16];
    store_be64(buf, off);
    store_be64(buf + 8, p->length << 2 | (is_data(j, p) ? 0 : p->kind));
    j->map_sum = (uint32_t)crc32(j->map_sum, buf, sizeof buf);
}

/* Data that a stream has before what the disk has before it. *HIGHEST: the last of what came so
 * far. */
static void expect_early(const struct copy_job *j, const struct copy_part *p, uint64_t *highest)
{
    const struct extent *e = &p->extent;
    if (!j->in_order || p->kind != COPY_DATA || e->kind != IMG_EXTENT_DATA)
        return;
    if (e->host.v < *highest)
        file_pipe_expect_early(e->file, e->host.v, p->length);
    *highest = max_u64(*highest, e->host.v);
}

int copy_survey(struct copy_job *j, uint64_t *bytes, struct img_error *err)
{
    const struct copy_target *t = j->target;
    struct copy_part p;
    uint64_t highest = 0;
    int ret = 0;
    *bytes = 0;
    copy_source_rewind(j->source);
    for (uint64_t off = 0; off < j->source->size && !ret; off += p.length) {
        ret = map(j, off, j->source->size - off, &p, err);
        if (ret < 0)
            break;
        if (is_data(j, &p))
            *bytes += p.length;
        if (p.kind == COPY_DATA && p.extent.kind == IMG_EXTENT_COMPRESSED)
            j->source->largest = max_u64(j->source->largest, p.layer->cluster_size);
        expect_early(j, &p, &highest);
        sum_up(j, off, &p);
        if (p.kind != COPY_ABSENT && t->building)
            ret = t->building->expect(t->builder, guest(off), p.length, err);
        if (!ret && j->cancel && j->cancel->wanted(j->cancel->opaque))
            ret = img_fail(err, ECANCELED, "Interrupted");
    }
    copy_source_rewind(j->source);
    return ret;
}

int copy_place(const struct copy_job *j, struct img_error *err)
{
    const struct driver_building *b = j->target->building;
    struct copy_piece piece = {0};
    struct build_place unused;
    int ret = 0;
    copy_source_rewind(j->source);
    for (uint64_t at = 0; at < j->source->size && !ret;) {
        ret = copy_next(j, &at, &piece, err);
        guest_off off = guest(piece.start);
        uint64_t length = align_up(piece.length, j->target->unit);
        if (!ret && piece.kind == COPY_DATA)
            ret = b->data(j->target->builder, off, length, &unused, err);
        else if (!ret && piece.kind == COPY_ZERO)
            ret = b->zero(j->target->builder, off, length, err);
    }
    copy_piece_free(j, &piece);
    copy_source_rewind(j->source);
    return ret;
}

/* ---- the steps ----------------------------------------------------------------------------- */

struct copy {
    const struct copy_job *job;
    uint64_t at; /* of the next piece */
    uint64_t total, done;
    struct copy_pace pace;
    pthread_mutex_t reporting;
};

static int take(void *opaque, void *slot, struct img_error *err)
{
    struct copy *c = opaque;
    const struct cancel *cancel = c->job->cancel;
    if (c->at == c->job->source->size)
        return 0;
    if (cancel && cancel->wanted(cancel->opaque))
        return img_fail(err, ECANCELED, "Interrupted");
    struct copy_piece *p = slot;
    int ret = copy_next(c->job, &c->at, p, err);
    if (!ret && c->job->in_order && p->kind == COPY_DATA)
        ret = copy_piece_read(c->job, p, err);
    return ret < 0 ? ret : 1;
}

static int work(void *opaque, void *slot, struct img_error *err)
{
    struct copy *c = opaque;
    struct copy_piece *p = slot;
    p->run_count = 0;
    if (p->kind == COPY_ABSENT)
        return 0;
    if (p->kind == COPY_ZERO)
        return copy_piece_add_run(
            p, &(struct copy_run){.kind = RUN_ZERO, .offset = p->start, .length = p->length}, err);
    if (p->kind == COPY_SHARED)
        return copy_piece_add_run(p,
                                  &(struct copy_run){.kind = RUN_SHARED,
                                                     .offset = p->start,
                                                     .length = p->length,
                                                     .from = p->parts[0].extent.file,
                                                     .from_host = p->parts[0].extent.host},
                                  err);
    int ret = c->job->in_order ? 0 : copy_piece_read(c->job, p, err);
    return ret < 0 ? ret : copy_piece_divide(c->job, p, err);
}

/* Does it count for how far the copy is? */
static bool is_copied(const struct copy_piece *p)
{
    return p->kind == COPY_DATA || p->kind == COPY_SHARED;
}

static int settle(void *opaque, void *slot, struct img_error *err)
{
    struct copy *c = opaque;
    struct copy_piece *p = slot;
    int ret = 0;
    if (c->job->target->img)
        copy_late_settling(c->job->target, p);
    for (size_t i = 0; i < p->run_count && !ret; i++) {
        struct copy_run *r = &p->runs[i];
        ret = copy_pace_wait(&c->pace, c->job, r->kind == RUN_ZERO ? 0 : r->stored, err);
        if (!ret)
            ret = copy_target_settle(c->job->target, r, err);
        if (ret < 0)
            copy_failed(err, ret, "writing", r->offset);
    }
    if (c->job->target->img)
        copy_late_settled(c->job->target, ret < 0);
    if (!ret && c->job->log)
        ret = copy_log_settled(c->job->log, p->runs, p->run_count, p->start + p->length,
                               is_copied(p) ? p->length : 0, c->job->source->size, &p->number, err);
    return ret;
}

static int finish(void *opaque, void *slot, struct img_error *err)
{
    struct copy *c = opaque;
    struct copy_piece *p = slot;
    int ret = copy_target_finish(c->job->target, p, c->job->source->size, err);
    if (!ret && c->job->log)
        ret = copy_log_finished(c->job->log, p->number, err);
    if (ret < 0 || !is_copied(p))
        return ret;
    pthread_mutex_lock(&c->reporting);
    c->done += p->length;
    progress_report(&c->job->progress, "copy", min_u64(c->done, c->total), c->total);
    pthread_mutex_unlock(&c->reporting);
    return 0;
}

static void clear(void *opaque, void *slot)
{
    struct copy *c = opaque;
    copy_piece_free(c->job, slot);
}

static unsigned threads(const struct copy_job *j)
{
    enum { DECOMPRESSOR = 256 << 10, COMPRESSOR = 2 << 20 };
    const struct copy_target *t = j->target;
    uint64_t each = copy_piece_size(j);
    if (j->source->largest)
        each += j->source->largest + DECOMPRESSOR;
    if (j->compress) /* that of an image that exists is the format's choice */
        each += copy_piece_size(j) +
                (t->building ? t->building->compressor_memory(t->builder, j->level) : COMPRESSOR);
    unsigned most = (unsigned)max_u64(COPY_MEMORY / each, 1);
    return j->threads < most ? j->threads : most;
}

/* What an earlier copy has brought to disk is given its places again. */
static int replay(struct copy *c, struct img_error *err)
{
    struct copy_log *log = c->job->log;
    const uint64_t size = c->job->source->size;
    struct copy_run r;
    uint64_t end = 0, last = 0;
    int ret;
    while ((ret = copy_log_next(log, &r, err)) > 0) {
        if (r.offset < last || r.offset >= size || !is_aligned(r.offset, c->job->target->unit))
            return img_fail(err, EINVAL, "'%s' does not fit the disk", log->path);
        ret = copy_target_replay(c->job->target, &r, err);
        if (ret < 0)
            return ret;
        if (r.kind != RUN_ZERO)
            end = max_u64(end, copy_run_end(&r, size));
        last = r.offset + r.length;
    }
    if (!ret && (end != log->logged.end || log->logged.at > size ||
                 last > align_up(size, c->job->target->unit)))
        ret = img_fail(err, EINVAL, "'%s' does not fit the image", log->path);
    c->at = log->logged.at;
    c->done = log->logged.done;
    copy_log_begin(log);
    return ret;
}

int copy_run(const struct copy_job *job, uint64_t total, struct img_error *err)
{
    struct copy c = {.job = job, .total = total};
    const struct workers_job steps = {
        .opaque = &c,
        .slot_size = sizeof(struct copy_piece),
        .take = take,
        .work = work,
        .settle = settle,
        .finish = finish,
        .clear = clear,
    };
    copy_source_rewind(job->source);
    int ret = job->log ? replay(&c, err) : 0;
    if (ret < 0)
        return ret;
    progress_report(&job->progress, "copy", min_u64(c.done, total), total);
    pthread_mutex_init(&c.reporting, NULL);
    ret = workers_run(&steps, threads(job), err);
    if (ret < 0 && job->log)
        copy_log_stop(job->log);
    pthread_mutex_destroy(&c.reporting);
    if (!ret)
        progress_report(&job->progress, "copy", total, total);
    return ret;
}
