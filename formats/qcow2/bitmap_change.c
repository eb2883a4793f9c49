/*
 * What is done to one bitmap, action by action, and then written as one change.
 *
 * The actions move no bits. What the bitmap will hold is known as a list: its own bits, unless it
 * was cleared, and those of every bitmap that was merged since. Merging into one granularity can be
 * done in any order, and no other bitmap changes meanwhile, so that all is read once, at the end, a
 * piece at a time. Memory: three pieces and the tables of the bitmaps that take part.
 */
#include "formats/qcow2/bit_runs.h"
#include "formats/qcow2/bitmap.h"
#include "formats/qcow2/ondisk.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct change {
    struct qcow2 *q;
    const char *name;
    const struct qcow2_bitmap *old; /* in the image; NULL: none of that name */
    bool replaced;                  /* the old one was removed on the way */
    bool exists;                    /* the rest counts when it does */
    struct img_bitmap_info info;
    bool keeps_bits; /* of the old one */
    struct bitmap_merge *merges;
    size_t merge_count;

    struct bitmap_bits base; /* the old bits, while the new ones are written */
    uint8_t *own;            /* a piece of them */
};

static const struct qcow2_bitmap *find(const struct qcow2 *q, const char *name)
{
    for (size_t i = 0; i < q->bitmap_count; i++)
        if (!strcmp(q->bitmaps[i].info.name, name))
            return &q->bitmaps[i];
    return NULL;
}

static int check_usable(const struct img_bitmap_info *b, struct img_error *err)
{
    if (!(b->flags & IMG_BITMAP_IN_USE))
        return 0;
    int ret = img_fail(err, EINVAL, "Bitmap '%s' is inconsistent and cannot be used", b->name);
    img_context(err, "it is marked as in use, which nobody cleared; 'bitmap --remove' deletes it");
    img_hint(err, "Try block-dirty-bitmap-remove to delete this bitmap from disk");
    return ret;
}

/* ---- actions ------------------------------------------------------------------------------- */

static void forget_merges(struct change *c)
{
    for (size_t i = 0; i < c->merge_count; i++)
        merge_close(&c->merges[i]);
    c->merge_count = 0;
}

static uint32_t default_granularity(const struct qcow2 *q)
{
    enum { LEAST = 4 << 10, MOST = 64 << 10 };
    return (uint32_t)min_u64(MOST, max_u64(LEAST, q->geometry.cluster_size));
}

/* Is there room for one bitmap more? What QEMU asks, in its words. */
static int check_room(const struct change *c, uint32_t granularity, struct img_error *err)
{
    const struct qcow2 *q = c->q;
    uint64_t bytes = div_round_up(div_round_up(q->layer->size, granularity), 8);
    uint64_t directory = bitmap_entry_size(c->name), bitmaps = 1;
    for (size_t i = 0; i < q->bitmap_count; i++)
        if (&q->bitmaps[i] != c->old) { /* that one was removed */
            directory += bitmap_entry_size(q->bitmaps[i].info.name);
            bitmaps++;
        }
    if (q->header.version < 3)
        return img_fail(err, ENOTSUP, "Cannot store dirty bitmaps in qcow2 v2 files");
    if (bytes > MAX_BITMAP_BYTES ||
        bytes > (uint64_t)MAX_BITMAP_TABLE_ENTRIES * q->geometry.cluster_size)
        return img_fail_detail(
            err, EINVAL, "Too much space will be occupied by the bitmap. Use larger granularity",
            "%" PRIu64 " bytes, at most %d", bytes, MAX_BITMAP_BYTES);
    if (!bytes)
        return img_fail(err, EINVAL, "The disk is empty: it has no bits");
    if (strlen(c->name) > MAX_BITMAP_NAME)
        return img_fail(err, EINVAL, "Name length exceeds maximum (%d characters)",
                        MAX_BITMAP_NAME);
    if (bitmaps > MAX_BITMAPS)
        return img_fail_detail(err, ENOSPC,
                               "Maximum number of persistent bitmaps is already reached", "%d",
                               MAX_BITMAPS);
    if (directory > MAX_BITMAP_DIRECTORY_BYTES)
        return img_fail_detail(err, ENOSPC, "Not enough space in the bitmap directory",
                               "it would have %" PRIu64 " bytes, at most %d", directory,
                               MAX_BITMAP_DIRECTORY_BYTES);
    return 0;
}

