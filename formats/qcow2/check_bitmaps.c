/*
 * Bitmaps: their directory, their tables, and the clusters that hold their bits.
 *
 * QEMU refuses to open an image whose bitmaps are broken. Here that is a finding like others, and
 * what can be understood of them is counted, lest it looks like a leak.
 */
#include "formats/qcow2/check.h"
#include "formats/qcow2/ondisk.h"
#include "formats/qcow2/reader.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

static const char *broken_entry(const struct check *c, uint64_t entry)
{
    uint64_t offset = entry & BITMAP_OFFSET_MASK;
    if (entry & BITMAP_RESERVED_MASK)
        return "has reserved bits set";
    if (offset && (entry & 1))
        return "has both an offset and the flag for ones";
    if (!is_aligned(offset, c->q->geometry.cluster_size))
        return "is not cluster aligned";
    return NULL;
}

static int check_table_entry(struct check *c, uint64_t entry, uint64_t place, uint32_t index,
                             const char *name, bool again)
{
    uint64_t offset = entry & BITMAP_OFFSET_MASK;
    const char *broken = broken_entry(c, entry);
    if (again) {
        if (!broken && offset)
            check_alone(c, "bitmap data", offset, c->q->geometry.cluster_size);
        return 0;
    }
    if (broken)
        check_once(c, BITMAP, place, "ERROR bitmap '%.255s': table entry %" PRIu32 " %s: %" PRIx64,
                   name, index, broken, entry);
    if (broken || !offset)
        return 0;
    if (offset >= c->end)
        check_note(c, BITMAP, place,
                   "bitmap '%.255s': table entry %" PRIu32 " lies outside the file", name, index);
    return check_reference(c, offset, c->q->geometry.cluster_size, 1, place);
}

static int check_table(struct check *c, uint64_t offset, uint32_t entries, const char *name,
                       bool again)
{
    uint64_t bytes = entries * 8ull;
    for (uint64_t at = 0; at < bytes && offset + at < c->end; at += CHECK_PIECE) {
        size_t n = (size_t)min_u64(CHECK_PIECE, bytes - at);
        bool zeroes;
        int ret = check_read(c, c->piece, n, offset + at, &zeroes);
        for (size_t i = 0; i < n && !ret && !zeroes; i += 8) {
            uint64_t entry = load_be64(c->piece + i);
            if (entry)
                ret = check_table_entry(c, entry, offset + at + i, (uint32_t)((at + i) / 8), name,
                                        again);
        }
        if (ret < 0)
            return img_prefix(c->err, ret, "Could not read the table of bitmap '%s': ", name);
    }
    return 0;
}

static int check_one(struct check *c, uint64_t place, const struct ondisk_bitmap *d,
                     const char *name, bool again)
{
    uint64_t offset = load_be64(d->table_offset);
    uint32_t entries = load_be32(d->table_size);
    /* the directory's own reader has said so */
    if (!is_aligned(offset, c->q->geometry.cluster_size) || entries > MAX_BITMAP_TABLE_ENTRIES ||
        (uint64_t)entries << c->q->geometry.cluster_bits > MAX_BITMAP_BYTES || !offset)
        return 0;
    if (again)
        check_alone(c, "bitmap table", offset, entries * 8ull);
    int ret = again ? 0 : check_reference(c, offset, entries * 8ull, 1, place);
    if (!ret && offset < c->end)
        ret = check_table(c, offset, entries, name, again);
    return ret;
}

/* Every entry of the directory, as far as it can be made out. */
static int each_bitmap(struct check *c, bool again)
{
    const struct qcow2_extensions *ext = &c->q->ext;
    uint64_t end = min_u64(ext->bitmap_directory_offset + ext->bitmap_directory_size, c->end);
    struct reader r;
    int ret = 0;
    if (ext->bitmap_directory_offset >= c->end)
        return 0;
    reader_init(&r, c->q->file, host(ext->bitmap_directory_offset),
                min_u64(end, c->q->file_size) - ext->bitmap_directory_offset);
    for (uint32_t i = 0; i < ext->bitmap_count && !ret; i++) {
        struct ondisk_bitmap d;
        uint64_t start = r.at;
        char *name = NULL;
        ret = reader_get(&r, &d, sizeof d, c->err);
        if (!ret)
            ret = reader_skip(&r, load_be32(d.extra_data_size), c->err);
        if (!ret)
            ret = reader_get_string(&r, &name, load_be16(d.name_size), c->err);
        if (ret == -EINVAL) { /* it ends within an entry: qcow2_read_bitmaps has the words */
            img_error_clear(c->err);
            return 0;
        }
        if (ret < 0)
            return img_prefix(c->err, ret, "Could not read the bitmap directory: ");
        ret = check_one(c, start, &d, name, again);
        free(name);
        if (reader_skip(&r, align_up(r.at - start, 8) - (r.at - start), NULL) < 0)
            break;
    }
    return ret;
}

int check_bitmaps(struct check *c, bool again)
{
    const struct qcow2_extensions *ext = &c->q->ext;
    struct img_error err = IMG_ERROR_INIT;
    if (!ext->has_bitmaps)
        return 0;
    uint64_t directory = ext->bitmap_directory_offset, bytes = ext->bitmap_directory_size;
    if (again) {
        check_alone(c, "bitmap directory", directory, bytes);
        return each_bitmap(c, true);
    }
    uint64_t before = c->report->result->corruptions;
    int ret = check_reference(c, directory, bytes, 1, 0);
    if (!ret)
        ret = each_bitmap(c, false);
    if (ret < 0)
        return ret;
    /* what was found in the directory is not told twice */
    ret = qcow2_read_bitmaps(c->q, &err);
    if (ret == -EIO || ret == -ENOMEM) {
        ret = img_fail(c->err, -ret, "%s", img_error_message(&err));
        img_error_clear(&err);
        return ret;
    }
    if (ret < 0 && c->report->result->corruptions == before) {
        const char *detail = err.context ? err.context : "";
        check_once(c, BITMAP, directory, "ERROR bitmap directory: %s%s%s%s",
                   img_error_message(&err), *detail ? " (" : "", detail, *detail ? ")" : "");
    }
    img_error_clear(&err);
    return 0;
}
