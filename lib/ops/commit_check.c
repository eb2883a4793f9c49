/* Which layer is committed into, and whether anybody else needs it as it is. */
#include "lib/ops/commit.h"
#include "lib/ops/relatives.h"
#include "lib/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the base ------------------------------------------------------------------------------ */

static bool is_protocol(const char *name)
{
    return name[strcspn(name, ":/")] == ':';
}

/* Does PATH, if it is one, lead to F? */
static bool leads_to(const char *path, const struct file *f)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return false;
    struct file_identity id = tree_identity(&st);
    return id.device == f->id.device && id.inode == f->id.inode;
}

/* Is layer I the one that NAME means: as the layer above names it, or beside that one? */
static int is_named(const struct img *img, unsigned i, const char *name, bool *out,
                    struct img_error *err)
{
    const struct layer *above = img->layers[i - 1], *l = img->layers[i];
    char *full = NULL;
    *out = is_protocol(name) && (!strcmp(name, l->filename) ||
                                 (above->backing_name && !strcmp(name, above->backing_name)));
    if (is_protocol(name))
        return 0;
    int ret = policy_backing_name(&full, above->filename, name, NULL);
    if (ret == -ENOMEM)
        return img_fail_nomem(err);
    *out = !ret && leads_to(full, l->file); /* without a full name it is not this one */
    free(full);
    return 0;
}

int commit_find_base(struct commit *c, struct img_error *err)
{
    const struct img *img = c->img;
    const char *name = c->options->base;
    bool found = !name && img->depth > 1;
    int ret = 0;
    c->into = 1;
    if (!name && !found)
        return img_fail(err, EINVAL, "Image does not have a backing file");
    for (unsigned i = 1; i < img->depth && !found && !ret; i++) {
        c->into = i;
        ret = is_named(img, i, name, &found, err);
    }
    if (ret < 0)
        return ret;
    if (!found)
        return img_fail(err, EINVAL, "Did not find '%s' in the backing chain of '%s'", name,
                        img->layers[0]->filename);
    const struct file *file = img->layers[c->into]->file;
    if (!strcmp(file->ops->protocol, "null-co"))
        return img_fail(err, ENOTSUP, "'%s' keeps nothing that is written to it", file->name);
    const struct file_identity *id = &file->id;
    for (unsigned i = 0; i < img->depth; i++) {
        const struct file_identity *other = &img->layers[i]->file->id;
        if (i != c->into && other->device == id->device && other->inode == id->inode)
            return img_fail(err, EINVAL, "'%s' is in the chain twice, in different formats",
                            img->layers[c->into]->filename);
    }
    return 0;
}

/* ---- who needs it -------------------------------------------------------------------------- */

static int refuse(void *opaque, const struct img_tree_image *image, unsigned layer,
                  struct img_error *err)
{
    const struct commit *c = opaque;
    if (layer == 0 || layer > c->into) /* these read the same afterwards */
        return 0;
    int ret = img_fail(err, EBUSY, "'%s' needs '%s' as it is", image->filename,
                       c->img->layers[layer]->filename);
    img_hint(err, "Use --force to commit all the same; '%s' is of no use then.", image->filename);
    return ret;
}

static int check_snapshots(const struct commit *c, struct img_error *err)
{
    struct img_info *info;
    int ret = layer_describe(&info, c->img->layers[0], err);
    if (ret < 0)
        return ret;
    if (info->snapshot_count) {
        ret = img_fail(err, EBUSY, "'%s' has %zu internal snapshots, which read what is below it",
                       info->filename, info->snapshot_count);
        img_hint(err, "Use --force to commit all the same; they are of no use then.");
    }
    img_info_free(info);
    return ret;
}

int commit_check_needed(const struct commit *c, struct img_error *err)
{
    const struct img_commit_options *o = c->options;
    if (o->flags & IMG_COMMIT_FORCE)
        return 0;
    int ret = check_snapshots(c, err);
    if (ret < 0)
        return ret;
    struct tree *t = tree_new(err);
    if (!t)
        return -ENOMEM;
    ret = relatives_read(t, c->img, c->into + 1, o->siblings, o->sibling_count, false, err);
    if (!ret)
        ret = relatives_each(t, c->img, refuse, (void *)(uintptr_t)c, err);
    tree_destroy(t);
    return ret;
}
