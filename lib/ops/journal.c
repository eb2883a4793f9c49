#include "lib/ops/journal.h"
#include "lib/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int journal_make(const struct journal *j, struct file *const *files, struct img_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < j->count && !ret; i++)
        ret = head_change_do(&j->items[i].change, files[i], err);
    return ret;
}

int journal_take_back(const struct journal *j, struct file *const *files, struct img_error *err)
{
    int ret = 0;
    for (size_t i = j->count; i-- > 0 && !ret;)
        ret = head_change_undo(&j->items[i].change, files[i], err);
    return ret;
}

/* A folder that cannot be flushed keeps the journal after a crash: harmless, all is made. */
int journal_remove(const struct journal *j, struct img_error *err)
{
    if (unlink(j->path) < 0 && errno != ENOENT)
        return img_fail_errno(err, errno, "Could not remove the journal '%s'", j->path);
    const char *slash = strrchr(j->path, '/');
    char *folder = slash ? strndup(j->path, (size_t)(slash + 1 - j->path)) : strdup(".");
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(folder);
    return 0;
}

/* ---- after a crash ------------------------------------------------------------------------- */

static int open_item(const struct journal_entry *e, struct file **f, struct img_error *err)
{
    bool old, new, mine = false;
    int ret = file_open_posix(f, e->path, true, err);
    if (!ret)
        ret = lock_take(*f, LOCK_WRITER, err);
    if (!ret)
        ret = head_change_look(&e->change, *f, &old, &new, &mine, err);
    if (!ret && !mine)
        ret = img_fail(err, EINVAL, "'%s' was changed since", e->path);
    return ret;
}

int journal_finish(const struct journal *j, struct img_error *err)
{
    struct file **files = calloc(j->count + 1, sizeof *files);
    int ret = files ? 0 : img_fail_nomem(err);
    for (size_t i = 0; i < j->count && !ret; i++)
        ret = open_item(&j->items[i], &files[i], err);
    if (!ret)
        ret = journal_make(j, files, err);
    if (!ret)
        ret = journal_remove(j, err);
    for (size_t i = 0; files && i < j->count; i++)
        file_close(files[i]);
    free(files);
    if (ret < 0) {
        img_prefix(err, ret, "Could not finish the interrupted change of '%s': ", j->path);
        img_hint(err, "When the images are to stay as they are now, remove that file.");
    }
    return ret;
}
