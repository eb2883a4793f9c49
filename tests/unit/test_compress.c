/* Compressed clusters: streams as writers make them, and streams that are not whole. */
#include "lib/checked.h"
#include "make_qcow2.h"

#include <stdio.h>
#include <zlib.h>
#include <zstd.h>

enum { CLUSTER = 65536 };

/* Bytes that compress, and that differ everywhere. */
static void fill_cluster(uint8_t *p, unsigned seed)
{
    for (size_t i = 0; i < CLUSTER; i++)
        p[i] = (uint8_t)(i / 16 * 7 + seed + (i & 3));
}

/* Raw deflate of N bytes; without END, the stream is only flushed. */
static size_t deflate_raw(uint8_t *out, size_t room, const uint8_t *in, size_t n, int window,
                          int level, bool end)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in,
                  .avail_in = (uInt)n,
                  .next_out = out,
                  .avail_out = (uInt)room};
    assert_int_equal(deflateInit2(&z, level, Z_DEFLATED, -window, 9, Z_DEFAULT_STRATEGY), Z_OK);
    int r = deflate(&z, end ? Z_FINISH : Z_SYNC_FLUSH);
    assert_int_equal(r, end ? Z_STREAM_END : Z_OK);
    assert_int_equal(z.avail_in, 0);
    size_t size = room - z.avail_out;
    deflateEnd(&z);
    return size;
}

/* Puts a stream into the file at an odd place, and an entry for cluster INDEX. */
static size_t store(struct image *m, size_t index, const uint8_t *stream, size_t n, uint8_t after)
{
    size_t at = m->size + 77;
    size_t sectors = (align_up(at + n, 512) - align_down(at, 512)) / 512;
    image_resize(m, align_up(at + n, 512));
    memset(m->data + at, after, m->size - at);
    memcpy(m->data + at, stream, n);
    image_set_entry(m, index, ENTRY_COMPRESSED | (uint64_t)(sectors - 1) << 54 | at, 0);
    return at;
}

static void expect_read(struct img *img, uint64_t offset, const uint8_t *want, size_t n)
{
    uint8_t *buf = malloc(n);
    struct img_error err = IMG_ERROR_INIT;
    if (img_read(img, buf, n, offset, &err) < 0)
        fail_msg("%s", err.message);
    assert_memory_equal(buf, want, n);
    free(buf);
}

/* Whole, in parts, and over the border of two clusters. */
static void expect_contents(const struct image *m, const uint8_t *want, size_t clusters)
{
    struct img *img = image_open(m, 0);
    expect_read(img, 0, want, clusters * CLUSTER);
    for (size_t at = 0; at < clusters * CLUSTER - 5000; at += 4999)
        expect_read(img, at, want + at, 5000);
    expect_read(img, CLUSTER - 1, want + CLUSTER - 1, 1);
    img_close(img);
}

static void expect_broken(const struct image *m, const char *message)
{
    struct img *img = image_open(m, 0);
    struct img_error err = IMG_ERROR_INIT;
    uint8_t *buf = malloc(CLUSTER), byte;
    expect_error(&err, img_read(img, buf, CLUSTER, 0, &err), EIO, message);
    expect_error(&err, img_read(img, &byte, 1, 0, &err), EIO, message);
    free(buf);
    img_close(img);
}

static uint8_t data[2 * CLUSTER], stream[2 * CLUSTER];

static struct image disk(uint64_t incompatible)
{
    fill_cluster(data, 1);
    fill_cluster(data + CLUSTER, 100);
    return make_qcow2(3, 16, 1 << 20, incompatible);
}

static void deflate_of_each_window(void **state)
{
    (void)state;
    for (int window = 9; window <= 15; window++)
        for (int level = 0; level <= 9; level += 3) {
            struct image m = disk(0);
            for (size_t i = 0; i < 2; i++) {
                size_t n = deflate_raw(stream, sizeof stream, data + i * CLUSTER, CLUSTER, window,
                                       level, true);
                store(&m, i, stream, n, 0);
            }
            expect_contents(&m, data, 2);
            image_free(&m);
        }
}

/* The stored length counts sectors: the stream ends somewhere inside the last. */
static void garbage_after_the_stream(void **state)
{
    (void)state;
    struct image m = disk(0);
    for (size_t i = 0; i < 2; i++) {
        size_t n = deflate_raw(stream, sizeof stream, data + i * CLUSTER, CLUSTER, 12, 6, true);
        memset(stream + n, 0xa5, 700); /* a sector more than needed */
        store(&m, i, stream, n + 700, 0xff);
    }
    expect_contents(&m, data, 2);
    image_free(&m);
}

