/*
 * Starting the appliance.
 *
 * /dev/kvm may be there and fail: the appliance then dies at once. It is started again without, and
 * a note in this user's folder (runtime.h), with the name of this boot, has the next start know.
 *
 * libguestfs's own guard kills the appliance at once when its program dies, which loses what QEMU
 * has not yet written and may leave clusters that nobody uses. Ours is a process that waits: the
 * appliance notices by itself, flushes and ends; if it does not, QEMU is asked to, which closes the
 * image as it should be.
 */
#include "launch.h"
#include "commands.h"
#include "runtime.h"
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE = 15 }; /* seconds that an orphaned appliance has for each way to end */

/* ---- notes of this boot ------------------------------------------------------------------------
 */

static char *note_name(const char *what)
{
    char boot[64] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    bool known = f && fscanf(f, "%63[0-9a-f-]", boot) == 1;
    if (f)
        fclose(f);
    char *name;
    return known && asprintf(&name, "%s-%s", what, boot) >= 0 ? name : NULL;
}

bool launch_kvm_is_broken(void)
{
    char *name = note_name("no-kvm"), text[8];
    bool is_broken = name && runtime_read(name, text, sizeof text) >= 0;
    free(name);
    return is_broken;
}

static void remember_kvm_is_broken(void)
{
    char *name = note_name("no-kvm");
    if (name)
        runtime_write(name, "1\n", 2);
    free(name);
}

double launch_last_seconds(void)
{
    char *name = note_name("start"), text[32] = "";
    double seconds = 0;
    if (name && runtime_read(name, text, sizeof text) > 0)
        seconds = strtod(text, NULL);
    free(name);
    return seconds > 0 && seconds < 1000 ? seconds : 0;
}

static void remember_seconds(double seconds)
{
    char *name = note_name("start"), text[32];
    int n = snprintf(text, sizeof text, "%.1f\n", seconds);
    if (name)
        runtime_write(name, text, (size_t)n);
    free(name);
}

/* ---- the guard ---------------------------------------------------------------------------------
 */

static bool ends_within(int pidfd, int seconds)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    return poll(&p, 1, seconds * 1000) > 0;
}

static _Noreturn void guard(int from)
{
    pid_t appliance = 0;
    char last;
    signals_ignore();
    setsid();
    for (int fd = 0; fd < 3; fd++)
        dup2(from, fd);
    bool known = read(from, &appliance, sizeof appliance) == (ssize_t)sizeof appliance;
    int pidfd = known ? (int)syscall(SYS_pidfd_open, appliance, 0U) : -1;
    if (pidfd < 0 || read(from, &last, 1) == 1) /* it ended as it should */
        _exit(0);
    if (!ends_within(pidfd, PATIENCE)) {
        syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0U);
        if (!ends_within(pidfd, PATIENCE))
            syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0U);
    }
    _exit(0);
}

static int start_guard(struct guest *guest)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return tool_error(guest->tool, "Could not make a pipe: %s", strerror(errno));
    guest->watcher = fork();
    if (guest->watcher == 0) {
        close(ends[1]);
        guard(ends[0]);
    }
    close(ends[0]);
    guest->watchdog = ends[1];
    return guest->watcher < 0
               ? tool_error(guest->tool, "Could not start a process: %s", strerror(errno))
               : 0;
}

/* libguestfs waits for it only when its own guard runs. */
int launch_wait(struct guest *guest)
{
    int status = 0;
    pid_t got = 0;
    if (guest->appliance > 0)
        do
            got = waitpid(guest->appliance, &status, 0);
        while (got < 0 && errno == EINTR);
    guest->appliance = 0;
    return got > 0 && status != 0;
}

void launch_release(struct guest *guest)
{
    if (guest->watchdog < 0)
        return;
    pid_t none = 0;
    char done[sizeof none + 1] = {0}; /* an appliance that never was, and that it has ended */
    ssize_t sent = write(guest->watchdog, done, sizeof done);
    (void)sent;
    close(guest->watchdog);
    if (guest->watcher > 0)
        waitpid(guest->watcher, NULL, 0);
    guest->watchdog = -1;
}

/* ---- progress ----------------------------------------------------------------------------------
 */

