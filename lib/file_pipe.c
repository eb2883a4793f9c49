/*
 * Files that only go forward.
 *
 * Writing: offsets ascend, what is passed over becomes zeroes.
 *
 * Reading: while the map of an image is being read, every byte that is asked for is kept, and what
 * lies between is dropped; so an image can be read whose tables come in the order in which they are
 * needed, before all data. Besides, the last 5 MiB are at hand: compressed clusters go on in the
 * sector in which the last one ends, or in a cluster shortly before. And who has read the map can
 * say which bytes come too early, so that they are kept when they come. Whoever asks for what is
 * gone has an image of another kind.
 */
#include "lib/checked.h"
#include "lib/file.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ASK = 100 }; /* milliseconds */
enum { KEEP_MAX = 40 << 20, SKIP = 64 << 10, TAIL = 5 << 20, SECTOR = 512 };

struct kept {
    uint64_t start;
    size_t length;
    uint8_t *data;
};

struct pipe_file {
    struct file f; /* first: it is freed as one */
    int fd;
    bool waits; /* it is no file or disk: it can keep who writes waiting */
    uint64_t position;
    bool keeping;
    struct kept *kept; /* ascending */
    size_t kept_count, kept_bytes;
    uint64_t early, early_end; /* what comes too early */
    uint8_t *tail;             /* the last bytes before POSITION: byte N at N modulo TAIL */
    bool ended;
};

static struct pipe_file *pipe_of(struct file *f)
{
    return (struct pipe_file *)f;
}

/* ---- waiting ---- */

/*
 * Until something can be read or written. A signal may have come before the wait began, or to
 * another thread: so who asks for the end is asked every now and then.
 */
static int wait_for(const struct pipe_file *p, short event)
{
    struct pollfd ready = {.fd = p->fd, .events = event};
    for (;;) {
        if (p->f.cancel && p->f.cancel->wanted(p->f.cancel->opaque))
            return -ECANCELED;
        int n = poll(&ready, 1, p->f.cancel ? ASK : -1);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            return 0;
    }
}

/* ---- reading ---- */

/* DATA is what comes next. */
static void remember_tail(struct pipe_file *p, const uint8_t *data, size_t length)
{
    while (length) {
        size_t at = (size_t)(p->position % TAIL), n = TAIL - at < length ? TAIL - at : length;
        memcpy(p->tail + at, data, n);
        p->position += n;
        data += n;
        length -= n;
    }
}

static size_t from_tail(const struct pipe_file *p, uint8_t *buf, size_t len, uint64_t off)
{
    if (off >= p->position || p->position - off > TAIL)
        return 0;
    size_t at = (size_t)(off % TAIL);
    size_t n = (size_t)min_u64(min_u64(len, p->position - off), TAIL - at);
    memcpy(buf, p->tail + at, n);
    return n;
}

