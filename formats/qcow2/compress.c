/*
 * Reading compressed clusters: raw deflate (no zlib header, any window) or zstd.
 *
 * The stored length is in sectors, so the stream ends somewhere in the last one, and what follows
 * it is not an error; neither is a stream that goes on after the cluster is full. A whole cluster
 * goes straight to the caller; parts go through a small cache.
 */
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/qcow2.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#ifdef HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif

static bool inflate_zlib(const void *in, size_t in_len, void *out, size_t out_len)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in,
                  .avail_in = (uInt)in_len,
                  .next_out = out,
                  .avail_out = (uInt)out_len};
    if (inflateInit2(&z, -15) != Z_OK)
        return false;
    inflate(&z, Z_FINISH);
    bool full = z.avail_out == 0;
    inflateEnd(&z);
    return full;
}

/* What a thread needs to decompress, kept for the next one that does. */
struct decompressor {
    struct decompressor *next;
    uint8_t *stored;
    size_t room;
    ZSTD_DCtx *zstd;
#ifdef HAVE_LIBDEFLATE
    struct libdeflate_decompressor *deflate;
#endif
};

static struct decompressor *borrow(struct qcow2 *q)
{
    pthread_mutex_lock(&q->decompressors_lock);
    struct decompressor *d = q->decompressors;
    if (d)
        q->decompressors = d->next;
    pthread_mutex_unlock(&q->decompressors_lock);
    return d ? d : calloc(1, sizeof *d);
}

static void give_back(struct qcow2 *q, struct decompressor *d)
{
    pthread_mutex_lock(&q->decompressors_lock);
    d->next = q->decompressors;
    q->decompressors = d;
    pthread_mutex_unlock(&q->decompressors_lock);
}

void qcow2_free_decompressors(struct qcow2 *q)
{
    for (struct decompressor *d = q->decompressors, *next; d; d = next) {
        next = d->next;
        ZSTD_freeDCtx(d->zstd);
#ifdef HAVE_LIBDEFLATE
        libdeflate_free_decompressor(d->deflate);
#endif
        free(d->stored);
        free(d);
    }
    q->decompressors = NULL;
    pthread_mutex_destroy(&q->decompressors_lock);
}

static bool inflate_cluster(struct decompressor *d, const void *in, size_t in_len, void *out,
                            size_t out_len)
{
#ifdef HAVE_LIBDEFLATE
    if (!d->deflate)
        d->deflate = libdeflate_alloc_decompressor();
    if (d->deflate) {
        size_t got = 0;
        enum libdeflate_result r = libdeflate_deflate_decompress_ex(d->deflate, in, in_len, out,
                                                                    out_len, NULL, &got);
        if (r == LIBDEFLATE_SUCCESS && got == out_len)
            return true;
    }
    /* a stream without an end, which fills the cluster all the same, is zlib's to judge */
#else
    (void)d;
#endif
    return inflate_zlib(in, in_len, out, out_len);
}

/* One frame that is exactly the cluster, as nearly all are, in one call; else step by step. */
static bool zstd_cluster(struct decompressor *d, const void *in, size_t in_len, void *out,
                         size_t out_len)
{
    if (!d->zstd)
        d->zstd = ZSTD_createDCtx();
    if (!d->zstd)
        return false;
    size_t frame = ZSTD_findFrameCompressedSize(in, in_len);
    if (!ZSTD_isError(frame) && ZSTD_decompressDCtx(d->zstd, out, out_len, in, frame) == out_len)
        return true;
    ZSTD_DCtx_reset(d->zstd, ZSTD_reset_session_only);
    ZSTD_inBuffer src = {in, in_len, 0};
    ZSTD_outBuffer dst = {out, out_len, 0};
    while (dst.pos < dst.size) {
        size_t in_before = src.pos, out_before = dst.pos;
        size_t r = ZSTD_decompressStream(d->zstd, &dst, &src);
        if (ZSTD_isError(r) || (src.pos == in_before && dst.pos == out_before))
            break;
    }
    return dst.pos == dst.size;
}

static bool make_room(struct decompressor *d, size_t length)
{
    if (length <= d->room)
        return true;
    uint8_t *stored = realloc(d->stored, length);
    if (!stored)
        return false;
    d->stored = stored;
    d->room = length;
    return true;
}

static int decompress_with(struct qcow2 *q, struct decompressor *d, const struct qcow2_mapping *m,
                           uint8_t *out, struct img_error *err)
{
    size_t length; /* the file may end within the last sector; what is not there is not made up */
    int ret = file_read_upto(q->file, d->stored, m->host_length, host(m->host), &length, err);
    bool zstd = q->header.compression == COMPRESSION_ZSTD;
    if (!ret && !(zstd ? zstd_cluster : inflate_cluster)(d, d->stored, length, out,
                                                         q->geometry.cluster_size))
        ret = img_fail(err, EIO,
                       "Could not decompress the %s cluster at %#" PRIx64 " (%" PRIu32
                       " bytes stored)",
                       zstd ? "zstd" : "deflate", m->host, m->host_length);
    return ret;
}

static int decompress(struct qcow2 *q, const struct qcow2_mapping *m, uint8_t *out,
                      struct img_error *err)
{
    struct decompressor *d = borrow(q);
    if (!d)
        return img_fail_nomem(err);
    int ret = make_room(d, m->host_length) ? decompress_with(q, d, m, out, err)
                                           : img_fail_nomem(err);
    give_back(q, d);
    return ret;
}

struct fill {
    struct qcow2 *q;
    const struct qcow2_mapping *mapping;
};

static int fill_cluster(void *opaque, uint64_t key, uint8_t *data, struct img_error *err)
{
    const struct fill *f = opaque;
    (void)key;
    return decompress(f->q, f->mapping, data, err);
}

/* The descriptor itself: offset and length, so that no two different streams share a key. */
static uint64_t cache_key(const struct qcow2 *q, const struct qcow2_mapping *m)
{
    uint64_t sectors = (m->host_length + (m->host & 511)) / 512 - 1;
    return m->host | sectors << (62 - (q->geometry.cluster_bits - 8));
}

static int read_part(struct qcow2 *q, const struct qcow2_mapping *m, void *buf, size_t len,
                     size_t in_cluster, struct img_error *err)
{
    struct fill fill = {q, m};
    struct page *page;
    uint32_t cluster = q->geometry.cluster_size;
    int ret = cache_get(&q->clusters, cluster, (size_t)CACHE_WAYS * cluster, cache_key(q, m), false,
                        fill_cluster, &fill, &page, err);
    if (ret < 0)
        return ret;
    memcpy(buf, page->data + in_cluster, len);
    cache_put(&q->clusters, page);
    return 0;
}

int qcow2_read_compressed(struct layer *l, void *buf, size_t len, guest_off off,
                          struct img_error *err)
{
    struct qcow2 *q = l->state;
    uint32_t cluster = q->geometry.cluster_size;
    while (len) {
        struct qcow2_mapping m;
        size_t in_cluster = off.v & (cluster - 1);
        size_t n = (size_t)min_u64(len, cluster - in_cluster);
        int ret = qcow2_lookup(q, off, &m, err);
        if (!ret && m.type != MAP_COMPRESSED)
            ret = img_fail(err, EIO,
                           "The cluster is no longer compressed: the image is being written");
        if (!ret)
            ret = n == cluster ? decompress(q, &m, buf, err)
                               : read_part(q, &m, buf, n, in_cluster, err);
        if (ret < 0)
            return ret;
        buf = (uint8_t *)buf + n;
        off.v += n;
        len -= n;
    }
    return 0;
}