struct ticker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t over;
    bool stop, runs;
    double expected;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *tick(void *opaque)
{
    struct ticker *t = opaque;
    double start = now();
    pthread_mutex_lock(&t->lock);
    while (!t->stop) {
        fprintf(stderr, "\rStarting the appliance: %.0f s of about %.0f s ", now() - start,
                t->expected);
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        pthread_cond_timedwait(&t->over, &t->lock, &until);
    }
    pthread_mutex_unlock(&t->lock);
    fprintf(stderr, "\r%60s\r", "");
    return NULL;
}

/* On a terminal, the seconds are counted. */
static void ticker_start(struct ticker *t, bool kvm)
{
    double last = launch_last_seconds();
    *t = (struct ticker){.expected = last > 0 ? last : kvm ? 5 : 13};
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->over, NULL);
    t->runs = isatty(2) && pthread_create(&t->thread, NULL, tick, t) == 0;
}

static void ticker_stop(struct ticker *t)
{
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_signal(&t->over);
    pthread_mutex_unlock(&t->lock);
    if (t->runs)
        pthread_join(t->thread, NULL);
}

/* ---- the appliance -----------------------------------------------------------------------------
 */

static int configure(struct guest *guest, const struct launch_disk *disk, bool kvm)
{
    guestfs_h *g = guest->g = guestfs_create_flags(GUESTFS_CREATE_NO_CLOSE_ON_EXIT |
                                                   GUESTFS_CREATE_NO_ENVIRONMENT);
    if (!g)
        return tool_error(guest->tool, "libguestfs could not be set up: %s", strerror(errno));
    guestfs_set_error_handler(g, NULL, NULL);
    bool failed = guestfs_parse_environment(g) < 0 || guestfs_set_backend(g, "direct") < 0 ||
                  (!kvm && guestfs_set_backend_setting(g, "force_tcg", "1") < 0) ||
                  guestfs_set_recovery_proc(g, 0) < 0 || guestfs_set_pgroup(g, 1) < 0;
    if (!failed && disk)
        failed = guestfs_add_drive_opts(g, disk->path, GUESTFS_ADD_DRIVE_OPTS_FORMAT, disk->format,
                                        GUESTFS_ADD_DRIVE_OPTS_READONLY, disk->writable ? 0 : 1,
                                        -1) < 0;
    if (!failed && !disk) /* it does not start without any */
        failed = guestfs_add_drive_scratch(g, 1 << 20, -1) < 0;
    return failed ? guest_error(guest, "Could not set up the appliance") : 0;
}

/* Returns 0, -1 when it was not even tried, 1 when it did not start. */
static int try_launch(struct guest *guest, const struct launch_disk *disk, bool kvm)
{
    struct ticker ticker;
    if (configure(guest, disk, kvm))
        return -1;
    double start = now();
    ticker_start(&ticker, kvm);
    int failed = guestfs_launch(guest->g) < 0;
    ticker_stop(&ticker);
    if (!failed)
        remember_seconds(now() - start);
    return failed;
}

static bool has_kvm(void)
{
    return access("/dev/kvm", R_OK | W_OK) == 0 && !launch_kvm_is_broken();
}

int launch(struct guest *guest, const struct launch_disk *disk)
{
    if (start_guard(guest))
        return 1;
    bool kvm = has_kvm();
    int failed = try_launch(guest, disk, kvm);
    if (failed > 0 && kvm && !signals_pending()) {
        guestfs_close(guest->g);
        failed = try_launch(guest, disk, false);
        if (!failed) {
            tool_error(guest->tool,
                       "KVM is there but does not work; the appliance runs without it, "
                       "as it will until this machine starts anew");
            remember_kvm_is_broken();
        }
    }
    if (!failed)
        guest->appliance = guestfs_get_pid(guest->g);
    if (failed > 0 && !signals_pending())
        return doctor_appliance(guest->tool) ||
               guest_error(guest,
                           "The appliance does not start ('imgtool mount --doctor' says why)");
    if (failed > 0 || (!failed && signals_pending()))
        return tool_error(guest->tool, "Interrupted while the appliance started");
    if (failed)
        return 1;
    if (write(guest->watchdog, &guest->appliance, sizeof guest->appliance) !=
        (ssize_t)sizeof guest->appliance)
        return tool_error(guest->tool, "The appliance's guard is gone");
    return 0;
}