/* The next bytes; fewer than LEN only at the end. */
static int64_t pull(struct pipe_file *p, uint8_t *buf, size_t len)
{
    size_t done = 0;
    while (done < len && !p->ended) {
        int ret = wait_for(p, POLLIN);
        ssize_t n = ret < 0 ? ret : read(p->fd, buf + done, len - done);
        if (!ret && n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ret < 0 ? ret : -errno;
        p->ended = n == 0;
        done += (size_t)n;
    }
    remember_tail(p, buf, done);
    return (int64_t)done;
}

static int keep(struct pipe_file *p, uint64_t start, const uint8_t *data, size_t length)
{
    if (length > KEEP_MAX - p->kept_bytes)
        return -EFBIG;
    struct kept *kept = realloc(p->kept, (p->kept_count + 1) * sizeof *kept);
    if (!kept)
        return -ENOMEM;
    p->kept = kept;
    struct kept k = {start, length, malloc(length ? length : 1)};
    if (!k.data)
        return -ENOMEM;
    memcpy(k.data, data, length);
    kept[p->kept_count++] = k;
    p->kept_bytes += length;
    return 0;
}

/* Of these bytes, those that come too early, while there is room: others may still be in the tail.
 */
static int keep_early(struct pipe_file *p, uint64_t start, const uint8_t *data, size_t length)
{
    uint64_t from = max_u64(start, p->early), end = min_u64(start + length, p->early_end);
    if (from >= end || end - from > KEEP_MAX - p->kept_bytes)
        return 0;
    return keep(p, from, data + (from - start), (size_t)(end - from));
}

static int skip_to(struct pipe_file *p, uint64_t off)
{
    uint8_t *waste = malloc(SKIP);
    int64_t n = waste ? 1 : -ENOMEM;
    while (n > 0 && !p->ended && p->position < off) {
        uint64_t at = p->position;
        n = pull(p, waste, (size_t)min_u64(SKIP, off - at));
        int ret = n > 0 ? keep_early(p, at, waste, (size_t)n) : 0;
        n = ret < 0 ? ret : n;
    }
    free(waste);
    return n < 0 ? (int)n : 0;
}

/* The first byte, and as many behind it as there are; 0: it is not kept. */
static size_t from_kept(const struct pipe_file *p, uint8_t *buf, size_t len, uint64_t off)
{
    size_t low = 0, high = p->kept_count;
    while (low < high) { /* the first that ends behind OFF */
        size_t middle = (low + high) / 2;
        if (p->kept[middle].start + p->kept[middle].length <= off)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < p->kept_count && p->kept[low].start <= off) {
        const struct kept *k = &p->kept[low];
        size_t n = (size_t)min_u64(len, k->start + k->length - off);
        memcpy(buf, k->data + (off - k->start), n);
        return n;
    }
    return from_tail(p, buf, len, off);
}

static int64_t pipe_pread(struct file *f, void *buf, size_t len, host_off off)
{
    struct pipe_file *p = pipe_of(f);
    uint8_t *to = buf;
    size_t done = 0;
    while (done < len) {
        uint64_t at = off.v + done;
        size_t n = from_kept(p, to + done, len - done, at);
        if (!n && at < p->position)
            return -ESPIPE;
        if (!n) {
            int ret = skip_to(p, at);
            int64_t got = ret < 0 ? ret : pull(p, to + done, len - done);
            if (got > 0)
                ret = (p->keeping ? keep : keep_early)(p, at, to + done, (size_t)got);
            if (!got && !p->keeping && len - done >= SECTOR)
                return -ENODATA; /* cut short: zeroes would pass for data */
            if (got <= 0 || ret < 0)
                return got < 0 ? got : ret < 0 ? ret : (int64_t)done;
            n = (size_t)got;
        }
        done += n;
    }
    return (int64_t)done;
}

/* Nobody knows before it ends. */
static int pipe_size(struct file *f, uint64_t *size)
{
    (void)f;
    *size = INT64_MAX & ~4095ull;
    return 0;
}

static int pipe_extent(struct file *f, host_off off, struct file_extent *out)
{
    (void)f;
    *out = (struct file_extent){UINT64_MAX - off.v, true};
    return 0;
}

static int64_t pipe_allocated(struct file *f)
{
    (void)f;
    return -EOPNOTSUPP;
}

static void pipe_close(struct file *f)
{
    struct pipe_file *p = pipe_of(f);
    for (size_t i = 0; i < p->kept_count; i++)
        free(p->kept[i].data);
    free(p->kept);
    free(p->tail);
}

/* ---- writing ---- */

/* Writes what there is room for; where nobody can say how much that is, a little. */
static ssize_t write_some(const struct pipe_file *p, const uint8_t *data, size_t len)
{
    struct iovec all = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    ssize_t n = p->waits ? pwritev2(p->fd, &all, 1, -1, RWF_NOWAIT) : write(p->fd, data, len);
    if (n < 0 && p->waits && errno != EPIPE && errno != EINTR)
        n = write(p->fd, data, len < PIPE_BUF ? len : PIPE_BUF);
    return n;
}

static int push(struct pipe_file *p, const uint8_t *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        int ret = wait_for(p, POLLOUT);
        if (ret < 0)
            return ret;
        ssize_t n = write_some(p, data + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    p->position += len;
    return 0;
}

/* Zeroes up to SIZE. */
static int pipe_truncate(struct file *f, uint64_t size)
{
    static const uint8_t zeroes[SKIP];
    struct pipe_file *p = pipe_of(f);
    int ret = 0;
    while (!ret && p->position < size)
        ret = push(p, zeroes, (size_t)min_u64(SKIP, size - p->position));
    return ret;
}

static int pipe_pwrite(struct file *f, const void *buf, size_t len, host_off off)
{
    struct pipe_file *p = pipe_of(f);
    if (off.v < p->position)
        return -ESPIPE;
    int ret = pipe_truncate(f, off.v);
    return ret < 0 ? ret : push(p, buf, len);
}

static int pipe_flush(struct file *f)
{
    (void)f;
    return 0;
}

/* ---- both ---- */

static const struct file_ops read_ops = {
    .protocol = "file",
    .pread = pipe_pread,
    .size = pipe_size,
    .allocated = pipe_allocated,
    .extent = pipe_extent,
    .close = pipe_close,
};

static const struct file_ops write_ops = {
    .protocol = "file",
    .pread = pipe_pread,
    .size = pipe_size,
    .allocated = pipe_allocated,
    .extent = pipe_extent,
    .close = pipe_close,
    .pwrite = pipe_pwrite,
    .truncate = pipe_truncate,
    .flush = pipe_flush,
};

int file_open_pipe(struct file **out, int fd, const char *name, bool writable,
                   const struct cancel *cancel, struct img_error *err)
{
    struct stat st;
    struct pipe_file *p = calloc(1, sizeof *p);
    char *copy = strdup(name);
    uint8_t *tail = writable ? NULL : malloc(TAIL);
    if (!p || !copy || (!tail && !writable)) {
        free(p);
        free(copy);
        free(tail);
        return img_fail_nomem(err);
    }
    p->tail = tail;
    p->f = (struct file){.ops = writable ? &write_ops : &read_ops,
                         .name = copy,
                         .id = {UINT64_MAX, (uintptr_t)p},
                         .fd = -1,
                         .cancel = cancel};
    p->fd = fd;
    p->waits = fstat(fd, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode);
    p->keeping = true;
    *out = &p->f;
    return 0;
}

int file_pipe_drain(struct file *f, struct img_error *err)
{
    struct pipe_file *p = pipe_of(f);
    while (!p->ended) {
        int ret = file_go_on(f, err);
        if (!ret)
            ret = skip_to(p, p->position + (1 << 20));
        if (ret < 0)
            return ret == -ECANCELED ? ret
                                     : img_fail_errno(err, -ret, "Could not read '%s'", f->name);
    }
    return 0;
}

void file_pipe_stop_keeping(struct file *f)
{
    pipe_of(f)->keeping = false;
    f->whole = true;
}

void file_pipe_expect_early(struct file *f, uint64_t start, uint64_t length)
{
    struct pipe_file *p = pipe_of(f);
    uint64_t end = start + length;
    p->early = p->early_end ? min_u64(p->early, start) : start;
    p->early_end = max_u64(p->early_end, end);
}
