/*
 * THE write loop: a place for the range, filled with the data and with what the disk has around it,
 * then linked, repeat.
 */
#include "lib/write.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Data up to this length is put together with what surrounds it, to be written at once. */
enum { JOIN_MAX = 256 << 10 };

int write_start(struct img *img, uint64_t offset, uint64_t length, const char *what,
                struct img_error *err)
{
    uint64_t size = img_size(img);
    struct layer *l = img->layers[0];
    if (!(img->flags & IMG_OPEN_WRITE))
        return img_fail(err, EINVAL, "The image '%s' was not opened for writing", l->filename);
    if (img->flags & IMG_OPEN_NO_DATA)
        return img_fail(err, EINVAL, "The image was opened for its metadata only");
    if (!l->driver->writing)
        return img_fail(err, ENOTSUP, "Format driver '%s' does not support writing",
                        l->driver->name);
    if (l->encrypted)
        return img_fail(err, ENOTSUP, "Image is encrypted, its data cannot be written");
    if (offset > size || length > size - offset)
        return img_fail(err, EINVAL,
                        "%s of %" PRIu64 " bytes at %" PRIu64
                        " is past the end of the disk (%" PRIu64 " bytes)",
                        what, length, offset, size);
    l->backed = img->depth > 1 || l->backing_name;
    return 0;
}

/* ---- what surrounds the data --------------------------------------------------------------- */

/* A part of the disk as it is now; past its end there are zeroes. */
struct fringe {
    uint64_t offset, length;
    uint8_t *data; /* NULL: all zeroes */
};

static bool reads_as_zeroes(const struct extent *e)
{
    return e->kind == IMG_EXTENT_ZERO || e->kind == IMG_EXTENT_UNALLOCATED;
}

int write_find_zeroes(struct img *img, uint64_t offset, uint64_t length, bool *all,
                      struct img_error *err)
{
    const struct layer *l = img->layers[0];
    uint64_t end = min_u64(offset + length, img_size(img));
    *all = true;
    while (offset < end && *all) {
        struct extent e;
        unsigned depth;
        int ret = chain_map(img, guest(offset), end - offset, MAP_ALLOCATION, NULL, &e, &depth,
                            err);
        if (ret < 0)
            return ret;
        if (e.kind == IMG_EXTENT_UNALLOCATED && (img->flags & IMG_OPEN_NO_BACKING) &&
            l->backing_name)
            return img_fail(err, EINVAL,
                            "What is at offset %" PRIu64 " is in the backing file, which was not "
                            "opened",
                            offset);
        *all = reads_as_zeroes(&e);
        offset += e.length;
    }
    return 0;
}

static int read_fringe(struct img *img, struct fringe *f, struct img_error *err)
{
    bool zero;
    int ret = write_find_zeroes(img, f->offset, f->length, &zero, err);
    if (ret < 0 || zero)
        return ret;
    uint64_t size = img_size(img);
    size_t there = f->offset < size ? (size_t)min_u64(f->length, size - f->offset) : 0;
    f->data = calloc(1, f->length);
    if (!f->data)
        return img_fail_nomem(err);
    return img_read(img, f->data, there, f->offset, err);
}

/* ---- filling a place ----------------------------------------------------------------------- */

static void put_fringe(uint8_t *to, const struct fringe *f)
{
    if (f->data)
        memcpy(to, f->data, f->length);
    else
        memset(to, 0, f->length);
}

/* All in one write. */
static int write_joined(const struct placement *p, const struct fringe *head,
                        const struct fringe *tail, const void *buf, struct img_error *err)
{
    size_t total = (size_t)(head->length + p->length + tail->length);
    uint8_t *joined = malloc(total);
    if (!joined)
        return img_fail_nomem(err);
    put_fringe(joined, head);
    memcpy(joined + head->length, buf, p->length);
    put_fringe(joined + head->length + p->length, tail);
    int ret = file_write(p->file, joined, total, host(p->host.v - head->length), err);
    free(joined);
    return ret;
}

