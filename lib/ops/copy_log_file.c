/* The log of a copy as a file. */
#include "lib/bytes.h"
#include "lib/ops/copy_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

static const char magic[8] = "IMGRESM\n";

enum { VERSION = 1, HEAD = 16, RECORD_HEAD = 28, SUM = 4 };
enum { HEAD_MAX = 64 << 20, RECORD_MAX = 256 << 20 };

static uint32_t sum(uint32_t before, const uint8_t *data, size_t length)
{
    return (uint32_t)crc32_z(before, data, length);
}

int copy_log_new(struct copy_log **out, const char *path, struct img_error *err)
{
    struct copy_log *log = calloc(1, sizeof *log);
    char *copy = strdup(path);
    if (!log || !copy) {
        free(log);
        free(copy);
        return img_fail_nomem(err);
    }
    log->path = copy;
    log->fd = -1;
    pthread_mutex_init(&log->lock, NULL);
    pthread_mutex_init(&log->committing, NULL);
    *out = log;
    return 0;
}

void copy_log_free(struct copy_log *log)
{
    if (!log)
        return;
    if (log->fd >= 0)
        close(log->fd);
    pthread_mutex_destroy(&log->lock);
    pthread_mutex_destroy(&log->committing);
    free(log->path);
    free(log->head);
    free(log->record);
    free(log->runs);
    free(log->pieces);
    free(log);
}

void copy_log_remove(const struct copy_log *log)
{
    if (log->mine)
        unlink(log->path);
}

/* ---- reading ------------------------------------------------------------------------------- */

/* LENGTH bytes at OFF: 1, or 0 when they are not there. */
static int get(const struct copy_log *log, void *buf, size_t length, uint64_t off,
               struct img_error *err)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = pread(log->fd, (uint8_t *)buf + done, length - done, (off_t)(off + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? img_fail_errno(err, errno, "Could not read '%s'", log->path) : 0;
        done += (size_t)n;
    }
    return 1;
}

/* 1, or 0: it makes no sense. */
static int read_head(struct copy_log *log, struct img_error *err)
{
    uint8_t fixed[HEAD], end[SUM];
    int ret = get(log, fixed, HEAD, 0, err);
    if (ret <= 0)
        return ret;
    if (memcmp(fixed, magic, sizeof magic) != 0 || load_be32(fixed + 8) != VERSION ||
        load_be32(fixed + 12) > HEAD_MAX)
        return 0;
    log->head_length = load_be32(fixed + 12);
    log->head = malloc(log->head_length + 1);
    if (!log->head)
        return img_fail_nomem(err);
    ret = get(log, log->head, log->head_length, HEAD, err);
    if (ret > 0)
        ret = get(log, end, SUM, HEAD + log->head_length, err);
    if (ret <= 0)
        return ret;
    log->sum = log->reading_sum = sum(sum(0, fixed, HEAD), log->head, log->head_length);
    log->position = log->length = HEAD + log->head_length + SUM;
    return load_be32(end) == log->sum;
}

/* The record at *AT, which moves behind it: 1, or 0 when there is none, or a part of one. */
static int read_record(struct copy_log *log, uint64_t *at, uint32_t *before,
                       struct copy_progress *p, struct img_error *err)
{
    uint8_t fixed[RECORD_HEAD];
    int ret = get(log, fixed, RECORD_HEAD, *at, err);
    if (ret <= 0 || load_be32(fixed) > RECORD_MAX)
        return ret < 0 ? ret : 0;
    size_t length = load_be32(fixed);
    uint8_t *record = realloc(log->record, length + SUM);
    if (!record)
        return img_fail_nomem(err);
    log->record = record;
    ret = get(log, record, length + SUM, *at + RECORD_HEAD, err);
    if (ret <= 0)
        return ret;
    uint32_t now = sum(sum(*before, fixed, RECORD_HEAD), record, length);
    if (load_be32(record + length) != now)
        return 0;
    *before = now;
    *at += RECORD_HEAD + length + SUM;
    *p = (struct copy_progress){load_be64(fixed + 4), load_be64(fixed + 12), load_be64(fixed + 20)};
    log->record_length = length;
    log->record_at = 0;
    return 1;
}

/* Who can write a folder could put a log there. */
static int check_owner(const struct copy_log *log, struct img_error *err)
{
    struct stat st;
    if (fstat(log->fd, &st) < 0)
        return img_fail_errno(err, errno, "Could not stat '%s'", log->path);
    if (!S_ISREG(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0) ||
        ((st.st_mode & S_IWOTH) && st.st_uid != geteuid()))
        return img_fail(err, EPERM, "'%s' belongs to another user", log->path);
    return 0;
}

