/*
 * Files and block devices of this host.
 *
 * Opened without O_CREAT and, for the kinds that could block (a FIFO, a device that waits for
 * media), with O_NONBLOCK; anything that is not a regular file or a block device is refused, as
 * QEMU's file driver does, but for character devices, which QEMU calls host_device.
 */
#include "lib/file.h"
#include "lib/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int64_t posix_pread(struct file *f, void *buf, size_t len, host_off off)
{
    size_t done = 0;
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
    close(f->fd);
}

static const struct file_ops file_ops = {
    "file", posix_pread, posix_size, posix_allocated, posix_extent, posix_close,
};

static const struct file_ops device_ops = {
    "host_device", posix_pread, posix_size, posix_allocated, posix_extent, posix_close,
};

static int adopt(struct file **out, const char *path, int fd, const struct stat *st,
                 struct img_error *err)
{
    struct file *f = calloc(1, sizeof *f);
    char *name = strdup(path);
    if (!f || !name) {
        free(f);
        free(name);
        return img_fail_nomem(err);
    }
    bool device = !S_ISREG(st->st_mode);
    *f = (struct file){
        .ops = device ? &device_ops : &file_ops,
        .name = name,
        .id = {device ? UINT64_MAX : st->st_dev, device ? st->st_rdev : st->st_ino},
        .fd = fd,
    };
    *out = f;
    return 0;
}

int file_open_posix(struct file **out, const char *path, struct img_error *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return img_fail_errno(err, errno, "Could not open '%s'", path);
    int ret = fstat(fd, &st) < 0 ? img_fail_errno(err, errno, "Could not stat '%s'", path) : 0;
    if (!ret && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode) && !S_ISCHR(st.st_mode))
        ret = img_fail(err, EINVAL, "'file' driver requires '%s' to be a regular file", path);
    if (!ret)
        ret = adopt(out, path, fd, &st, err);
    if (ret < 0)
        close(fd);
    return ret;
}
