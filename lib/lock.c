#include "lib/lock.h"
#include "lib/lock_holder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

enum { USES_BASE = 100, UNSHARED_BASE = 200, PERMISSIONS = 4 };

static const char *const names[PERMISSIONS] = {"consistent read", "write", "write unchanged",
                                               "resize"};

static int set_byte(int fd, unsigned byte, short type)
{
    struct flock fl = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int ret;
    do
        ret = fcntl(fd, F_OFD_SETLK, &fl);
    while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : 0;
}

/* Does another program hold BYTE? Our own locks do not count: they are this open file's. */
static bool held_by_other(int fd, unsigned byte)
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &fl) == 0 && fl.l_type != F_UNLCK;
}

static void release(int fd, struct lock lock)
{
    for (unsigned i = 0; i < PERMISSIONS; i++) {
        if (lock.uses >> i & 1)
            set_byte(fd, USES_BASE + i, F_UNLCK);
        if (lock.unshared >> i & 1)
            set_byte(fd, UNSHARED_BASE + i, F_UNLCK);
    }
}

static int take_bytes(int fd, struct lock lock)
{
    int ret = 0;
    for (unsigned i = 0; i < PERMISSIONS && !ret; i++) {
        if (lock.uses >> i & 1)
            ret = set_byte(fd, USES_BASE + i, F_RDLCK);
        if (!ret && lock.unshared >> i & 1)
            ret = set_byte(fd, UNSHARED_BASE + i, F_RDLCK);
    }
    return ret;
}

static int conflict(struct file *f, const char *shared, const char *name, unsigned byte,
                    struct img_error *err)
{
    int ret = img_fail(err, EAGAIN, "Failed to get %s\"%s\" lock", shared, name);
    char *holder = lock_find_holder(f, byte);
    if (holder)
        img_context(err, "it is held by %s", holder);
    free(holder);
    img_hint(err, "Is another process using the image [%s]?", f->name);
    return ret;
}

/* What we do against what others do not share, then the other way round: QEMU's order. */
static int find_conflict(struct file *f, struct lock lock, struct img_error *err)
{
    for (unsigned i = 0; i < PERMISSIONS; i++)
        if (lock.uses >> i & 1 && held_by_other(f->fd, UNSHARED_BASE + i))
            return conflict(f, "", names[i], UNSHARED_BASE + i, err);
    for (unsigned i = 0; i < PERMISSIONS; i++)
        if (lock.unshared >> i & 1 && held_by_other(f->fd, USES_BASE + i))
            return conflict(f, "shared ", names[i], USES_BASE + i, err);
    return 0;
}

int lock_take(struct file *f, struct lock lock, struct img_error *err)
{
    if (f->fd < 0)
        return 0;
    int ret = take_bytes(f->fd, lock);
    if (ret == -EAGAIN || ret == -EACCES) { /* a write lock: no program of QEMU's takes one */
        release(f->fd, lock);
        return conflict(f, "shared ", names[0], USES_BASE, err);
    }
    if (ret < 0) /* no locks on this file system: QEMU goes on without, too */
        return 0;
    ret = find_conflict(f, lock, err);
    if (ret < 0)
        release(f->fd, lock);
    return ret;
}
