/* Commands that change metadata as a whole: at every instant the old image or the new one. */
#include "subjects.h"
#include "formats/qcow2/create.h"
#include "formats/qcow2/rewrite.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct qcow2 *qcow2_of(struct stage *s)
{
    return s->img->layers[0]->state;
}

/* ---- transactions themselves -------------------------------------------------------------- */

/* The active L1 table, and if ALL_TABLES the L2 tables too, in new places. */
static int mark_changed(void *opaque, struct transaction *t, struct l2_view *v,
                        struct img_error *err)
{
    (void)opaque, (void)t, (void)err;
    v->changed = true;
    return 0;
}

static int move_tables(struct stage *s, bool all_tables, struct img_error *err)
{
    struct qcow2 *q = qcow2_of(s);
    struct transaction t;
    uint8_t *l1 = NULL;
    uint32_t size = q->header.l1_size;
    int ret = tx_begin(&t, q, err);
    if (ret < 0)
        return ret;
    ret = tx_load_l1(&t, q->header.l1_offset, size, &l1, err);
    if (!ret && all_tables)
        ret = tx_each_l2(&t, l1, size, mark_changed, NULL, err);
    if (!ret)
        ret = tx_fix_copied(&t, l1, size, err);
    if (!ret)
        ret = tx_replace_l1(&t, l1, size, err);
    if (!ret)
        ret = tx_commit(&t, err);
    tx_end(&t);
    free(l1);
    return ret < 0 ? ret : stage_step(s, true, true, err);
}

static int move_l1(struct stage *s, struct img_error *err)
{
    return move_tables(s, false, err);
}

static int move_all(struct stage *s, struct img_error *err)
{
    int ret = move_tables(s, true, err);
    return ret < 0 ? ret : move_tables(s, false, err); /* into the space that has become free */
}

/* ---- the header's names ------------------------------------------------------------------- */

/* The backing file's name again, with DOTS times "./" before it. */
static int name_backing(struct stage *s, unsigned dots, struct img_error *err)
{
    struct transaction t;
    char name[1100] = "";
    for (unsigned i = 0; i < dots; i++)
        strcat(name, "./");
    strcat(name, "base.raw");
    int ret = tx_begin(&t, qcow2_of(s), err);
    if (ret < 0)
        return ret;
    t.parts.backing = name;
    t.parts_changed = true;
    ret = tx_commit(&t, err);
    tx_end(&t);
    if (ret < 0)
        return ret;
    struct layer *l = s->img->layers[0]; /* the layer's own copy is its owner's to change */
    free(l->backing_name);
    l->backing_name = must(strdup(name));
    return stage_step(s, true, true, err);
}

/* Short, into the second sector, far behind it, and back. */
static int change_names(struct stage *s, struct img_error *err)
{
    static const unsigned dots[] = {40, 200, 480, 100, 0};
    int ret = 0;
    for (size_t i = 0; i < sizeof dots / sizeof *dots && !ret; i++)
        ret = name_backing(s, dots[i], err);
    return ret;
}

/* From one long name to another where there is no room for both. */
static int change_long_name(struct stage *s, struct img_error *err)
{
    return name_backing(s, 240, err);
}

/* ---- amend -------------------------------------------------------------------------------- */

/* Each list in turn, up to a NULL. */
static int amend_all(struct stage *s, const char *const *lists, struct img_error *err)
{
    int ret = 0;
    for (; *lists && !ret; lists++) {
        struct img_amend_options options = {.options = *lists};
        ret = img_amend(s->img, &options, err);
        if (!ret)
            ret = stage_step(s, true, true, err);
    }
    return ret;
}

static int amend_width(struct stage *s, struct img_error *err)
{
    static const char *const lists[] = {"refcount_bits=64", "refcount_bits=8", "refcount_bits=16",
                                        NULL};
    return amend_all(s, lists, err);
}

static int amend_version(struct stage *s, struct img_error *err)
{
    static const char *const lists[] = {"compat=0.10,refcount_bits=16",
                                        "compat=1.1,lazy_refcounts=on,refcount_bits=32",
                                        "lazy_refcounts=off", NULL};
    return amend_all(s, lists, err);
}

