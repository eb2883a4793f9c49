/*
 * An image and its data file that take the places of others: two names, which no file system
 * changes at once.
 *
 *   1. The data file gets a name beside its own one, and the image's header has that.
 *   2. The image takes its place: this is the instant at which the old pair becomes the new one.
 *   3. The data file gets its own name as well, by a link.
 *   4. The image's header has that one; in steps, if it must, as relocate does it.
 *   5. The name beside goes.
 *
 * Each is on disk before the next. So whatever happens, the image's name means the old image with
 * the old data or the new one with the new data; what is left of a crash in between is another name
 * of the data file, ".imgtool-...", which must stay if the image names it. Where files cannot have
 * two names, 3 takes the one beside away: until 4 is done, the image is refused, as what it names
 * is not there.
 *
 * To exchange both in a folder of their own and rename that was declined: the folder is the user's.
 */
#include "lib/image.h"
#include "lib/lock.h"
#include "lib/ops/new_image.h"
#include "lib/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct pair {
    struct new_image *n;
    struct head_change there, back; /* the header with the name beside, and with its own */
    char *beside;                   /* NULL: the data file has only its own name */
};

/* ---- before anything has a name ------------------------------------------------------------ */

static bool leads_to(const char *image, const char *name, const struct file *data)
{
    struct stat st;
    char *path;
    if (policy_data_file_path(&path, image, name, NULL) < 0)
        return false;
    bool same = stat(path, &st) == 0 && st.st_dev == data->id.device && st.st_ino == data->id.inode;
    free(path);
    return same;
}

/* The name beside as the header is to have it: like the own one, if that leads there. */
static char *name_in_header(const struct new_image *n)
{
    const char *own = n->plan.data_file, *slash = strrchr(own, '/');
    const char *temporary = n->data->temporary, *last = strrchr(temporary, '/');
    size_t folder = slash ? (size_t)(slash + 1 - own) : 0;
    char *name;
    if (asprintf(&name, "%.*s%s", (int)folder, own, last ? last + 1 : temporary) < 0)
        return NULL;
    if (leads_to(n->path, name, n->data->file))
        return name;
    free(name);
    return realpath(temporary, NULL);
}

/* What changes in the image's header, as it is now, to name the data file NAME. */
static int plan_name(const struct new_image *n, const char *name, struct head_change *c,
                     struct img_error *err)
{
    const struct layer_names names = {.data_file = name};
    struct file *f;
    struct layer *l;
    int ret = file_duplicate(&f, n->image->file, err);
    if (!ret)
        ret = layer_open_file(&l, f, n->format, IMG_OPEN_NO_DATA | IMG_OPEN_FORCE_SHARE, err);
    if (ret < 0)
        return ret;
    ret = l->driver->plan_names(l, &names, c, err);
    layer_close(l);
    return ret < 0 ? img_prefix(err, ret, "Could not name the data file '%s' for a moment: ", name)
                   : 0;
}

/* Is the header somewhere between two states at no instant? */
static bool in_steps(const struct head_change *c)
{
    size_t different = 0;
    for (size_t at = 0; at < c->length; at += HEAD_SECTOR)
        different += memcmp(c->old + at, c->new + at, HEAD_SECTOR) != 0;
    return different <= 1 || c->between;
}

static int no_room(const struct new_image *n, struct img_error *err)
{
    int ret = img_fail(err, ENOSPC,
                       "'%s' and '%s' cannot both be replaced in a safe order, as the new header "
                       "has no room for that",
                       n->image->path, n->data->path);
    img_hint(err, "Remove them first, or choose larger clusters.");
    return ret;
}

static int plan(struct pair *p, struct img_error *err)
{
    struct new_image *n = p->n;
    struct file *image = n->image->file;
    char *name = name_in_header(n);
    int ret = name ? plan_name(n, name, &p->there, err) : img_fail_nomem(err);
    free(name);
    if (!ret)
        ret = file_write(image, p->there.new, p->there.length, host(0), err);
    if (!ret)
        ret = plan_name(n, n->plan.data_file, &p->back, err);
    if (ret == -ENOSPC || (!ret && !in_steps(&p->back)))
        return no_room(n, err);
    return ret < 0 ? ret : lock_take(image, LOCK_WRITER, err); /* its header is to change again */
}

/* ---- names --------------------------------------------------------------------------------- */

static int replace_image(struct pair *p, struct img_error *err)
{
    struct new_image *n = p->n;
    int ret = new_file_finish(n->image, err);
    if (ret < 0)
        return ret;
    ret = new_file_publish(n->image, err);
    if (n->image->published) { /* the image has this name now */
        p->beside = n->data->temporary;
        n->data->temporary = NULL;
    }
    return ret;
}

static int give_own_name(struct pair *p, struct img_error *err)
{
    int ret = new_file_publish_beside(p->n->data, &p->beside, err);
    if (!ret)
        ret = head_change_do(&p->back, p->n->image->file, err);
    return ret;
}

/* The image has its name, but not all is done. Taken back where nothing was replaced; else ERR says
 * what there is. */
static void failed(struct pair *p, int ret, struct img_error *err)
{
    struct new_image *n = p->n;
    if (!p->beside)
        return;
    if (!n->image->old && !n->data->published) {
        new_file_withdraw(n->image);
        new_file_drop_beside(n->data, p->beside);
        return;
    }
    img_prefix(err, ret,
               "'%s' is the new image, but its data file may be called '%s': ", n->image->path,
               p->beside);
}

int new_pair_publish(struct new_image *n, struct img_error *err)
{
    struct pair p = {.n = n};
    int ret = new_file_finish(n->data, err);
    if (!ret)
        ret = new_file_name_beside(n->data, err);
    if (!ret)
        ret = plan(&p, err);
    n->image->file->cancel = NULL; /* no way back from here */
    if (!ret)
        ret = replace_image(&p, err);
    if (!ret)
        ret = give_own_name(&p, err);
    if (ret < 0)
        failed(&p, ret, err);
    else if (p.beside)
        new_file_drop_beside(n->data, p.beside);
    head_change_clear(&p.there);
    head_change_clear(&p.back);
    free(p.beside);
    return ret;
}
