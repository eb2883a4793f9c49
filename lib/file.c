#include "lib/file.h"
#include "lib/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void file_close(struct file *f)
{
    if (!f)
        return;
    f->ops->close(f);
    free(f->name);
    free(f);
}

int file_size(struct file *f, uint64_t *size, struct img_error *err)
{
    int ret = f->ops->size(f, size);
    return ret < 0 ? img_fail_errno(err, -ret, "Could not get the size of '%s'", f->name) : 0;
}

static int64_t read_or_fail(struct file *f, void *buf, size_t len, host_off off,
                            struct img_error *err)
{
    if (off.v > INT64_MAX || len > INT64_MAX - off.v)
        return img_fail(err, EINVAL, "Read of %zu bytes at %#" PRIx64 " of '%s' is out of range",
                        len, off.v, f->name);
    int64_t got = f->ops->pread(f, buf, len, off);
    if (got < 0)
        return img_fail_errno(err, (int)-got, "Could not read %zu bytes at %#" PRIx64 " of '%s'",
                              len, off.v, f->name);
    return got;
}

int file_read(struct file *f, void *buf, size_t len, host_off off, struct img_error *err)
{
    int64_t got = read_or_fail(f, buf, len, off, err);
    if (got < 0)
        return (int)got;
    if ((size_t)got < len)
        return img_fail(err, EINVAL, "'%s' ends at %#" PRIx64 ", %zu bytes at %#" PRIx64 " wanted",
                        f->name, off.v + (uint64_t)got, len, off.v);
    return 0;
}

int file_read_upto(struct file *f, void *buf, size_t len, host_off off, size_t *got,
                   struct img_error *err)
{
    int64_t n = read_or_fail(f, buf, len, off, err);
    *got = n < 0 ? 0 : (size_t)n;
    return n < 0 ? (int)n : 0;
}

int file_read_padded(struct file *f, void *buf, size_t len, host_off off, struct img_error *err)
{
    int64_t got = read_or_fail(f, buf, len, off, err);
    if (got < 0)
        return (int)got;
    if (f->whole && (size_t)got < len)
        return img_fail(err, ENODATA, "'%s' ends at %#" PRIx64 ", %zu bytes at %#" PRIx64 " wanted",
                        f->name, off.v + (uint64_t)got, len, off.v);
    memset((char *)buf + got, 0, len - (size_t)got);
    return 0;
}

enum { WORTH_NOTICE = 128 << 10 };

static const uint8_t zeroes[1 << 16];

int file_go_on(const struct file *f, struct img_error *err)
{
    if (f->cancel && f->cancel->wanted(f->cancel->opaque))
        return img_fail(err, ECANCELED, "Interrupted");
    return 0;
}

/* A failure of the host, or -ECANCELED in its place. */
static int stop_or_go(struct file *f, struct img_error *err)
{
    if (!f->ops->pwrite)
        return img_fail(err, EROFS, "'%s' is opened to be read only", f->name);
    return file_go_on(f, err);
}

int file_write(struct file *f, const void *buf, size_t len, host_off off, struct img_error *err)
{
    int ret = stop_or_go(f, err);
    if (ret < 0)
        return ret;
    ret = f->ops->pwrite(f, buf, len, off);
    return ret < 0 ? img_fail_errno(err, -ret, "Could not write %zu bytes at %#" PRIx64 " of '%s'",
                                    len, off.v, f->name)
                   : 0;
}

int file_share(struct file *f, host_off off, struct file *from, host_off from_off, uint64_t len,
               struct img_error *err)
{
    int ret = stop_or_go(f, err);
    if (ret < 0)
        return ret;
    ret = f->ops->share ? f->ops->share(f, off, from, from_off, len) : -EOPNOTSUPP;
    if (ret == -EOPNOTSUPP)
        return ret;
    return ret < 0 ? img_fail_errno(err, -ret, "Could not share %" PRIu64 " bytes with '%s'", len,
                                    from->name)
                   : 0;
}

int file_truncate(struct file *f, uint64_t size, struct img_error *err)
{
    int ret = stop_or_go(f, err);
    if (ret < 0)
        return ret;
    ret = f->ops->truncate(f, size);
    if (ret == -ENOSPC && f->device)
        return img_fail(err, ENOSPC, "Cannot grow device files");
    return ret < 0 ? img_fail_errno(err, -ret, "Could not resize file") : 0;
}

int file_forget_rest(struct file *f, enum preallocation mode, struct img_error *err)
{
    uint64_t size;
    int ret = file_size(f, &size, err);
    if (ret < 0 || size <= f->good)
        return ret;
    bool keep = mode == PREALLOC_FALLOC || mode == PREALLOC_FULL;
    return (keep ? file_zero_keep : file_zero)(f, host(f->good), size - f->good, err);
}

void file_expect_write(struct file *f, host_off off, uint64_t len)
{
    if (f->wants_notice && len >= WORTH_NOTICE)
        (void)fallocate(f->fd, FALLOC_FL_KEEP_SIZE, (off_t)off.v, (off_t)len);
}

