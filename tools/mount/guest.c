/* One guest: opened, checked, started, mounted, ended. */
#include "guest.h"
#include "launch.h"
#include "signals.h"
#include "view.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int guest_option(struct tool *tool, struct guest_request *r, int c, const char *value)
{
    switch (c) {
    case 'f':
        r->open.format = value;
        return 1;
    case GUEST_SNAPSHOT:
        r->open.snapshot = value;
        return 1;
    case 'i':
        r->mount_count = 0;
        return 1;
    case 'm':
    case GUEST_KEY: {
        size_t *count = c == 'm' ? &r->mount_count : &r->key_count;
        if (*count == GUEST_LIST_MAX) {
            tool_error(tool, "At most %d of %s", GUEST_LIST_MAX, c == 'm' ? "-m" : "--key");
            return -1;
        }
        (c == 'm' ? r->mounts : r->keys)[(*count)++] = value;
        return 1;
    }
    default:
        return 0;
    }
}

int guest_error(const struct guest *guest, const char *what, ...)
{
    char *text = NULL;
    va_list ap;
    va_start(ap, what);
    if (vasprintf(&text, what, ap) < 0)
        text = NULL;
    va_end(ap);
    const char *why = guestfs_last_error(guest->g);
    if (signals_pending())
        tool_error(guest->tool, "%s: interrupted", text ? text : "");
    else
        tool_error(guest->tool, "%s: %s", text ? text : "", why ? why : "no reason given");
    free(text);
    return 1;
}

void guest_list_free(char **list)
{
    for (char **p = list; p && *p; p++)
        free(*p);
    free(list);
}

/* QEMU would look at a backing file to find out its format, and so believe what a guest wrote. */
static int check_chain(struct guest *guest, struct img *img)
{
    int failed = 0;
    for (unsigned i = 0; i + 1 < img_depth(img) && !failed; i++) {
        struct img_error err = IMG_ERROR_INIT;
        struct img_info *info;
        if (img_describe(img, i, &info, &err) < 0)
            return tool_report(guest->tool, &err);
        if (!info->backing_format)
            failed = tool_error(guest->tool,
                                "'%s' does not state the format of its backing file, and it is not "
                                "guessed here: state it with 'imgtool rebase -u -b BASE -F FMT'",
                                img_layer_filename(img, i));
        img_info_free(info);
    }
    return failed;
}

int guest_mark(struct img *img, const char **mark, struct img_error *err)
{
    struct img_info *info;
    *mark = NULL;
    int ret = img_describe(img, 0, &info, err);
    if (ret < 0)
        return ret;
    if (info->is_qcow2 && info->qcow2.corrupt)
        *mark = "corrupt";
    else if (info->has_dirty && info->dirty)
        *mark = "dirty";
    img_info_free(info);
    return 0;
}

/* Whoever writes must not meet an image that its last writer left in the middle of something. */
static int check_sound(struct guest *guest, struct img *img)
{
    struct img_error err = IMG_ERROR_INIT;
    const char *state;
    if (guest_mark(img, &state, &err) < 0)
        return tool_report(guest->tool, &err);
    if (!state)
        return 0;
    return tool_error(guest->tool,
                      "'%s' is marked %s and is not opened to be changed: repair it with 'imgtool "
                      "check -r all' first",
                      img_layer_filename(img, 0), state);
}

/* Could it be written now? Its lock, which the appliance takes by itself, is free at least. */
static int check_writable(struct guest *guest, const struct guest_request *r, const char *format)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_open_options options = r->open;
    struct img *img;
    options.flags |= IMG_OPEN_WRITE;
    options.format = format;
    if (img_open(&img, r->filename, &options, &err) < 0)
        return tool_report(guest->tool, &err);
    img_close(img);
    return 0;
}

static int open_image(struct guest *guest, const struct guest_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct tool *tool = guest->tool;
    struct img_open_options options = r->open;
    tool_open_options(tool, &options);
    if (r->writable && options.snapshot)
        return tool_error(tool, "A snapshot cannot be changed: --rw does not go with --snapshot");
    if (img_open(&guest->img, r->filename, &options, &err) < 0)
        return tool_report(tool, &err);
    guest->path = realpath(img_layer_filename(guest->img, 0), NULL);
    if (!guest->path)
        return tool_error(tool, "Could not resolve '%s': %s", r->filename, strerror(errno));
    if (check_chain(guest, guest->img) || (r->writable && check_sound(guest, guest->img)))
        return 1;
    bool all_is_told = r->mount_count && !r->key_count;
    if (!all_is_told && img_filesystems(&guest->volumes, guest->img, NULL, &err) < 0)
        return tool_report(tool, &err);
    return 0;
}

static int add_disk(struct guest *guest, const struct guest_request *r)
{
    const char *format = img_layer_format(guest->img, 0); /* the library's own: it stays */
    struct launch_disk disk = {.path = guest->path, .format = format, .writable = r->writable};
    char *view = NULL;
    if (r->open.snapshot) {
        if (view_make(guest, &view))
            return 1;
        disk.path = view;
        disk.format = "qcow2";
    }
    if (r->writable) { /* a reader's locks would keep us, and the appliance, from writing */
        img_close(guest->img);
        guest->img = NULL;
        if (check_writable(guest, r, format))
            return 1;
    }
    int failed = launch(guest, &disk);
    free(view);
    return failed;
}

int guest_start(struct tool *tool, struct guest *guest, const struct guest_request *r)
{
    *guest = (struct guest){.tool = tool, .watchdog = -1};
    if (open_image(guest, r) || add_disk(guest, r)) {
        guest_end(guest);
        return 1;
    }
    return 0;
}

int guest_end(struct guest *guest)
{
    int failed = 0;
    if (guest->g) {
        bool interrupted = signals_pending(); /* the appliance has been ended, and it was said */
        bool unwell = guestfs_shutdown(guest->g) < 0;
        bool crashed = launch_wait(guest) != 0;
        bool matters = guest->changes || !interrupted;
        const char *disk = guest->path ? guest->path : "the disk";
        failed = unwell || crashed;
        if (unwell && matters)
            guest_error(guest, "Could not bring '%s' to disk", disk);
        else if (crashed && matters)
            tool_error(guest->tool,
                       "Could not bring '%s' to disk: the appliance ended with an error", disk);
        guestfs_close(guest->g);
    }
    launch_release(guest);
    img_filesystems_free(guest->volumes);
    img_close(guest->img);
    view_remove(guest);
    free(guest->path);
    *guest = (struct guest){.tool = guest->tool, .watchdog = -1};
    return failed;
}

int guest_run(struct tool *tool, const struct guest_request *r,
              int (*fn)(struct guest *guest, void *opaque), void *opaque)
{
    struct guest guest;
    signals_start();
    if (guest_start(tool, &guest, r))
        return 1;
    int failed = guest_mount(&guest, r) || fn(&guest, opaque);
    return guest_end(&guest) || failed;
}
