/* Another size for a disk: what every format has in common. */
#include "lib/checked.h"
#include "lib/image.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>

static_assert((int)IMG_PREALLOCATION_OFF == (int)PREALLOC_OFF &&
                  (int)IMG_PREALLOCATION_METADATA == (int)PREALLOC_METADATA &&
                  (int)IMG_PREALLOCATION_FALLOC == (int)PREALLOC_FALLOC &&
                  (int)IMG_PREALLOCATION_FULL == (int)PREALLOC_FULL,
              "the same modes in the same order");

/* QEMU's largest disk: the last GiB before 2^63. */
static const uint64_t max_size = (uint64_t)INT64_MAX & ~((1ull << 30) - 1);

static int read_disk(void *opaque, void *buf, size_t len, guest_off off, struct img_error *err)
{
    struct img *img = opaque;
    if (img->depth == 1 && img->layers[0]->backing_name && (img->flags & IMG_OPEN_NO_BACKING))
        return img_fail(err, EINVAL, "The image was opened without its backing file '%s'",
                        img->layers[0]->backing_name);
    return img_read(img, buf, len, off.v, err);
}

static int check(const struct img *img, uint64_t size, const struct img_resize_options *o,
                 struct img_error *err)
{
    uint64_t now = img_size(img);
    if (!(img->flags & IMG_OPEN_WRITE) || (img->flags & (IMG_OPEN_NO_DATA | IMG_OPEN_CHECK)))
        return img_fail(err, EBADF, "The image '%s' was not opened for writing",
                        img->layers[0]->filename);
    if (!size || size > INT64_MAX)
        return img_fail(err, EINVAL, "New image size must be positive");
    if (size <= now && o->preallocation != IMG_PREALLOCATION_OFF)
        return img_fail(err, EINVAL, "Preallocation can only be used for growing images");
    if (size < now && !(o->flags & IMG_RESIZE_SHRINK))
        return img_fail(err, EINVAL,
                        "The new size %" PRIu64 " is less than the image has, %" PRIu64, size, now);
    if (size > max_size)
        return img_fail(err, EINVAL, "offset(%" PRIu64 ") exceeds maximum(%" PRIu64 ")", size,
                        max_size);
    if (!img->layers[0]->driver->resize)
        return img_fail(err, ENOTSUP, "Image format driver does not support resize");
    return 0;
}

int img_resize(struct img *img, uint64_t size, const struct img_resize_options *options,
               struct img_error *err)
{
    struct img_resize_options o = options ? *options : (struct img_resize_options){0};
    int ret = check(img, size, &o, err);
    if (!ret)
        ret = layer_settle(img->layers[0], err);
    if (ret < 0)
        return ret;
    struct layer *top = img->layers[0];
    struct progress_sink sink = {o.progress, o.opaque};
    uint64_t grown = size > top->size ? size - top->size : 0;
    struct resize_request r = {
        .size = size,
        .preallocation = (enum preallocation)o.preallocation,
        .below = img->depth > 1 ? img->layers[1]->size : 0,
        .read = read_disk,
        .opaque = img,
    };
    top->file->progress = &sink;
    if (top->data_file)
        top->data_file->progress = &sink;
    ret = top->driver->resize(top, &r, err);
    top->file->progress = NULL;
    if (top->data_file)
        top->data_file->progress = NULL;
    if (!ret)
        progress_report(&sink, "resize", grown, grown);
    return ret;
}