void file_begin_flush(struct file *f)
{
    if (f->fd >= 0)
        sync_file_range(f->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

int file_flush(struct file *f, struct img_error *err)
{
    int ret = stop_or_go(f, err);
    if (ret < 0)
        return ret;
    ret = f->ops->flush(f);
    return ret < 0 ? img_fail_errno(err, -ret, "Could not flush '%s' to disk", f->name) : 0;
}

/* WHAT is prepended to the host's reason; SINK is told how far it is. */
static int write_zeroes(struct file *f, host_off off, uint64_t len, const char *what,
                        const struct progress_sink *sink, struct img_error *err)
{
    for (uint64_t done = 0; done < len;) {
        int ret = stop_or_go(f, err);
        if (ret < 0)
            return ret;
        size_t n = (size_t)min_u64(len - done, sizeof zeroes);
        ret = f->ops->pwrite(f, zeroes, n, host(off.v + done));
        if (ret < 0)
            return img_fail_errno(err, -ret, "%s", what);
        done += n;
        progress_report(sink, "preallocate", done, len);
    }
    return 0;
}

int file_write_zeroes(struct file *f, host_off off, uint64_t len, struct img_error *err)
{
    return write_zeroes(f, off, len, "Could not write zeroes", NULL, err);
}

/* A device may take long for what a file system does at once. */
static int zero_in_steps(struct file *f, host_off off, uint64_t len,
                         int (*zero)(struct file *f, host_off off, uint64_t len),
                         struct img_error *err)
{
    uint64_t step = !f->device ? len : f->zeroing == IMG_ZEROING_WRITE ? 64ull << 20 : 1ull << 30;
    for (uint64_t done = 0, n; done < len; done += n) {
        n = min_u64(len - done, step);
        host_off at = host(off.v + done);
        int ret = stop_or_go(f, err);
        if (ret < 0)
            return ret;
        ret = zero(f, at, n);
        if (ret == -EOPNOTSUPP)
            ret = write_zeroes(f, at, n, "Could not write zeroes", NULL, err);
        else if (ret < 0)
            img_fail_errno(err, -ret, "Could not write zeroes");
        if (ret < 0)
            return ret;
    }
    return 0;
}

int file_zero(struct file *f, host_off off, uint64_t len, struct img_error *err)
{
    uint64_t size;
    int ret = file_size(f, &size, err);
    if (!ret && size < off.v + len)
        ret = file_truncate(f, off.v + len, err);
    if (ret < 0 || off.v >= size || !len)
        return ret;
    return zero_in_steps(f, off, min_u64(len, size - off.v), f->ops->zero, err);
}

int file_zero_keep(struct file *f, host_off off, uint64_t len, struct img_error *err)
{
    if (!len || f->ops->zero_keep)
        return len ? zero_in_steps(f, off, len, f->ops->zero_keep, err) : 0;
    int ret = file_zero(f, off, len, err);
    if (ret < 0)
        return ret;
    ret = f->ops->allocate(f, off, len);
    if (ret == -EOPNOTSUPP)
        return write_zeroes(f, off, len, "Could not write zeroes", NULL, err);
    return ret < 0 ? img_fail_errno(err, -ret, "Could not write zeroes") : 0;
}

/* In steps, so that a long one can be interrupted. */
static int allocate(struct file *f, uint64_t from, uint64_t to, struct img_error *err)
{
    const uint64_t step = 1ull << 30;
    static const char failed[] = "Could not preallocate data for the new file";
    for (uint64_t at = from, n; at < to; at += n) {
        int ret = stop_or_go(f, err);
        if (ret < 0)
            return ret;
        n = min_u64(to - at, step);
        ret = f->ops->allocate(f, host(at), n);
        if (ret == -EOPNOTSUPP)
            return write_zeroes(f, host(at), to - at, failed, f->progress, err);
        if (ret < 0)
            return img_fail_errno(err, -ret, "%s", failed);
        progress_report(f->progress, "preallocate", at + n - from, to - from);
    }
    return 0;
}

int file_extend(struct file *f, uint64_t from, uint64_t to, enum preallocation mode,
                struct img_error *err)
{
    uint64_t size;
    int ret = file_size(f, &size, err);
    if (!ret && size < to)
        ret = file_truncate(f, to, err);
    if (!ret && from < to && (mode == PREALLOC_FALLOC || mode == PREALLOC_FULL))
        progress_report(f->progress, "preallocate", 0, to - from);
    if (!ret && mode == PREALLOC_FALLOC)
        ret = allocate(f, from, to, err);
    if (!ret && mode == PREALLOC_FULL)
        ret = write_zeroes(f, host(from), to - from, "Could not write zeros for preallocation",
                           f->progress, err);
    return ret;
}

int file_check_space(struct file *f, uint64_t bytes, struct img_error *err)
{
    int64_t space = f->ops->space ? f->ops->space(f) : -EOPNOTSUPP;
    if (space < 0 || (uint64_t)space >= bytes)
        return 0;
    return img_fail_detail(err, ENOSPC, "No space left on device",
                           "'%s' needs %" PRIu64 " bytes, %" PRId64 " are free", f->name, bytes,
                           space);
}
