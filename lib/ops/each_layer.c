/*
 * A chain layer by layer, for jobs that want to know something of every layer and read none: only
 * two layers are open at a time, so that no number of them runs out of files.
 */
#include "lib/image.h"

#include <stdlib.h>

/* Opens what lies below *L and puts it in its place. */
static int descend(struct layer **l, struct chain_trail *trail,
                   const struct img_open_options *options, struct img_error *err)
{
    struct layer *above = *l, *below = NULL;
    struct image_ref ref = {0};
    char *full = NULL;
    bool probed;
    int ret = chain_backing_ref(&ref, &full, above, err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not open '%s': ", above->backing_name);
    ret = layer_open(&below, &ref, options, true, &probed, err);
    if (ret < 0)
        img_prefix(err, ret, "Could not open '%s': ", full);
    else
        ret = chain_trail_add(trail, below, full, err);
    if (ret < 0) {
        chain_explain(err, above, full);
        layer_close(below);
    } else {
        if (probed)
            chain_warn_probed(options, above, full, below->driver->name);
        layer_close(above);
        *l = below;
    }
    ref_clear(&ref);
    free(full);
    return ret;
}

int each_layer(const char *filename, const struct img_open_options *given, enum layer_walk walk,
               int (*fn)(void *opaque, struct layer *l, struct img_error *err), void *opaque,
               struct img_error *err)
{
    struct img_open_options options = given ? *given : (struct img_open_options){0};
    struct chain_trail trail = {0};
    struct image_ref ref;
    struct layer *l = NULL;
    options.flags |= IMG_OPEN_NO_DATA;
    int ret = layer_open_top(&l, &ref, filename, &options, err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not open '%s': ", filename);
    ref_clear(&ref);
    ret = chain_trail_add(&trail, l, filename, err);
    if (!ret)
        ret = fn(opaque, l, err);
    while (!ret && walk != WALK_TOP && l->backing_name && !(walk == WALK_USED && l->cut_off)) {
        ret = descend(&l, &trail, &options, err);
        if (!ret)
            ret = fn(opaque, l, err);
    }
    free(trail.seen);
    layer_close(l);
    return ret;
}
