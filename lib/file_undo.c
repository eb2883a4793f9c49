#include "lib/file_undo.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

enum {
    VERSION = 1,
    SECTOR = 512,
    RECORD_MAX = 1 << 20,
    RECORD_HEAD = 20,
    HEAD = 52,
};

static const char magic[8] = "IMGUNDO\n";

/* Room for a record of the largest kind. */
enum { RECORD_ROOM = RECORD_HEAD + RECORD_MAX / SECTOR * 4 + RECORD_MAX };

struct recorder {
    struct file file;
    struct file *image;
    struct new_file *out;
    uint64_t old_size, new_size;
    uint64_t at, records; /* in the undo file */
    bool has_head;        /* the image's first sector is among the records */
    uint8_t *buf;
};

/* ---- recording ----------------------------------------------------------------------------- */

static uint32_t sum(const void *data, size_t len)
{
    return (uint32_t)crc32(0, data, (uInt)len);
}

/* One record; NEW is what will lie at OFF. */
static int record(struct recorder *r, const uint8_t *new, uint32_t len, uint64_t off)
{
    uint32_t saved = off < r->old_size ? (uint32_t)min_u64(len, r->old_size - off) : 0;
    uint32_t sectors = (len + SECTOR - 1) / SECTOR;
    uint8_t *sums = r->buf + RECORD_HEAD, *old = sums + (size_t)sectors * 4;
    store_be64(r->buf, off);
    store_be32(r->buf + 8, len);
    store_be32(r->buf + 12, saved);
    for (uint32_t i = 0; i < sectors; i++)
        store_be32(sums + (size_t)i * 4,
                   sum(new + (size_t)i *SECTOR, (size_t)min_u64(SECTOR, len - i * SECTOR)));
    int ret = file_read(r->image, old, saved, host(off), NULL);
    if (ret < 0)
        return ret;
    size_t rest = (size_t)sectors * 4 + saved;
    store_be32(r->buf + 16,
               (uint32_t)crc32(crc32(0, r->buf, 16), r->buf + RECORD_HEAD, (uInt)rest));
    ret = file_write(r->out->file, r->buf, RECORD_HEAD + rest, host(r->at), NULL);
    r->at += RECORD_HEAD + rest;
    r->records++;
    r->has_head |= off == 0;
    return ret;
}

static int recorder_pwrite(struct file *f, const void *buf, size_t len, host_off off)
{
    struct recorder *r = (struct recorder *)f;
    int ret = off.v % SECTOR ? -EINVAL : 0;
    for (size_t at = 0; at < len && !ret; at += RECORD_MAX)
        ret = record(r, (const uint8_t *)buf + at, (uint32_t)min_u64(RECORD_MAX, len - at),
                     off.v + at);
    r->new_size = max_u64(r->new_size, off.v + len);
    return ret;
}

static int64_t recorder_pread(struct file *f, void *buf, size_t len, host_off off)
{
    struct file *image = ((struct recorder *)f)->image;
    return image->ops->pread(image, buf, len, off);
}

static int recorder_size(struct file *f, uint64_t *size)
{
    struct file *image = ((struct recorder *)f)->image;
    return image->ops->size(image, size);
}

static int64_t recorder_allocated(struct file *f)
{
    struct file *image = ((struct recorder *)f)->image;
    return image->ops->allocated(image);
}

static int recorder_extent(struct file *f, host_off off, struct file_extent *out)
{
    struct file *image = ((struct recorder *)f)->image;
    return image->ops->extent(image, off, out);
}

/* Only writing is recorded so far: who needs more adds it here. */
static int recorder_truncate(struct file *f, uint64_t size)
{
    (void)f, (void)size;
    return -EOPNOTSUPP;
}

static int recorder_range(struct file *f, host_off off, uint64_t len)
{
    (void)f, (void)off, (void)len;
    return -EOPNOTSUPP;
}

static int recorder_flush(struct file *f)
{
    (void)f;
    return 0;
}

static int64_t recorder_space(struct file *f)
{
    struct file *image = ((struct recorder *)f)->image;
    return image->ops->space(image);
}

static void recorder_close(struct file *f)
{
    struct recorder *r = (struct recorder *)f;
    new_file_close(r->out);
    free(r->buf);
}

static const struct file_ops recorder_ops = {
    .protocol = "file",
    .pread = recorder_pread,
    .size = recorder_size,
    .allocated = recorder_allocated,
    .extent = recorder_extent,
    .close = recorder_close,
    .pwrite = recorder_pwrite,
    .truncate = recorder_truncate,
    .allocate = recorder_range,
    .zero = recorder_range,
    .flush = recorder_flush,
    .space = recorder_space,
};

static int open_output(struct recorder *r, const char *path, struct img_error *err)
{
    struct new_file_options o = {.cancel = r->image->cancel};
    struct stat st;
    if (lstat(path, &st) == 0)
        return img_fail(err, EEXIST, "The undo file '%s' exists already", path);
    return new_file_open(&r->out, path, &o, err);
}

