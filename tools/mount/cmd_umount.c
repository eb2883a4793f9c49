/* imgtool umount: back when the appliance has flushed and ended, and the image is free. */
#include "commands.h"
#include "../tool.h"
#include "guest.h"
#include "records.h"
#include "signals.h"

#include <errno.h>
#include <limits.h>
#include <mntent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* DIR may be a mount that nobody serves any more, which cannot be resolved itself; or gone. */
static char *resolve(const char *dir)
{
    char *whole = realpath(dir, NULL), *path = NULL;
    if (!whole && errno == ENOENT && dir[0] == '/')
        return strdup(dir);
    if (whole || errno != ENOTCONN)
        return whole;
    char *copy = strdup(dir);
    size_t length = copy ? strlen(copy) : 0;
    while (length > 1 && copy[length - 1] == '/')
        copy[--length] = '\0';
    char *slash = copy ? strrchr(copy, '/') : NULL;
    const char *name = slash ? slash + 1 : copy;
    if (slash)
        *slash = '\0';
    char *parent = copy ? realpath(slash ? (*copy ? copy : "/") : ".", NULL) : NULL;
    if (parent && asprintf(&path, "%s/%s", !strcmp(parent, "/") ? "" : parent, name) < 0)
        path = NULL;
    free(parent);
    free(copy);
    return path;
}

/* Somebody may have unmounted it by other means, while its process still flushes. */
static bool is_mounted(const char *dir)
{
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    bool found = !mounts; /* as far as we know */
    for (struct mntent *m; mounts && !found && (m = getmntent(mounts));)
        found = !strcmp(m->mnt_dir, dir) && !strncmp(m->mnt_type, "fuse", 4);
    if (mounts)
        endmntent(mounts);
    return found;
}

static void wait_for_end(pid_t pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0U);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (fd >= 0 && poll(&p, 1, -1) < 0 && errno == EINTR)
        ;
    if (fd >= 0)
        close(fd);
}

/* 0, or -EAGAIN while somebody writes it. Readers of a raw image do not mind who does. */
static int look_at_lock(const char *image, struct img_error *err)
{
    struct img_open_options options = {.flags = IMG_OPEN_NO_DATA};
    struct img *img;
    int ret = img_open(&img, image, &options, err);
    if (ret < 0)
        return ret;
    bool is_raw = !strcmp(img_layer_format(img, 0), "raw");
    img_close(img);
    if (!is_raw)
        return 0;
    options = (struct img_open_options){.format = "raw", .flags = IMG_OPEN_WRITE};
    ret = img_open(&img, image, &options, err);
    if (!ret)
        img_close(img);
    return ret;
}

/* The appliance of a process that was killed ends by itself, a little later. */
static int wait_for_lock(struct tool *tool, const char *image)
{
    enum { TRIES = 400 };
    struct img_error err = IMG_ERROR_INIT;
    for (int i = 0; look_at_lock(image, &err) == -EAGAIN; i++) {
        if (i == TRIES)
            return tool_report(tool, &err);
        img_error_clear(&err);
        usleep(100000);
    }
    img_error_clear(&err);
    return 0;
}

static int after_end(struct tool *tool, const struct record *before)
{
    struct record r;
    if (!record_find(&r, before->pid)) /* it has ended as it should */
        return 0;
    record_remove(&r);
    int failed = wait_for_lock(tool, r.image);
    if (r.writable)
        failed = tool_error(tool, "'%s' was unmounted, but %s", r.image,
                            r.state == RECORD_FAILED
                                ? r.message
                                : "its process was killed: what the guest had not yet written may "
                                  "be lost");
    record_clear(&r);
    return failed;
}

static int unmount(struct tool *tool, const char *given)
{
    struct records all;
    char *dir = resolve(given);
    const struct record *found = NULL;
    if (!dir)
        return tool_error(tool, "Could not resolve '%s': %s", given, strerror(errno));
    records_read(&all);
    for (size_t i = 0; i < all.count; i++)
        if (!strcmp(all.items[i].dir, dir) && (!found || all.items[i].alive))
            found = &all.items[i];
    int failed = 0;
    if (!found)
        failed = tool_error(tool, "Nothing is mounted on '%s' by imgtool", given);
    else if (is_mounted(dir) && unmount_fuse(dir, !found->alive) < 0 && found->alive)
        failed = tool_error(tool, "Could not unmount '%s': see above; is a program using it?",
                            given);
    else {
        wait_for_end(found->alive ? found->pid : -1);
        failed = after_end(tool, found);
    }
    records_free(&all);
    free(dir);
    return failed;
}

static int check_records(struct tool *tool, const char *image, const struct stat *st)
{
    struct records all;
    int failed = 0;
    records_read(&all);
    for (size_t i = 0; i < all.count; i++) {
        const struct record *r = &all.items[i];
        if (r->device != st->st_dev || r->inode != st->st_ino)
            continue;
        if (r->alive)
            failed = tool_error(tool, "'%s' is still mounted on '%s', by process %d", image, r->dir,
                                (int)r->pid);
        else
            failed = tool_error(
                tool, "'%s' was mounted on '%s', and %s; 'imgtool umount' clears it", image, r->dir,
                r->state == RECORD_FAILED ? r->message : "its process was killed");
    }
    records_free(&all);
    return failed;
}

/* Is it free, and was it left in order? */
static int check(struct tool *tool, const char *image)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_open_options options = {.flags = IMG_OPEN_NO_DATA};
    struct img *img;
    struct stat st;
    if (stat(image, &st) < 0)
        return tool_error(tool, "Could not look at '%s': %s", image, strerror(errno));
    if (check_records(tool, image, &st))
        return 1;
    if (look_at_lock(image, &err) < 0)
        return tool_report(tool, &err);
    tool_open_options(tool, &options);
    if (img_open(&img, image, &options, &err) < 0)
        return tool_report(tool, &err);
    const char *mark;
    int failed = guest_mark(img, &mark, &err) < 0 ? tool_report(tool, &err) : 0;
    if (mark)
        failed = tool_error(tool, "'%s' is not mounted, but is marked %s", image, mark);
    img_close(img);
    if (!failed)
        printf("'%s' is not mounted, and nobody writes it\n", image);
    return failed;
}

int cmd_umount(struct tool *tool, int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, 0, 'h'},
        {"check", no_argument, 0, 'c'},
        {0, 0, 0, 0},
    };
    bool checks = false;
    int c, code;
    while ((c = tool_getopt(tool, argc, argv, "h", options, &code)) != -1) {
        if (c == TOOL_STOP)
            return code;
        checks = true;
    }
    if (optind != argc - 1)
        return tool_usage_error(tool, checks ? "Expecting one image file name"
                                             : "Expecting the folder where it is mounted");
    return checks ? check(tool, argv[optind]) : unmount(tool, argv[optind]);
}
