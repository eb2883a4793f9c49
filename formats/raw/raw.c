/*
 * Raw: the file is the disk. A length that is not a multiple of 512 is rounded up and reads as
 * zeroes past the end, as QEMU has it.
 */
#include "lib/checked.h"
#include "lib/driver.h"

#include <errno.h>
#include <inttypes.h>

static int raw_probe(const uint8_t *head, size_t len)
{
    (void)head;
    (void)len;
    return 1;
}

static int raw_open(struct layer *l, unsigned flags, struct img_error *err)
{
    (void)flags;
    uint64_t size;
    int ret = file_size(l->file, &size, err);
    if (ret < 0)
        return ret;
    if (l->raw_offset > size)
        return img_fail(err, EINVAL,
                        "Offset (%" PRIu64 ") cannot be greater than size of the containing file "
                        "(%" PRIu64 ")",
                        l->raw_offset, size);
    size -= l->raw_offset;
    if (l->raw_size != UINT64_MAX && !is_aligned(l->raw_size, 512))
        return img_fail(err, EINVAL, "Specified size is not multiple of 512 (%" PRIu64 ")",
                        l->raw_size);
    if (l->raw_size != UINT64_MAX && l->raw_size > size)
        return img_fail(err, EINVAL,
                        "The sum of offset (%" PRIu64 ") and size (%" PRIu64
                        ") has to be smaller or equal to the actual size of the containing file "
                        "(%" PRIu64 ")",
                        l->raw_offset, l->raw_size, size + l->raw_offset);
    l->size = align_up(min_u64(size, l->raw_size), 512);
    return 0;
}

static void raw_close(struct layer *l)
{
    (void)l;
}

static int raw_map(struct layer *l, guest_off off, uint64_t max, enum map_detail detail,
                   struct extent *out, struct img_error *err)
{
    host_off at = host(l->raw_offset + off.v);
    *out = (struct extent){
        .length = max, .kind = IMG_EXTENT_DATA, .file = l->file, .host = at};
    if (detail == MAP_ALLOCATION)
        return 0;
    struct file_extent stretch;
    int ret = l->file->ops->extent(l->file, at, &stretch);
    if (ret < 0)
        return img_fail_errno(err, -ret, "Could not find the holes of '%s' at %#" PRIx64,
                              l->file->name, at.v);
    out->kind = stretch.data ? IMG_EXTENT_DATA : IMG_EXTENT_ZERO;
    out->length = min_u64(max, stretch.length);
    return 0;
}

const struct driver raw_driver = {
    .name = "raw",
    .plain = true,
    .probe = raw_probe,
    .open = raw_open,
    .close = raw_close,
    .map = raw_map,
};
