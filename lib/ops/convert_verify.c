/*
 * Reads the target back and compares it with the source: from the disk, not out of the host's
 * memory, as far as the host allows. Where both maps say that there is no data, none is read.
 */
#include "lib/checked.h"
#include "lib/ops/convert.h"
#include "lib/workers.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct verify {
    const struct conversion *c;
    struct copy_source source, target;
    uint64_t at, size, done;
};

struct verify_piece {
    struct copy_part source, target;
    uint64_t offset, length;
    uint8_t *buf; /* twice COPY_PIECE */
};

static int take(void *opaque, void *slot, struct img_error *err)
{
    struct verify *v = opaque;
    struct verify_piece *p = slot;
    const struct copy_job *j = &v->c->job;
    while (v->at < v->size) {
        if (j->cancel && j->cancel->wanted(j->cancel->opaque))
            return img_fail(err, ECANCELED, "Interrupted");
        int ret = copy_source_map(&v->source, v->at, v->size - v->at, &p->source, err);
        if (!ret)
            ret = copy_source_map(&v->target, v->at, p->source.length, &p->target, err);
        if (ret < 0)
            return ret;
        bool nothing = p->source.kind == COPY_ABSENT ||
                       (p->source.kind == COPY_ZERO && p->target.kind == COPY_ZERO);
        p->offset = v->at;
        p->length = nothing ? p->target.length : min_u64(p->target.length, COPY_PIECE);
        v->at += p->length;
        if (!nothing)
            return 1;
    }
    return 0;
}

static int work(void *opaque, void *slot, struct img_error *err)
{
    struct verify *v = opaque;
    struct verify_piece *p = slot;
    if (!p->buf)
        p->buf = malloc(2 * COPY_PIECE);
    if (!p->buf)
        return img_fail_nomem(err);
    int ret = copy_part_read(&p->source, p->buf, p->length, err);
    if (!ret)
        ret = copy_part_read(&p->target, p->buf + COPY_PIECE, p->length, err);
    if (ret < 0)
        return img_prefix(err, ret, "error while verifying at byte %" PRIu64 ": ", p->offset);
    if (memcmp(p->buf, p->buf + COPY_PIECE, p->length))
        return img_fail(err, EIO,
                        "'%s' does not read as it was written, in the %" PRIu64
                        " bytes at offset %" PRIu64,
                        v->c->filename, p->length, p->offset);
    return 0;
}

static int settle(void *opaque, void *slot, struct img_error *err)
{
    struct verify *v = opaque;
    const struct verify_piece *p = slot;
    (void)err;
    v->done += p->length;
    progress_report(&v->c->job.progress, "verify", min_u64(v->done, v->c->data_bytes),
                    v->c->data_bytes);
    return 0;
}

static void clear(void *opaque, void *slot)
{
    (void)opaque;
    free(((struct verify_piece *)slot)->buf);
}

static int compare(struct verify *v, struct img *target, struct img_error *err)
{
    const struct conversion *c = v->c;
    const struct workers_job steps = {
        .opaque = v,
        .slot_size = sizeof(struct verify_piece),
        .take = take,
        .work = work,
        .settle = settle,
        .clear = clear,
    };
    int ret = copy_source_init(&v->source, c->images, c->image_count, c->backing != NULL, err);
    if (!ret)
        ret = copy_source_init(&v->target, &target, 1, false, err);
    v->source.salvage = c->source.salvage;
    v->size = v->source.size;
    if (!ret)
        ret = workers_run(&steps, c->job.threads, err);
    copy_source_free(&v->source);
    copy_source_free(&v->target);
    return ret;
}

/* What was written is on the disk, and comes from there. */
static int forget(struct file *f, struct img_error *err)
{
    int ret = f ? file_flush(f, err) : 0;
    if (!ret && f)
        posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED);
    return ret;
}

/* TOP, which was opened alone, with what lies below it. */
static int compare_chain(struct verify *v, struct img *top, struct img_error *err)
{
    const struct img *below = v->c->below;
    struct img whole = *top;
    whole.depth = 1 + (below ? below->depth : 0);
    whole.layers = calloc(whole.depth, sizeof *whole.layers);
    if (!whole.layers)
        return img_fail_nomem(err);
    whole.layers[0] = top->layers[0];
    for (unsigned i = 1; i < whole.depth; i++)
        whole.layers[i] = below->layers[i - 1];
    int ret = compare(v, &whole, err);
    free(whole.layers);
    return ret;
}

int conversion_verify(const struct conversion *c, struct img_error *err)
{
    struct verify v = {.c = c};
    const struct new_image *n = &c->target;
    struct img *to = c->existing;
    if (!(c->given->flags & IMG_CONVERT_VERIFY))
        return 0;
    int ret = forget(to ? to->layers[0]->file : n->image->file, err);
    if (!ret)
        ret = forget(to ? to->layers[0]->data_file : n->data ? n->data->file : NULL, err);
    if (ret < 0)
        return ret;
    if (to)
        return compare(&v, to, err);
    ret = conversion_reopen(c, IMG_OPEN_FORCE_SHARE, &to, err);
    if (ret < 0)
        return ret;
    ret = compare_chain(&v, to, err);
    img_close(to);
    return ret;
}
