/*
 * What the names in an image lead to, as the chain resolves them: chain_backing_ref and the policy
 * decide, here it is only remembered which file and which format came out.
 */
#include "lib/checked.h"
#include "lib/ops/tree.h"
#include "lib/policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the node that a reference leads to ---- */

static bool same_window(const struct tree_node *n, const struct image_ref *ref)
{
    return n->raw_offset == ref->raw_offset && n->raw_size == ref->raw_size;
}

/* The file ID as DRIVER, or, with NULL, as what looking at it gives. */
static size_t find_node(const struct tree *t, const struct file_identity *id,
                        const struct driver *driver, const struct image_ref *ref)
{
    size_t number = tree_find_file(t, id);
    for (; number != IMG_TREE_NONE; number = tree_next_file(t, number)) {
        const struct tree_node *n = &t->nodes[number];
        if ((driver ? n->driver == driver : n->probed) && same_window(n, ref))
            break;
    }
    return number;
}

static int add_outside(struct tree *t, const char *path, const struct file_identity *id,
                       const char *key, const struct image_ref *ref, size_t *number,
                       struct img_error *err)
{
    int ret = tree_add(t, path, id, key, number, err);
    if (ret < 0)
        return ret;
    struct tree_node *n = &t->nodes[*number];
    struct file_identity folder;
    ret = tree_folder_of(path, &folder, err);
    if (ret < 0)
        return ret;
    n->image.outside = !tree_knows_folder(t, &folder);
    n->raw_offset = ref ? ref->raw_offset : 0;
    n->raw_size = ref ? ref->raw_size : UINT64_MAX;
    return 0;
}

/* A name that leads to no file, as WHY says, which is cleared. */
static int nowhere(struct tree *t, const char *name, bool missing, struct img_error *why,
                   size_t *number, struct img_error *err)
{
    char *absolute = policy_absolute(name);
    int ret = absolute ? 0 : img_fail_nomem(err);
    *number = absolute ? tree_find_name(t, absolute) : IMG_TREE_NONE;
    if (!ret && *number == IMG_TREE_NONE) {
        ret = add_outside(t, name, NULL, absolute, NULL, number, err);
        if (!ret && missing)
            t->nodes[*number].image.state = IMG_TREE_MISSING;
        else if (!ret)
            ret = tree_set_unreadable(&t->nodes[*number], why, err);
    }
    img_error_clear(why);
    free(absolute);
    return ret;
}

/* L, which is taken over, or why there is none, becomes a node. */
static int add_opened(struct tree *t, struct layer *l, const struct file_identity *id,
                      const struct image_ref *ref, const struct driver *stated,
                      struct img_error *why, size_t *number, struct img_error *err)
{
    *number = l ? find_node(t, id, l->driver, ref) : IMG_TREE_NONE;
    int ret = 0;
    if (*number == IMG_TREE_NONE) {
        ret = add_outside(t, l ? l->filename : ref->path, id, NULL, ref, number, err);
        struct tree_node *n = ret < 0 ? NULL : &t->nodes[*number];
        if (n && l) {
            ret = tree_fill(n, l, err);
        } else if (n) {
            n->driver = stated;
            n->image.format = stated ? stated->name : NULL;
            ret = tree_set_unreadable(n, why, err);
        }
    }
    if (!ret && !stated)
        t->nodes[*number].probed = true;
    layer_close(l);
    return ret;
}

static int open_target(struct tree *t, const struct file_identity *id, const struct image_ref *ref,
                       const struct driver *stated, size_t *number, struct img_error *err)
{
    const struct img_open_options options = {.flags = TREE_OPEN_FLAGS};
    struct img_error why = IMG_ERROR_INIT;
    struct image_ref alone = *ref; /* only the file itself is opened here */
    struct layer *l = NULL;
    bool probed;
    alone.backing = NULL;
    int ret = layer_open(&l, &alone, &options, true, &probed, &why);
    if (ret == -ENOMEM)
        ret = img_fail_nomem(err);
    else
        ret = add_opened(t, ret < 0 ? NULL : l, id, ref, stated, &why, number, err);
    img_error_clear(&why);
    return ret;
}

static int target_of(struct tree *t, const struct image_ref *ref, size_t *number, size_t *place,
                     struct img_error *err)
{
    *place = 0;
    struct img_error why = IMG_ERROR_INIT;
    struct stat st;
    if (ref->null) {
        img_error_set(&why, ENOTSUP, "'%s' is no file", ref->path);
        return nowhere(t, ref->path, false, &why, number, err);
    }
    if (stat(ref->path, &st) < 0) {
        bool missing = errno == ENOENT || errno == ENOTDIR;
        img_fail_errno(&why, errno, "Could not open '%s'", ref->path);
        return nowhere(t, ref->path, missing, &why, number, err);
    }
    const struct file_identity id = tree_identity(&st);
    const struct driver *stated = ref->format ? driver_by_name(ref->format) : NULL;
    if (ref->format && !stated) {
        img_error_set(&why, EINVAL, "Unknown driver '%s'", ref->format);
        return add_opened(t, NULL, &id, ref, NULL, &why, number, err);
    }
    *number = find_node(t, &id, stated, ref);
    if (*number == IMG_TREE_NONE) {
        int ret = open_target(t, &id, ref, stated, number, err);
        if (ret < 0)
            return ret;
    }
    return tree_add_place(&t->nodes[*number], ref->path, place, err);
}