static int amend_upgrade(struct stage *s, struct img_error *err)
{
    static const char *const lists[] = {"compat=1.1", "compat=0.10", NULL};
    return amend_all(s, lists, err);
}

/* ---- create in place ---------------------------------------------------------------------- */

static int create_on_device(struct stage *s, const char *options, struct img_error *err)
{
    const struct driver *d = driver_by_name("qcow2");
    struct create_plan plan = {0};
    struct option_set set;
    struct file *f = record_open(&s->recorder, 0, "device");
    options_init(&set, d->create_options, NULL);
    int ret = options_parse(&set, options, err);
    if (!ret)
        ret = d->plan(&plan, &set, err);
    if (!ret)
        ret = d->create(&plan, f, err);
    if (!ret)
        ret = file_flush(f, err);
    free(plan.layout);
    options_clear(&set);
    file_close(f);
    return ret < 0 ? ret : stage_step(s, true, true, err);
}

static int create_small(struct stage *s, struct img_error *err)
{
    return create_on_device(s, "size=1048576,cluster_size=4096", err);
}

static int create_preallocated(struct stage *s, struct img_error *err)
{
    return create_on_device(s, "size=131072,cluster_size=1024,preallocation=metadata", err);
}

static int create_default(struct stage *s, struct img_error *err)
{
    return create_on_device(s, "size=131072", err);
}

/* A name that does not fit into the first sector. */
static int create_overlay(struct stage *s, struct img_error *err)
{
    char options[1024] = "size=131072,cluster_size=4096,backing_fmt=raw,backing_file=";
    for (int i = 0; i < 200; i++)
        strcat(options, "./");
    return create_on_device(s, strcat(options, "base.raw"), err);
}

/* ---- bitmaps ------------------------------------------------------------------------------ */

static int change_bitmap(struct stage *s, const char *name, const struct img_bitmap_action *actions,
                         size_t count, struct img_error *err)
{
    int ret = img_bitmap_change(s->img, name, actions, count, NULL, err);
    return ret < 0 ? ret : stage_step(s, true, true, err);
}

static int merge_bitmaps(struct stage *s, struct img_error *err)
{
    static const struct img_bitmap_action actions[] = {
        {.kind = IMG_BITMAP_MERGE, .source_name = "one"},
        {.kind = IMG_BITMAP_ENABLE},
        {.kind = IMG_BITMAP_MERGE, .source_name = "two"},
    };
    return change_bitmap(s, "three", actions, 3, err);
}

static int add_merge_and_clear(struct stage *s, struct img_error *err)
{
    static const struct img_bitmap_action clear[] = {{.kind = IMG_BITMAP_CLEAR}};
    static const struct img_bitmap_action add[] = {
        {.kind = IMG_BITMAP_ADD, .granularity = 2048},
        {.kind = IMG_BITMAP_MERGE, .source_name = "one"},
    };
    int ret = change_bitmap(s, "four", add, 2, err);
    return ret < 0 ? ret : change_bitmap(s, "one", clear, 1, err);
}

static int remove_bitmaps(struct stage *s, struct img_error *err)
{
    static const struct img_bitmap_action remove[] = {{.kind = IMG_BITMAP_REMOVE}};
    static const char *const names[] = {"two", "one", "three"};
    int ret = 0;
    for (size_t i = 0; i < 3 && !ret; i++)
        ret = change_bitmap(s, names[i], remove, 1, err);
    return ret;
}

static int first_bitmap(struct stage *s, struct img_error *err)
{
    static const struct img_bitmap_action add[] = {{.kind = IMG_BITMAP_ADD}};
    return change_bitmap(s, "first", add, 1, err);
}

#define FEATURE_NAMES                                                                              \
    "while it is not done, the table of feature names may be cut, which only words depend on"

#define AMEND_BY_QEMU "$P $QEMU_IMG amend -o compat=0.10 image.qcow2"
#define SNAPSHOT(image, words)                                                                     \
    {                                                                                              \
        "snapshot " words, image, .script = "$P $IMGTOOL snapshot " words " image.qcow2",          \
                                  .qemu = "$P $QEMU_IMG snapshot " words " image.qcow2"            \
    }

