/*
 * By how much a layer's file would grow when data from elsewhere is written to its disk: what has a
 * place there is overwritten, the rest gets new clusters, with the tables that lead to them.
 */
#include "lib/checked.h"
#include "lib/image.h"

#include <errno.h>
#include <stdlib.h>

enum { HOST_BLOCK = 4096 };

struct growth {
    struct img view;        /* the layer alone */
    uint64_t unit;          /* what it gives places to: its cluster, or the host's block */
    uint64_t table;         /* bytes of the disk that one L2 table maps; 0: there are none */
    bool shared;            /* internal snapshots may use any cluster: none is overwritten */
    uint64_t counted;       /* up to here, a multiple of the unit, all is counted */
    uint64_t counted_table; /* up to here, tables are */
    uint64_t data, units, tables;
};

/* What the layer has at OFF, which may lie behind its end. */
static int look(struct growth *g, uint64_t off, uint64_t max, struct extent *e,
                struct img_error *err)
{
    unsigned depth;
    uint64_t size = img_size(&g->view);
    *e = (struct extent){.length = max, .kind = IMG_EXTENT_UNALLOCATED};
    if (off >= size)
        return 0;
    return chain_map(&g->view, guest(off), min_u64(max, size - off), MAP_HOLES, NULL, e, &depth,
                     err);
}

/* Tables for the new places in [START, END). */
static int count_tables(struct growth *g, uint64_t start, uint64_t end, struct img_error *err)
{
    int ret = 0;
    if (!g->table)
        return 0;
    uint64_t at = max_u64(align_down(start, g->table), g->counted_table);
    for (; at < end && !ret; at += g->table) {
        struct extent e;
        uint64_t covered = g->table;
        if (at < img_size(&g->view))
            covered = min_u64(covered, img_size(&g->view) - at);
        ret = look(g, at, covered, &e, err);
        bool none = e.kind == IMG_EXTENT_UNALLOCATED && !e.file && e.length == covered;
        g->tables += none || g->shared;
        g->counted_table = at + g->table;
    }
    return ret;
}

static bool has_place(const struct growth *g, const struct extent *e)
{
    bool hole = !g->table && e->kind == IMG_EXTENT_ZERO; /* of a raw file */
    return e->file && e->kind != IMG_EXTENT_COMPRESSED && !hole && !g->shared;
}

/* LENGTH bytes from START on are to be written. In ascending order. */
static int add(struct growth *g, uint64_t start, uint64_t length, struct img_error *err)
{
    uint64_t at = max_u64(align_down(start, g->unit), g->counted);
    uint64_t end = align_up(start + length, g->unit);
    int ret = 0;
    g->data += length;
    while (at < end && !ret) {
        struct extent e;
        ret = look(g, at, end - at, &e, err);
        uint64_t next = align_up(at + e.length, g->unit);
        if (!ret && !has_place(g, &e)) {
            g->units += (next - at) / g->unit;
            ret = count_tables(g, at, next, err);
        }
        at = next;
    }
    g->counted = max_u64(g->counted, end);
    return ret;
}

static int start(struct growth *g, struct img *img, unsigned depth, struct img_error *err)
{
    struct img_info *info;
    *g = (struct growth){.view = *img};
    g->view.layers = img->layers + depth;
    g->view.depth = 1;
    int ret = img_describe(img, depth, &info, err);
    if (ret < 0)
        return ret;
    g->unit = info->cluster_size ? info->cluster_size : HOST_BLOCK;
    if (info->cluster_size)
        g->table = info->cluster_size / (info->qcow2.extended_l2 ? 16 : 8) * info->cluster_size;
    g->shared = info->snapshot_count > 0;
    img_info_free(info);
    return 0;
}

/* The refcounts of what is new are more, too: a block for so many clusters, and one begun. */
static int finish(const struct growth *g, struct img *img, unsigned depth, struct img_growth *out,
                  struct img_error *err)
{
    struct img_info *info;
    uint64_t blocks = 0;
    int ret = img_describe(img, depth, &info, err);
    if (ret < 0)
        return ret;
    uint64_t clusters = g->units + g->tables;
    if (info->is_qcow2 && clusters)
        blocks = div_round_up(clusters, info->cluster_size * 8 / info->qcow2.refcount_bits) + 1;
    *out = (struct img_growth){.data = g->data, .growth = (clusters + blocks) * g->unit};
    img_info_free(info);
    return 0;
}

/* ---- commit ---- */

static int count_own(struct growth *g, struct img *img, struct img_error *err)
{
    struct chain_step step = {0};
    struct chain_walk walk = {&step};
    struct img top = *img;
    int ret = 0;
    top.depth = 1;
    for (uint64_t at = 0, size = img_size(img); at < size && !ret;) {
        struct extent e;
        unsigned depth;
        ret = chain_map(&top, guest(at), size - at, MAP_HOLES, &walk, &e, &depth, err);
        bool data = e.kind != IMG_EXTENT_UNALLOCATED && e.kind != IMG_EXTENT_ZERO;
        if (!ret && data)
            ret = add(g, at, e.length, err);
        at += ret < 0 ? 0 : e.length;
    }
    return ret;
}

int img_measure_commit(struct img_growth *out, struct img *img, struct img_error *err)
{
    struct growth g;
    if (img->depth < 2)
        return img_fail(err, EINVAL, "Image does not have a backing file");
    int ret = start(&g, img, 1, err);
    if (!ret)
        ret = count_own(&g, img, err);
    return ret < 0 ? ret : finish(&g, img, 1, out, err);
}

/* ---- rebase ---- */

struct rebase_count {
    struct growth growth;
    struct img_error *err;
    int result;
};

/* Both bases differ there: what the overlay does not hold itself, it must get. */
static int count_difference(void *opaque, const struct img_difference *d)
{
    struct rebase_count *c = opaque;
    struct growth *g = &c->growth;
    uint64_t at = d->start, end = min_u64(d->start + d->length, img_size(&g->view));
    while (at < end && !c->result) {
        struct extent e;
        c->result = look(g, at, end - at, &e, c->err);
        if (!c->result && e.kind == IMG_EXTENT_UNALLOCATED)
            c->result = add(g, at, e.length, c->err);
        at += e.length;
    }
    return c->result;
}

int img_measure_rebase(struct img_growth *out, struct img *img, struct img *new_base,
                       struct img_error *err)
{
    struct rebase_count c = {.err = err};
    struct img_comparison ignored;
    struct img old = *img;
    if (img->depth < 2)
        return img_fail(err, EINVAL, "Image does not have a backing file");
    old.layers = img->layers + 1;
    old.depth = img->depth - 1;
    const struct img_compare_options options = {
        .flags = IMG_COMPARE_ALL, .difference = count_difference, .opaque = &c};
    int ret = start(&c.growth, img, 0, err);
    if (!ret)
        ret = img_compare(&old, new_base, &options, &ignored, err);
    if (!ret)
        ret = c.result;
    return ret < 0 ? ret : finish(&c.growth, img, 0, out, err);
}
