/* imgtool cat, copy-out, copy-in, tar-out: whole files, through libguestfs. */
#include "commands.h"
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct job {
    struct guest_request guest;
    char **names; /* what follows the image */
    int count;
};

/* Options, the image, and LEAST to MOST names. Returns 0; otherwise *CODE is the command's end. */
static int read_words(struct tool *tool, struct job *job, int argc, char **argv, int least,
                      int most, const char *expected, int *code)
{
    static const struct option with_snapshot[] = {GUEST_LONG, GUEST_MOUNT_LONG, {0, 0, 0, 0}};
    static const struct option without[] = {{"help", no_argument, 0, 'h'},
                                            {"format", required_argument, 0, 'f'},
                                            {"key", required_argument, 0, GUEST_KEY},
                                            GUEST_MOUNT_LONG,
                                            {0, 0, 0, 0}};
    bool writable = job->guest.writable;
    int c;
    *code = 1;
    while ((c = tool_getopt(tool, argc, argv, writable ? "hf:im:" : "hf:l:im:",
                            writable ? without : with_snapshot, code)) != -1) {
        if (c == TOOL_STOP ||
            guest_option(tool, &job->guest, c == 'l' ? GUEST_SNAPSHOT : c, optarg) < 0)
            return 1;
    }
    job->count = argc - optind - 1;
    if (job->count < least || job->count > most) {
        *code = tool_usage_error(tool, "Expecting an image file name and %s", expected);
        return 1;
    }
    job->guest.filename = argv[optind];
    job->names = argv + optind + 1;
    return 0;
}

/* A guest's path counts from its root. */
static char *absolute(const char *path)
{
    char *whole;
    return asprintf(&whole, "%s%s", path[0] == '/' ? "" : "/", path) < 0 ? NULL : whole;
}

/* ---- cat ---------------------------------------------------------------------------------------
 */

static int cat(struct guest *guest, void *opaque)
{
    struct job *job = opaque;
    int failed = 0;
    for (int i = 0; i < job->count && !failed; i++) {
        char *path = absolute(job->names[i]);
        if (!path)
            return tool_error(guest->tool, "Out of memory");
        if (guestfs_download(guest->g, path, "/dev/stdout") < 0)
            failed = guest_error(guest, "Could not read '%s'", job->names[i]);
        free(path);
    }
    return failed;
}

int cmd_cat(struct tool *tool, int argc, char **argv)
{
    struct job job = {.count = 0};
    int code;
    if (read_words(tool, &job, argc, argv, 1, 1, "the path of a file in it", &code))
        return code;
    return guest_run(tool, &job.guest, cat, &job);
}

/* ---- tar-out -----------------------------------------------------------------------------------
 */

static int tar_out(struct guest *guest, void *opaque)
{
    struct job *job = opaque;
    const char *out = job->count > 1 && strcmp(job->names[1], "-") != 0 ? job->names[1]
                                                                        : "/dev/stdout";
    char *path = absolute(job->names[0]);
    if (!path)
        return tool_error(guest->tool, "Out of memory");
    int failed = guestfs_tar_out(guest->g, path, out) < 0
                     ? guest_error(guest, "Could not read the folder '%s'", job->names[0])
                     : 0;
    free(path);
    return failed;
}

int cmd_tar_out(struct tool *tool, int argc, char **argv)
{
    struct job job = {.count = 0};
    int code;
    if (read_words(tool, &job, argc, argv, 1, 2, "the path of a folder in it", &code))
        return code;
    bool to_stdout = job.count < 2 || !strcmp(job.names[1], "-");
    if (to_stdout && isatty(1))
        return tool_error(tool, "A tar archive is not written to a terminal");
    return guest_run(tool, &job.guest, tar_out, &job);
}

/* ---- copy-out and copy-in ----------------------------------------------------------------------
 */

static int copy_out(struct guest *guest, void *opaque)
{
    struct job *job = opaque;
    int failed = 0;
    for (int i = 0; i + 1 < job->count && !failed; i++) {
        char *path = absolute(job->names[i]);
        if (!path)
            return tool_error(guest->tool, "Out of memory");
        if (guestfs_copy_out(guest->g, path, job->names[job->count - 1]) < 0)
            failed = guest_error(guest, "Could not copy '%s'", job->names[i]);
        free(path);
    }
    return failed;
}

int cmd_copy_out(struct tool *tool, int argc, char **argv)
{
    struct job job = {.count = 0};
    struct stat st;
    int code;
    if (read_words(tool, &job, argc, argv, 2, 1 << 20, "paths in it and a folder", &code))
        return code;
    const char *dir = job.names[job.count - 1];
    if (stat(dir, &st) < 0)
        return tool_error(tool, "Could not copy to '%s': %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return tool_error(tool, "Could not copy to '%s': it is not a folder", dir);
    return guest_run(tool, &job.guest, copy_out, &job);
}

static int copy_in(struct guest *guest, void *opaque)
{
    struct job *job = opaque;
    char *dir = absolute(job->names[job->count - 1]);
    int failed = 0;
    if (!dir)
        return tool_error(guest->tool, "Out of memory");
    for (int i = 0; i + 1 < job->count && !failed; i++)
        if (guestfs_copy_in(guest->g, job->names[i], dir) < 0)
            failed = guest_error(guest, "Could not copy '%s'", job->names[i]);
    free(dir);
    return failed;
}

int cmd_copy_in(struct tool *tool, int argc, char **argv)
{
    struct job job = {.guest.writable = true};
    int code;
    if (read_words(tool, &job, argc, argv, 2, 1 << 20, "files and a folder in it", &code))
        return code;
    for (int i = 0; i + 1 < job.count; i++)
        if (access(job.names[i], R_OK) < 0)
            return tool_error(tool, "Could not read '%s': %s", job.names[i], strerror(errno));
    return guest_run(tool, &job.guest, copy_in, &job);
}
