/* Removing all bitmaps: their bits, their tables, their directory. */
#include "formats/qcow2/amend.h"
#include "formats/qcow2/bitmap.h"
#include "formats/qcow2/ondisk.h"

int tx_drop_bitmaps(struct transaction *t, struct img_error *err)
{
    const struct qcow2 *q = t->q;
    int ret = 0;
    for (size_t i = 0; i < q->bitmap_count && !ret; i++)
        ret = bitmap_release(t, &q->bitmaps[i], err);
    if (!ret && t->parts.ext.has_bitmaps)
        ret = tx_release(t, q->ext.bitmap_directory_offset, q->ext.bitmap_directory_size, err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not remove the bitmaps: ");
    t->parts.ext.has_bitmaps = false;
    t->parts_changed = true;
    t->header.autoclear &= ~(uint64_t)AUTOCLEAR_BITMAPS;
    return 0;
}
