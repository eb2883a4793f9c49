/* Reading a tree of images, and asking it who needs a file. */
#include "lib/ops/tree.h"
#include "lib/policy.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct tree *tree_new(struct img_error *err)
{
    struct tree *t = calloc(1, sizeof *t);
    if (!t)
        img_error_set(err, ENOMEM, "Out of memory");
    return t;
}

int img_tree_read(struct img_tree **out, const char *const *folders, size_t count, unsigned flags,
                  struct img_error *err)
{
    struct tree *t = tree_new(err);
    int ret = t ? 0 : -ENOMEM;
    for (size_t i = 0; i < count && !ret; i++)
        ret = tree_walk(t, folders[i], !(flags & IMG_TREE_FLAT), err);
    if (!ret)
        ret = tree_resolve(t, err);
    if (!ret)
        ret = tree_finish(t, err);
    if (!ret)
        *out = &t->result;
    else if (t)
        tree_destroy(t);
    return ret;
}

static struct tree *whole(const struct img_tree *tree)
{
    return (struct tree *)((uintptr_t)tree - offsetof(struct tree, result));
}

void img_tree_free(struct img_tree *tree)
{
    if (tree)
        tree_destroy(whole(tree));
}

size_t tree_lookup(const struct tree *t, const struct file_identity *id,
                   const struct driver *driver)
{
    size_t number = tree_find_file(t, id);
    while (number != IMG_TREE_NONE && t->nodes[number].driver != driver)
        number = tree_next_file(t, number);
    return number;
}

/* ---- dependents ---- */

/*
 * From the file upwards. Whoever names an image that needs the file needs it too, but for one case:
 * its name says that what lies below that image does not count (CUT), and the file lies there.
 */
struct climb {
    const struct img_tree *tree;
    size_t *first, *from; /* who names image i: from[first[i]] .. from[first[i + 1] - 1] */
    enum need {
        NEEDS_NOT,
        BELOW,  /* the file is in the chain below it */
        ITSELF, /* the file is what it lies in, or its data */
    } *
        need;
    struct img_tree_dependent *how;
    size_t *waiting, waiting_count;
};

static void climb_destroy(struct climb *c)
{
    free(c->first);
    free(c->from);
    free(c->need);
    free(c->how);
    free(c->waiting);
}

static int climb_start(struct climb *c, const struct img_tree *tree, struct img_error *err)
{
    size_t edges = 0, n = tree->count;
    for (size_t i = 0; i < n; i++)
        edges += tree->images[i].reference_count;
    *c = (struct climb){
        .tree = tree,
        .first = calloc(n + 2, sizeof *c->first),
        .from = malloc((edges + 1) * sizeof *c->from),
        .need = calloc(n + 1, sizeof *c->need),
        .how = calloc(n + 1, sizeof *c->how),
        .waiting = malloc((2 * n + 1) * sizeof *c->waiting), /* each at most once a kind of need */
    };
    if (!c->first || !c->from || !c->need || !c->how || !c->waiting)
        return img_fail_nomem(err);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < tree->images[i].reference_count; k++)
            c->first[tree->images[i].references[k].target + 2]++;
    for (size_t i = 2; i < n + 2; i++)
        c->first[i] += c->first[i - 1];
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < tree->images[i].reference_count; k++)
            c->from[c->first[tree->images[i].references[k].target + 1]++] = i;
    return 0;
}

static void climb_add(struct climb *c, size_t image, enum need need)
{
    if (c->need[image] >= need)
        return;
    c->need[image] = need;
    c->waiting[c->waiting_count++] = image;
}

/* IMAGE names TARGET, which needs the file or is it. */
static void climb_over(struct climb *c, size_t image, size_t target, bool is_file)
{
    const struct img_tree_image *from = &c->tree->images[image];
    for (size_t k = 0; k < from->reference_count; k++) {
        const struct img_tree_reference *r = &from->references[k];
        if (r->target != target || (r->cut && c->need[target] == BELOW))
            continue;
        struct img_tree_dependent *how = &c->how[image];
        if (is_file && !how->direct)
            *how = (struct img_tree_dependent){image, true, r->kind, IMG_TREE_NONE};
        else if (!how->direct && c->need[image] == NEEDS_NOT)
            *how = (struct img_tree_dependent){image, false, r->kind, target};
        climb_add(c, image, r->kind == IMG_TREE_DATA_FILE ? ITSELF : BELOW);
    }
}

