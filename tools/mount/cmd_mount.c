/*
 * imgtool mount: the guest's files on a folder, through libguestfs's own FUSE.
 *
 * A child does all of it and stays; the parent waits for one byte that says that the mount is
 * usable, or for the child's end. Whoever unmounts, and however: the child then flushes, ends the
 * appliance, and leaves in its record how that went, for umount to read.
 */
#include "commands.h"
#include "guest.h"
#include "../output.h"
#include "records.h"
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct mount_request {
    struct guest_request guest;
    bool foreground;
    char *dir; /* absolute */
};

/* ---- the process that stays --------------------------------------------------------------------
 */

static int describe(struct record *record, const struct guest *guest, const struct mount_request *r)
{
    struct stat st;
    if (stat(guest->path, &st) < 0)
        return tool_error(guest->tool, "Could not look at '%s': %s", guest->path, strerror(errno));
    *record = (struct record){
        .pid = getpid(),
        .device = st.st_dev,
        .inode = st.st_ino,
        .writable = r->guest.writable,
        .image = strdup(guest->path),
        .dir = strdup(r->dir),
    };
    return record->image && record->dir ? 0 : tool_error(guest->tool, "Out of memory");
}

/* Lets go of the terminal and of whoever waits for our output. */
static void go_to_background(int ready)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    setsid();
    if (chdir("/") < 0 || null < 0)
        return;
    ssize_t sent = write(ready, "", 1);
    (void)sent;
    for (int fd = 0; fd < 3; fd++)
        dup2(null, fd);
    close(null);
}

/* *KEPT: there is a record. */
static int serve(struct guest *guest, const struct mount_request *r, struct record *record,
                 int ready, bool *kept)
{
    if (guestfs_mount_local(guest->g, r->dir, GUESTFS_MOUNT_LOCAL_READONLY,
                            r->guest.writable ? 0 : 1, -1) < 0)
        return guest_error(guest, "Could not mount on '%s'", r->dir);
    int ret = record_write(record);
    if (ret < 0) {
        tool_error(guest->tool, "Could not keep a record of the mount: %s", strerror(-ret));
        unmount_fuse(r->dir, true);
        return 1;
    }
    *kept = true;
    signals_unmount(r->dir);
    if (signals_pending())
        unmount_fuse(r->dir, true);
    if (ready >= 0)
        go_to_background(ready);
    int failed = guestfs_mount_local_run(guest->g) < 0
                     ? guest_error(guest, "Could not serve '%s'", r->dir)
                     : 0;
    signals_unmount(NULL); /* somebody else may mount there now */
    return failed;
}

/* What umount will read; nobody needs to hear of a mount that could not lose anything. */
static void leave(struct record *record, int failed)
{
    if (!record->writable || !failed) {
        record_end();
        return;
    }
    record->state = RECORD_FAILED;
    record->message = strdup("the appliance could not bring everything to disk");
    record_write(record);
}

static int stay(struct tool *tool, const struct mount_request *r, int ready)
{
    struct guest guest;
    struct record record = {0};
    signals_start();
    if (guest_start(tool, &guest, &r->guest))
        return 1;
    int failed = describe(&record, &guest, r) || guest_mount(&guest, &r->guest);
    bool kept = false;
    if (!failed)
        failed = serve(&guest, r, &record, ready, &kept);
    failed |= guest_end(&guest);
    if (kept)
        leave(&record, failed);
    record_clear(&record);
    return failed;
}

