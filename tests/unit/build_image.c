#include "build_image.h"
#include "lib/checked.h"

#include <inttypes.h>
#include <stdio.h>
#include <zlib.h>

void fill_bytes(uint8_t *p, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(1 + (i * 7 + i / 256 * 31 + seed * 53) % 255);
}

size_t image_add_filled(struct image *m, unsigned seed)
{
    size_t at = image_grow(m, 1);
    fill_bytes(m->data + at, m->cluster, seed);
    return at;
}

void image_add_l2(struct image *m, size_t l1_index, uint64_t copied)
{
    m->l2 = image_grow(m, 1);
    store_be64(m->data + m->l1 + l1_index * 8, m->l2 | copied);
}

void image_add_compressed(struct image *m, size_t index)
{
    unsigned bits = load_be32(HEADER(m, cluster_bits));
    size_t at = image_grow(m, 1);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *in = malloc(m->cluster);
        assert_non_null(in);
        for (size_t k = 0; k < m->cluster; k++)
            in[k] = (uint8_t)(1 + k / 64 + i);
        z_stream z = {.next_in = in,
                      .avail_in = (uInt)m->cluster,
                      .next_out = m->data + at,
                      .avail_out = (uInt)m->cluster / 3};
        assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
        assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
        size_t n = z.total_out;
        deflateEnd(&z);
        free(in);
        uint64_t sectors = (align_up(at + n, 512) - align_down(at, 512)) / 512;
        image_set_entry(m, index + i, ENTRY_COMPRESSED | (sectors - 1) << (62 - (bits - 8)) | at,
                        0);
        at += n;
    }
}

/* Takes every refcount that the check finds wrong for what it should be. */
static void settle_one(void *opaque, const struct img_finding *f)
{
    struct image *m = opaque;
    uint64_t cluster, stored, wanted;
    const char *at = strstr(f->what, "cluster ");
    if (at && sscanf(at, "cluster %" SCNu64 " refcount=%" SCNu64 " reference=%" SCNu64, &cluster,
                     &stored, &wanted) == 3)
        store_be16(m->data + m->refblock + cluster * 2, (uint16_t)wanted);
}

void image_settle_refcounts(struct image *m)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_check c;
    struct img *img = image_open(m, IMG_OPEN_CHECK);
    assert_int_equal(img_check(img, &c, settle_one, m, &err), 0);
    img_close(img);
}
