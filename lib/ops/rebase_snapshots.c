/*
 * Internal snapshots stay over whatever backing file the image names: what they do not hold
 * themselves, and what differs in the new one, they would read otherwise from then on, and nothing
 * can be copied into them.
 */
#include "lib/ops/rebase.h"

#include <errno.h>
#include <inttypes.h>

/* The image as it was at snapshot S. We hold the lock as a writer: it is opened as one who shares.
 */
static int open_snapshot(const struct rebase *r, const struct img_snapshot_info *s,
                         struct rebase *view, struct img_error *err)
{
    struct img_open_options open = r->open;
    open.flags &= ~(unsigned)IMG_OPEN_WRITE;
    open.flags |= IMG_OPEN_FORCE_SHARE | IMG_OPEN_NO_BACKING;
    open.snapshot_id = s->id;
    open.snapshot_name = s->name;
    open.warn = NULL; /* all was said when the image was opened */
    open.cancelled = NULL;
    *view = *r;
    view->phase = "snapshots";
    int ret = img_open(&view->img, r->img->layers[0]->filename, &open, err);
    if (ret < 0)
        return ret;
    view->size = img_size(view->img);
    if (r->options->cancelled)
        img_set_cancel(view->img, r->options->cancelled, r->options->opaque);
    return 0;
}

static int refuse(const struct rebase *r, const struct img_snapshot_info *s, uint64_t offset,
                  struct img_error *err)
{
    img_error_clear(err);
    int ret = img_fail(err, EBUSY,
                       "Internal snapshot '%s' of '%s' would read other data over '%s': the first "
                       "difference is at offset %" PRIu64,
                       *s->name ? s->name : s->id, r->img->layers[0]->filename,
                       r->new_name ? r->new_name : "", offset);
    img_hint(err, "Use --force to rebase all the same; the snapshot is of no use then.");
    return ret;
}

static int check_one(const struct rebase *r, const struct img_snapshot_info *s,
                     struct img_error *err)
{
    struct rebase view;
    int ret = open_snapshot(r, s, &view, err);
    if (ret < 0)
        return ret;
    ret = rebase_differences(&view, REBASE_COMPARE, err);
    img_close(view.img);
    return ret < 0 && view.differs ? refuse(r, s, view.difference, err) : ret;
}

/* Do both backing files read the same all over? Then no snapshot has to be asked. */
static int compare_all(const struct rebase *r, const struct img_info *info, bool *same,
                       struct img_error *err)
{
    struct rebase all = *r;
    all.phase = "snapshots";
    all.size = 0;
    all.all = true;
    for (size_t i = 0; i < info->snapshot_count; i++)
        if (info->snapshots[i].disk_size > all.size)
            all.size = info->snapshots[i].disk_size;
    int ret = rebase_differences(&all, REBASE_COMPARE, err);
    *same = !ret;
    if (ret < 0 && all.differs) {
        img_error_clear(err);
        ret = 0;
    }
    return ret;
}

static int check_each(const struct rebase *r, const struct img_info *info, struct img_error *err)
{
    bool same = false;
    int ret = info->snapshot_count > 1 ? compare_all(r, info, &same, err) : 0;
    for (size_t i = 0; i < info->snapshot_count && !ret && !same; i++)
        ret = check_one(r, &info->snapshots[i], err);
    return ret;
}

int rebase_check_snapshots(const struct rebase *r, struct img_error *err)
{
    struct img_info *info;
    int ret = layer_describe(&info, r->img->layers[0], err);
    if (ret < 0)
        return ret;
    ret = check_each(r, info, err);
    img_info_free(info);
    return ret;
}
