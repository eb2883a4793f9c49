#include "lib/file_undo.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

enum {
    ONE_VERSION = 1, /* of the format: a sum for each sector, */
    VERSIONS = 2,    /* several */
    MAX_SUMS = 64,
    SECTOR = 512,
    RECORD_MAX = 1 << 20,
    RECORD_HEAD = 20,
    HEAD = 52,
};

static const char magic[8] = "IMGUNDO\n";

struct undo_writer {
    struct file *image;
    struct new_file *out;
    uint64_t old_size, new_size;
    uint64_t at, records; /* in the undo file */
    uint32_t sums;        /* of each sector */
    bool has_head;        /* the image's first sector is among the records */
    uint8_t *buf;
};

/* Room for the largest record. */
static uint8_t *record_room(uint32_t sums)
{
    return malloc(RECORD_HEAD + (size_t)RECORD_MAX / SECTOR * 4 * sums + RECORD_MAX);
}

/* ---- recording ----------------------------------------------------------------------------- */

static uint32_t sum(const void *data, size_t len)
{
    return (uint32_t)crc32(0, data, (uInt)len);
}

/* One record; NEW is what will lie at OFF, in as many versions as there are sums. */
static int record(struct undo_writer *w, const uint8_t *new, uint32_t len, uint64_t off,
                  struct img_error *err)
{
    uint32_t saved = off < w->old_size ? (uint32_t)min_u64(len, w->old_size - off) : 0;
    uint32_t sums = (len + SECTOR - 1) / SECTOR * w->sums;
    uint8_t *old = w->buf + RECORD_HEAD + (size_t)sums * 4;
    store_be64(w->buf, off);
    store_be32(w->buf + 8, len);
    store_be32(w->buf + 12, saved);
    for (uint32_t i = 0; i < sums; i++)
        store_be32(
            w->buf + RECORD_HEAD + (size_t)i * 4,
            sum(new + (size_t)i *SECTOR, (size_t)min_u64(SECTOR, len - i / w->sums * SECTOR)));
    int ret = file_read(w->image, old, saved, host(off), err);
    if (ret < 0)
        return ret;
    size_t rest = (size_t)sums * 4 + saved;
    store_be32(w->buf + 16,
               (uint32_t)crc32(crc32(0, w->buf, 16), w->buf + RECORD_HEAD, (uInt)rest));
    ret = file_write(w->out->file, w->buf, RECORD_HEAD + rest, host(w->at), err);
    w->at += RECORD_HEAD + rest;
    w->records++;
    w->has_head |= off == 0;
    return ret;
}

int undo_save(struct undo_writer *w, host_off off, size_t len, const uint8_t *new,
              struct img_error *err)
{
    int ret = 0;
    assert(off.v % SECTOR == 0);
    for (size_t at = 0; at < len && !ret; at += RECORD_MAX)
        ret = record(w, new + at * w->sums, (uint32_t)min_u64(RECORD_MAX, len - at), off.v + at,
                     err);
    w->new_size = max_u64(w->new_size, off.v + len);
    return ret;
}

static int open_output(struct undo_writer *w, const char *path, struct img_error *err)
{
    struct new_file_options o = {.cancel = w->image->cancel};
    struct stat st;
    if (lstat(path, &st) == 0)
        return img_fail(err, EEXIST, "The undo file '%s' exists already", path);
    return new_file_open(&w->out, path, &o, err);
}

int undo_start(struct undo_writer **out, struct file *image, const char *path, unsigned versions,
               struct img_error *err)
{
    uint32_t sums = versions ? versions : 1;
    if (sums > MAX_SUMS)
        return img_fail(err, EFBIG, "A sector changes %u times, at most %d can be undone", sums,
                        MAX_SUMS);
    struct undo_writer *w = calloc(1, sizeof *w);
    uint8_t *buf = record_room(sums);
    int ret = w && buf ? 0 : img_fail_nomem(err);
    if (!ret) {
        *w = (struct undo_writer){.image = image, .at = HEAD, .sums = sums, .buf = buf};
        ret = file_size(image, &w->old_size, err);
        w->new_size = w->old_size;
    }
    if (!ret)
        ret = open_output(w, path, err);
    if (ret < 0) {
        free(w);
        free(buf);
        return ret;
    }
    *out = w;
    return 0;
}