static int add(struct change *c, const struct bitmap_action *a, struct img_error *err)
{
    uint32_t granularity = default_granularity(c->q);
    int ret = bitmap_check_new(c->name, a->granularity, err);
    if (ret < 0)
        return ret;
    if (a->granularity)
        granularity = (uint32_t)a->granularity;
    if (c->exists)
        return img_fail(err, EEXIST, "Bitmap already exists: %s", c->name);
    ret = check_room(c, granularity, err);
    if (ret < 0)
        return img_prefix(err, ret, "Can't make bitmap '%s' persistent in '%s': ", c->name,
                          c->q->layer->filename);
    c->exists = true;
    c->info = (struct img_bitmap_info){
        .name = (char *)(uintptr_t)c->name, .flags = IMG_BITMAP_AUTO, .granularity = granularity};
    return 0;
}

static void drop_bits(struct change *c)
{
    c->keeps_bits = false;
    forget_merges(c);
}

/* The bits of another image's bitmap can only be read where that image is a qcow2 one. */
static int find_source(const struct change *c, const struct bitmap_action *a, struct qcow2 **q,
                       const struct qcow2_bitmap **source, struct img_error *err)
{
    *q = c->q;
    if (a->source && a->source->driver != c->q->layer->driver)
        return bitmap_not_found(a->source_name, err);
    if (a->source)
        *q = a->source->state;
    *source = find(*q, a->source_name);
    return *source ? 0 : bitmap_not_found(a->source_name, err);
}

static int merge(struct change *c, const struct bitmap_action *a, struct img_error *err)
{
    const struct qcow2_bitmap *source;
    struct qcow2 *q;
    int ret = 0;
    bool same_image = !a->source || a->source == c->q->layer;
    if (same_image && !strcmp(a->source_name, c->name)) /* whatever it is by now */
        return check_usable(&c->info, err);
    ret = find_source(c, a, &q, &source, err);
    if (!ret)
        ret = check_usable(&c->info, err);
    if (!ret)
        ret = check_usable(&source->info, err);
    if (!ret && q->layer->size != c->q->layer->size)
        ret = img_fail(err, EINVAL,
                       "Bitmaps are of different sizes (destination size is %" PRIu64
                       ", source size is %" PRIu64 ") and can't be merged",
                       c->q->layer->size, q->layer->size);
    return ret < 0 ? ret : merge_open(&c->merges[c->merge_count++], q, source, err);
}

static int act(struct change *c, const struct bitmap_action *a, struct img_error *err)
{
    int ret = 0;
    if (a->kind == IMG_BITMAP_ADD)
        return add(c, a, err);
    if (!c->exists)
        return bitmap_not_found(c->name, err);
    if (a->kind == IMG_BITMAP_REMOVE) {
        c->exists = false;
        c->replaced = true;
        drop_bits(c);
        return 0;
    }
    if (a->kind == IMG_BITMAP_MERGE)
        return merge(c, a, err);
    ret = check_usable(&c->info, err);
    if (ret < 0)
        return ret;
    if (a->kind == IMG_BITMAP_CLEAR)
        drop_bits(c);
    else if (a->kind == IMG_BITMAP_ENABLE)
        c->info.flags |= IMG_BITMAP_AUTO;
    else
        c->info.flags &= ~(unsigned)IMG_BITMAP_AUTO;
    return 0;
}

/* ---- writing ------------------------------------------------------------------------------- */

