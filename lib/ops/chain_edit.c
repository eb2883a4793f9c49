#include "lib/ops/chain_edit.h"
#include "lib/layer_seen.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the images ---------------------------------------------------------------------------- */

static bool same_image(const struct layer *a, const struct layer *b)
{
    return a->driver == b->driver && a->file->id.device == b->file->id.device &&
           a->file->id.inode == b->file->id.inode;
}

bool edit_knows(const struct chain_edit *e, const struct layer *l)
{
    for (size_t i = 0; i < e->count; i++)
        if (same_image(e->images[i].layer, l))
            return true;
    return false;
}

int edit_add(struct chain_edit *e, struct layer *l, struct edited_image **image,
             struct img_error *err)
{
    struct edited_image *all = realloc(e->images, (e->count + 1) * sizeof *all);
    if (!all) {
        layer_close(l);
        return img_fail_nomem(err);
    }
    e->images = all;
    *image = &all[e->count++];
    **image = (struct edited_image){.layer = l};
    return 0;
}

bool edit_changes(const struct edited_image *i)
{
    return i->backing || i->backing_format || i->data_file;
}

void edit_clear(struct chain_edit *e)
{
    for (size_t i = 0; i < e->count; i++) {
        struct edited_image *image = &e->images[i];
        layer_close(image->layer);
        free(image->backing);
        free(image->backing_format);
        free(image->data_file);
        head_change_clear(&image->change);
    }
    free(e->images);
    e->images = NULL;
    e->count = 0;
}

/* ---- before anything changes --------------------------------------------------------------- */

static int reopen(struct edited_image *i, const struct layer_seen *seen, char *path,
                  struct img_error *err)
{
    const struct img_open_options options = {.flags = IMG_OPEN_NO_DATA | IMG_OPEN_WRITE};
    struct image_ref ref = {
        .format = (char *)(uintptr_t)seen->driver->name, .path = path, .raw_size = UINT64_MAX};
    bool probed;
    int ret = layer_open(&i->layer, &ref, &options, false, &probed, err);
    if (ret < 0)
        i->layer = NULL;
    else
        ret = layer_still_is(i->layer, seen, err);
    return ret < 0 ? img_prefix(err, ret, "Could not open '%s': ", path) : 0;
}

static int open_to_write(struct edited_image *i, struct img_error *err)
{
    struct layer_seen seen;
    char *path = strdup(i->layer->file->name);
    if (!path)
        return img_fail_nomem(err);
    layer_close_for_now(i->layer, &seen);
    i->layer = NULL;
    int ret = reopen(i, &seen, path, err);
    free(path);
    layer_seen_clear(&seen);
    return ret;
}

static int plan(struct edited_image *i, struct img_error *err)
{
    const struct layer_names names = {i->backing, i->backing_format, i->data_file};
    struct layer *l = i->layer;
    int ret = l->driver->plan_names
                  ? l->driver->plan_names(l, &names, &i->change, err)
                  : img_fail(err, ENOTSUP, "Format '%s' names no other files", l->driver->name);
    return ret < 0 ? img_prefix(err, ret, "'%s': ", l->filename) : 0;
}

int edit_open(struct chain_edit *e, struct img_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < e->count && !ret; i++)
        if (edit_changes(&e->images[i]))
            ret = open_to_write(&e->images[i], err);
    return ret;
}

int edit_plan(struct chain_edit *e, struct img_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < e->count && !ret; i++)
        if (edit_changes(&e->images[i]))
            ret = plan(&e->images[i], err);
    return ret;
}

/* ---- the change ---------------------------------------------------------------------------- */

/* Into J goes what changes, and into FILES the files; the changes are taken over. */
static int fill_journal(struct chain_edit *e, struct journal *j, struct file **files,
                        struct img_error *err)
{
    for (size_t i = 0; i < e->count; i++) {
        struct edited_image *image = &e->images[i];
        if (!image->change.length)
            continue;
        struct journal_entry *entry = &j->items[j->count];
        entry->path = realpath(image->layer->file->name, NULL);
        if (!entry->path)
            return img_fail_errno(err, errno, "Could not find '%s'", image->layer->file->name);
        files[j->count++] = image->layer->file;
        entry->change = image->change;
        image->change = (struct head_change){0};
    }
    return 0;
}

/* The journal stands: the changes are made, or else taken back. */
static int make(const struct journal *j, struct file *const *files, struct img_error *err)
{
    struct img_error ignored = IMG_ERROR_INIT;
    int ret = journal_make(j, files, err);
    if (!ret)
        return journal_remove(j, err);
    if (journal_take_back(j, files, &ignored) == 0 && journal_remove(j, &ignored) == 0)
        img_prefix(err, ret, "All images are as they were: ");
    else
        img_hint(err,
                 "The images are changed in part: '%s' holds the rest. Run the command again "
                 "to finish it.",
                 j->path);
    img_error_clear(&ignored);
    return ret;
}

int edit_commit(struct chain_edit *e, struct img_error *err)
{
    struct file **files = calloc(e->count + 1, sizeof *files);
    struct journal j = {.items = calloc(e->count + 1, sizeof *j.items)};
    int ret = files && j.items ? fill_journal(e, &j, files, err) : img_fail_nomem(err);
    if (!ret && e->cancel && e->cancel->wanted && e->cancel->wanted(e->cancel->opaque))
        ret = img_fail(err, ECANCELED, "Interrupted");
    if (!ret && j.count) {
        ret = journal_write(&j, e->cancel && e->cancel->wanted ? e->cancel : NULL, err);
        if (!ret)
            ret = make(&j, files, err);
    }
    journal_clear(&j);
    free(files);
    return ret;
}
