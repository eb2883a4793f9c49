/*
 * The parent's part: starts the child, puts under each of its reads what the disk has there, and
 * counts what that takes.
 *
 * The memfd holds CHUNKS chunks of the disk at most, each in the slot that its number gives; what
 * was there before is taken out again. A single read is shorter than that, so that it finds all
 * that it wants; libblkid keeps what it has read.
 */
#include "lib/ops/filesystems.h"

#ifdef HAVE_BLKID

#include "lib/checked.h"
#include "lib/ops/filesystems_child.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    CHUNK = 64 << 10,
    CHUNKS = 128,
    READ_MAX = 4 << 20, /* the largest partition table that Linux reads */
    TICK = 20,          /* ms between two looks at the clock */
};

struct supervisor {
    const struct probe_job *job;
    int memfd, listener;
    pid_t child;
    uint64_t started;       /* processor time of this thread then */
    uint64_t slots[CHUNKS]; /* which chunk is in there, plus 1; 0: none */
    uint8_t *buffer;        /* a chunk */
    unsigned trouble;
    struct img_error *err;
    int failed; /* the disk could not be read: ERR says why */
};

static uint64_t nanoseconds(clockid_t clock)
{
    struct timespec t;
    return clock_gettime(clock, &t) < 0 ? 0 : (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Processor time, not the clock's: a busy machine is no fault of the disk. */
static bool is_over(const struct supervisor *s)
{
    clockid_t clock;
    uint64_t used = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - s->started;
    if (clock_getcpuclockid(s->child, &clock) == 0)
        used += nanoseconds(clock);
    return used > s->job->time;
}

static bool is_zero(const uint8_t *data, size_t len)
{
    return !data[0] && !memcmp(data, data + 1, len - 1);
}

static int fill_chunk(struct supervisor *s, uint64_t chunk)
{
    uint64_t *slot = &s->slots[chunk % CHUNKS], start = chunk * CHUNK;
    if (*slot == chunk + 1)
        return 0;
    if (*slot && fallocate(s->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           (off_t)((*slot - 1) * CHUNK), CHUNK) < 0)
        return img_fail_errno(s->err, errno, "Could not empty a part of the disk's copy");
    *slot = chunk + 1;
    size_t len = (size_t)min_u64(CHUNK, s->job->size - start);
    int ret = s->job->read(s->job->opaque, s->buffer, len, start, s->err);
    if (ret < 0 || is_zero(s->buffer, len))
        return ret;
    if (pwrite(s->memfd, s->buffer, len, (off_t)start) != (ssize_t)len)
        return img_fail_errno(s->err, errno ? errno : EIO, "Could not copy a part of the disk");
    return 0;
}

/* Puts the disk under [START, START + LEN). Returns what the child's read gets: 0, or an error. */
static int fill(struct supervisor *s, uint64_t start, uint64_t len)
{
    if (start >= s->job->size || !len)
        return 0;
    len = min_u64(len, s->job->size - start);
    if (len > READ_MAX) {
        s->trouble |= PROBE_TOO_LARGE;
        return -EIO;
    }
    for (uint64_t c = start / CHUNK; c <= (start + len - 1) / CHUNK; c++) {
        s->failed = fill_chunk(s, c);
        if (s->failed)
            return -EIO;
    }
    return 0;
}

/* One read that the child is about to do. */
static int serve(struct supervisor *s)
{
    struct seccomp_notif request;
    memset(&request, 0, sizeof request);
    if (ioctl(s->listener, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0)
        return errno == EINTR || errno == ENOENT ? 0 : -errno; /* ENOENT: it has died */
    int64_t start = request.data.nr == SYS_pread64 ? (int64_t)request.data.args[3]
                                                   : lseek(s->memfd, 0, SEEK_CUR);
    int ret = start < 0 ? -EINVAL : fill(s, (uint64_t)start, request.data.args[2]);
    struct seccomp_notif_resp answer = {
        .id = request.id,
        .error = ret,
        .flags = ret ? 0 : SECCOMP_USER_NOTIF_FLAG_CONTINUE,
    };
    if (ioctl(s->listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) < 0 && errno != ENOENT)
        return -errno;
    return 0;
}

/* Until the child has ended, or has to. */
static void supervise(struct supervisor *s)
{
    struct pollfd p = {.fd = s->listener, .events = POLLIN};
    while (!s->failed) {
        int ready = poll(&p, 1, TICK);
        if (ready < 0 && errno != EINTR)
            break;
        if (ready > 0 && p.revents & POLLIN) {
            if (serve(s) < 0)
                break;
        } else if (ready > 0) {
            return; /* it is gone */
        }
        if (is_over(s)) {
            s->trouble |= PROBE_TOO_LONG;
            break;
        }
    }
    kill(s->child, SIGKILL);
}

static int receive_descriptor(int socket)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    char byte;
    struct iovec iov = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof control.bytes,
    };
    ssize_t got;
    do
        got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    struct cmsghdr *c = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
        return -1;
    int fd;
    memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

/* How it ended: killed by us, by the kernel, or not at all. */
static void reap(struct supervisor *s)
{
    int status = 0;
    pid_t got;
    do
        got = waitpid(s->child, &status, 0);
    while (got < 0 && errno == EINTR);
    bool by_limit = got == s->child && WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU;
    if (by_limit)
        s->trouble |= PROBE_TOO_LONG;
    /* it ends with 0, unless a sanitizer ends it */
    if (!s->failed && !(s->trouble & PROBE_TOO_LONG) && got == s->child && status)
        s->trouble |= PROBE_DIED;
}

static int run_child(struct supervisor *s, struct probe_report *report)
{
    int ends[2];
    pid_t self = getpid();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return img_fail_errno(s->err, errno, "Could not make a socket");
    s->child = fork();
    if (s->child == 0)
        probe_child(report, s->memfd, ends[1], s->job, self);
    int cause = errno;
    close(ends[1]);
    if (s->child < 0) {
        close(ends[0]);
        return img_fail_errno(s->err, cause, "Could not start a process");
    }
    s->listener = receive_descriptor(ends[0]);
    close(ends[0]);
    if (s->listener >= 0) {
        supervise(s);
        close(s->listener);
    }
    reap(s);
    if (s->failed)
        return s->failed;
    if (report->outcome == PROBE_NO_SANDBOX || s->listener < 0)
        return img_fail_errno(s->err, report->error ? (int)report->error : ENOSYS,
                              "Could not lock up the process that looks at the disk, which needs "
                              "Linux 5.9");
    return 0;
}

/* An empty disk. */
static int make_disk(uint64_t size, struct img_error *err)
{
    struct rlimit limit;
    if (size > INT64_MAX ||
        (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < size)) /* it would kill us */
        return img_fail(err, EFBIG, "A file of %" PRIu64 " bytes is not allowed (ulimit -f)", size);
    int fd = memfd_create("imgtool-disk", MFD_CLOEXEC);
    if (fd < 0)
        return img_fail_errno(err, errno, "Could not make a file in memory");
    if (ftruncate(fd, (off_t)size) < 0) {
        int cause = errno;
        close(fd);
        return img_fail_errno(err, cause, "Could not make a file of %" PRIu64 " bytes in memory",
                              size);
    }
    return fd;
}

int probe_run(struct probe_report **out, unsigned *trouble, const struct probe_job *job,
              struct img_error *err)
{
    struct supervisor s = {.job = job, .listener = -1, .err = err};
    s.started = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    s.buffer = malloc(CHUNK);
    struct probe_report *report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE,
                                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!s.buffer || report == MAP_FAILED) {
        free(s.buffer);
        if (report != MAP_FAILED)
            munmap(report, sizeof *report);
        return img_fail_nomem(err);
    }
    int ret = s.memfd = make_disk(job->size, err);
    if (ret >= 0) {
        ret = run_child(&s, report);
        close(s.memfd);
    }
    free(s.buffer);
    if (ret < 0) {
        probe_report_free(report);
        return ret;
    }
    *trouble = s.trouble;
    *out = report;
    return 0;
}

void probe_report_free(struct probe_report *report)
{
    if (report)
        munmap(report, sizeof *report);
}

#else

int probe_run(struct probe_report **report, unsigned *trouble, const struct probe_job *job,
              struct img_error *err)
{
    (void)report;
    (void)trouble;
    (void)job;
    return img_fail(err, ENOTSUP,
                    "this imgtool was built without libblkid and libseccomp, which find them");
}

void probe_report_free(struct probe_report *report)
{
    (void)report;
}

#endif
