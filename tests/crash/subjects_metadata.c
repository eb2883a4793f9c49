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

const struct subject metadata_subjects[] = {
    {"transaction", "512-byte clusters, 2 snapshots", 0, move_l1, NULL, NULL, NULL},
    {"transaction", "512-byte clusters, 2 snapshots", 0, move_all, NULL, NULL, NULL},
    {"transaction", "64 KiB clusters, snapshot, bitmap", 0, move_all, NULL, NULL, NULL},
    {"transaction", "version 2, snapshots", 0, move_all, NULL, NULL, NULL},
    {"transaction", "extended L2, backing file, snapshot", 0, move_all, NULL, NULL, NULL},
    {"transaction", "1-bit refcounts", 0, move_all, NULL, NULL, NULL},
    {"transaction", "64-bit refcounts, snapshot", 0, move_all, NULL, NULL, NULL},
    {"transaction", "external data file", 0, move_all, NULL, NULL, NULL},
    {"create", "a device with an old image", ON_DEVICE, create_small, NULL, NULL, NULL},
    {"create", "a device with an old image", ON_DEVICE, create_preallocated, NULL, NULL, NULL},
    {"create", "a device with an old image", ON_DEVICE, create_default, NULL, NULL, NULL},
    {"create", "a device with an old image", ON_DEVICE, create_overlay, NULL, NULL, NULL},
    {"create, new name", "no file", 0, NULL, "$P $IMGTOOL create -q -f qcow2 image.qcow2 1M", NULL,
     NULL},
    {"create, old name", "plain, 4 KiB clusters", 0, NULL,
     "$P $IMGTOOL create -q -f qcow2 -o cluster_size=512 image.qcow2 100k", NULL, NULL},
    {0},
};
