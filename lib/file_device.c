/*
 * Zeroes on a block device. What it can do is in sysfs; the cheapest is that it unmaps a range,
 * which the kernel only does where the range reads as zeroes then. Next is a command for the device
 * that writes zeroes, or the kernel, which writes them from one page without going through its
 * cache.
 */
#include "lib/file_device.h"
#include "lib/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* A limit of the queue of device ID, in bytes; a partition has that of its disk. 0: nobody says. */
static uint64_t queue_limit(dev_t id, const char *name)
{
    static const char *const folders[] = {"queue", "../queue"};
    uint64_t value = 0;
    for (int i = 0; i < 2; i++) {
        char path[128];
        snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s/%s", major(id), minor(id), folders[i],
                 name);
        FILE *f = fopen(path, "re");
        if (!f)
            continue;
        if (fscanf(f, "%" SCNu64, &value) != 1)
            value = 0;
        fclose(f);
        break;
    }
    return value;
}

void device_learn(struct file *f)
{
    struct stat st;
    int block;
    if (fstat(f->fd, &st) < 0 || !S_ISBLK(st.st_mode))
        return;
    bool zeroes = queue_limit(st.st_rdev, "write_zeroes_max_bytes");
    bool unmaps = zeroes && queue_limit(st.st_rdev, "discard_max_bytes");
    f->zeroing = unmaps ? IMG_ZEROING_UNMAP : zeroes ? IMG_ZEROING_DEVICE : IMG_ZEROING_WRITE;
    f->block = ioctl(f->fd, BLKSSZGET, &block) == 0 && block > 0 ? (uint32_t)block : 512;
}

static int call(struct file *f, int mode, uint64_t off, uint64_t len)
{
    int ret;
    do
        ret = fallocate(f->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len);
    while (ret < 0 && errno == EINTR);
    if (ret == 0)
        return 0;
    return errno == ENOSYS || errno == EINVAL || errno == ENODEV ? -EOPNOTSUPP : -errno;
}

/* Where the device takes back what it said, the kernel has the next best way. */
static int zero_blocks(struct file *f, bool keep, uint64_t off, uint64_t len)
{
    int ret = -EOPNOTSUPP;
    if (f->zeroing == IMG_ZEROING_UNMAP && !keep)
        ret = call(f, FALLOC_FL_PUNCH_HOLE, off, len);
    return ret == -EOPNOTSUPP ? call(f, FALLOC_FL_ZERO_RANGE, off, len) : ret;
}

static int zero(struct file *f, bool keep, host_off off, uint64_t len)
{
    static const uint8_t zeroes[4096];
    if (!f->block || f->block > sizeof zeroes)
        return -EOPNOTSUPP;
    uint64_t end = off.v + len, first = align_up(off.v, f->block), last = align_down(end, f->block);
    if (last < first || last - first < DEVICE_LEAST) /* a call would cost more than the zeroes */
        return -EOPNOTSUPP;
    int ret = first > off.v ? f->ops->pwrite(f, zeroes, (size_t)(first - off.v), off) : 0;
    if (!ret && end > last)
        ret = f->ops->pwrite(f, zeroes, (size_t)(end - last), host(last));
    return ret < 0 ? ret : zero_blocks(f, keep, first, last - first);
}

int device_zero(struct file *f, host_off off, uint64_t len)
{
    return zero(f, false, off, len);
}

int device_zero_keep(struct file *f, host_off off, uint64_t len)
{
    return zero(f, true, off, len);
}
