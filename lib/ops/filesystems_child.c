/*
 * How the child gives up everything but its memfd.
 *
 * Two filters: the first has reads announced to the parent, who needs its descriptor; once that has
 * been sent, the second one has all but a few calls fail. They do not kill: what a later libblkid
 * or C library asks for besides, and can do without, would end the search on every disk.
 */
#ifdef HAVE_BLKID

#include "lib/ops/filesystems_child.h"

#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { DISK = 0, SOCKET = 1 };

/* What an allocator and libblkid need. */
static const int free_calls[] = {
    SCMP_SYS(munmap),     SCMP_SYS(mremap),       SCMP_SYS(brk),
    SCMP_SYS(madvise),    SCMP_SYS(futex),        SCMP_SYS(getrandom),
    SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall),
};

/* Those that are given the disk, and nothing else, as a descriptor. */
static const int disk_calls[] = {
    SCMP_SYS(read),       SCMP_SYS(pread64),   SCMP_SYS(lseek),
    SCMP_SYS(_llseek),    SCMP_SYS(fstat),     SCMP_SYS(fstat64),
    SCMP_SYS(newfstatat), SCMP_SYS(fadvise64), SCMP_SYS(fadvise64_64),
};

static int announce_reads(int *listener)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    if (!filter)
        return -ENOMEM;
    int ret = seccomp_rule_add(filter, SCMP_ACT_NOTIFY, SCMP_SYS(read), 0);
    if (!ret)
        ret = seccomp_rule_add(filter, SCMP_ACT_NOTIFY, SCMP_SYS(pread64), 0);
    if (!ret)
        ret = seccomp_load(filter);
    *listener = ret ? -1 : seccomp_notify_fd(filter);
    seccomp_release(filter);
    return ret < 0 ? ret : *listener < 0 ? -ENOSYS : 0;
}

static int forbid_the_rest(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (!filter)
        return -ENOMEM;
    int ret = 0;
    for (size_t i = 0; i < sizeof free_calls / sizeof *free_calls && !ret; i++)
        ret = seccomp_rule_add(filter, SCMP_ACT_ALLOW, free_calls[i], 0);
    for (size_t i = 0; i < sizeof disk_calls / sizeof *disk_calls && !ret; i++)
        ret = seccomp_rule_add(filter, SCMP_ACT_ALLOW, disk_calls[i], 1,
                               SCMP_A0(SCMP_CMP_EQ, DISK, 0));
    /* where a checksum is wrong, libblkid would read once more past the cache; here is none */
    if (!ret)
        ret = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 2,
                               SCMP_A0(SCMP_CMP_EQ, DISK, 0), SCMP_A1(SCMP_CMP_EQ, F_GETFL, 0));
    if (!ret)
        ret = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EINVAL), SCMP_SYS(fcntl), 2,
                               SCMP_A0(SCMP_CMP_EQ, DISK, 0), SCMP_A1(SCMP_CMP_EQ, F_SETFL, 0));
    /* memory of its own, and none that can be run */
    if (!ret)
        ret = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2,
                               SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
                               SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_ANONYMOUS, MAP_ANONYMOUS));
    if (!ret)
        ret = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                               SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (!ret)
        ret = seccomp_load(filter);
    seccomp_release(filter);
    return ret;
}

static int send_descriptor(int fd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec byte = {(char[]){1}, 1};
    struct msghdr message = {
        .msg_iov = &byte,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(SOCKET, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The disk becomes descriptor 0, the socket 1, and nothing else stays open. */
static int keep_two(int memfd, int socket)
{
    int s = fcntl(socket, F_DUPFD, 2), d = fcntl(memfd, F_DUPFD, 2);
    if (s < 0 || d < 0 || dup2(d, DISK) < 0 || dup2(s, SOCKET) < 0)
        return -errno;
    return syscall(SYS_close_range, 2U, ~0U, 0U) < 0 ? -errno : 0;
}

static int limit(int resource, uint64_t value)
{
    struct rlimit now;
    if (getrlimit((__rlimit_resource_t)resource, &now) < 0)
        return -errno;
    rlim_t least = now.rlim_max < value ? now.rlim_max : (rlim_t)value;
    return setrlimit((__rlimit_resource_t)resource, &(struct rlimit){least, least}) < 0 ? -errno
                                                                                        : 0;
}

/* MEMORY bytes more than what it has from its parent. A sanitizer maps more than anybody counts. */
static int limit_memory(uint64_t memory)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)memory;
    return 0;
#else
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    bool known = f && fscanf(f, "%lu", &pages) == 1;
    if (f)
        fclose(f);
    return known ? limit(RLIMIT_AS, pages * (uint64_t)sysconf(_SC_PAGESIZE) + memory) : 0;
#endif
}

static void forget_handlers(void)
{
    sigset_t none;
    for (int s = 1; s < NSIG; s++)
        signal(s, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

int probe_lock_up(int memfd, int socket, const struct probe_job *job, pid_t parent)
{
    int listener = -1;
    forget_handlers();
    unsetenv("LIBBLKID_DEBUG"); /* it would write to a descriptor that is not there */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    if (getppid() != parent)
        _exit(1);
    int ret = limit_memory(job->memory);
    if (!ret)
        ret = limit(RLIMIT_CPU, 1 + job->time / 1000000000);
    if (!ret)
        ret = limit(RLIMIT_CORE, 0);
    if (!ret)
        ret = keep_two(memfd, socket);
    if (!ret)
        ret = announce_reads(&listener);
    if (!ret)
        ret = send_descriptor(listener);
    close(listener);
    close(SOCKET);
    return ret ? ret : forbid_the_rest();
}

void probe_child(struct probe_report *report, int memfd, int socket, const struct probe_job *job,
                 pid_t parent)
{
    int ret = probe_lock_up(memfd, socket, job, parent);
    if (ret) {
        report->error = (uint32_t)-ret;
        report->outcome = PROBE_NO_SANDBOX;
    } else {
        report->outcome = PROBE_FAILED;
        probe_disk(report, DISK, job->size, job->sector_size);
    }
    /* not _exit(): a sanitizer would look for leaks then, which needs what we may not do */
    for (;;)
        syscall(SYS_exit_group, 0);
}

#endif
