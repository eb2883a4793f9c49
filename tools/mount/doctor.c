/* imgtool mount --doctor: what mounting needs, whether it is here, and the command that mends it.
 */
#include "commands.h"
#include "guest.h"
#include "launch.h"
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
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

/* Something that mounting needs: how it is here, and the command that mends it. */
struct need {
    const char *what;
    bool well;
    char state[PATH_MAX + 64], mend[PATH_MAX + 64];
};

static void need_program(struct need *n, const char *program, const char *package)
{
    n->what = program;
    n->well = in_path(program);
    snprintf(n->state, sizeof n->state, "%s", n->well ? "found" : "not found");
    snprintf(n->mend, sizeof n->mend, "apt-get install %s", package);
}

/* The virtual machine itself: libguestfs knows its path. */
static void need_qemu(struct need *n)
{
    guestfs_h *g = guestfs_create();
    char *path = g ? guestfs_get_hv(g) : NULL;
    n->what = "qemu-system";
    n->well = path && access(path, X_OK) == 0;
    snprintf(n->state, sizeof n->state, "%s%s", path ? path : "",
             n->well ? "" : " cannot be run, or is not there");
    snprintf(n->mend, sizeof n->mend, "apt-get install qemu-system-x86");
    free(path);
    if (g)
        guestfs_close(g);
}

static void need_supermin(struct need *n)
{
    need_program(n, "supermin", "supermin");
}

static void need_qemu_img(struct need *n)
{
    need_program(n, "qemu-img", "qemu-utils");
}

/* supermin makes the appliance of a kernel of this machine, which the user must be able to read. */
static void need_kernel(struct need *n)
{
    glob_t found = {0};
    const char *given = getenv("SUPERMIN_MODULES") ? getenv("SUPERMIN_KERNEL") : NULL;
    const char *unreadable = NULL;
    n->what = "kernel";
    snprintf(n->state, sizeof n->state, "none is there");
    snprintf(n->mend, sizeof n->mend, "apt-get install linux-image-amd64");
    if (given) {
        n->well = access(given, R_OK) == 0;
        snprintf(n->state, sizeof n->state, "%s%s", given,
                 n->well ? "" : ", which SUPERMIN_KERNEL names, cannot be read");
        snprintf(n->mend, sizeof n->mend, "chmod 644 %s", given);
        return;
    }
    glob("/boot/vmlinu?-*", 0, NULL, &found);
    glob("/lib/modules/*/vmlinuz", found.gl_pathc ? GLOB_APPEND : 0, NULL, &found);
    for (size_t i = 0; i < found.gl_pathc && !n->well; i++) {
        n->well = access(found.gl_pathv[i], R_OK) == 0;
        if (n->well)
            snprintf(n->state, sizeof n->state, "%s", found.gl_pathv[i]);
        else
            unreadable = found.gl_pathv[i];
    }
    if (!n->well && unreadable) {
        snprintf(n->state, sizeof n->state, "%s cannot be read", unreadable);
        snprintf(n->mend, sizeof n->mend, "chmod 644 %s", unreadable);
    }
    globfree(&found);
}

static void need_fuse(struct need *n)
{
    bool there = access("/dev/fuse", F_OK) == 0;
    n->what = "/dev/fuse";
    n->well = access("/dev/fuse", R_OK | W_OK) == 0;
    snprintf(n->state, sizeof n->state, "%s",
             n->well ? "can be opened"
             : there ? "is not yours to open"
                     : "is not there");
    snprintf(n->mend, sizeof n->mend, "%s", there ? "chmod 666 /dev/fuse" : "modprobe fuse");
}

static void need_fusermount(struct need *n)
{
    need_program(n, in_path("fusermount3") ? "fusermount3" : "fusermount", "fuse3");
}

/* For the appliance, and for FUSE. */
enum { APPLIANCE = 4, ALL = 6 };

static void (*const look[ALL])(struct need *n) = {need_supermin, need_qemu_img, need_qemu,
                                                  need_kernel,   need_fuse,     need_fusermount};

/* The first of NEEDS from FROM to TO that is missing, in one sentence. */
static int complain(struct tool *tool, const char *who, int from, int to)
{
    for (int i = from; i < to; i++) {
        struct need n = {.well = false};
        look[i](&n);
        if (!n.well)
            return tool_error(tool, "%s needs %s: %s; as root: '%s'", who, n.what, n.state, n.mend);
    }
    return 0;
}

int doctor_appliance(struct tool *tool)
{
    return complain(tool, "The appliance", 0, APPLIANCE);
}

int doctor_fuse(struct tool *tool)
{
    return complain(tool, "Mounting", APPLIANCE, ALL);
}

/* A line of the report, and one more where it is not well. Returns 1 then. */
static int say(const struct need *n)
{
    printf("%-8s %s: %s\n", n->well ? "ok" : "MISSING", n->what, n->state);
    if (!n->well)
        printf("         as root: %s\n", n->mend);
    return !n->well;
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
        return printf("MISSING  appliance: does not start\n"
                      "         libguestfs-test-tool shows all of it\n") > 0;
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
    for (int i = 0; i < ALL; i++) {
        struct need n = {.well = false};
        look[i](&n);
        bad += say(&n);
    }
    check_kvm();
    fflush(stdout);
    if (!bad)
        bad = try_start(tool);
    return bad ? 1 : 0;
}
