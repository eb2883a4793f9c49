/*
 * Past the host's cache: blocks go through a second descriptor, opened with O_DIRECT, and memory
 * that is aligned, if need be over a buffer of 1 MiB. What is written of a block at either end of a
 * range goes through the cache; no block is written in both ways at once, since a whole one belongs
 * to one range.
 */
#include "lib/file_direct.h"
#include "lib/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What every host can do, but for devices with larger blocks; those go through the cache. */
enum { ALIGNMENT = 4096, BOUNCE = 1 << 20 };

int file_use_direct(struct file *f, struct img_error *err)
{
    char proc[32];
    if (f->fd < 0 || f->direct)
        return 0;
    int mode = fcntl(f->fd, F_GETFL) & O_ACCMODE;
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", f->fd);
    f->direct_fd = open(proc, mode | O_DIRECT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (f->direct_fd < 0 && errno == EINVAL)
        return img_fail(err, EINVAL, "Could not open '%s': filesystem does not support O_DIRECT",
                        f->name);
    if (f->direct_fd < 0)
        return img_fail_errno(err, errno, "Could not open '%s'", f->name);
    f->direct = true;
    return 0;
}

static bool is_aligned_memory(const void *p)
{
    return (uintptr_t)p % ALIGNMENT == 0;
}

static ssize_t transfer(int fd, void *buf, size_t len, uint64_t off, bool writes)
{
    ssize_t n;
    do
        n = writes ? pwrite(fd, buf, len, (off_t)off) : pread(fd, buf, len, (off_t)off);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* Through the cache: how many bytes, when reading less only where the file ends. */
static int64_t cached(struct file *f, uint8_t *buf, size_t len, uint64_t off, bool writes)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = transfer(f->fd, buf + done, len - done, off + done, writes);
        if (n < 0 || (n == 0 && writes))
            return n < 0 ? n : -EIO;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (int64_t)done;
}

/* ---- reading: blocks with all that is in them ---------------------------------------------- */

/* As much from OFF on as one call gives; 0: the file ends. */
static ssize_t read_some(struct file *f, uint8_t *buf, size_t len, uint64_t off, uint8_t **bounce)
{
    size_t skip = (size_t)(off % ALIGNMENT);
    if (!skip && len >= ALIGNMENT && is_aligned_memory(buf))
        return transfer(f->direct_fd, buf, align_down(len, ALIGNMENT), off, false);
    if (!*bounce)
        *bounce = aligned_alloc(ALIGNMENT, BOUNCE);
    if (!*bounce)
        return -ENOMEM;
    size_t want = (size_t)min_u64(align_up(skip + len, ALIGNMENT), BOUNCE);
    ssize_t n = transfer(f->direct_fd, *bounce, want, off - skip, false);
    if (n <= (ssize_t)skip)
        return n < 0 ? n : 0;
    size_t got = (size_t)min_u64((size_t)n - skip, len);
    memcpy(buf, *bounce + skip, got);
    return (ssize_t)got;
}

int64_t direct_pread(struct file *f, void *buf, size_t len, host_off off)
{
    uint8_t *to = buf, *bounce = NULL;
    size_t done = 0;
    ssize_t n = 1;
    while (done < len && n > 0) {
        n = read_some(f, to + done, len - done, off.v + done, &bounce);
        done += n > 0 ? (size_t)n : 0;
    }
    free(bounce);
    if (n != -EINVAL)
        return n < 0 ? n : (int64_t)done;
    int64_t rest = cached(f, to + done, len - done, off.v + done, false); /* larger blocks */
    return rest < 0 ? rest : (int64_t)done + rest;
}

/* ---- writing: whole blocks, and their ends through the cache ------------------------------- */

/* Whole blocks. -EINVAL: the host does not take them; -ENOMEM. The cache can have them instead. */
static int write_blocks(struct file *f, const uint8_t *buf, size_t len, uint64_t off)
{
    uint8_t *bounce = is_aligned_memory(buf) ? NULL : aligned_alloc(ALIGNMENT, BOUNCE);
    if (!bounce && !is_aligned_memory(buf))
        return -ENOMEM;
    ssize_t n = 0;
    for (size_t done = 0; done < len && n >= 0; done += n > 0 ? (size_t)n : 0) {
        size_t want = bounce ? (size_t)min_u64(len - done, BOUNCE) : len - done;
        if (bounce)
            memcpy(bounce, buf + done, want);
        uint8_t *from = bounce ? bounce : (uint8_t *)(uintptr_t)buf + done;
        n = transfer(f->direct_fd, from, want, off + done, true);
        if (n == 0 || (n > 0 && n % ALIGNMENT)) /* nothing that can be gone on with */
            n = -EINVAL;
    }
    free(bounce);
    return n < 0 ? (int)n : 0;
}

int direct_pwrite(struct file *f, const void *buf, size_t len, host_off off)
{
    uint8_t *from = (uint8_t *)(uintptr_t)buf;
    uint64_t end = off.v + len, first = align_up(off.v, ALIGNMENT);
    uint64_t last = align_down(end, ALIGNMENT);
    if (first >= last)
        first = last = end;
    size_t head = (size_t)(first - off.v), tail = (size_t)(end - last);
    int64_t ret = cached(f, from, head, off.v, true);
    if (ret >= 0 && first < last)
        ret = write_blocks(f, from + head, (size_t)(last - first), first);
    if (ret == -EINVAL || ret == -ENOMEM)
        ret = cached(f, from + head, (size_t)(last - first), first, true);
    if (ret >= 0)
        ret = cached(f, from + len - tail, tail, last, true);
    return ret < 0 ? (int)ret : 0;
}