static int fill(void *opaque, uint32_t index, uint8_t *piece, struct img_error *err)
{
    struct change *c = opaque;
    size_t size = c->q->geometry.cluster_size;
    uint8_t added = 0;
    for (size_t i = 0; i < c->merge_count; i++) {
        int ret = merge_piece(&c->merges[i], &c->base, index, piece, err);
        if (ret < 0)
            return ret;
    }
    if (!c->keeps_bits)
        return 0;
    if (bytes_are(piece, size, 0))
        return BITS_KEPT;
    int ret = bits_read_piece(&c->base, index, c->own, err);
    for (size_t i = 0; !ret && i < size; i++) {
        added |= piece[i] & (uint8_t)~c->own[i];
        piece[i] |= c->own[i];
    }
    return ret < 0 ? ret : added ? 0 : BITS_KEPT;
}

static int store(struct change *c, struct transaction *t, struct qcow2_bitmap *bitmap,
                 struct img_error *err)
{
    struct bits_source source = {fill, c};
    int ret = 0;
    bitmap->info = c->info;
    if (c->old && !c->replaced)
        ret = bits_load(&c->base, c->q, c->old, err);
    else
        bits_init(&c->base, c->q, c->name, c->info.granularity);
    c->own = malloc(c->q->geometry.cluster_size);
    if (!ret && !c->own)
        ret = img_fail_nomem(err);
    if (!ret)
        ret = bits_store(t, &c->base, &source, bitmap, err);
    return ret;
}

static int write_list(struct change *c, struct transaction *t, struct qcow2_bitmap *list,
                      struct img_error *err)
{
    size_t n = 0;
    struct qcow2_bitmap *place = NULL;
    int ret = 0;
    if (c->old && c->replaced)
        ret = bitmap_release(t, c->old, err);
    for (size_t i = 0; i < c->q->bitmap_count; i++) {
        if (&c->q->bitmaps[i] == c->old && c->replaced)
            continue;
        if (&c->q->bitmaps[i] == c->old)
            place = &list[n];
        list[n++] = c->q->bitmaps[i];
    }
    if (c->exists && !place)
        place = &list[n++];
    if (!ret && place)
        ret = store(c, t, place, err);
    return ret < 0 ? ret : bitmap_write_directory(t, list, n, err);
}

static bool changes_nothing(const struct change *c)
{
    if (!c->exists)
        return !c->old;
    return c->old && !c->replaced && c->keeps_bits && !c->merge_count &&
           c->info.flags == c->old->info.flags;
}

static int commit(struct change *c, struct img_error *err)
{
    struct transaction t;
    if (changes_nothing(c))
        return 0;
    struct qcow2_bitmap *list = calloc(c->q->bitmap_count + 1, sizeof *list);
    if (!list)
        return img_fail_nomem(err);
    int ret = tx_begin(&t, c->q, err);
    if (!ret) {
        ret = write_list(c, &t, list, err);
        if (!ret)
            ret = tx_commit(&t, err);
        if (!ret)
            tx_go_home(&t, UINT64_MAX);
        tx_end(&t);
    }
    free(list);
    return ret;
}

int qcow2_change_bitmap(struct layer *l, const char *name, const struct bitmap_action *actions,
                        size_t count, size_t *failed, struct img_error *err)
{
    struct qcow2 *q = l->state;
    struct change c = {.q = q, .name = name, .old = find(q, name)};
    int ret = qcow2_still_there(q, err);
    size_t i;
    *failed = count;
    if (ret < 0)
        return ret;
    c.merges = calloc(count, sizeof *c.merges);
    if (!c.merges)
        return img_fail_nomem(err);
    c.exists = c.keeps_bits = c.old != NULL;
    if (c.old)
        c.info = c.old->info;
    for (i = 0; i < count && !ret; i++)
        ret = act(&c, &actions[i], err);
    *failed = ret < 0 ? i - 1 : count;
    if (!ret)
        ret = commit(&c, err);
    forget_merges(&c);
    bits_free(&c.base);
    free(c.merges);
    free(c.own);
    return ret;
}