int undo_start(struct file **recorder, struct file *image, const char *path, struct img_error *err)
{
    struct recorder *r = calloc(1, sizeof *r);
    char *name = strdup(path);
    uint8_t *buf = malloc(RECORD_ROOM);
    int ret = r && name && buf ? 0 : img_fail_nomem(err);
    if (!ret) {
        r->file = *image;
        r->file.ops = &recorder_ops;
        r->file.name = name;
        r->image = image;
        r->buf = buf;
        r->at = HEAD;
        ret = file_size(image, &r->old_size, err);
        r->new_size = r->old_size;
    }
    if (!ret)
        ret = open_output(r, path, err);
    if (ret < 0) {
        free(r);
        free(name);
        free(buf);
        return ret;
    }
    *recorder = &r->file;
    return 0;
}

/* The first sector is always there: it tells one image from another. */
static int record_head(struct recorder *r, struct img_error *err)
{
    uint8_t sector[SECTOR];
    size_t len = (size_t)min_u64(SECTOR, r->old_size);
    int ret = file_read(r->image, sector, len, host(0), err);
    if (!ret && len)
        ret = record(r, sector, (uint32_t)len, 0);
    return ret < 0 ? img_fail_errno(err, -ret, "Could not write '%s'", r->out->path) : 0;
}

int undo_finish(struct file *recorder, struct img_error *err)
{
    struct recorder *r = (struct recorder *)recorder;
    uint8_t head[HEAD];
    int ret = r->has_head ? 0 : record_head(r, err);
    memcpy(head, magic, sizeof magic);
    store_be32(head + 8, VERSION);
    store_be32(head + 12, 0);
    store_be64(head + 16, r->old_size);
    store_be64(head + 24, r->new_size);
    store_be64(head + 32, r->records);
    store_be64(head + 40, r->at);
    store_be32(head + 48, sum(head, 48));
    if (!ret)
        ret = file_write(r->out->file, head, HEAD, host(0), err);
    if (!ret)
        ret = new_file_finish(r->out, err);
    if (!ret)
        ret = new_file_publish(r->out, err);
    return ret;
}

void undo_withdraw(struct file *recorder)
{
    new_file_withdraw(((struct recorder *)recorder)->out);
}

/* ---- putting back -------------------------------------------------------------------------- */

struct undo {
    struct file *undo, *image;
    struct img_undone *result;
    struct img_error *err;
    uint64_t old_size, new_size, records, length;
    uint64_t image_size;
    uint8_t *buf;
    bool change, head; /* write to the image; and now only its first sector, or all but that */
};

static int damaged(struct undo *u, const char *why)
{
    return img_fail(u->err, EINVAL, "The undo file '%s' is damaged: %s", u->undo->name, why);
}

static int other_image(struct undo *u, uint64_t offset)
{
    int ret = img_fail(u->err, EINVAL,
                       "The undo file does not belong to the image '%s', or that was changed since",
                       u->image->name);
    img_context(u->err, "at offset %#" PRIx64 " is neither what was saved nor what replaced it",
                offset);
    return ret;
}

static int read_head(struct undo *u)
{
    uint8_t head[HEAD];
    uint64_t size;
    int ret = file_size(u->undo, &size, u->err);
    if (!ret)
        ret = file_read_padded(u->undo, head, HEAD, host(0), u->err);
    if (ret < 0)
        return ret;
    if (memcmp(head, magic, sizeof magic))
        return img_fail(u->err, EINVAL, "'%s' is not an undo file", u->undo->name);
    if (load_be32(head + 8) != VERSION)
        return img_fail(u->err, ENOTSUP, "'%s' is an undo file of version %" PRIu32 ", not %d",
                        u->undo->name, load_be32(head + 8), VERSION);
    if (load_be32(head + 48) != sum(head, 48))
        return damaged(u, "its header's checksum is wrong");
    u->old_size = load_be64(head + 16);
    u->new_size = load_be64(head + 24);
    u->records = load_be64(head + 32);
    u->length = load_be64(head + 40);
    if (u->length != size)
        return damaged(u, u->length > size ? "it is cut off" : "it is too long");
    if (u->old_size > u->new_size || u->new_size > INT64_MAX)
        return damaged(u, "its lengths contradict each other");
    return 0;
}

