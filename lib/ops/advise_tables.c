/*
 * How much of the guest's disk has a place in the host file, and what the host has there.
 *
 * A disk whose L2 tables are large is looked at in evenly spread windows, each of one L2 slice's
 * worth, so that 64 TiB take as long as 64 GiB; stretches without L2 tables cost nothing either
 * way. The last window ends with the disk, where a preallocated file ends too.
 */
#include "lib/checked.h"
#include "lib/image.h"
#include "lib/ops/advise.h"

static int walk(struct advise_tables *t, struct img *img, uint64_t from, uint64_t to,
                const struct advise_layout *l, struct img_error *err)
{
    const struct layer *top = img->layers[0];
    while (from < to) {
        struct extent e;
        unsigned depth;
        int ret = chain_map(img, guest(from), to - from, MAP_ALLOCATION, NULL, &e, &depth, err);
        if (ret < 0)
            return ret;
        from += e.length;
        t->looked_at += e.length;
        if (e.kind == IMG_EXTENT_COMPRESSED)
            t->compressed += e.length;
        if (!e.file)
            continue;
        t->placed += e.length;
        advise_place(l, e.host.v, e.length, &t->placement);
        if (e.file == top->file)
            t->end = max_u64(t->end, e.host.v + e.length);
    }
    return 0;
}

int advise_tables_read(struct advise_tables *t, struct img *img, const struct advise_layout *l,
                       struct img_error *err)
{
    struct layer *top = img->layers[0];
    struct layer_tables tables = {0};
    uint64_t size = top->size, cluster = top->cluster_size ? top->cluster_size : 512;
    int ret = top->driver->tables ? top->driver->tables(top, &tables, err) : 0;
    if (ret < 0)
        return ret;
    t->sampled = tables.l2_bytes > ADVISE_MAX_L2;
    if (!t->sampled)
        return walk(t, img, 0, size, l, err);
    uint64_t entries = ADVISE_MAX_L2 / ADVISE_SAMPLES / (tables.extended_l2 ? 16 : 8);
    uint64_t window = min_u64(entries * cluster, size),
             step = (size - window) / (ADVISE_SAMPLES - 1);
    for (unsigned i = 0; i < ADVISE_SAMPLES && !ret; i++) {
        uint64_t from = i == ADVISE_SAMPLES - 1 ? size - window : align_down(i * step, cluster);
        ret = walk(t, img, from, from + window, l, err);
    }
    return ret;
}
