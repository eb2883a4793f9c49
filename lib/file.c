#include "lib/file.h"

#include <errno.h>
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
        return img_fail(err, EINVAL, "Read of %zu bytes at %#" PRIx64 " of '%s' is out of range", len,
                        off.v, f->name);
    int64_t got = f->ops->pread(f, buf, len, off);
    if (got < 0)
        return img_fail_errno(err, (int)-got, "Could not read %zu bytes at %#" PRIx64 " of '%s'", len,
                              off.v, f->name);
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

int file_read_padded(struct file *f, void *buf, size_t len, host_off off, struct img_error *err)
{
    int64_t got = read_or_fail(f, buf, len, off, err);
    if (got < 0)
        return (int)got;
    memset((char *)buf + got, 0, len - (size_t)got);
    return 0;
}
