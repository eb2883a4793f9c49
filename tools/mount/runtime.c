/*
 * The folder is $XDG_RUNTIME_DIR/imgtool, /run/imgtool for root, else /tmp/imgtool-UID: the first
 * that is ours. One that somebody else has made is not used.
 */
#include "runtime.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A folder that OWNER alone can write; -1: it is none. */
static int open_folder(const char *path, uid_t owner, bool make)
{
    struct stat st;
    if (make)
        mkdir(path, 0700);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == owner && !(st.st_mode & 022))
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static int own_folder(bool make)
{
    char path[PATH_MAX];
    const char *given = getenv("XDG_RUNTIME_DIR");
    uid_t me = geteuid();
    int fd = -1;
    if (given && given[0] == '/' && snprintf(path, sizeof path, "%s/imgtool", given) < PATH_MAX)
        fd = open_folder(path, me, make);
    if (fd < 0 && me == 0)
        fd = open_folder("/run/imgtool", 0, make);
    snprintf(path, sizeof path, "/tmp/imgtool-%u", (unsigned)me);
    return fd < 0 ? open_folder(path, me, make) : fd;
}

ssize_t runtime_read(const char *name, char *text, size_t room)
{
    int folder = own_folder(false);
    int fd = folder < 0 ? -1 : openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t got = fd < 0 ? -ENOENT : read(fd, text, room - 1);
    if (got < 0)
        got = fd < 0 ? -ENOENT : -errno;
    else
        text[got] = '\0';
    if (fd >= 0)
        close(fd);
    if (folder >= 0)
        close(folder);
    return got;
}

int runtime_write(const char *name, const char *text, size_t length)
{
    char temporary[NAME_MAX + 1];
    int folder = own_folder(true), ret = 0;
    if (folder < 0)
        return -EACCES;
    snprintf(temporary, sizeof temporary, ".%.200s.%d", name, (int)getpid());
    int fd = openat(folder, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || write(fd, text, length) != (ssize_t)length)
        ret = errno ? -errno : -EIO;
    if (fd >= 0)
        close(fd);
    if (!ret && renameat(folder, temporary, folder, name) < 0)
        ret = -errno;
    if (ret && fd >= 0)
        unlinkat(folder, temporary, 0);
    close(folder);
    return ret;
}

int runtime_remove(const char *path, uid_t owner, const char *name)
{
    int folder = path ? open_folder(path, owner, false) : own_folder(false);
    int ret = folder < 0 ? -ENOENT : unlinkat(folder, name, 0) < 0 ? -errno : 0;
    if (folder >= 0)
        close(folder);
    return ret;
}

/* Takes FOLDER over. */
static void each_file(int folder, const char *path, uid_t owner, runtime_fn *fn, void *opaque)
{
    DIR *dir = fdopendir(folder);
    if (!dir) {
        close(folder);
        return;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        int fd = e->d_name[0] == '.'
                     ? -1
                     : openat(folder, e->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0)
            continue;
        fn(opaque, path, owner, e->d_name, fd);
        close(fd);
    }
    closedir(dir);
}

static void visit(const char *path, runtime_fn *fn, void *opaque)
{
    struct stat st;
    if (lstat(path, &st) < 0 || (geteuid() != 0 && st.st_uid != geteuid()))
        return;
    int folder = open_folder(path, st.st_uid, false);
    if (folder >= 0)
        each_file(folder, path, st.st_uid, fn, opaque);
}

static bool is_same(const char *a, const char *b)
{
    struct stat x, y;
    return !lstat(a, &x) && !lstat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

void runtime_each(runtime_fn *fn, void *opaque)
{
    glob_t found = {0};
    char named[PATH_MAX] = "";
    const char *given = getenv("XDG_RUNTIME_DIR");
    if (!given || given[0] != '/' || snprintf(named, sizeof named, "%s/imgtool", given) >= PATH_MAX)
        named[0] = '\0';
    visit(named, fn, opaque);
    glob("/run/imgtool", GLOB_NOSORT, NULL, &found);
    glob("/run/user/*/imgtool", GLOB_NOSORT | GLOB_APPEND, NULL, &found);
    glob("/tmp/imgtool-*", GLOB_NOSORT | GLOB_APPEND, NULL, &found);
    for (size_t i = 0; i < found.gl_pathc; i++)
        if (!is_same(found.gl_pathv[i], named))
            visit(found.gl_pathv[i], fn, opaque);
    globfree(&found);
}
