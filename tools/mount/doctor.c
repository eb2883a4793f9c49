/* imgtool mount --doctor: what mounting needs, whether it is here, and the command that mends it.
 */
#include "commands.h"
#include "guest.h"
#include "launch.h"
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static bool in_path(const char *program)
{
    const char *path = getenv("PATH");
    char *copy = strdup(path ? path : ""), *rest = copy, *folder, file[4096];
    bool found = false;
    while (copy && !found && (folder = strsep(&rest, ":")))
        found = snprintf(file, sizeof file, "%s/%s", folder, program) < (int)sizeof file &&
                access(file, X_OK) == 0;
    free(copy);
    return found;
}

/* A line of the report; MEND is printed where it is not well. Returns 1 then. */
static int say(bool well, const char *what, const char *state, const char *mend)
{
    printf("%-8s %s: %s\n", well ? "ok" : "MISSING", what, state);
    if (!well)
        printf("         %s\n", mend);
    return !well;
}

static int check_fuse(void)
{
    bool there = access("/dev/fuse", F_OK) == 0, open_ = access("/dev/fuse", R_OK | W_OK) == 0;
    int bad = say(open_, "FUSE",
                  open_   ? "/dev/fuse can be opened"
                  : there ? "/dev/fuse is not yours to open"
                          : "/dev/fuse is not there",
                  there ? "as root: chmod 666 /dev/fuse" : "as root: modprobe fuse");
    bool tool = in_path("fusermount") || in_path("fusermount3");
    return bad +
           say(tool, "fusermount", tool ? "found" : "not found", "as root: apt-get install fuse3");
}

/* supermin makes the appliance of a kernel of this machine, which the user must be able to read. */
static int check_kernel(void)
{
    glob_t found = {0};
    const char *given = getenv("SUPERMIN_KERNEL"), *unreadable = NULL, *good = NULL;
    char text[4200], mend[4200];
    glob("/boot/vmlinu?-*", 0, NULL, &found);
    glob("/lib/modules/*/vmlinuz", GLOB_APPEND, NULL, &found);
    for (size_t i = 0; i < found.gl_pathc; i++)
        if (access(found.gl_pathv[i], R_OK) == 0)
            good = found.gl_pathv[i];
        else
            unreadable = found.gl_pathv[i];
    if (given)
        good = access(given, R_OK) == 0 ? given : NULL;
    snprintf(text, sizeof text, "%s",
             good         ? good
             : unreadable ? "none can be read"
                          : "none is there");
    if (unreadable)
        snprintf(mend, sizeof mend, "as root: chmod 644 %s", unreadable);
    else
        snprintf(mend, sizeof mend, "as root: apt-get install linux-image-amd64");
    int bad = say(good != NULL, "kernel", text, mend);
    globfree(&found);
    return bad;
}

static void check_kvm(void)
{
    bool usable = access("/dev/kvm", R_OK | W_OK) == 0;
    printf("%-8s KVM: %s\n", usable && !launch_kvm_is_broken() ? "ok" : "slow",
           launch_kvm_is_broken()          ? "is there but does not work on this machine"
           : usable                        ? "can be opened"
           : access("/dev/kvm", F_OK) == 0 ? "is not yours to open (as root: usermod -a -G kvm YOU)"
                                           : "is not there; the appliance runs without it");
}

static int try_start(struct tool *tool)
{
    struct guest guest = {.tool = tool, .watchdog = -1};
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    signals_start();
    int failed = launch(&guest, NULL);
    clock_gettime(CLOCK_MONOTONIC, &to);
    failed |= guest_end(&guest);
    double seconds = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
    if (failed)
        return say(false, "appliance", "does not start", "libguestfs-test-tool shows all of it");
    printf("%-8s appliance: a start takes %.0f seconds here\n", "ok", launch_last_seconds());
    if (seconds > launch_last_seconds() + 2)
        printf("         the first one took %.0f seconds\n", seconds);
    return 0;
}

int doctor(struct tool *tool)
{
    int bad = 0;
    guestfs_h *g = guestfs_create();
    struct guestfs_version *version = g ? guestfs_version(g) : NULL;
    if (version)
        printf("%-8s libguestfs: %d.%d.%d\n", "ok", (int)version->major, (int)version->minor,
               (int)version->release);
    guestfs_free_version(version);
    if (g)
        guestfs_close(g);
    bool has = in_path("supermin");
    bad += say(has, "supermin", has ? "found" : "not found", "as root: apt-get install supermin");
    has = in_path("qemu-img");
    bad += say(has, "qemu-img", has ? "found" : "not found", "as root: apt-get install qemu-utils");
    bad += check_kernel() + check_fuse();
    check_kvm();
    fflush(stdout);
    if (!bad)
        bad = try_start(tool);
    return bad ? 1 : 0;
}
