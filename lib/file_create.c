/*
 * New files.
 *
 * While it is written, a new file has no name at all (O_TMPFILE): whatever ends the program, the
 * kernel takes it back. Where the file system cannot do that, it has a name that nobody can guess,
 * in the same folder, and new_file_close removes it.
 *
 * A name that is taken keeps its old file until the new one replaces it in one step (rename): mode
 * and, where we may, owner are carried over. Other hard links to the old file keep the old
 * contents.
 *
 * In-place writing of a file in a folder where nothing can be created was declined: the old
 * contents would be lost at the first byte.
 */
#include "lib/file.h"
#include "lib/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static const char partial_suffix[] = ".imgtool-partial";

enum { MAX_LINKS = 40, MAX_RETRIES = 10, NEW_MODE = 0644, NAME_PART = 200 };

/* The folder of PATH, for the caller to free. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return strdup(".");
    return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

/* Where the symbolic link PATH leads; takes PATH over. NULL with errno set. */
static char *follow(char *path)
{
    char target[PATH_MAX], *out = NULL;
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n > 0) {
        target[n] = 0;
        char *folder = folder_of(path);
        if (*target == '/')
            out = strdup(target);
        else if (folder && asprintf(&out, "%s/%s", folder, target) < 0)
            out = NULL;
        free(folder);
    }
    free(path);
    return out;
}

/* NAME without a symbolic link at its end: the file that it means need not exist. */
static char *resolve(const char *name)
{
    char *path = strdup(name);
    struct stat st;
    for (int i = 0; path && lstat(path, &st) == 0 && S_ISLNK(st.st_mode); i++) {
        if (i == MAX_LINKS) {
            free(path);
            errno = ELOOP;
            return NULL;
        }
        path = follow(path);
    }
    return path;
}

static int cannot_create(const char *name, int code, struct img_error *err)
{
    return img_fail_errno(err, code, "Could not create '%s'", name);
}

/* Opens what is there, if anything. Block devices that are mounted or part of something are
 * refused. */
static int open_existing(struct new_file *n, const char *name, struct img_error *err)
{
    struct stat st;
    int flags = O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    bool there = stat(n->path, &st) == 0;
    if (there && S_ISCHR(st.st_mode))
        return img_fail(err, ENOTSUP, "Cannot grow device files");
    int fd = open(n->path, there && S_ISBLK(st.st_mode) ? flags | O_EXCL : flags);
    if (fd < 0 && errno == ENOENT && *n->path)
        return 0;
    if (fd < 0)
        return cannot_create(name, errno, err);
    int ret = file_adopt_posix(&n->old, name, fd, err);
    if (ret < 0)
        close(fd);
    else
        ret = lock_take(n->old, LOCK_WRITER, err);
    return ret;
}

/* Is the file that we have locked no longer the one of that name? */
static bool replaced(const struct new_file *n)
{
    struct stat st;
    if (!n->old || n->old->device)
        return false;
    return stat(n->path, &st) < 0 || st.st_dev != n->old->id.device ||
           st.st_ino != n->old->id.inode;
}

