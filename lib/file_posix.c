/*
 * Files and block devices of this host.
 *
 * Opened without O_CREAT and, for the kinds that could block (a FIFO, a device that waits for
 * media), with O_NONBLOCK; anything that is not a regular file or a block device is refused, as
 * QEMU's file driver does, but for character devices, which QEMU calls host_device.
 */
#include "lib/file.h"
#include "lib/checked.h"
#include "lib/file_device.h"
#include "lib/file_direct.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int64_t posix_pread(struct file *f, void *buf, size_t len, host_off off)
{
    size_t done = 0;
    if (f->direct)
        return direct_pread(f, buf, len, off);
    while (done < len) {
        ssize_t n = pread(f->fd, (char *)buf + done, len - done, (off_t)(off.v + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (int64_t)done;
}

static int posix_size(struct file *f, uint64_t *size)
{
    struct stat st;
    if (fstat(f->fd, &st) < 0)
        return -errno;
    if (S_ISREG(st.st_mode)) {
        *size = (uint64_t)st.st_size;
        return 0;
    }
    if (S_ISBLK(st.st_mode))
        return ioctl(f->fd, BLKGETSIZE64, size) < 0 ? -errno : 0;
    off_t end = lseek(f->fd, 0, SEEK_END);
    *size = end < 0 ? 0 : (uint64_t)end;
    return 0;
}

static int64_t posix_allocated(struct file *f)
{
    struct stat st;
    if (fstat(f->fd, &st) < 0)
        return -errno;
    return (int64_t)st.st_blocks * 512;
}

static int posix_extent(struct file *f, host_off off, struct file_extent *out)
{
    off_t data = lseek(f->fd, (off_t)off.v, SEEK_DATA);
    if (data < 0 && errno == ENXIO) { /* a hole to the end, or past it */
        *out = (struct file_extent){.length = UINT64_MAX - off.v, .data = false};
        return 0;
    }
    if (data > (off_t)off.v) {
        *out = (struct file_extent){.length = (uint64_t)data - off.v, .data = false};
        return 0;
    }
    off_t hole = data < 0 ? -1 : lseek(f->fd, (off_t)off.v, SEEK_HOLE);
    if (hole <= (off_t)off.v) { /* no such call here, or the file changed under us: call it data */
        *out = (struct file_extent){.length = UINT64_MAX - off.v, .data = true};
        return 0;
    }
    *out = (struct file_extent){.length = (uint64_t)hole - off.v, .data = true};
    return 0;
}

static void posix_close(struct file *f)
{
    if (f->direct)
        close(f->direct_fd);
    close(f->fd);
}

static int posix_pwrite(struct file *f, const void *buf, size_t len, host_off off)
{
    if (f->direct)
        return direct_pwrite(f, buf, len, off);
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(f->fd, (const char *)buf + done, len - done, (off_t)(off.v + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    return 0;
}

static int posix_truncate(struct file *f, uint64_t size)
{
    uint64_t now = 0;
    int ret;
    if (f->device) {
        ret = posix_size(f, &now);
        return ret < 0 ? ret : size > now ? -ENOSPC : 0;
    }
    if (size > INT64_MAX)
        return -EINVAL;
    do
        ret = ftruncate(f->fd, (off_t)size);
    while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : 0;
}

static int call_fallocate(struct file *f, int mode, host_off off, uint64_t len)
{
    int ret;
    do
        ret = fallocate(f->fd, mode, (off_t)off.v, (off_t)len);
    while (ret < 0 && errno == EINTR);
    if (ret == 0)
        return 0;
    /* a kernel or a file system that does not know the call, or a device that does not know the
     * mode */
    return errno == ENOSYS || errno == EINVAL || errno == ENODEV ? -EOPNOTSUPP : -errno;
}

static int posix_allocate(struct file *f, host_off off, uint64_t len)
{
    return call_fallocate(f, 0, off, len);
}

static int posix_zero(struct file *f, host_off off, uint64_t len)
{
    return call_fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
}

static int posix_flush(struct file *f)
{
    int ret;
    do
        ret = fsync(f->fd);
    while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : 0;
}

static int posix_share(struct file *f, host_off off, struct file *from, host_off from_off,
                       uint64_t len)
{
    struct file_clone_range range = {from->fd, from_off.v, len, off.v};
    int ret;
    do
        ret = ioctl(f->fd, FICLONERANGE, &range);
    while (ret < 0 && errno == EINTR);
    if (ret == 0)
        return 0;
    /* the file system cannot, or not with these two files, or not in these blocks */
    bool cannot = errno == EOPNOTSUPP || errno == ENOTTY || errno == EXDEV || errno == EINVAL ||
                  errno == EBADF || errno == ETXTBSY || errno == EPERM || errno == ENOSYS;
    return cannot ? -EOPNOTSUPP : -errno;
}

static int64_t posix_space(struct file *f)
{
    struct statvfs st;
    if (f->device || fstatvfs(f->fd, &st) < 0)
        return -EOPNOTSUPP;
    /* what is kept back for root is root's to use; a file system that counts no blocks has no limit
     */
    uint64_t blocks = geteuid() == 0 ? st.f_bfree : st.f_bavail, bytes;
    if (!st.f_blocks || __builtin_mul_overflow(blocks, (uint64_t)st.f_frsize, &bytes))
        return -EOPNOTSUPP;
    return bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes;
}

/* Measured: ext4 writes 1.5 times as fast into blocks that are reserved; to XFS it is all the same,
 * tmpfs and btrfs do more work then. */
static bool wants_notice(int fd)
{
    struct statfs st;
    return fstatfs(fd, &st) == 0 && st.f_type == EXT4_SUPER_MAGIC;
}

#define POSIX_OPS(NAME, ZERO, ZERO_KEEP)                                                           \
    {                                                                                              \
        .protocol = (NAME), .pread = posix_pread, .size = posix_size,                              \
        .allocated = posix_allocated, .extent = posix_extent, .close = posix_close,                \
        .pwrite = posix_pwrite, .truncate = posix_truncate, .allocate = posix_allocate,            \
        .zero = (ZERO), .zero_keep = (ZERO_KEEP), .flush = posix_flush, .share = posix_share,      \
        .space = posix_space,                                                                      \
    }

static const struct file_ops file_ops = POSIX_OPS("file", posix_zero, NULL);
static const struct file_ops device_ops = POSIX_OPS("host_device", device_zero, device_zero_keep);

int file_adopt_posix(struct file **out, const char *path, int fd, struct img_error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return img_fail_errno(err, errno, "Could not stat '%s'", path);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode) && !S_ISCHR(st.st_mode))
        return img_fail(err, EINVAL, "'file' driver requires '%s' to be a regular file", path);
    struct file *f = calloc(1, sizeof *f);
    char *name = strdup(path);
    if (!f || !name) {
        free(f);
        free(name);
        return img_fail_nomem(err);
    }
    bool device = !S_ISREG(st.st_mode);
    *f = (struct file){
        .ops = device ? &device_ops : &file_ops,
        .name = name,
        .id = {device ? UINT64_MAX : st.st_dev, device ? st.st_rdev : st.st_ino},
        .fd = fd,
        .device = device,
        .wants_notice = !device && wants_notice(fd),
    };
    if (device)
        device_learn(f);
    *out = f;
    return 0;
}

int file_duplicate(struct file **out, const struct file *f, struct img_error *err)
{
    int fd = dup(f->fd);
    if (fd < 0)
        return img_fail_errno(err, errno, "Could not open '%s'", f->name);
    int ret = file_adopt_posix(out, f->name, fd, err);
    if (ret < 0)
        close(fd);
    else
        (*out)->cancel = f->cancel;
    return ret;
}

int file_open_posix(struct file **out, const char *path, bool writable, struct img_error *err)
{
    int mode = writable ? O_RDWR : O_RDONLY;
    int fd = open(path, mode | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return img_fail_errno(err, errno, "Could not open '%s'", path);
    int ret = file_adopt_posix(out, path, fd, err);
    if (ret < 0)
        close(fd);
    return ret;
}
