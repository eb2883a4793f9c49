/* "Bitmap directory": written anew whenever a bitmap changes. */
#include "formats/qcow2/bitmap.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint64_t bitmap_entry_size(const char *name)
{
    return align_up(sizeof(struct ondisk_bitmap) + strlen(name), 8);
}

static void encode(uint8_t *p, const struct qcow2_bitmap *b)
{
    struct ondisk_bitmap *d = (struct ondisk_bitmap *)p;
    size_t length = strlen(b->info.name);
    store_be64(d->table_offset, b->table_offset);
    store_be32(d->table_size, b->table_entries);
    store_be32(d->flags, b->info.flags);
    d->type = BITMAP_TYPE_DIRTY;
    d->granularity_bits = (uint8_t)__builtin_ctz(b->info.granularity);
    store_be16(d->name_size, (uint16_t)length);
    memcpy(d + 1, b->info.name, length);
}

static int write_entries(struct transaction *t, const struct qcow2_bitmap *list, size_t count,
                         uint64_t bytes, uint64_t offset, struct img_error *err)
{
    size_t room = align_up(bytes, t->q->geometry.cluster_size), at = 0;
    uint8_t *directory = calloc(1, room);
    if (!directory)
        return img_fail_nomem(err);
    for (size_t i = 0; i < count; i++) {
        encode(directory + at, &list[i]);
        at += bitmap_entry_size(list[i].info.name);
    }
    int ret = tx_write(t, offset, directory, room, err);
    free(directory);
    return ret;
}

int bitmap_write_directory(struct transaction *t, const struct qcow2_bitmap *list, size_t count,
                           struct img_error *err)
{
    struct qcow2_extensions *ext = &t->parts.ext;
    uint64_t bytes = 0, offset = 0;
    int ret = 0;
    for (size_t i = 0; i < count; i++)
        bytes += bitmap_entry_size(list[i].info.name);
    if (ext->has_bitmaps)
        ret = tx_release(t, ext->bitmap_directory_offset, ext->bitmap_directory_size, err);
    if (!ret && count)
        ret = tx_allocate(t, div_round_up(bytes, t->q->geometry.cluster_size), &offset, err);
    if (!ret && count)
        ret = write_entries(t, list, count, bytes, offset, err);
    if (ret < 0)
        return img_prefix(err, ret, "Failed to update bitmap extension: ");
    ext->has_bitmaps = count > 0;
    ext->bitmap_count = (uint32_t)count;
    ext->bitmap_directory_offset = offset;
    ext->bitmap_directory_size = bytes;
    t->parts_changed = true;
    t->header.autoclear &= ~(uint64_t)AUTOCLEAR_BITMAPS;
    t->header.autoclear |= count ? AUTOCLEAR_BITMAPS : 0;
    return 0;
}
