/*
 * The last step: nodes become the sorted images of the result, each with its base, its overlays and
 * what is remarkable about it.
 */
#include "lib/ops/tree.h"

#include <stdlib.h>
#include <string.h>

/* ---- order ---- */

static int compare_nodes(const void *a, const void *b, void *opaque)
{
    const struct tree *t = opaque;
    size_t left = *(const size_t *)a, right = *(const size_t *)b;
    const struct img_tree_image *x = &t->nodes[left].image, *y = &t->nodes[right].image;
    int order = strcmp(x->filename, y->filename);
    if (!order)
        order = strcmp(x->format ? x->format : "", y->format ? y->format : "");
    return order ? order : left < right ? -1 : 1;
}

static int sort_nodes(struct tree *t, struct img_error *err)
{
    size_t *order = malloc((t->count + 1) * sizeof *order);
    size_t *place = malloc((t->count + 1) * sizeof *place);
    struct tree_node *nodes = malloc((t->count + 1) * sizeof *nodes);
    if (!order || !place || !nodes) {
        free(order);
        free(place);
        free(nodes);
        return img_fail_nomem(err);
    }
    for (size_t i = 0; i < t->count; i++)
        order[i] = i;
    qsort_r(order, t->count, sizeof *order, compare_nodes, t);
    for (size_t i = 0; i < t->count; i++)
        place[order[i]] = i;
    for (size_t i = 0; i < t->count; i++) {
        nodes[i] = t->nodes[order[i]];
        struct img_tree_image *image = &nodes[i].image;
        for (size_t k = 0; k < image->reference_count; k++)
            image->references[k].target = place[image->references[k].target];
        for (size_t k = 0; k < nodes[i].edge_count; k++)
            nodes[i].edges[k].target = place[nodes[i].edges[k].target];
        nodes[i].next = nodes[i].next == IMG_TREE_NONE ? IMG_TREE_NONE : place[nodes[i].next];
    }
    for (size_t i = 0; i < t->bucket_count; i++)
        if (t->buckets[i] != IMG_TREE_NONE)
            t->buckets[i] = place[t->buckets[i]];
    free(t->nodes);
    t->nodes = nodes;
    t->room = t->count + 1;
    free(order);
    free(place);
    return 0;
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int make_images(struct tree *t, struct img_error *err)
{
    struct img_tree *r = &t->result;
    r->images = calloc(t->count + 1, sizeof *r->images);
    if (!r->images)
        return img_fail_nomem(err);
    r->count = t->count;
    for (size_t i = 0; i < t->count; i++) {
        struct img_tree_image *image = &r->images[i];
        *image = t->nodes[i].image;
        if (image->other_name_count)
            qsort(image->other_names, image->other_name_count, sizeof *image->other_names,
                  compare_paths);
    }
    return 0;
}

/* ---- bases ---- */

/* Which reference leads to the base: under the first name of the image's own from which it can be
 * had, else under the first. IMG_TREE_NONE: it names none. */
static size_t base_reference(const struct img_tree *r, const struct tree_node *n,
                             const struct img_tree_image *image)
{
    size_t base = IMG_TREE_NONE;
    for (size_t i = 0; i < n->edge_count; i++) {
        const struct tree_edge *e = &n->edges[i];
        bool own = e->place == 0 || e->place < n->own_places;
        if (e->kind != IMG_TREE_BACKING || !own)
            continue;
        bool better = base != IMG_TREE_NONE && r->images[base].state != IMG_TREE_IMAGE &&
                      r->images[e->target].state == IMG_TREE_IMAGE;
        if (base == IMG_TREE_NONE || better)
            base = e->target;
    }
    for (size_t i = 0; i < image->reference_count; i++)
        if (image->references[i].kind == IMG_TREE_BACKING && image->references[i].target == base)
            return i;
    return IMG_TREE_NONE;
}

/* The reference to the base is put in front. */
static void choose_base(struct img_tree *r, const struct tree_node *n, struct img_tree_image *image)
{
    size_t chosen = base_reference(r, n, image), bases = 0;
    if (chosen == IMG_TREE_NONE)
        return;
    for (size_t i = 0; i < image->reference_count; i++)
        bases += image->references[i].kind == IMG_TREE_BACKING;
    struct img_tree_reference base = image->references[chosen];
    image->references[chosen] = image->references[0];
    image->references[0] = base;
    image->base = base.target;
    if (bases > 1)
        image->findings |= IMG_TREE_MANY_BASES;
    if (!base.format)
        image->findings |= IMG_TREE_NO_FORMAT;
    const struct img_tree_image *below = &r->images[base.target];
    if (below->state == IMG_TREE_IMAGE && below->virtual_size > image->virtual_size) {
        image->findings |= IMG_TREE_HIDES;
        image->hidden = below->virtual_size - image->virtual_size;
    }
}

static int list_overlays(struct img_tree *r, struct img_error *err)
{
    for (size_t i = 0; i < r->count; i++)
        if (r->images[i].base != IMG_TREE_NONE)
            r->images[r->images[i].base].overlay_count++;
    for (size_t i = 0; i < r->count; i++) {
        struct img_tree_image *image = &r->images[i];
        if (!image->overlay_count)
            continue;
        image->overlays = malloc(image->overlay_count * sizeof *image->overlays);
        if (!image->overlays)
            return img_fail_nomem(err);
        if (image->overlay_count > 1)
            image->findings |= IMG_TREE_FORK;
        image->overlay_count = 0;
    }
    for (size_t i = 0; i < r->count; i++)
        if (r->images[i].base != IMG_TREE_NONE) {
            struct img_tree_image *below = &r->images[r->images[i].base];
            below->overlays[below->overlay_count++] = i;
        }
    return 0;
}

/* ---- what is missing ---- */

static int mark_missing(struct img_tree *r, struct img_error *err)
{
    bool *named = calloc(r->count + 1, sizeof *named);
    if (!named)
        return img_fail_nomem(err);
    for (size_t i = 0; i < r->count; i++)
        for (size_t k = 0; k < r->images[i].reference_count; k++)
            named[r->images[i].references[k].target] = true;
    for (size_t i = 0; i < r->count; i++) {
        struct img_tree_image *image = &r->images[i];
        bool missing = false;
        for (size_t k = 0; k < image->reference_count; k++) {
            const struct img_tree_reference *ref = &image->references[k];
            bool second = ref->kind == IMG_TREE_BACKING && k; /* not what its own name leads to */
            enum img_tree_state state = r->images[ref->target].state;
            if (second || state != IMG_TREE_MISSING)
                continue;
            missing = true;
            if (ref->target == image->base)
                image->findings |= IMG_TREE_NO_BASE;
            if (ref->kind == IMG_TREE_DATA_FILE)
                image->findings |= IMG_TREE_NO_DATA;
        }
        if (missing && !named[i])
            image->findings |= IMG_TREE_ORPHAN;
    }
    free(named);
    return 0;
}

int tree_finish(struct tree *t, struct img_error *err)
{
    struct img_tree *r = &t->result;
    int ret = sort_nodes(t, err);
    if (!ret)
        ret = make_images(t, err);
    for (size_t i = 0; i < r->count && !ret; i++)
        choose_base(r, &t->nodes[i], &r->images[i]);
    if (!ret)
        ret = list_overlays(r, err);
    if (!ret)
        ret = mark_missing(r, err);
    return ret < 0 ? ret : tree_mark_broken(t, err);
}
