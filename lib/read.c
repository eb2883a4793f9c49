/*
 * THE read loop: map, take that many bytes, dispatch on the kind, repeat.
 */
#include "lib/checked.h"
#include "lib/image.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

int layer_read_extent(struct layer *l, const struct extent *e, void *buf, guest_off off,
                      struct img_error *err)
{
    switch (e->kind) {
    case IMG_EXTENT_UNALLOCATED:
    case IMG_EXTENT_ZERO:
        memset(buf, 0, e->length);
        return 0;
    case IMG_EXTENT_DATA:
        return file_read_padded(e->file, buf, e->length, e->host, err);
    case IMG_EXTENT_COMPRESSED:
        return l->driver->read_compressed(l, buf, e->length, off, err);
    case IMG_EXTENT_ENCRYPTED:
        break;
    }
    return img_fail(err, ENOTSUP, "Image is encrypted, its data cannot be read");
}

int img_read(struct img *img, void *buf, size_t length, uint64_t offset, struct img_error *err)
{
    uint64_t size = img_size(img);
    if (img->flags & IMG_OPEN_NO_DATA)
        return img_fail(err, EINVAL, "The image was opened for its metadata only");
    if (offset > size || length > size - offset)
        return img_fail(err, EINVAL,
                        "Read of %zu bytes at %" PRIu64 " is past the end of the disk (%" PRIu64
                        " bytes)",
                        length, offset, size);
    uint8_t *p = buf;
    while (length) {
        struct extent e;
        unsigned depth;
        guest_off off = guest(offset);
        int ret = chain_map(img, off, length, MAP_ALLOCATION, NULL, &e, &depth, err);
        if (!ret)
            ret = layer_read_extent(img->layers[depth], &e, p, off, err);
        if (ret < 0) {
            img_prefix(err, ret, "Error while reading offset %" PRIu64 " of '%s': ", offset,
                       img->layers[0]->filename);
            return ret;
        }
        p += e.length;
        offset += e.length;
        length -= e.length;
    }
    return 0;
}
