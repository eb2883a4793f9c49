/*
 * Zero writes and discards. The format does what its tables can say; what is left over, parts of
 * clusters mostly, is written (zeroes) or left alone (discards).
 */
#include "lib/checked.h"
#include "lib/write.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

enum { BUFFER = 1 << 20 };

static int write_real_zeroes(struct img *img, uint64_t offset, uint64_t length,
                             struct img_error *err)
{
    size_t n = (size_t)min_u64(length, BUFFER);
    void *zeroes = calloc(1, n);
    int ret = zeroes ? 0 : img_fail_nomem(err);
    for (uint64_t done = 0; !ret && done < length; done += n) {
        n = (size_t)min_u64(length - done, BUFFER);
        ret = write_data(img, zeroes, n, offset + done, err);
    }
    free(zeroes);
    return ret;
}

/* Bytes up to the next multiple of UNIT, or to the end of the disk. */
static uint64_t rest_of_unit(const struct img *img, uint64_t offset, uint64_t unit)
{
    return min_u64(align_down(offset, unit) + unit, img_size(img)) - offset;
}

/*
 * A part of a unit. The whole of it may be declared zero when the rest reads as zeroes and nothing
 * in it takes space in this image.
 */
static int zero_part(struct img *img, uint64_t offset, uint64_t length, uint64_t unit,
                     unsigned flags, struct img_error *err)
{
    struct layer *l = img->layers[0];
    uint64_t start = align_down(offset, unit), end = offset + rest_of_unit(img, offset, unit), done;
    struct extent e;
    bool head, tail = false;
    int ret = l->driver->map(l, guest(start), end - start, MAP_ALLOCATION, &e, err);
    if (ret < 0)
        return ret;
    if (e.kind != IMG_EXTENT_ZERO && e.kind != IMG_EXTENT_UNALLOCATED)
        return write_real_zeroes(img, offset, length, err);
    ret = write_find_zeroes(img, start, offset - start, &head, err);
    if (!ret && head)
        ret = write_find_zeroes(img, offset + length, end - offset - length, &tail, err);
    if (ret < 0)
        return ret;
    if (!tail)
        return write_real_zeroes(img, offset, length, err);
    ret = l->driver->writing->zero(l, guest(start), end - start, flags, &done, err);
    return ret < 0 || done ? ret : write_real_zeroes(img, offset, length, err);
}

/* Whole units. What the format cannot do is written, up to where it may be able to again. */
static int zero_units(struct img *img, uint64_t offset, uint64_t length, uint64_t unit,
                      unsigned flags, struct img_error *err)
{
    struct layer *l = img->layers[0];
    uint64_t coarse = max_u64(unit, l->cluster_size);
    while (length) {
        uint64_t done;
        int ret = l->driver->writing->zero(l, guest(offset), length, flags, &done, err);
        if (!ret && !done) {
            done = min_u64(length, rest_of_unit(img, offset, coarse));
            ret = write_real_zeroes(img, offset, done, err);
        }
        if (ret < 0)
            return ret;
        offset += done;
        length -= done;
    }
    return 0;
}

static int zero_range(struct img *img, uint64_t offset, uint64_t length, unsigned flags,
                      struct img_error *err)
{
    const struct layer *l = img->layers[0];
    uint64_t unit = l->driver->writing->zero_unit(l), end = offset + length;
    int ret = 0;
    while (!ret && offset < end) {
        uint64_t rest = rest_of_unit(img, offset, unit), n = end - offset;
        if (!is_aligned(offset, unit) || n < rest) {
            n = min_u64(n, rest);
            ret = zero_part(img, offset, n, unit, flags, err);
        } else {
            n = end == img_size(img) ? n : align_down(n, unit);
            ret = zero_units(img, offset, n, unit, flags, err);
        }
        offset += n;
    }
    return ret;
}

int img_write_zeroes(struct img *img, uint64_t offset, uint64_t length, unsigned flags,
                     struct img_error *err)
{
    int ret = write_start(img, offset, length, "Write", err);
    if (ret < 0)
        return ret;
    ret = zero_range(img, offset, length, flags, err);
    return ret < 0 ? img_prefix(err, ret,
                                "Error while zeroing %" PRIu64 " bytes at %" PRIu64 " of '%s': ",
                                length, offset, img->layers[0]->filename)
                   : 0;
}

int img_discard(struct img *img, uint64_t offset, uint64_t length, struct img_error *err)
{
    int ret = write_start(img, offset, length, "Discard", err);
    if (ret < 0)
        return ret;
    struct layer *l = img->layers[0];
    uint64_t unit = l->cluster_size ? l->cluster_size : 1, end = offset + length;
    uint64_t at = align_up(offset, unit);
    end = end == l->size ? end : align_down(end, unit);
    while (!ret && at < end) {
        uint64_t done;
        ret = l->driver->writing->discard(l, guest(at), end - at, &done, err);
        at += done;
    }
    return ret < 0 ? img_prefix(err, ret,
                                "Error while discarding %" PRIu64 " bytes at %" PRIu64 " of '%s': ",
                                length, offset, l->filename)
                   : 0;
}