int copy_log_load(struct copy_log *log, bool *found, struct img_error *err)
{
    *found = false;
    log->fd = open(log->path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (log->fd < 0)
        return errno == ENOENT ? 0 : img_fail_errno(err, errno, "Could not open '%s'", log->path);
    int ret = check_owner(log, err);
    log->mine = !ret;
    if (!ret)
        ret = read_head(log, err);
    if (ret <= 0)
        return ret;
    while ((ret = read_record(log, &log->length, &log->sum, &log->logged, err)) > 0)
        ;
    if (ret < 0)
        return ret;
    log->record_length = log->record_at = 0;
    *found = true;
    return 0;
}

/* The next number of the record. */
static bool get_number(struct copy_log *log, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64 && log->record_at < log->record_length; shift += 7) {
        uint8_t byte = log->record[log->record_at++];
        *out |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            return true;
    }
    return false;
}

static int damaged(const struct copy_log *log, struct img_error *err)
{
    return img_fail(err, EINVAL, "'%s' makes no sense", log->path);
}

int copy_log_next(struct copy_log *log, struct copy_run *run, struct img_error *err)
{
    uint64_t gap, length, stored = 0;
    while (log->record_at == log->record_length) {
        if (log->position >= log->length)
            return 0;
        int ret = read_record(log, &log->position, &log->reading_sum, &log->reading, err);
        if (ret <= 0)
            return ret < 0 ? ret : img_fail(err, EIO, "Could not read '%s' again", log->path);
    }
    if (!get_number(log, &gap) || !get_number(log, &length))
        return damaged(log, err);
    unsigned kind = gap & 3;
    gap >>= 2;
    if (kind == RUN_COMPRESSED && !get_number(log, &stored))
        return damaged(log, err);
    *run = (struct copy_run){.kind = (enum copy_run_kind)kind,
                             .offset = log->last_end + gap,
                             .length = length,
                             .stored = (size_t)stored};
    if (kind > RUN_COMPRESSED || !length || gap > INT64_MAX || length > INT64_MAX ||
        run->offset > INT64_MAX || length > INT64_MAX - run->offset)
        return damaged(log, err);
    log->last_end = run->offset + length;
    return 1;
}

/* ---- writing ------------------------------------------------------------------------------- */

static int put(struct copy_log *log, const void *data, size_t length, uint64_t off,
               struct img_error *err)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = pwrite(log->fd, (const uint8_t *)data + done, length - done,
                           (off_t)(off + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return img_fail_errno(err, n < 0 ? errno : EIO, "Could not write '%s'", log->path);
        done += (size_t)n;
    }
    return 0;
}

static int sync_log(const struct copy_log *log, struct img_error *err)
{
    if (fsync(log->fd) < 0)
        return img_fail_errno(err, errno, "Could not flush '%s' to disk", log->path);
    return 0;
}

int copy_log_create(struct copy_log *log, const void *head, size_t length, struct img_error *err)
{
    uint8_t fixed[HEAD], end[SUM];
    if (log->fd >= 0)
        close(log->fd);
    if (unlink(log->path) < 0 && errno != ENOENT)
        return img_fail_errno(err, errno, "Could not remove '%s'", log->path);
    log->fd = open(log->path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (log->fd < 0)
        return img_fail_errno(err, errno, "Could not create '%s'", log->path);
    log->mine = true;
    memcpy(fixed, magic, sizeof magic);
    store_be32(fixed + 8, VERSION);
    store_be32(fixed + 12, (uint32_t)length);
    log->sum = log->reading_sum = sum(sum(0, fixed, HEAD), head, length);
    store_be32(end, log->sum);
    int ret = put(log, fixed, HEAD, 0, err);
    if (!ret)
        ret = put(log, head, length, HEAD, err);
    if (!ret)
        ret = put(log, end, SUM, HEAD + length, err);
    log->position = log->length = HEAD + length + SUM;
    log->logged = log->reading = (struct copy_progress){0};
    if (!ret)
        ret = sync_log(log, err);
    return ret < 0 ? ret : file_flush_folder(log->path, err);
}

int copy_log_append(struct copy_log *log, const uint8_t *runs, size_t length,
                    const struct copy_progress *p, struct img_error *err)
{
    uint8_t fixed[RECORD_HEAD], end[SUM];
    store_be32(fixed, (uint32_t)length);
    store_be64(fixed + 4, p->at);
    store_be64(fixed + 12, p->done);
    store_be64(fixed + 20, p->end);
    uint32_t now = sum(sum(log->sum, fixed, RECORD_HEAD), runs, length);
    store_be32(end, now);
    int ret = put(log, fixed, RECORD_HEAD, log->length, err);
    if (!ret)
        ret = put(log, runs, length, log->length + RECORD_HEAD, err);
    if (!ret)
        ret = put(log, end, SUM, log->length + RECORD_HEAD + length, err);
    if (!ret)
        ret = sync_log(log, err);
    if (ret < 0)
        return ret;
    log->length += RECORD_HEAD + length + SUM;
    log->sum = now;
    return 0;
}