/* The first sector is always there: it tells one image from another. */
static int record_head(struct undo_writer *w, struct img_error *err)
{
    uint8_t versions[MAX_SUMS * SECTOR];
    uint32_t len = (uint32_t)min_u64(SECTOR, w->old_size);
    int ret = file_read(w->image, versions, len, host(0), err);
    for (uint32_t i = 1; i < w->sums; i++)
        memcpy(versions + (size_t)i * SECTOR, versions, len);
    return ret || !len ? ret : record(w, versions, len, 0, err);
}

int undo_finish(struct undo_writer *w, struct img_error *err)
{
    uint8_t head[HEAD];
    int ret = w->has_head ? 0 : record_head(w, err);
    memcpy(head, magic, sizeof magic);
    store_be32(head + 8, w->sums > 1 ? VERSIONS : ONE_VERSION);
    store_be32(head + 12, w->sums > 1 ? w->sums : 0);
    store_be64(head + 16, w->old_size);
    store_be64(head + 24, w->new_size);
    store_be64(head + 32, w->records);
    store_be64(head + 40, w->at);
    store_be32(head + 48, sum(head, 48));
    if (!ret)
        ret = file_write(w->out->file, head, HEAD, host(0), err);
    if (!ret)
        ret = new_file_finish(w->out, err);
    if (!ret)
        ret = new_file_publish(w->out, err);
    return ret;
}

void undo_withdraw(struct undo_writer *w)
{
    new_file_withdraw(w->out);
}

void undo_close(struct undo_writer *w)
{
    if (!w)
        return;
    new_file_close(w->out);
    free(w->buf);
    free(w);
}

/* ---- putting back -------------------------------------------------------------------------- */

struct undo {
    struct file *undo, *image;
    struct img_undone *result;
    struct img_error *err;
    uint64_t old_size, new_size, records, length;
    uint32_t sums; /* of each sector */
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
    uint32_t version = load_be32(head + 8);
    if (version != ONE_VERSION && version != VERSIONS)
        return img_fail(u->err, ENOTSUP,
                        "'%s' is an undo file of version %" PRIu32 ", not %d or %d", u->undo->name,
                        version, ONE_VERSION, VERSIONS);
    if (load_be32(head + 48) != sum(head, 48))
        return damaged(u, "its header's checksum is wrong");
    u->sums = version == ONE_VERSION ? 1 : load_be32(head + 12);
    if (!u->sums || u->sums > MAX_SUMS)
        return damaged(u, "its number of checksums is impossible");
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
    size_t rest = (size_t)(len + SECTOR - 1) / SECTOR * 4 * u->sums + saved;
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

/* Is it what the change put there, for good or for a while? */
static bool is_new(const struct undo *u, const uint8_t *now, uint32_t len, const uint8_t *sums)
{
    uint32_t mine = sum(now, len);
    for (uint32_t i = 0; i < u->sums; i++)
        if (load_be32(sums + (size_t)i * 4) == mine)
            return true;
    return false;
}

/* LEN bytes at OFF, of which SAVED are to be put back; SUMS: of what the change put there. */
static int put_sector(struct undo *u, const uint8_t *old, uint32_t len, uint32_t saved,
                      uint64_t off, const uint8_t *sums)
{
    uint8_t now[SECTOR];
    int ret = file_read_padded(u->image, now, len, host(off), u->err);
    if (ret < 0)
        return ret;
    bool same = !memcmp(now, old, saved);
    if (!u->change) {
        bool is_old = same && is_zero(now + saved, len - saved);
        return is_old || is_new(u, now, len, sums) ? 0 : other_image(u, off);
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
    const uint8_t *old = sums + (size_t)(len + SECTOR - 1) / SECTOR * 4 * u->sums;
    int ret = 0;
    for (uint32_t at = 0; at < len && !ret; at += SECTOR) {
        uint32_t n = (uint32_t)min_u64(SECTOR, len - at);
        uint32_t kept = at < saved ? (uint32_t)min_u64(n, saved - at) : 0;
        ret = put_sector(u, old + min_u64(at, saved), n, kept, off + at,
                         sums + (size_t)(at / SECTOR) * 4 * u->sums);
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
    int ret = read_head(&u);
    if (!ret)
        u.buf = record_room(u.sums);
    if (!ret && !u.buf)
        ret = img_fail_nomem(err);
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
