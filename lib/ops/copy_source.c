#include "lib/ops/copy_source.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SECTOR = 512 };

static int init_disk(struct copy_disk *d, bool top_only, struct img_error *err)
{
    d->view = *d->img;
    if (top_only)
        d->view.depth = 1;
    d->walk.steps = calloc(d->view.depth, sizeof *d->walk.steps);
    d->holes = calloc(d->view.depth, sizeof *d->holes);
    if (!d->walk.steps || !d->holes)
        return img_fail_nomem(err);
    for (unsigned i = 0; i < d->view.depth; i++) {
        struct layer *l = d->view.layers[i];
        d->holes[i] = l->driver->data_has_holes && l->driver->data_has_holes(l);
        if (l->cluster_size && (!d->cluster || l->cluster_size < d->cluster))
            d->cluster = l->cluster_size;
    }
    if (!d->cluster)
        d->cluster = SECTOR;
    return 0;
}

int copy_source_init(struct copy_source *s, struct img *const *images, size_t count, bool top_only,
                     struct img_error *err)
{
    *s = (struct copy_source){.disks = calloc(count, sizeof *s->disks), .count = count};
    if (!s->disks)
        return img_fail_nomem(err);
    int ret = 0;
    for (size_t i = 0; i < count && !ret; i++) {
        struct copy_disk *d = &s->disks[i];
        d->img = images[i];
        d->start = s->size;
        if (add_overflows(s->size, img_size(d->img), &s->size) || s->size > INT64_MAX)
            return img_fail(err, EFBIG, "The disks together are too large");
        ret = init_disk(d, top_only && d->img->depth > 1, err);
    }
    return ret;
}

void copy_source_free(struct copy_source *s)
{
    for (size_t i = 0; s->disks && i < s->count; i++) {
        free(s->disks[i].walk.steps);
        free(s->disks[i].holes);
    }
    free(s->disks);
    s->disks = NULL;
    free(s->broken.why);
    s->broken.why = NULL;
}

void copy_source_rewind(struct copy_source *s)
{
    for (size_t i = 0; i < s->count; i++)
        memset(s->disks[i].walk.steps, 0, s->disks[i].view.depth * sizeof *s->disks[i].walk.steps);
    s->stretch.file = NULL;
}

/* Metadata that was preallocated leads to data that is a hole. */
static int split_at_holes(struct copy_source *s, struct copy_part *p, struct img_error *err)
{
    struct file *f = p->extent.file;
    uint64_t at = p->extent.host.v;
    bool known = s->stretch.file == f && at >= s->stretch.start &&
                 at - s->stretch.start < s->stretch.extent.length;
    if (!known) {
        int ret = f->ops->extent(f, p->extent.host, &s->stretch.extent);
        if (ret < 0)
            return img_fail_errno(err, -ret, "Could not find the holes of '%s'", f->name);
        s->stretch.file = f;
        s->stretch.start = at;
    }
    if (!s->stretch.extent.data)
        p->kind = COPY_ZERO;
    p->length = min_u64(p->length, s->stretch.extent.length - (at - s->stretch.start));
    p->extent.length = p->length;
    return 0;
}

static int map_disk(struct copy_source *s, struct copy_disk *d, uint64_t in_disk, uint64_t max,
                    struct copy_part *out, struct img_error *err)
{
    unsigned depth;
    /* all of it is asked for, and remembered */
    int ret = chain_map(&d->view, guest(in_disk), img_size(d->img) - in_disk, MAP_HOLES, &d->walk,
                        &out->extent, &depth, err);
    if (ret < 0)
        return ret;
    out->extent.length = min_u64(out->extent.length, max);
    bool top_only = d->view.depth < d->img->depth;
    out->length = out->extent.length;
    out->layer = d->view.layers[depth];
    out->offset = in_disk;
    out->kind = COPY_DATA;
    if (out->extent.kind == IMG_EXTENT_ZERO)
        out->kind = COPY_ZERO;
    else if (out->extent.kind == IMG_EXTENT_UNALLOCATED)
        out->kind = top_only ? COPY_ABSENT : COPY_ZERO;
    else if (out->extent.kind == IMG_EXTENT_DATA && d->holes[depth])
        ret = split_at_holes(s, out, err);
    return ret;
}

/* One reason for a stretch is said once, in the first of several walks. */
static void tell_broken(struct copy_source *s, uint64_t off, uint64_t end, const char *why)
{
    bool goes_on = s->broken.why && off == s->broken.end && !strcmp(why, s->broken.why);
    char *text;
    if (!goes_on && off >= s->broken.said && s->warn &&
        asprintf(&text, "error while reading block status at offset %" PRIu64 ": %s", off, why) >=
            0) {
        s->warn(s->opaque, text);
        free(text);
    }
    if (!goes_on) {
        free(s->broken.why);
        s->broken.why = strdup(why); /* without memory, it is said again */
    }
    s->broken.end = end;
    s->broken.said = max_u64(s->broken.said, end);
}

/* What the tables do not tell about OFF is zero to the end of its cluster. */
static void pass_over(struct copy_source *s, const struct copy_disk *d, uint64_t off, uint64_t max,
                      struct copy_part *out, struct img_error *why)
{
    uint64_t in_disk = off - d->start, length = d->cluster - in_disk % d->cluster;
    *out = (struct copy_part){.kind = COPY_ZERO,
                              .length = min_u64(min_u64(length, img_size(d->img) - in_disk), max),
                              .layer = d->view.layers[0],
                              .offset = in_disk};
    out->extent = (struct extent){.kind = IMG_EXTENT_ZERO, .length = out->length};
    tell_broken(s, off, off + out->length, img_error_message(why));
    img_error_clear(why);
}

int copy_source_map(struct copy_source *s, uint64_t off, uint64_t max, struct copy_part *out,
                    struct img_error *err)
{
    size_t i = 0;
    off += s->first;
    while (i + 1 < s->count && off >= s->disks[i + 1].start)
        i++;
    struct copy_disk *d = &s->disks[i];
    int ret = map_disk(s, d, off - d->start, max, out, err);
    if (ret >= 0 || !s->salvage || ret == -ENOMEM || ret == -ECANCELED)
        return ret;
    pass_over(s, d, off, max, out, err);
    return 0;
}

int copy_part_read(const struct copy_part *p, void *buf, uint64_t length, struct img_error *err)
{
    struct extent e = p->extent;
    e.length = length;
    if (p->kind != COPY_DATA)
        memset(buf, 0, length);
    else
        return layer_read_extent(p->layer, &e, buf, guest(p->offset), err);
    return 0;
}
