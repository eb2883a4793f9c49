#include "lib/checked.h"
#include "lib/ops/copy_engine.h"
#include "lib/write.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

/* ---- an image that exists ------------------------------------------------------------------ */

static int write_to_image(struct copy_target *t, const struct copy_run *r, struct img_error *err)
{
    uint64_t n = min_u64(r->length, t->size - r->offset);
    if (r->kind == RUN_COMPRESSED)
        return write_compressed(t->img, r->data, r->stored, r->offset, err);
    if (r->kind == RUN_ZERO)
        return img_write_zeroes(t->img, r->offset, n, IMG_ZERO_UNMAP, err);
    return copy_late_write(t, r, n, err);
}

/* ---- a new image --------------------------------------------------------------------------- */

static int place(struct copy_target *t, struct copy_run *r, struct img_error *err)
{
    const struct driver_building *b = t->building;
    guest_off off = guest(r->offset);
    switch (r->kind) {
    case RUN_ZERO:
        return b->zero(t->builder, off, r->length, err);
    case RUN_COMPRESSED:
        return b->compressed(t->builder, off, r->stored, &r->place, err);
    case RUN_DATA:
    case RUN_SHARED:
        break;
    }
    return b->data(t->builder, off, r->length, &r->place, err);
}

static int place_and_tell(struct copy_target *t, struct copy_run *r, struct img_error *err)
{
    int ret = place(t, r, err);
    if (!ret && r->kind == RUN_DATA)
        file_expect_write(r->place.file, r->place.host, min_u64(r->stored, t->size - r->offset));
    return ret;
}

int copy_target_replay(struct copy_target *t, struct copy_run *r, struct img_error *err)
{
    if (r->kind == RUN_COMPRESSED && (!t->building->compressed || r->length != t->unit))
        return img_fail(err, EINVAL, "nothing is compressed so");
    return place(t, r, err);
}

uint64_t copy_run_end(const struct copy_run *r, uint64_t size)
{
    uint64_t stored = r->kind == RUN_COMPRESSED ? r->stored : min_u64(r->length, size - r->offset);
    return r->place.host.v + stored;
}

/* What a stream's tables say already is not said again. */
static int write_to_stream(struct copy_target *t, struct copy_run *r, struct img_error *err)
{
    if (r->kind == RUN_ZERO)
        return 0;
    int ret = place(t, r, err);
    return ret < 0 ? ret : file_write(t->stream, r->data, r->stored, r->place.host, err);
}

int copy_target_settle(struct copy_target *t, struct copy_run *r, struct img_error *err)
{
    if (t->stream)
        return write_to_stream(t, r, err);
    return t->building ? place_and_tell(t, r, err) : write_to_image(t, r, err);
}

/* Where it turns out that something cannot be shared, it is copied. */
static int share(const struct copy_run *r, struct img_error *err)
{
    int ret = file_share(r->place.file, r->place.host, r->from, r->from_host, r->length, err);
    if (ret != -EOPNOTSUPP)
        return ret;
    uint8_t *buf = malloc(COPY_PIECE);
    ret = buf ? 0 : img_fail_nomem(err);
    for (uint64_t done = 0, n; done < r->length && !ret; done += n) {
        n = min_u64(r->length - done, COPY_PIECE);
        ret = file_read_padded(r->from, buf, (size_t)n, host(r->from_host.v + done), err);
        if (!ret)
            ret = file_write(r->place.file, buf, (size_t)n, host(r->place.host.v + done), err);
    }
    free(buf);
    return ret;
}

static bool in_memory(const struct copy_run *r)
{
    return r->kind == RUN_DATA || r->kind == RUN_COMPRESSED;
}

/* Does NEXT go on where R ends, in memory and in the file? */
static bool continues(const struct copy_run *r, const struct copy_run *next)
{
    return in_memory(next) && next->place.file == r->place.file &&
           next->data == r->data + r->stored && next->place.host.v == r->place.host.v + r->stored;
}

int copy_target_finish(struct copy_target *t, struct copy_piece *p, uint64_t size,
                       struct img_error *err)
{
    int ret = t->img ? copy_late_finish(t, p, err) : 0;
    for (size_t i = 0; t->building && !t->stream && i < p->run_count && !ret; i++) {
        struct copy_run r = p->runs[i];
        if (r.kind == RUN_SHARED)
            ret = share(&r, err);
        if (!in_memory(&r))
            continue;
        for (; i + 1 < p->run_count && continues(&r, &p->runs[i + 1]); i++) {
            r.stored += p->runs[i + 1].stored;
            r.kind = p->runs[i + 1].kind;
            r.offset = p->runs[i + 1].offset;
            r.length = p->runs[i + 1].length;
        }
        /* the last unit, where it is plain, ends with the disk */
        if (r.kind == RUN_DATA && r.offset + r.length > size)
            r.stored -= (size_t)(r.offset + r.length - size);
        ret = file_write(r.place.file, r.data, r.stored, r.place.host, err);
        if (ret < 0)
            copy_failed(err, ret, "writing", p->runs[i].offset);
    }
    return ret;
}

/* ---- a limit for the speed ----------------------------------------------------------------- */

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int copy_pace_wait(struct copy_pace *pace, const struct copy_job *j, uint64_t bytes,
                   struct img_error *err)
{
    const uint64_t step = 50000000;
    if (!j->rate)
        return 0;
    if (!pace->started)
        pace->started = now();
    uint64_t due = pace->started + (uint64_t)((double)pace->bytes / (double)j->rate * 1e9);
    pace->bytes += bytes;
    for (uint64_t t = now(); t < due; t = now()) {
        uint64_t wait = min_u64(due - t, step);
        if (j->cancel && j->cancel->wanted(j->cancel->opaque))
            return img_fail(err, ECANCELED, "Interrupted");
        nanosleep(&(struct timespec){.tv_nsec = (long)wait}, NULL);
    }
    return 0;
}