static int climb_up(struct climb *c, const bool *is_file, struct img_tree_dependents *out,
                    struct img_error *err)
{
    size_t n = c->tree->count;
    for (size_t i = 0; i < n; i++)
        if (is_file[i])
            climb_add(c, i, ITSELF);
    for (size_t at = 0; at < c->waiting_count; at++) {
        size_t target = c->waiting[at];
        for (size_t k = c->first[target]; k < c->first[target + 1]; k++)
            climb_over(c, c->from[k], target, is_file[target]);
    }
    out->items = malloc((n + 1) * sizeof *out->items);
    if (!out->items)
        return img_fail_nomem(err);
    for (size_t i = 0; i < n; i++)
        if (c->need[i] && !is_file[i])
            out->items[out->count++] = c->how[i];
    return 0;
}

/* Marks every image of the tree that lies in the file FILENAME. */
static int find_file(const struct tree *t, const char *filename, bool *is_file,
                     struct img_error *err)
{
    struct stat st;
    size_t number;
    if (stat(filename, &st) == 0) {
        struct file_identity id = tree_identity(&st);
        if (S_ISDIR(st.st_mode))
            return img_fail(err, EISDIR, "'%s' is a folder", filename);
        for (number = tree_find_file(t, &id); number != IMG_TREE_NONE;
             number = tree_next_file(t, number))
            is_file[number] = true;
        return 0;
    }
    int reason = errno;
    char *absolute = policy_absolute(filename);
    if (!absolute)
        return img_fail_nomem(err);
    number = tree_find_name(t, absolute);
    free(absolute);
    if (number == IMG_TREE_NONE)
        return img_fail_errno(err, reason, "Could not open '%s'", filename);
    is_file[number] = true;
    return 0;
}

static size_t count_unknown(const struct img_tree *tree, const bool *is_file)
{
    size_t count = tree->problem_count;
    for (size_t i = 0; i < tree->count; i++) {
        const struct img_tree_image *image = &tree->images[i];
        /* a name that leads nowhere needs nothing; a file that cannot be read may */
        count += image->state == IMG_TREE_UNREADABLE && whole(tree)->nodes[i].has_id && !is_file[i];
    }
    return count;
}

int img_tree_find_dependents(struct img_tree_dependents *out, const struct img_tree *tree,
                             const char *filename, struct img_error *err)
{
    *out = (struct img_tree_dependents){0};
    struct climb c = {0};
    bool *is_file = calloc(tree->count + 1, sizeof *is_file);
    int ret = is_file ? find_file(whole(tree), filename, is_file, err) : img_fail_nomem(err);
    if (!ret)
        ret = climb_start(&c, tree, err);
    if (!ret)
        ret = climb_up(&c, is_file, out, err);
    if (!ret)
        out->unknown = count_unknown(tree, is_file);
    climb_destroy(&c);
    free(is_file);
    return ret;
}

void img_tree_dependents_free(struct img_tree_dependents *dependents)
{
    free(dependents->items);
    *dependents = (struct img_tree_dependents){0};
}

/* ---- names ---- */

const char *img_tree_finding_name(enum img_tree_finding finding)
{
    static const char *const names[] = {"fork",
                                        "orphan",
                                        "loop",
                                        "missing-base",
                                        "missing-data-file",
                                        "no-backing-format",
                                        "hides-base",
                                        "broken",
                                        "many-bases"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (finding == 1u << i)
            return names[i];
    return NULL;
}

const char *img_tree_state_name(enum img_tree_state state)
{
    static const char *const names[] = {"image", "missing", "unreadable"};
    return names[state];
}

const char *img_tree_kind_name(enum img_tree_kind kind)
{
    static const char *const names[] = {"backing", "data-file", "override"};
    return names[kind];
}
