/* Clusters that are compressed before they are copied into an image. */
#include "lib/checked.h"
#include "lib/ops/rebase.h"
#include "lib/write.h"

#include <stdlib.h>
#include <string.h>

static uint64_t cluster_size(const struct img *img)
{
    return img->layers[0]->cluster_size;
}

int rebase_pack_start(struct rebase_pack *k, const struct img *img, uint64_t offset, size_t length,
                      struct img_error *err)
{
    const struct layer *l = img->layers[0];
    uint64_t cluster = cluster_size(img);
    int ret = 0;
    if (!k->compressor)
        ret = l->driver->writing->compressor_create(&k->compressor, l, err);
    if (ret < 0)
        return ret;
    size_t first = (size_t)(offset / cluster);
    k->count = (size_t)div_round_up(offset + length, cluster) - first;
    if (k->count > k->room) {
        free(k->clusters);
        free(k->stored);
        free(k->padded);
        k->clusters = malloc(k->count * cluster);
        k->stored = malloc(k->count * sizeof *k->stored);
        k->padded = malloc(cluster);
        k->room = k->clusters && k->stored && k->padded ? k->count : 0;
        if (!k->room)
            return img_fail_nomem(err);
    }
    memset(k->stored, 0, k->count * sizeof *k->stored);
    return 0;
}

/* Which cluster of the piece AT is in. */
static size_t index_of(const struct img *img, uint64_t offset, size_t at)
{
    uint64_t cluster = cluster_size(img);
    return (size_t)((offset + at) / cluster - offset / cluster);
}

int rebase_pack(struct rebase_pack *k, const struct img *img, const uint8_t *data, uint64_t offset,
                size_t at, size_t length, struct img_error *err)
{
    const struct driver *d = img->layers[0]->driver;
    uint64_t cluster = cluster_size(img);
    size_t i = index_of(img, offset, at);
    const uint8_t *whole = data + at;
    (void)err;
    if (!is_aligned(offset + at, cluster))
        return 0;
    if (length < cluster) {
        if (offset + at + length != img_size(img)) /* the image has the rest of it */
            return 0;
        memcpy(k->padded, whole, length);
        memset(k->padded + length, 0, cluster - length);
        whole = k->padded;
    }
    k->stored[i] = d->building->compress(k->compressor, whole, k->clusters + i * cluster);
    return 0;
}

static int merge_start(struct rebase_merge *m, const struct img *img, struct img_error *err)
{
    const struct layer *l = img->layers[0];
    if (m->compressor)
        return 0;
    m->plain = malloc(cluster_size(img));
    m->packed = malloc(cluster_size(img));
    if (!m->plain || !m->packed)
        return img_fail_nomem(err);
    return l->driver->writing->compressor_create(&m->compressor, l, err);
}

/* The cluster at OFFSET, as the image reads over its old base. Where it gets no shorter, it stays
 * as it is. */
static int merge(struct rebase_merge *m, struct img *img, uint64_t offset, struct img_error *err)
{
    const struct driver *d = img->layers[0]->driver;
    uint64_t cluster = cluster_size(img);
    size_t length = (size_t)min_u64(cluster, img_size(img) - offset);
    int ret = merge_start(m, img, err);
    if (!ret)
        ret = img_read(img, m->plain, length, offset, err);
    if (ret < 0)
        return ret;
    memset(m->plain + length, 0, cluster - length);
    size_t stored = d->building->compress(m->compressor, m->plain, m->packed);
    if (!stored)
        return 0;
    m->end = offset + cluster;
    return write_compressed(img, m->packed, stored, offset, err);
}

void rebase_merge_free(struct rebase_merge *m, const struct img *img)
{
    if (m->compressor)
        img->layers[0]->driver->building->compressor_destroy(m->compressor);
    free(m->plain);
    free(m->packed);
}

/* N bytes of one cluster. */
static int write_one(const struct rebase_pack *k, struct rebase_merge *m, struct img *img,
                     const uint8_t *data, uint64_t offset, size_t at, size_t n,
                     struct img_error *err)
{
    uint64_t cluster = cluster_size(img), off = offset + at;
    size_t i = index_of(img, offset, at);
    bool whole = n == min_u64(cluster, img_size(img) - align_down(off, cluster));
    if (off < m->end)
        return 0;
    if (k->stored[i])
        return write_compressed(img, k->clusters + i * cluster, k->stored[i], off, err);
    int ret = whole ? 0 : merge(m, img, align_down(off, cluster), err);
    return ret < 0 || off < m->end ? ret : img_write(img, data + at, n, off, err);
}

int rebase_pack_write(const struct rebase_pack *k, struct rebase_merge *m, struct img *img,
                      const uint8_t *data, uint64_t offset, size_t at, size_t length,
                      struct img_error *err)
{
    uint64_t cluster = cluster_size(img);
    int ret = 0;
    for (size_t end = at + length, n; at < end && !ret; at += n) {
        uint64_t off = offset + at;
        n = (size_t)min_u64(align_down(off, cluster) + cluster - off, end - at);
        ret = write_one(k, m, img, data, offset, at, n, err);
    }
    return ret;
}

void rebase_pack_free(struct rebase_pack *k, const struct img *img)
{
    if (k->compressor)
        img->layers[0]->driver->building->compressor_destroy(k->compressor);
    free(k->clusters);
    free(k->stored);
    free(k->padded);
}