static int in_background(struct tool *tool, const struct mount_request *r)
{
    int ready[2], status = 0;
    char byte;
    if (pipe2(ready, O_CLOEXEC) < 0)
        return tool_error(tool, "Could not make a pipe: %s", strerror(errno));
    pid_t child = fork();
    if (child < 0)
        return tool_error(tool, "Could not start a process: %s", strerror(errno));
    if (child == 0) {
        close(ready[0]);
        int code = stay(tool, r, ready[1]);
        fflush(NULL);
        _exit(code);
    }
    close(ready[1]);
    signals_ignore(); /* the child gets them too, and says how it ends */
    ssize_t got;
    do
        got = read(ready[0], &byte, 1);
    while (got < 0 && errno == EINTR);
    if (got == 1)
        return 0;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* ---- the list ----------------------------------------------------------------------------------
 */

static const char *owner_name(uid_t owner, char buf[24])
{
    const struct passwd *user = getpwuid(owner);
    snprintf(buf, 24, "%u", (unsigned)owner);
    return user ? user->pw_name : buf;
}

static const char *state_name(const struct record *r)
{
    return r->alive ? "mounted" : r->state == RECORD_FAILED ? "failed" : "stale";
}

static int list(bool json)
{
    struct records all;
    struct json j = {.out = stdout};
    records_read(&all);
    if (json)
        json_open(&j, NULL, '[');
    for (size_t i = 0; i < all.count; i++) {
        const struct record *r = &all.items[i];
        char number[24];
        const char *owner = owner_name(r->owner, number);
        if (json) {
            json_open(&j, NULL, '{');
            json_string(&j, "state", state_name(r));
            json_string(&j, "image", r->image);
            json_string(&j, "directory", r->dir);
            json_bool(&j, "writable", r->writable);
            json_string(&j, "user", owner);
            json_number(&j, "process", (uint64_t)r->pid);
            json_close(&j, '}');
            continue;
        }
        char *image = printable(r->image), *dir = printable(r->dir);
        printf("%s on %s (%s, %s, by %s, process %d)\n", image ? image : "", dir ? dir : "",
               r->writable ? "rw" : "ro", state_name(r), owner, (int)r->pid);
        free(image);
        free(dir);
    }
    if (json) {
        json_close(&j, ']');
        putchar('\n');
    }
    records_free(&all);
    return 0;
}

/* ---- the command -------------------------------------------------------------------------------
 */

/* FUSE would say it too, after the appliance has been started for nothing. */
static int check_dir(struct tool *tool, struct mount_request *r, const char *dir)
{
    struct stat st;
    if (stat(dir, &st) < 0)
        return tool_error(tool, "Could not mount on '%s': %s", dir,
                          errno == ENOTCONN ? "a mount was left behind there; 'imgtool umount' "
                                              "clears it"
                                            : strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return tool_error(tool, "Could not mount on '%s': it is not a folder", dir);
    if (doctor_fuse(tool))
        return 1;
    r->dir = realpath(dir, NULL);
    return r->dir ? 0 : tool_error(tool, "Could not resolve '%s': %s", dir, strerror(errno));
}

int cmd_mount(struct tool *tool, int argc, char **argv)
{
    enum { RW = GUEST_OWN, FOREGROUND, LIST, DOCTOR };
    static const struct option options[] = {
        GUEST_LONG,
        GUEST_MOUNT_LONG,
        {"rw", no_argument, 0, RW},
        {"foreground", no_argument, 0, FOREGROUND},
        {"list", no_argument, 0, LIST},
        {"doctor", no_argument, 0, DOCTOR},
        {"output", required_argument, 0, GUEST_OUTPUT},
        {0, 0, 0, 0},
    };
    struct mount_request r = {.foreground = false};
    int c, code, mode = 0;
    bool json = false;
    while ((c = tool_getopt(tool, argc, argv, "hf:l:im:", options, &code)) != -1) {
        if (c == TOOL_STOP)
            return code;
        if (c == RW)
            r.guest.writable = true;
        else if (c == FOREGROUND)
            r.foreground = true;
        else if (c == LIST || c == DOCTOR)
            mode = c;
        else if (c == GUEST_OUTPUT && tool_output_format(tool, optarg, &json))
            return 1;
        else if (guest_option(tool, &r.guest, c == 'l' ? GUEST_SNAPSHOT : c, optarg) < 0)
            return 1;
    }
    if (mode && optind != argc)
        return tool_usage_error(tool, "--list and --doctor take no names");
    if (mode)
        return mode == LIST ? list(json) : doctor(tool);
    if (optind != argc - 2)
        return tool_usage_error(tool, "Expecting an image file name and a folder to mount it on");
    r.guest.filename = argv[optind];
    if (check_dir(tool, &r, argv[optind + 1]))
        return 1;
    code = r.foreground ? stay(tool, &r, -1) : in_background(tool, &r);
    free(r.dir);
    return code;
}