/* ---- references ---- */

/* Whose names are being resolved, and from which of its places. */
struct viewer {
    size_t number, place;
};

static int add_edge(struct tree_node *n, const struct tree_edge *e, struct img_error *err)
{
    struct tree_edge *all = realloc(n->edges, (n->edge_count + 1) * sizeof *all);
    if (!all)
        return img_fail_nomem(err);
    n->edges = all;
    all[n->edge_count++] = *e;
    return 0;
}

/* The strings are copied. What another place has led to already is not listed again. */
static int add_reference(struct tree *t, const struct viewer *v, const struct img_tree_reference *r,
                         size_t target_place, struct img_error *err)
{
    struct tree_node *n = &t->nodes[v->number];
    struct img_tree_image *image = &n->image;
    const struct tree_edge e = {r->kind, v->place, r->target, target_place, r->cut};
    int ret = add_edge(n, &e, err);
    if (ret < 0)
        return ret;
    for (size_t i = 0; i < image->reference_count; i++)
        if (image->references[i].kind == r->kind && image->references[i].target == r->target)
            return 0;
    struct img_tree_reference *all = realloc(image->references,
                                             (image->reference_count + 1) * sizeof *all);
    if (!all)
        return img_fail_nomem(err);
    image->references = all;
    struct img_tree_reference *to = &all[image->reference_count];
    *to = *r;
    to->name = strdup(r->name);
    to->format = r->format ? strdup(r->format) : NULL;
    image->reference_count++;
    return to->name && (to->format || !r->format) ? 0 : img_fail_nomem(err);
}

static int add_data_file(struct tree *t, const struct viewer *v, enum img_tree_kind kind,
                         const char *name, const char *path, struct img_error *err)
{
    struct image_ref ref = {.format = (char[]){"raw"}, .raw_size = UINT64_MAX};
    struct img_tree_reference r = {.kind = kind, .name = (char *)(uintptr_t)name};
    ref.path = (char *)(uintptr_t)path;
    size_t place;
    int ret = target_of(t, &ref, &r.target, &place, err);
    return ret < 0 ? ret : add_reference(t, v, &r, place, err);
}

/* REF names what is below the viewer, and perhaps what is below that. */
static int add_backing(struct tree *t, const struct viewer *v, const struct image_ref *ref,
                       const char *name, struct img_error *err)
{
    int ret = 0;
    struct img_tree_reference r = {.kind = IMG_TREE_BACKING, .name = (char *)(uintptr_t)name};
    for (; ref && !ret; ref = ref->backing, r.kind = IMG_TREE_OVERRIDE) {
        r.format = ref->format;
        r.cut = ref->backing || ref->no_backing;
        size_t place;
        ret = target_of(t, ref, &r.target, &place, err);
        if (!ret)
            ret = add_reference(t, v, &r, place, err);
        if (!ret && ref->data_file)
            ret = add_data_file(t, v, IMG_TREE_OVERRIDE, name, ref->data_file, err);
    }
    return ret;
}

static int resolve_backing(struct tree *t, const struct viewer *v, const char *path,
                           struct img_error *err)
{
    const struct tree_node *n = &t->nodes[v->number];
    const struct layer named = {.filename = (char *)(uintptr_t)path,
                                .backing_name = n->backing_name,
                                .backing_format = n->backing_format};
    struct img_error why = IMG_ERROR_INIT;
    struct image_ref ref = {0};
    char *full = NULL;
    int ret = chain_backing_ref(&ref, &full, &named, &why);
    if (ret == -ENOMEM) {
        ret = img_fail_nomem(err);
    } else if (ret < 0) {
        struct img_tree_reference r = {.name = n->backing_name, .format = n->backing_format};
        ret = nowhere(t, n->backing_name, false, &why, &r.target, err);
        if (!ret)
            ret = add_reference(t, v, &r, 0, err);
    } else {
        ret = add_backing(t, v, &ref, n->backing_name, err);
    }
    img_error_clear(&why);
    ref_clear(&ref);
    free(full);
    return ret;
}

static int resolve_from(struct tree *t, const struct viewer *v, struct img_error *err)
{
    const char *path = t->nodes[v->number].places[v->place].path;
    int ret = 0;
    if (t->nodes[v->number].backing_name)
        ret = resolve_backing(t, v, path, err);
    const char *data_file = t->nodes[v->number].data_file_name;
    char *where = NULL;
    if (!ret && data_file && *data_file)
        ret = policy_data_file_path(&where, path, data_file, err);
    if (!ret && where)
        ret = add_data_file(t, v, IMG_TREE_DATA_FILE, data_file, where, err);
    free(where);
    return ret;
}

/* Until no node has a place that it was not looked at from; both may still be added meanwhile. */
int tree_resolve(struct tree *t, struct img_error *err)
{
    int ret = 0;
    for (bool again = true; again && !ret;) {
        again = false;
        for (size_t i = 0; i < t->count && !ret; i++)
            while (t->nodes[i].places_done < t->nodes[i].place_count && !ret) {
                again = true;
                const struct viewer v = {i, t->nodes[i].places_done++};
                ret = resolve_from(t, &v, err);
            }
    }
    return ret;
}