static int lock_existing(struct new_file *n, const char *name, struct img_error *err)
{
    for (int i = 0; i < MAX_RETRIES; i++) {
        int ret = open_existing(n, name, err);
        if (ret < 0 || !replaced(n))
            return ret;
        file_close(n->old);
        n->old = NULL;
    }
    return img_fail(err, EAGAIN, "'%s' is being replaced by other programs", name);
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* A name beside PATH that nobody can guess, and as long, but for a short one: where it is to stand
 * for the other, it fits. NULL: none could be made. */
static char *unpredictable(const char *path)
{
    enum { LEAST = 16, DIGITS = 32 };
    static const char prefix[] = ".imgtool-";
    uint64_t random[2];
    char digits[DIGITS + 1], *folder = folder_of(path), *out = NULL;
    size_t length = strlen(last_part(path)), used = sizeof prefix - 1 + LEAST;
    length = (length > used ? length : used) - (sizeof prefix - 1);
    bool drawn = folder && getrandom(random, sizeof random, 0) == (ssize_t)sizeof random;
    if (drawn)
        snprintf(digits, sizeof digits, "%016" PRIx64 "%016" PRIx64, random[0], random[1]);
    if (drawn && asprintf(&out, "%s/%s%.*s%.*s", folder, prefix, (int)length, digits,
                          length > DIGITS ? (int)(length - DIGITS) : 0, last_part(path)) < 0)
        out = NULL;
    free(folder);
    return out;
}

/* The name by which linkat finds a file that has none. */
static void nameless(char buf[32], int fd)
{
    snprintf(buf, 32, "/proc/self/fd/%d", fd);
}

/* An open file without a name; -1 where there is no such thing. */
static int open_nameless(const char *folder, mode_t mode)
{
    char proc[32];
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
    if (fd < 0)
        return -1;
    nameless(proc, fd);
    if (access(proc, F_OK) == 0) /* without /proc it could never get a name */
        return fd;
    close(fd);
    return -1;
}

char *new_file_beside(const char *path, const char *suffix)
{
    char *folder = folder_of(path), *out = NULL;
    if (folder && asprintf(&out, "%s/.%.*s%s", folder, (int)NAME_PART, last_part(path), suffix) < 0)
        out = NULL;
    free(folder);
    return out;
}

/* It was left by an earlier run, and by nobody else. */
static int check_partial(const struct new_file *n, int fd, struct img_error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return cannot_create(n->temporary, errno, err);
    if (!S_ISREG(st.st_mode) || st.st_nlink > 1 || (st.st_uid != geteuid() && st.st_uid != 0) ||
        ((st.st_mode & S_IWOTH) && st.st_uid != geteuid()))
        return img_fail(err, EPERM, "'%s' is there and belongs to another user", n->temporary);
    return 0;
}

static int open_partial(struct new_file *n, const char *name, int *fd, struct img_error *err)
{
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    n->temporary = new_file_beside(n->path, partial_suffix);
    if (!n->temporary)
        return img_fail_nomem(err);
    n->kept = n->partial = true;
    *fd = open(n->temporary, flags | O_CREAT | O_EXCL, n->old ? 0600 : NEW_MODE);
    n->kept = *fd < 0;
    if (*fd >= 0)
        return 0;
    n->found = errno == EEXIST;
    if (n->found)
        *fd = open(n->temporary, flags);
    if (*fd < 0)
        return cannot_create(name, errno, err);
    int ret = check_partial(n, *fd, err);
    if (ret < 0)
        close(*fd);
    return ret;
}

/* One program at a time; and it is still what its name means. */
static int lock_partial(struct new_file *n, struct img_error *err)
{
    struct stat st;
    int ret = lock_take(n->file, LOCK_WRITER, err);
    n->kept |= ret == -EAGAIN; /* another program found it at once, and has it now */
    if (!ret && (stat(n->temporary, &st) < 0 || st.st_ino != n->file->id.inode))
        ret = img_fail(err, EAGAIN, "'%s' is being replaced by other programs", n->path);
    return ret < 0 || n->found ? ret : file_flush_folder(n->path, err);
}

static int open_temporary(struct new_file *n, const char *name, int *fd, struct img_error *err)
{
    mode_t mode = n->old ? 0600 : NEW_MODE;
    char *folder = folder_of(n->path);
    if (!folder)
        return img_fail_nomem(err);
    *fd = open_nameless(folder, mode);
    free(folder);
    if (*fd >= 0)
        return 0;
    char *temporary = unpredictable(n->path);
    if (!temporary)
        return img_fail_nomem(err);
    *fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (*fd < 0) {
        int code = errno;
        free(temporary);
        return cannot_create(name, code, err);
    }
    n->temporary = temporary;
    return 0;
}

/* Hints to the file system, which may not know them; only an empty file takes them. */
static void set_attributes(int fd, const struct new_file_options *o)
{
    int flags;
    struct fsxattr attr;
    if (o->nocow && ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= FS_NOCOW_FL;
        (void)ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
    if (o->extent_size_hint && ioctl(fd, FS_IOC_FSGETXATTR, &attr) == 0) {
        attr.fsx_xflags |= FS_XFLAG_EXTSIZE;
        attr.fsx_extsize = (uint32_t)o->extent_size_hint;
        (void)ioctl(fd, FS_IOC_FSSETXATTR, &attr);
    }
}

static int create_beside(struct new_file *n, const char *name, const struct new_file_options *o,
                         struct img_error *err)
{
    int fd;
    int ret = (o->partial ? open_partial : open_temporary)(n, name, &fd, err);
    if (ret < 0)
        return ret;
    if (!n->found)
        set_attributes(fd, o);
    ret = file_adopt_posix(&n->file, name, fd, err);
    if (ret < 0)
        close(fd);
    return ret < 0 || !o->partial ? ret : lock_partial(n, err);
}

int new_file_open(struct new_file **out, const char *name, const struct new_file_options *options,
                  struct img_error *err)
{
    struct new_file *n = calloc(1, sizeof *n);
    if (!n)
        return img_fail_nomem(err);
    n->path = resolve(name);
    if (!n->path) {
        int code = errno;
        free(n);
        return cannot_create(name, code, err);
    }
    int ret = lock_existing(n, name, err);
    if (!ret && n->old && n->old->device) {
        n->in_place = true;
        n->file = n->old;
        n->old = NULL;
    } else if (!ret) {
        ret = create_beside(n, name, options, err);
    }
    if (ret < 0 || !n->file) {
        new_file_close(n);
        return ret;
    }
    n->file->cancel = options->cancel;
    n->file->progress = options->progress;
    *out = n;
    return 0;
}

/* The new file gets the owner and the mode of the old one; others may not read it before. */
static int take_after_old(struct new_file *n, struct img_error *err)
{
    struct stat st;
    if (fstat(n->old->fd, &st) < 0)
        return img_fail_errno(err, errno, "Could not stat '%s'", n->file->name);
    mode_t mode = st.st_mode & 0777;
    if (fchown(n->file->fd, st.st_uid, st.st_gid) < 0 &&
        fchown(n->file->fd, (uid_t)-1, st.st_gid) < 0 && st.st_gid != getegid())
        mode &= ~(mode_t)0070; /* another group than the one that could read the old file */
    if (fchmod(n->file->fd, mode) < 0)
        return img_fail_errno(err, errno, "Could not set the mode of '%s'", n->file->name);
    return 0;
}

int new_file_finish(struct new_file *n, struct img_error *err)
{
    int ret = n->old ? take_after_old(n, err) : 0;
    return ret < 0 ? ret : file_flush(n->file, err);
}

static int give_name(struct new_file *n, const char *path, struct img_error *err)
{
    char proc[32];
    nameless(proc, n->file->fd);
    if (linkat(AT_FDCWD, proc, AT_FDCWD, path, AT_SYMLINK_FOLLOW) < 0)
        return cannot_create(n->file->name, errno, err);
    return 0;
}

static int name_beside(struct new_file *n, struct img_error *err)
{
    if (n->temporary)
        return 0;
    char *temporary = unpredictable(n->path);
    int ret = temporary ? give_name(n, temporary, err) : img_fail_nomem(err);
    if (ret < 0)
        free(temporary);
    else
        n->temporary = temporary;
    return ret;
}

/* A new name appears without replacing a file that came up meanwhile; an old one is replaced. */
static int move_in_place(const struct new_file *n, const char *from, struct img_error *err)
{
    unsigned flags = n->old ? 0 : RENAME_NOREPLACE;
    int ret = renameat2(AT_FDCWD, from, AT_FDCWD, n->path, flags);
    if (ret < 0 && (errno == ENOSYS || (flags && errno == EINVAL)))
        ret = rename(from, n->path); /* no way to refuse to replace here */
    return ret < 0 ? img_fail_errno(err, errno, "Could not replace '%s'", n->file->name) : 0;
}

static int put_in_place(struct new_file *n, struct img_error *err)
{
    if (!n->temporary && !n->old)
        return give_name(n, n->path, err);
    int ret = name_beside(n, err);
    if (!ret)
        ret = move_in_place(n, n->temporary, err);
    if (ret < 0)
        return ret;
    free(n->temporary);
    n->temporary = NULL;
    return 0;
}

int file_flush_folder(const char *path, struct img_error *err)
{
    char *folder = folder_of(path);
    if (!folder)
        return img_fail_nomem(err);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int ret = 0;
    if (fd >= 0 && fsync(fd) < 0 && errno != EINVAL)
        ret = img_fail_errno(err, errno, "Could not flush the folder '%s' to disk", folder);
    if (fd >= 0)
        close(fd);
    free(folder);
    return ret;
}

int new_file_publish(struct new_file *n, struct img_error *err)
{
    if (n->in_place)
        return 0;
    int ret = put_in_place(n, err);
    if (ret < 0)
        return ret;
    n->published = true;
    return n->unflushed ? 0 : file_flush_folder(n->path, err);
}

/* What a later run would go on with must not be what an image names. */
static int stop_being_partial(struct new_file *n, struct img_error *err)
{
    char *temporary = unpredictable(n->path);
    if (!temporary)
        return img_fail_nomem(err);
    if (rename(n->temporary, temporary) < 0) {
        int code = errno;
        free(temporary);
        return cannot_create(n->file->name, code, err);
    }
    free(n->temporary);
    n->temporary = temporary;
    n->partial = n->kept = false;
    return 0;
}

int new_file_name_beside(struct new_file *n, struct img_error *err)
{
    int ret = n->partial ? stop_being_partial(n, err) : name_beside(n, err);
    return ret < 0 ? ret : file_flush_folder(n->path, err);
}

int new_file_publish_beside(struct new_file *n, char **beside, struct img_error *err)
{
    char *second = unpredictable(n->path);
    if (!second)
        return img_fail_nomem(err);
    bool linked = linkat(AT_FDCWD, *beside, AT_FDCWD, second, 0) == 0;
    int ret = move_in_place(n, linked ? second : *beside, err);
    if (ret < 0 && linked)
        unlink(second);
    free(second);
    if (ret < 0)
        return ret;
    if (!linked) {
        free(*beside);
        *beside = NULL;
    }
    n->published = true;
    return file_flush_folder(n->path, err);
}

void new_file_drop_beside(const struct new_file *n, const char *beside)
{
    unlink(beside);
    file_flush_folder(n->path, NULL);
}

bool new_file_is(const struct new_file *n, const char *name)
{
    struct stat a, b;
    const struct file *now = n->in_place ? n->file : n->old;
    if (stat(name, &a) == 0)
        return now &&
               (S_ISBLK(a.st_mode) ? now->device && a.st_rdev == now->id.inode
                                   : a.st_dev == now->id.device && a.st_ino == now->id.inode);
    char *path = resolve(name), *mine = folder_of(n->path), *folder = path ? folder_of(path) : NULL;
    bool same = mine && folder && !strcmp(last_part(n->path), last_part(path)) &&
                stat(mine, &a) == 0 && stat(folder, &b) == 0 && a.st_dev == b.st_dev &&
                a.st_ino == b.st_ino;
    free(path);
    free(mine);
    free(folder);
    return same;
}

void new_file_withdraw(struct new_file *n)
{
    if (!n->published || n->old)
        return;
    char *partial = n->kept ? new_file_beside(n->path, partial_suffix) : NULL;
    if (partial && rename(n->path, partial) == 0)
        n->temporary = partial;
    else
        unlink(n->path);
    if (partial != n->temporary)
        free(partial);
    n->published = false;
}

void new_file_close(struct new_file *n)
{
    if (!n)
        return;
    if (n->temporary && !n->kept)
        unlink(n->temporary);
    file_close(n->file);
    file_close(n->old);
    free(n->temporary);
    free(n->path);
    free(n);
}
