/*
 * Which layer holds what, extent by extent, as `qemu-img map` tells it.
 *
 * In an image whose metadata was preallocated, data clusters lie in holes of the host file; such
 * ranges are told apart by asking the host where its holes are.
 */
#include "lib/checked.h"
#include "lib/image.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

struct map_walk {
    struct img *img;
    struct chain_walk walk;
    bool *holes; /* for each layer: does its data lie in holes? */
    struct extent_joiner joiner;
    struct { /* the stretch of a host file that was asked for last */
        struct file *file;
        uint64_t start;
        struct file_extent extent;
    } host;
};

static int emit(struct map_walk *w, uint64_t start, const struct extent *e, unsigned depth,
                bool hole)
{
    struct img_extent out = {
        .start = start,
        .length = e->length,
        .kind = e->kind,
        .depth = depth,
        .reads_zero = hole || e->kind == IMG_EXTENT_ZERO || e->kind == IMG_EXTENT_UNALLOCATED,
        .has_offset = e->file != NULL,
        .offset = e->file ? e->host.v : 0,
        .filename = e->file ? e->file->name : NULL,
    };
    return extent_join(&w->joiner, &out);
}

/* The stretch of F that holds AT. In a fragmented image, one hole stands behind many extents. */
static int host_stretch(struct map_walk *w, struct file *f, host_off at, struct file_extent *out,
                        struct img_error *err)
{
    bool known = w->host.file == f && at.v >= w->host.start &&
                 at.v - w->host.start < w->host.extent.length;
    int ret = known ? 0 : f->ops->extent(f, at, &w->host.extent);
    if (ret < 0)
        return img_fail_errno(err, -ret, "Could not find the holes of '%s'", f->name);
    if (!known) {
        w->host.file = f;
        w->host.start = at.v;
    }
    *out = w->host.extent;
    out->length -= at.v - w->host.start;
    return 0;
}

/* One extent of data, split where the host file's holes are. */
static int emit_split(struct map_walk *w, uint64_t start, struct extent e, unsigned depth,
                      struct img_error *err)
{
    int ret = 0;
    while (e.length && !ret) {
        struct file_extent stretch = {0};
        ret = host_stretch(w, e.file, e.host, &stretch, err);
        if (ret < 0) {
            extent_join_finish(&w->joiner);
            return ret;
        }
        struct extent part = e;
        part.length = min_u64(e.length, stretch.length);
        ret = emit(w, start, &part, depth, !stretch.data);
        start += part.length;
        extent_skip(&e, part.length);
    }
    return ret;
}

static int walk(struct map_walk *w, uint64_t offset, uint64_t end, struct img_error *err)
{
    while (offset < end) {
        struct extent e;
        unsigned depth;
        int ret = chain_map(w->img, guest(offset), end - offset, MAP_HOLES, &w->walk, &e, &depth,
                            err);
        if (ret < 0) {
            img_prefix(err, ret, "Could not read file metadata: ");
            extent_join_finish(&w->joiner);
            return ret;
        }
        bool split = e.kind == IMG_EXTENT_DATA && w->holes[depth];
        ret = split ? emit_split(w, offset, e, depth, err) : emit(w, offset, &e, depth, false);
        if (ret)
            return ret;
        offset += e.length;
    }
    return extent_join_finish(&w->joiner);
}

int img_map(struct img *img, uint64_t offset, uint64_t length,
            int (*fn)(void *opaque, const struct img_extent *extent), void *opaque,
            struct img_error *err)
{
    if (img->flags & IMG_OPEN_NO_DATA)
        return img_fail(err, EINVAL, "The image was opened for its metadata only");
    struct map_walk w = {.img = img, .joiner = {.fn = fn, .opaque = opaque}};
    w.walk.steps = calloc(img->depth, sizeof *w.walk.steps);
    w.holes = calloc(img->depth, sizeof *w.holes);
    int ret = 0;
    if (!w.walk.steps || !w.holes)
        ret = img_fail_nomem(err);
    for (unsigned i = 0; i < img->depth && !ret; i++) {
        struct layer *l = img->layers[i];
        w.holes[i] = l->driver->data_has_holes && l->driver->data_has_holes(l);
    }
    uint64_t size = img_size(img);
    if (!ret && offset < size)
        ret = walk(&w, offset, offset + min_u64(length, size - offset), err);
    free(w.walk.steps);
    free(w.holes);
    return ret;
}
