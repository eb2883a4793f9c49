/* Removing all bitmaps: their bits, their tables, their directory. */
#include "formats/qcow2/amend.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/reader.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>

#define BITMAP_OFFSET_MASK 0x00fffffffffffe00ull

static int drop_one(struct transaction *t, const struct ondisk_bitmap *d, struct img_error *err)
{
    uint64_t offset = load_be64(d->table_offset);
    uint32_t entries = load_be32(d->table_size), cluster = t->q->geometry.cluster_size;
    struct reader r;
    int ret = 0;
    reader_init(&r, t->q->file, host(offset), entries * 8ull);
    for (uint32_t i = 0; i < entries && !ret; i++) {
        uint8_t entry[8];
        ret = reader_get(&r, entry, sizeof entry, err);
        if (!ret && (load_be64(entry) & BITMAP_OFFSET_MASK))
            ret = tx_release(t, load_be64(entry) & BITMAP_OFFSET_MASK, cluster, err);
    }
    return ret < 0 ? ret : tx_release(t, offset, entries * 8ull, err);
}

/* The directory was checked when the image was opened. */
static int drop_all(struct transaction *t, struct img_error *err)
{
    const struct qcow2_extensions *ext = &t->q->ext;
    struct reader r;
    int ret = 0;
    reader_init(&r, t->q->file, host(ext->bitmap_directory_offset), ext->bitmap_directory_size);
    for (uint32_t i = 0; i < ext->bitmap_count && !ret; i++) {
        struct ondisk_bitmap d;
        uint64_t start = r.at;
        ret = reader_get(&r, &d, sizeof d, err);
        if (!ret)
            ret = reader_skip(&r, (uint64_t)load_be32(d.extra_data_size) + load_be16(d.name_size),
                              err);
        if (!ret)
            ret = reader_skip(&r, align_up(r.at - start, 8) - (r.at - start), err);
        if (!ret)
            ret = drop_one(t, &d, err);
    }
    return ret < 0 ? ret
                   : tx_release(t, ext->bitmap_directory_offset, ext->bitmap_directory_size, err);
}

int tx_drop_bitmaps(struct transaction *t, struct img_error *err)
{
    int ret = t->parts.ext.has_bitmaps ? drop_all(t, err) : 0;
    if (ret < 0)
        return img_prefix(err, ret, "Could not remove the bitmaps: ");
    t->parts.ext.has_bitmaps = false;
    t->parts_changed = true;
    t->header.autoclear &= ~(uint64_t)AUTOCLEAR_BITMAPS;
    return 0;
}
