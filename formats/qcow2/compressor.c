/*
 * Making compressed clusters: raw deflate or zstd, one context for each thread.
 *
 * zlib is given the window of 4 KiB that QEMU's has; libdeflate's matches reach back 32 KiB, which
 * every reader that inflates a cluster in one call can follow, as QEMU does.
 */
#include "formats/qcow2/build.h"
#include "formats/qcow2/ondisk.h"

#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>
#ifdef HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif

struct compressor {
    size_t cluster;
    int level;
    ZSTD_CCtx *zstd; /* NULL: deflate */
#ifdef HAVE_LIBDEFLATE
    struct libdeflate_compressor *deflate;
#else
    z_stream z;
    bool ready;
#endif
};

#ifdef HAVE_LIBDEFLATE

enum { DEFLATE_LEVEL = 5, DEFLATE_MAX = 12 };

static bool start_deflate(struct compressor *c)
{
    int level = c->level ? c->level : DEFLATE_LEVEL;
    c->deflate = libdeflate_alloc_compressor(level);
    return c->deflate;
}

static void end_deflate(struct compressor *c)
{
    libdeflate_free_compressor(c->deflate);
}

static size_t deflate_cluster(struct compressor *c, const void *in, void *out)
{
    return libdeflate_deflate_compress(c->deflate, in, c->cluster, out, c->cluster - 1);
}

#else

enum { DEFLATE_MAX = 9 };

static bool start_deflate(struct compressor *c)
{
    int level = c->level ? c->level : Z_DEFAULT_COMPRESSION;
    c->ready = deflateInit2(&c->z, level, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) == Z_OK;
    return c->ready;
}

static void end_deflate(struct compressor *c)
{
    if (c->ready)
        deflateEnd(&c->z);
}

static size_t deflate_cluster(struct compressor *c, const void *in, void *out)
{
    deflateReset(&c->z);
    c->z.next_in = (Bytef *)(uintptr_t)in;
    c->z.avail_in = (uInt)c->cluster;
    c->z.next_out = out;
    c->z.avail_out = (uInt)c->cluster - 1;
    return deflate(&c->z, Z_FINISH) == Z_STREAM_END ? c->cluster - 1 - c->z.avail_out : 0;
}

#endif

static bool start(struct compressor *c, bool zstd)
{
    if (!zstd)
        return start_deflate(c);
    c->zstd = ZSTD_createCCtx();
    return c->zstd &&
           !ZSTD_isError(ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_compressionLevel, c->level));
}

int qcow2_compressor_create(void **out, const struct qcow2_header *header, int level,
                            struct img_error *err)
{
    bool zstd = header->compression == COMPRESSION_ZSTD;
    int most = zstd ? ZSTD_maxCLevel() : DEFLATE_MAX;
    if (level < 0 || level > most)
        return img_fail(err, EINVAL, "compression_level is %d, must be between 1 and %d for %s",
                        level, most, zstd ? "zstd" : "zlib");
    struct compressor *c = calloc(1, sizeof *c);
    if (!c)
        return img_fail_nomem(err);
    c->cluster = (size_t)1 << header->cluster_bits;
    c->level = level;
    if (!start(c, zstd)) {
        qcow2_compressor_destroy(c);
        return img_fail_nomem(err);
    }
    *out = c;
    return 0;
}

/*
 * zstd: a hash table and a binary tree of 4 bytes for each two of the cluster's are the most; low
 * levels have tables of a fixed size. What it says of that itself is not part of its stable
 * interface.
 */
size_t qcow2_compressor_memory(const struct qcow2_header *header, int level)
{
    const size_t mib = 1 << 20, tables = (size_t)16 << header->cluster_bits;
    if (header->compression != COMPRESSION_ZSTD)
        return level < 10 ? mib : 9 * mib;
    size_t most = level <= 3 ? mib : level <= 8 ? 6 * mib : tables;
    return (tables < most ? tables : most) + (level <= 10 ? mib / 2 : mib * 5 / 4);
}

void qcow2_compressor_destroy(void *compressor)
{
    struct compressor *c = compressor;
    if (!c)
        return;
    if (c->zstd)
        ZSTD_freeCCtx(c->zstd);
    else
        end_deflate(c);
    free(c);
}

size_t qcow2_compress(void *compressor, const void *unit, void *out)
{
    struct compressor *c = compressor;
    if (!c->zstd)
        return deflate_cluster(c, unit, out);
    size_t n = ZSTD_compress2(c->zstd, out, c->cluster - 1, unit, c->cluster);
    return ZSTD_isError(n) ? 0 : n;
}
