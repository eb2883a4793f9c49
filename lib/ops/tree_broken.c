/*
 * Which images cannot be opened with all that is below them.
 *
 * A chain is walked from place to place, as img_open walks it: the same file may lead elsewhere
 * when it is named from another folder, but met twice in one chain it makes a loop in any case. A
 * view is a node at one of its places.
 *
 * What a walk found out holds for all that it came through, so that each view is walked once. Only
 * where a file with several places is on the way, it holds for the start alone.
 */
#include "lib/ops/tree.h"

#include <stdlib.h>

enum known { UNKNOWN, SOUND, BROKEN };

struct view {
    size_t node;
    size_t below; /* the view of its backing file, or IMG_TREE_NONE */
    bool cut;     /* what is below that does not count */
    bool bad;     /* it, or something that it names, cannot be had */
    enum known known;
};

struct survey {
    struct tree *tree;
    struct view *views;
    size_t *first;  /* of each node's views */
    size_t *met_by; /* the start of the last walk that met the node, plus 1 */
    size_t *path;
    size_t length;
};

static void make_views(struct survey *s)
{
    const struct tree *t = s->tree;
    for (size_t i = 0; i < t->count; i++) {
        const struct tree_node *n = &t->nodes[i];
        for (size_t v = s->first[i]; v < s->first[i + 1]; v++)
            s->views[v] = (struct view){
                .node = i, .below = IMG_TREE_NONE, .bad = n->image.state != IMG_TREE_IMAGE};
        for (size_t k = 0; k < n->edge_count; k++) {
            const struct tree_edge *e = &n->edges[k];
            struct view *v = &s->views[s->first[i] + e->place];
            v->bad |= t->nodes[e->target].image.state != IMG_TREE_IMAGE;
            if (e->kind == IMG_TREE_BACKING) {
                v->below = s->first[e->target] + e->target_place;
                v->cut = e->cut;
            }
        }
    }
}

/* From a view down. The path ends where *END says: at the view that is already known, or where a
 * file comes again, or at the end of the chain: IMG_TREE_NONE. */
static enum known walk(struct survey *s, size_t start, bool *alone, size_t *end)
{
    size_t at = start;
    bool cut = false;
    s->length = 0;
    *alone = false;
    for (*end = IMG_TREE_NONE; at != IMG_TREE_NONE; at = s->views[at].below) {
        struct view *v = &s->views[at];
        const struct tree_node *n = &s->tree->nodes[v->node];
        if (s->met_by[v->node] == start + 1) {
            *end = at;
            *alone |= cut;
            return BROKEN;
        }
        if (cut)
            break;
        if (v->known != UNKNOWN)
            return v->known;
        s->met_by[v->node] = start + 1;
        s->path[s->length++] = at;
        *alone |= n->place_count > 1;
        if (v->bad)
            return BROKEN;
        cut = v->cut;
    }
    return SOUND;
}

/* The files of the circle that the walk ended in, as far as it holds for them. */
static void mark_circle(struct survey *s, size_t again, bool alone)
{
    struct img_tree *r = &s->tree->result;
    size_t node = s->views[again].node;
    for (size_t i = s->length; i-- > 0;) {
        size_t member = s->views[s->path[i]].node;
        if (!alone || (i == 0 && member == node))
            r->images[member].findings |= IMG_TREE_LOOP;
        if (member == node)
            break;
    }
}

/* The view of the image itself: from the place that its base was chosen from. */
static size_t own_view(const struct survey *s, size_t i)
{
    const struct tree_node *n = &s->tree->nodes[i];
    const struct img_tree_image *image = &s->tree->result.images[i];
    for (size_t k = 0; k < n->edge_count; k++)
        if (n->edges[k].kind == IMG_TREE_BACKING && n->edges[k].target == image->base)
            return s->first[i] + n->edges[k].place;
    return s->first[i];
}

static void survey(struct survey *s)
{
    for (size_t i = 0; i < s->tree->count; i++) {
        bool alone;
        size_t start = own_view(s, i), end;
        enum known known = s->views[start].known;
        if (known == UNKNOWN) {
            known = walk(s, start, &alone, &end);
            if (end != IMG_TREE_NONE)
                mark_circle(s, end, alone);
            for (size_t k = 0; k < (alone ? 0 : s->length); k++)
                s->views[s->path[k]].known = known;
        }
        struct img_tree_image *image = &s->tree->result.images[i];
        if (known == BROKEN && image->state != IMG_TREE_MISSING)
            image->findings |= IMG_TREE_BROKEN;
    }
}

int tree_mark_broken(struct tree *t, struct img_error *err)
{
    struct survey s = {.tree = t, .first = calloc(t->count + 1, sizeof *s.first)};
    if (!s.first)
        return img_fail_nomem(err);
    for (size_t i = 0; i < t->count; i++) /* what is missing has no place, but can be named */
        s.first[i + 1] = s.first[i] + (t->nodes[i].place_count ? t->nodes[i].place_count : 1);
    s.views = calloc(s.first[t->count] + 1, sizeof *s.views);
    s.met_by = calloc(t->count + 1, sizeof *s.met_by);
    s.path = malloc((t->count + 1) * sizeof *s.path);
    int ret = s.views && s.met_by && s.path ? 0 : img_fail_nomem(err);
    if (!ret) {
        make_views(&s);
        survey(&s);
    }
    free(s.views);
    free(s.met_by);
    free(s.path);
    free(s.first);
    return ret;
}