/* Reads the record at *AT into the buffer, checks it, and moves *AT behind it. */
static int read_record(struct undo *u, uint64_t *at)
{
    if (u->length - *at < RECORD_HEAD)
        return damaged(u, "a record is cut off");
    int ret = file_read(u->undo, u->buf, RECORD_HEAD, host(*at), u->err);
    if (ret < 0)
        return ret;
    uint64_t off = load_be64(u->buf);
    uint32_t len = load_be32(u->buf + 8), saved = load_be32(u->buf + 12);
    if (!len || len > RECORD_MAX || saved > len || off % SECTOR || off > u->new_size ||
        len > u->new_size - off ||
        saved != (off < u->old_size ? min_u64(len, u->old_size - off) : 0))
        return damaged(u, "a record says something impossible");
    size_t rest = (size_t)(len + SECTOR - 1) / SECTOR * 4 + saved;
    if (u->length - *at - RECORD_HEAD < rest)
        return damaged(u, "a record is cut off");
    ret = file_read(u->undo, u->buf + RECORD_HEAD, rest, host(*at + RECORD_HEAD), u->err);
    if (ret < 0)
        return ret;
    uLong crc = crc32(crc32(0, u->buf, 16), u->buf + RECORD_HEAD, (uInt)rest);
    if ((uint32_t)crc != load_be32(u->buf + 16))
        return damaged(u, "a record's checksum is wrong");
    *at += RECORD_HEAD + rest;
    return 0;
}

static bool is_zero(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (p[i])
            return false;
    return true;
}

/* LEN bytes at OFF, of which SAVED are to be put back; NEW_SUM: of what the change put there. */
static int put_sector(struct undo *u, const uint8_t *old, uint32_t len, uint32_t saved,
                      uint64_t off, uint32_t new_sum)
{
    uint8_t now[SECTOR];
    int ret = file_read_padded(u->image, now, len, host(off), u->err);
    if (ret < 0)
        return ret;
    bool same = !memcmp(now, old, saved);
    if (!u->change) {
        bool is_old = same && is_zero(now + saved, len - saved);
        return is_old || sum(now, len) == new_sum ? 0 : other_image(u, off);
    }
    if ((off == 0) != u->head || !saved)
        return 0;
    *(same ? &u->result->already : &u->result->sectors) += 1;
    return same ? 0 : file_write(u->image, old, saved, host(off), u->err);
}

static int put_record(struct undo *u)
{
    uint64_t off = load_be64(u->buf);
    uint32_t len = load_be32(u->buf + 8), saved = load_be32(u->buf + 12);
    const uint8_t *sums = u->buf + RECORD_HEAD;
    const uint8_t *old = sums + (size_t)(len + SECTOR - 1) / SECTOR * 4;
    int ret = 0;
    for (uint32_t at = 0; at < len && !ret; at += SECTOR) {
        uint32_t n = (uint32_t)min_u64(SECTOR, len - at);
        uint32_t kept = at < saved ? (uint32_t)min_u64(n, saved - at) : 0;
        ret = put_sector(u, old + min_u64(at, saved), n, kept, off + at,
                         load_be32(sums + at / SECTOR * 4));
    }
    return ret;
}

static int each_record(struct undo *u)
{
    uint64_t at = HEAD;
    int ret = 0;
    for (uint64_t i = 0; i < u->records && !ret; i++) {
        ret = file_go_on(u->image, u->err);
        if (!ret)
            ret = read_record(u, &at);
        if (!ret)
            ret = put_record(u);
    }
    if (!ret && at != u->length)
        ret = damaged(u, "something follows its last record");
    return ret;
}

static int check_length(struct undo *u)
{
    if (u->image->device || (u->image_size >= u->old_size && u->image_size <= u->new_size))
        return 0;
    int ret = img_fail(u->err, EINVAL,
                       "The undo file does not belong to the image '%s', or that was changed since",
                       u->image->name);
    img_context(u->err, "it has %" PRIu64 " bytes, not %" PRIu64 " or, before, %" PRIu64,
                u->image_size, u->new_size, u->old_size);
    return ret;
}

/*
 * The first sector leads to all else, so it comes first: what it led to before is still there. In
 * what order the rest comes to disk is all the same, the end of the file included: nothing of the
 * old image lies behind its end, and what failed can be done again.
 */
static int put_back(struct undo *u)
{
    u->change = u->head = true;
    int ret = each_record(u);
    if (!ret)
        ret = file_flush(u->image, u->err);
    u->head = false;
    if (!ret)
        ret = each_record(u);
    if (!ret && !u->image->device && u->image_size > u->old_size)
        ret = file_truncate(u->image, u->old_size, u->err);
    return ret < 0 ? ret : file_flush(u->image, u->err);
}

int undo_apply(struct file *undo, struct file *image, struct img_undone *result,
               struct img_error *err)
{
    struct undo u = {.undo = undo, .image = image, .result = result, .err = err};
    u.buf = malloc(RECORD_ROOM);
    int ret = u.buf ? read_head(&u) : img_fail_nomem(err);
    if (!ret)
        ret = file_size(image, &u.image_size, err);
    if (!ret)
        ret = check_length(&u);
    if (!ret)
        ret = each_record(&u);
    image->cancel = NULL; /* no way back from its first sector */
    if (!ret)
        ret = put_back(&u);
    result->old_size = u.old_size;
    free(u.buf);
    return ret;
}