static const struct subject metadata_subjects[] = {
    {"transaction", "512-byte clusters, 2 snapshots", .run = move_l1},
    {"transaction", "512-byte clusters, 2 snapshots", .run = move_all},
    {"transaction", "64 KiB clusters, snapshot, bitmap", .run = move_all},
    {"transaction", "version 2, snapshots", .run = move_all},
    {"transaction", "extended L2, backing file, snapshot", .run = move_all},
    {"transaction", "1-bit refcounts", .run = move_all},
    {"transaction", "64-bit refcounts, snapshot", .run = move_all},
    {"transaction", "external data file", .run = move_all},
    {"header names", "backing file, compressed clusters", .run = change_names,
     .needless = FEATURE_NAMES},
    {"header names", "extended L2, backing file, snapshot", .run = change_names,
     .needless = FEATURE_NAMES},
    {"header names, 1 KiB clusters", "long backing name, 1 KiB clusters", ONLY_AFTER,
     .run = change_long_name},
    {"amend -o refcount_bits", "512-byte clusters, 2 snapshots", .run = amend_width,
     .qemu = "$P $QEMU_IMG amend -o refcount_bits=64 image.qcow2"},
    {"amend -o refcount_bits", "64-bit refcounts, snapshot", .run = amend_width,
     .qemu = "$P $QEMU_IMG amend -o refcount_bits=16 image.qcow2"},
    {"amend -o refcount_bits", "external data file", .run = amend_width},
    {"amend -o compat", "512-byte clusters, 2 snapshots", .run = amend_version,
     .needless = FEATURE_NAMES, .qemu = AMEND_BY_QEMU},
    {"amend -o compat", "64 KiB clusters, snapshot, bitmap", .run = amend_version,
     .needless = FEATURE_NAMES},
    {"amend -o compat", "zero clusters over a backing file, snapshot", .run = amend_version,
     .needless = FEATURE_NAMES, .qemu = AMEND_BY_QEMU},
    {"amend -o compat", "zero clusters, snapshot", .run = amend_version, .needless = FEATURE_NAMES},
    {"amend -o compat", "zero clusters with places, snapshot", .run = amend_version,
     .needless = FEATURE_NAMES, .qemu = AMEND_BY_QEMU},
    {"amend -o compat", "version 2, snapshots", .run = amend_upgrade, .needless = FEATURE_NAMES},
    {"bitmap", "three bitmaps", .run = merge_bitmaps,
     .qemu = "$P $QEMU_IMG bitmap --merge one --enable --merge two image.qcow2 three"},
    {"bitmap", "three bitmaps", .run = add_merge_and_clear,
     .qemu = "$P $QEMU_IMG bitmap --add -g 2k --merge one image.qcow2 four"},
    {"bitmap", "three bitmaps", .run = remove_bitmaps,
     .qemu = "$P $QEMU_IMG bitmap --remove image.qcow2 two"},
    {"bitmap", "external data file", .run = first_bitmap},
    {"bitmap", "extended L2, backing file, snapshot", .run = first_bitmap,
     .needless = FEATURE_NAMES},
    SNAPSHOT("512-byte clusters, 2 snapshots", "-c new"),
    SNAPSHOT("512-byte clusters, 2 snapshots", "-a first"),
    SNAPSHOT("512-byte clusters, 2 snapshots", "-d second"),
    SNAPSHOT("64 KiB clusters, snapshot, bitmap", "-c new"),
    SNAPSHOT("version 2, snapshots", "-d first"),
    SNAPSHOT("extended L2, backing file, snapshot", "-a first"),
    {"create on a device", "a device with an old image", ON_DEVICE, .run = create_small},
    {"create on a device", "a device with an old image", ON_DEVICE, .run = create_preallocated},
    {"create on a device", "a device with an old image", ON_DEVICE, .run = create_default},
    {"create on a device", "a device with an old image", ON_DEVICE, .run = create_overlay},
    {"create", "no file", .script = "$P $IMGTOOL create -q -f qcow2 image.qcow2 1M"},
    {"create", "plain, 4 KiB clusters",
     .script = "$P $IMGTOOL create -q -f qcow2 -o cluster_size=512 image.qcow2 100k"},
    {0},
};
SUBJECT_GROUP(metadata)
