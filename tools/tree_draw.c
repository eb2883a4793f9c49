/*
 * The tree as text: what is at the bottom of a chain stands on the left, what is based on it below
 * it and further to the right. A circle is drawn from its first image on, until that comes again.
 *
 * Nothing here calls itself: a chain can be as long as somebody cared to make it.
 */
#include "output.h"
#include "tree_output.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LEVEL = 40 }; /* what lies deeper is not moved further to the right */

struct branch {
    size_t image, level;
    bool last; /* of its siblings */
};

struct drawing {
    FILE *out;
    const struct img_tree *tree;
    bool *drawn;
    size_t *seen_by;      /* which search for a circle came by; 1 is the first */
    struct branch *stack; /* each image waits at most once, but the first of a circle */
    size_t waiting;
    bool open[MAX_LEVEL + 1]; /* do siblings follow at this level? */
};

static void print_name(FILE *out, const char *name)
{
    char *safe = printable(name);
    fputs(safe ? safe : "?", out);
    free(safe);
}

/* ---- one line ---- */

struct notes {
    FILE *out;
    bool any;
};

static FILE *note(struct notes *n)
{
    fputs(n->any ? "; " : "  [", n->out);
    n->any = true;
    return n->out;
}

static void note_references(struct notes *n, const struct img_tree *tree,
                            const struct img_tree_image *image)
{
    static const char *const states[] = {"", ", which is missing", ", which cannot be read"};
    for (size_t i = 0; i < image->reference_count; i++) {
        const struct img_tree_reference *r = &image->references[i];
        const struct img_tree_image *target = &tree->images[r->target];
        if (i == 0 && image->base != IMG_TREE_NONE)
            continue;
        fputs(r->kind == IMG_TREE_DATA_FILE ? "data in "
              : r->kind == IMG_TREE_BACKING ? "from another of its folders based on "
                                            : "puts below its base ",
              note(n));
        print_name(n->out, target->filename);
        fputs(states[target->state], n->out);
    }
}

static void note_findings(struct notes *n, const struct img_tree_image *image)
{
    char size[32];
    if (image->findings & IMG_TREE_FORK)
        fprintf(note(n), "fork: %zu overlays", image->overlay_count);
    if (image->findings & IMG_TREE_ORPHAN)
        fputs("orphan", note(n));
    if (image->findings & IMG_TREE_LOOP)
        fputs("loop", note(n));
    else if (image->findings & IMG_TREE_BROKEN && image->state == IMG_TREE_IMAGE)
        fputs("broken chain", note(n));
    if (image->findings & IMG_TREE_NO_FORMAT)
        fputs("states no backing format", note(n));
    if (image->findings & IMG_TREE_HIDES)
        fprintf(note(n), "hides %s of its base", human_size(image->hidden, size));
}

static void print_image(FILE *out, const struct img_tree *tree, const struct img_tree_image *image)
{
    char size[32];
    struct notes n = {.out = out};
    print_name(out, image->filename);
    if (image->state == IMG_TREE_IMAGE)
        fprintf(out, "  %s, %s", image->format, human_size(image->virtual_size, size));
    else if (image->state == IMG_TREE_MISSING)
        fputs("  missing", out);
    else {
        fputs("  cannot be read: ", out);
        print_name(out, image->error);
    }
    if (image->outside && image->state == IMG_TREE_IMAGE)
        fputs("outside", note(&n));
    note_findings(&n, image);
    note_references(&n, tree, image);
    for (size_t i = 0; i < image->other_name_count; i++) {
        fputs("also ", note(&n));
        print_name(out, image->other_names[i]);
    }
    fputs(n.any ? "]\n" : "\n", out);
}

/* ---- all of them ---- */

static void print_branch(struct drawing *d, const struct branch *b)
{
    size_t level = b->level < MAX_LEVEL ? b->level : MAX_LEVEL;
    const struct img_tree_image *image = &d->tree->images[b->image];
    d->open[level] = !b->last;
    for (size_t i = 1; i < level; i++)
        fputs(d->open[i] ? "|   " : "    ", d->out);
    if (level)
        fputs(b->last ? "`-- " : "|-- ", d->out);
    if (b->level > MAX_LEVEL) {
        fprintf(d->out, "(level %zu, on ", b->level);
        print_name(d->out, d->tree->images[image->base].filename);
        fputs(") ", d->out);
    }
    if (d->drawn[b->image]) {
        print_name(d->out, image->filename);
        fputs("  [loop: it begins here again]\n", d->out);
    } else {
        print_image(d->out, d->tree, image);
    }
}

static void draw_from(struct drawing *d, size_t root)
{
    d->stack[d->waiting++] = (struct branch){root, 0, true};
    while (d->waiting) {
        struct branch b = d->stack[--d->waiting];
        const struct img_tree_image *image = &d->tree->images[b.image];
        print_branch(d, &b);
        if (d->drawn[b.image])
            continue;
        d->drawn[b.image] = true;
        for (size_t i = image->overlay_count; i-- > 0;)
            d->stack[d->waiting++] = (struct branch){
                .image = image->overlays[i],
                .level = b.level + 1,
                .last = i + 1 == image->overlay_count,
            };
    }
}

/* Is it shown where it is named, and not by itself? So are data files and what is not there. */
static bool is_mere_reference(const struct img_tree_image *image, bool named)
{
    bool plain = !image->format || !strcmp(image->format, "raw");
    return named && plain && image->overlay_count == 0;
}

/* Images that are below no base, because they go round in a circle or stand on one that does. */
static void draw_circle(struct drawing *d, size_t above)
{
    size_t at = above;
    while (d->seen_by[at] != above + 1) {
        d->seen_by[at] = above + 1;
        at = d->tree->images[at].base;
    }
    size_t first = at;
    for (size_t i = d->tree->images[at].base; i != at; i = d->tree->images[i].base)
        first = i < first ? i : first;
    draw_from(d, first);
}

int tree_draw(FILE *out, const struct img_tree *tree)
{
    struct drawing d = {
        .out = out,
        .tree = tree,
        .drawn = calloc(tree->count + 1, sizeof *d.drawn),
        .seen_by = calloc(tree->count + 1, sizeof *d.seen_by),
        .stack = calloc(tree->count + 2, sizeof *d.stack),
    };
    bool *named = calloc(tree->count + 1, sizeof *named);
    int ret = d.drawn && d.seen_by && d.stack && named ? 0 : -1;
    for (size_t i = 0; i < tree->count && !ret; i++)
        for (size_t k = 0; k < tree->images[i].reference_count; k++)
            named[tree->images[i].references[k].target] = true;
    for (size_t i = 0; i < tree->count && !ret; i++)
        if (tree->images[i].base == IMG_TREE_NONE && !is_mere_reference(&tree->images[i], named[i]))
            draw_from(&d, i);
    for (size_t i = 0; i < tree->count && !ret; i++)
        if (tree->images[i].base != IMG_TREE_NONE && !d.drawn[i])
            draw_circle(&d, i);
    free(d.drawn);
    free(d.seen_by);
    free(d.stack);
    free(named);
    return ret;
}
