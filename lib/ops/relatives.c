#include "lib/ops/relatives.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- looking for them ---------------------------------------------------------------------- */

/* The folder that a layer's file lies in, alone. */
static int walk_folder_of(struct tree *t, const struct file *f, struct img_error *err)
{
    const char *slash = strrchr(f->name, '/');
    char *folder = slash ? strndup(f->name, (size_t)(slash + 1 - f->name)) : strdup(".");
    int ret = folder ? tree_walk(t, folder, false, err) : img_fail_nomem(err);
    free(folder);
    return ret;
}

int relatives_read(struct tree *t, const struct img *img, unsigned layers,
                   const char *const *folders, size_t folder_count, bool strict,
                   struct img_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < folder_count && !ret; i++)
        ret = tree_walk(t, folders[i], true, err);
    for (unsigned i = 0; i < layers && !ret; i++) {
        ret = walk_folder_of(t, img->layers[i]->file, err);
        if (!strict && (ret == -EACCES || ret == -ENOENT)) {
            img_error_clear(err);
            ret = 0;
        }
    }
    if (!ret)
        ret = tree_resolve(t, err);
    return ret < 0 ? ret : tree_finish(t, err);
}

/* ---- what they need ------------------------------------------------------------------------ */

/* Which layer's file, or data file, each image of the tree is; or -1. */
static void mark_files(const struct tree *t, const struct img *img, int *layer_of)
{
    for (size_t i = 0; i < t->count; i++)
        layer_of[i] = -1;
    for (unsigned k = 0; k < img->depth; k++) {
        const struct file *files[] = {img->layers[k]->file, img->layers[k]->data_file};
        for (size_t i = 0; i < 2; i++) {
            size_t node = files[i] ? tree_find_file(t, &files[i]->id) : IMG_TREE_NONE;
            for (; node != IMG_TREE_NONE; node = tree_next_file(t, node))
                layer_of[node] = (int)k;
        }
    }
}

/* Is this reference part of the chain itself? */
static bool is_own(const struct img_tree_reference *r, int from, int to)
{
    bool own_data = from == to && r->kind == IMG_TREE_DATA_FILE;
    bool next_above = from == to - 1 && from >= 0 && r->kind == IMG_TREE_BACKING;
    return own_data || next_above;
}

int relatives_each(const struct tree *t, const struct img *img, relative_fn fn, void *opaque,
                   struct img_error *err)
{
    int *layer_of = malloc((t->count + 1) * sizeof *layer_of), ret = 0;
    if (!layer_of)
        return img_fail_nomem(err);
    mark_files(t, img, layer_of);
    for (size_t i = 0; i < t->count && !ret; i++) {
        const struct img_tree_image *image = &t->result.images[i];
        for (size_t k = 0; k < image->reference_count && !ret; k++) {
            const struct img_tree_reference *r = &image->references[k];
            int layer = layer_of[r->target];
            if (layer >= 0 && !is_own(r, layer_of[i], layer))
                ret = fn(opaque, image, (unsigned)layer, err);
        }
    }
    free(layer_of);
    return ret;
}