static int write_fringe(const struct placement *p, const struct fringe *f, host_off at,
                        struct img_error *err)
{
    if (!f->length)
        return 0;
    return f->data ? file_write(p->file, f->data, f->length, at, err)
                   : file_write_zeroes(p->file, at, f->length, err);
}

static int write_parts(const struct placement *p, const struct fringe *head,
                       const struct fringe *tail, const void *buf, struct img_error *err)
{
    int ret = write_fringe(p, head, host(p->host.v - head->length), err);
    if (!ret)
        ret = file_write(p->file, buf, p->length, p->host, err);
    if (!ret)
        ret = write_fringe(p, tail, host(p->host.v + p->length), err);
    return ret;
}

static int fill(struct img *img, const struct placement *p, const void *buf, uint64_t offset,
                struct img_error *err)
{
    struct fringe head = {offset - p->head, p->head, NULL};
    struct fringe tail = {offset + p->length, p->tail, NULL};
    if (!p->head && !p->tail)
        return file_write(p->file, buf, p->length, p->host, err);
    int ret = read_fringe(img, &head, err);
    if (!ret)
        ret = read_fringe(img, &tail, err);
    if (p->blank && !head.data)
        head.length = 0;
    if (p->blank && !tail.data)
        tail.length = 0;
    bool join = p->length <= JOIN_MAX && (head.length || tail.length);
    if (!ret)
        ret = (join ? write_joined : write_parts)(p, &head, &tail, buf, err);
    free(head.data);
    free(tail.data);
    return ret;
}

int write_failed(const struct img *img, uint64_t offset, int ret, struct img_error *err)
{
    return img_prefix(err, ret, "Error while writing offset %" PRIu64 " of '%s': ", offset,
                      img->layers[0]->filename);
}

int write_some(struct img *img, const void *buf, uint64_t length, uint64_t offset, bool late,
               struct placement *p, struct img_error *err)
{
    struct layer *l = img->layers[0];
    const struct driver_writing *w = l->driver->writing;
    int ret = w->place(l, guest(offset), length, p, err);
    if (!ret) {
        p->may_be_late &= late;
        ret = p->may_be_late ? 0 : fill(img, p, buf, offset, err);
        if (ret < 0)
            w->give_up(l, guest(offset), p);
        else
            ret = w->link(l, guest(offset), p, err);
    }
    return ret < 0 ? write_failed(img, offset, ret, err) : 0;
}

int write_data(struct img *img, const void *buf, uint64_t length, uint64_t offset,
               struct img_error *err)
{
    const uint8_t *from = buf;
    while (length) {
        struct placement p;
        int ret = write_some(img, from, length, offset, false, &p, err);
        if (ret < 0)
            return ret;
        from += p.length;
        offset += p.length;
        length -= p.length;
    }
    return 0;
}

int write_compressed(struct img *img, const void *stored, size_t length, uint64_t offset,
                     struct img_error *err)
{
    struct layer *l = img->layers[0];
    const struct driver_writing *w = l->driver->writing;
    struct placement p;
    int ret = write_start(img, offset, 0, "Write", err);
    if (!ret)
        ret = w->place_compressed(l, guest(offset), length, &p, err);
    if (ret < 0)
        return ret;
    ret = file_write(p.file, stored, length, p.host, err);
    if (ret < 0)
        w->give_up(l, guest(offset), &p);
    else
        ret = w->link(l, guest(offset), &p, err);
    return ret < 0 ? write_failed(img, offset, ret, err) : 0;
}

int img_write(struct img *img, const void *buf, size_t length, uint64_t offset,
              struct img_error *err)
{
    int ret = write_start(img, offset, length, "Write", err);
    return ret < 0 ? ret : write_data(img, buf, length, offset, err);
}

int img_flush(struct img *img, struct img_error *err)
{
    int ret = write_start(img, 0, 0, "Flush", err);
    return ret < 0 ? ret : img->layers[0]->driver->writing->flush(img->layers[0], err);
}

int layer_settle(struct layer *l, struct img_error *err)
{
    const struct driver_writing *w = l->driver->writing;
    return w && w->settle ? w->settle(l, err) : 0;
}