static void stream_without_an_end(void **state)
{
    (void)state;
    struct image m = disk(0);
    for (size_t i = 0; i < 2; i++) {
        size_t n = deflate_raw(stream, sizeof stream, data + i * CLUSTER, CLUSTER, 12, 6, false);
        store(&m, i, stream, n, 0);
    }
    expect_contents(&m, data, 2);
    image_free(&m);
}

static void stream_of_more_than_a_cluster(void **state)
{
    (void)state;
    struct image m = disk(0);
    size_t n = deflate_raw(stream, sizeof stream, data, sizeof data, 15, 6, true);
    store(&m, 0, stream, n, 0);
    struct img *img = image_open(&m, 0);
    expect_read(img, 0, data, CLUSTER);
    img_close(img);
    image_free(&m);
}

static void expect_broken_at(struct image *m, const char *kind, size_t at, size_t n)
{
    char message[200];
    snprintf(
        message, sizeof message,
        "Error while reading offset 0 of 'memory': Could not decompress the %s cluster at %#zx "
        "(%zu bytes stored)",
        kind, at, (size_t)align_up(at + n, 512) - at);
    expect_broken(m, message);
    image_free(m);
}

static void deflate_that_is_not_whole(void **state)
{
    (void)state;
    struct image m = disk(0);
    size_t n = deflate_raw(stream, sizeof stream, data, CLUSTER - 1, 12, 6, true);
    expect_broken_at(&m, "deflate", store(&m, 0, stream, n, 0), n); /* a byte is missing */
    m = disk(0);
    n = deflate_raw(stream, sizeof stream, data, CLUSTER, 12, 6, true) / 2;
    expect_broken_at(&m, "deflate", store(&m, 0, stream, n, 0xff), n); /* cut */
    m = disk(0);
    memset(stream, 0xff, 1000); /* a block type that there is not */
    expect_broken_at(&m, "deflate", store(&m, 0, stream, 1000, 0xff), 1000);
}

/* The file ends inside the last sector, where the stream does. */
static void the_file_ends_with_the_stream(void **state)
{
    (void)state;
    struct image m = disk(0);
    size_t n = deflate_raw(stream, sizeof stream, data, CLUSTER, 12, 6, true);
    size_t at = store(&m, 0, stream, n, 0);
    image_resize(&m, at + n);
    struct img *img = image_open(&m, 0);
    expect_read(img, 0, data, CLUSTER);
    img_close(img);
    image_free(&m);
}

static void zstd(void **state)
{
    (void)state;
    struct image m = disk(INCOMPAT_COMPRESSION);
    for (size_t i = 0; i < 2; i++) {
        size_t n = ZSTD_compress(stream, sizeof stream, data + i * CLUSTER, CLUSTER, 3);
        memset(stream + n, 0xa5, 600);
        store(&m, i, stream, n + 600, 0xff);
    }
    expect_contents(&m, data, 2);
    image_free(&m);

    m = disk(INCOMPAT_COMPRESSION); /* in two frames */
    size_t n = ZSTD_compress(stream, sizeof stream, data, 1000, 3);
    n += ZSTD_compress(stream + n, sizeof stream - n, data + 1000, CLUSTER - 1000, 3);
    store(&m, 0, stream, n, 0);
    struct img *img = image_open(&m, 0);
    expect_read(img, 0, data, CLUSTER);
    img_close(img);
    image_free(&m);
}

static void zstd_that_is_not_whole(void **state)
{
    (void)state;
    struct image m = disk(INCOMPAT_COMPRESSION);
    size_t n = ZSTD_compress(stream, sizeof stream, data, CLUSTER - 1, 3);
    expect_broken_at(&m, "zstd", store(&m, 0, stream, n, 0), n);
    m = disk(INCOMPAT_COMPRESSION);
    n = ZSTD_compress(stream, sizeof stream, data, CLUSTER, 3) / 2;
    expect_broken_at(&m, "zstd", store(&m, 0, stream, n, 0xff), n);
    m = disk(INCOMPAT_COMPRESSION); /* deflate, though the header says zstd */
    n = deflate_raw(stream, sizeof stream, data, CLUSTER, 12, 6, true);
    expect_broken_at(&m, "zstd", store(&m, 0, stream, n, 0), n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deflate_of_each_window),
        cmocka_unit_test(garbage_after_the_stream),
        cmocka_unit_test(stream_without_an_end),
        cmocka_unit_test(stream_of_more_than_a_cluster),
        cmocka_unit_test(deflate_that_is_not_whole),
        cmocka_unit_test(the_file_ends_with_the_stream),
        cmocka_unit_test(zstd),
        cmocka_unit_test(zstd_that_is_not_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
