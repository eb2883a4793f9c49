/*
 * readcheck: what libimgtool reads from an image, byte for byte, against a flat file.
 *
 *   readcheck [options] IMAGE REFERENCE   every byte, then -n random reads, from -t threads that
 *                                         map and read the same handle at once
 *   readcheck [options] -r IMAGE          only maps and reads all of it
 *   readcheck [options] -d OFFSET,LENGTH[,...] IMAGE   writes these bytes on standard output
 *
 *   -f FMT  -l SNAPSHOT                   as in imgtool
 *   -w OFFSET,LENGTH                      REFERENCE holds this window of the disk only
 *   -t THREADS (4)  -n READS (1000)  -s SEED (1)
 *
 * The map is checked on the way: its extents tile the disk, a range that is said to read as zeroes
 * is zero in the reference, plain data is in the host file where the map says, and the map of a
 * part says what the map of the whole does. Ends with 1 and one line on the first difference.
 *
 * A stretch is passed over only where the map calls it zeroes and the reference has a hole
 * (SEEK_DATA), and both are long; its two ends are still read.
 */
#include <imgtool.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 20, LONG_HOLE = 16 << 20, MAX_THREADS = 64, BATCH = 4096, MAX_FILES = 16 };

/* Reading without a reference stops here: many entries may share one cluster. */
static const uint64_t READ_ONLY_LIMIT = 256 << 20;

struct extents {
    struct img_extent *items;
    size_t count, room, limit;
};

struct host_files {
    const char *names[MAX_FILES];
    int fds[MAX_FILES];
    size_t count;
};

struct check {
    struct img *img;
    const char *image, *reference;
    int fd; /* the reference */
    uint64_t start, size;
    struct extents map;
    uint64_t seed;
    unsigned long reads;
    atomic_ulong next_chunk, next_read;
    atomic_bool failed;
};

struct worker {
    struct check *c;
    uint8_t *mine, *theirs;
    struct host_files files;
};

static pthread_mutex_t out_lock = PTHREAD_MUTEX_INITIALIZER;

/* Only the first complaint is printed. */
static int complain(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int complain(struct check *c, const char *fmt, ...)
{
    va_list ap;
    pthread_mutex_lock(&out_lock);
    if (!atomic_exchange(&c->failed, true)) {
        va_start(ap, fmt);
        fprintf(stderr, "readcheck: ");
        vfprintf(stderr, fmt, ap);
        fputc('\n', stderr);
        va_end(ap);
    }
    pthread_mutex_unlock(&out_lock);
    return -1;
}

/* Errors as the command prints them: with the context, and on one line whatever the names hold. */
static int complain_error(struct check *c, struct img_error *err)
{
    char text[8192], *p = text;
    const char *parts[] = {img_error_message(err), err->context ? " (" : "",
                           err->context ? err->context : "", err->context ? ")" : ""};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        for (const char *s = parts[i]; *s && p < text + sizeof text - 8; s++) {
            if ((unsigned char)*s < 0x20 || *s == 0x7f)
                p += sprintf(p, *s == '\n' ? "\\n" : "\\x%02x", *s);
            else
                *p++ = *s;
        }
    *p = 0;
    img_error_clear(err);
    return complain(c, "%s", text);
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static uint64_t min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- extents ---- */

static int collect(void *opaque, const struct img_extent *e)
{
    struct extents *m = opaque;
    if (m->count == m->room) {
        m->room = m->room ? m->room * 2 : 64;
        m->items = realloc(m->items, m->room * sizeof *m->items);
        if (!m->items)
            abort();
    }
    m->items[m->count++] = *e;
    return m->count == m->limit;
}

/* The extents are those of [START, END): they begin and end there, without a gap and none empty. */
static int check_tiling(struct check *c, const struct extents *m, uint64_t start, uint64_t end)
{
    uint64_t at = start;
    for (size_t i = 0; i < m->count; at += m->items[i++].length)
        if (m->items[i].start != at || !m->items[i].length || m->items[i].length > end - at)
            return complain(c,
                            "the map of %" PRIu64 "..%" PRIu64 " has an extent %" PRIu64 "+%" PRIu64
                            " where %" PRIu64 " is due",
                            start, end, m->items[i].start, m->items[i].length, at);
    if (at != end)
        return complain(c, "the map of %" PRIu64 "..%" PRIu64 " ends at %" PRIu64, start, end, at);
    return 0;
}

static const struct img_extent *find(const struct extents *m, uint64_t off)
{
    size_t low = 0, high = m->count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (m->items[middle].start <= off)
            low = middle;
        else
            high = middle;
    }
    return &m->items[low];
}

/* The map of a part, asked for by this thread, says of each byte what the map of the whole says. */
static int check_part(struct check *c, uint64_t off, uint64_t len)
{
    struct img_error err = IMG_ERROR_INIT;
    struct extents part = {0};
    int ret = img_map(c->img, off, len, collect, &part, &err);
    if (ret < 0)
        ret = complain_error(c, &err);
    else
        ret = check_tiling(c, &part, off, off + len);
    for (size_t i = 0; !ret && i < part.count; i++) {
        const struct img_extent *p = &part.items[i], *w = find(&c->map, p->start);
        bool same = p->kind == w->kind && p->depth == w->depth && p->reads_zero == w->reads_zero &&
                    p->has_offset == w->has_offset && p->length <= w->start + w->length - p->start;
        if (same && p->has_offset)
            same = p->offset - w->offset == p->start - w->start &&
                   !strcmp(p->filename, w->filename);
        if (!same)
            ret = complain(c,
                           "the map of %" PRIu64 "+%" PRIu64 " says at %" PRIu64 "+%" PRIu64
                           " another thing than the map of the whole",
                           off, len, p->start, p->length);
    }
    free(part.items);
    return ret;
}

/* ---- bytes ---- */

static int read_padded(struct check *c, int fd, const char *name, uint8_t *buf, size_t len,
                       uint64_t off)
{
    while (len) {
        ssize_t n = pread(fd, buf, len, (off_t)off);
        if (n < 0)
            return complain(c, "%s: %s", name, strerror(errno));
        if (n == 0)
            break;
        buf += n;
        len -= (size_t)n;
        off += (uint64_t)n;
    }
    memset(buf, 0, len);
    return 0;
}

static size_t first_difference(const uint8_t *a, const uint8_t *b, size_t len)
{
    size_t i = 0;
    while (i < len && a[i] == b[i])
        i++;
    return i;
}

/* Reads LEN bytes from the image; leaves the reference's in WORKER->theirs. */
static int compare_read(struct worker *w, uint64_t off, size_t len)
{
    struct check *c = w->c;
    struct img_error err = IMG_ERROR_INIT;
    memset(w->mine, 0xa5, len);
    if (img_read(c->img, w->mine, len, off, &err) < 0)
        return complain_error(c, &err);
    if (read_padded(c, c->fd, c->reference, w->theirs, len, off - c->start) < 0)
        return -1;
    if (!memcmp(w->mine, w->theirs, len))
        return 0;
    size_t i = first_difference(w->mine, w->theirs, len);
    return complain(
        c, "%s: byte %" PRIu64 " is %#04x, %#04x in the reference (read of %zu at %" PRIu64 ")",
        c->image, off + i, w->mine[i], w->theirs[i], len, off);
}

static int host_fd(struct worker *w, const char *name)
{
    struct host_files *f = &w->files;
    for (size_t i = 0; i < f->count; i++)
        if (!strcmp(f->names[i], name))
            return f->fds[i];
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return complain(w->c, "the map names '%s': %s", name, strerror(errno));
    if (f->count == MAX_FILES)
        close(f->fds[--f->count]);
    f->names[f->count] = name;
    f->fds[f->count++] = fd;
    return fd;
}

/* What extent E claims of [OFF, OFF + LEN), whose bytes are in WORKER->theirs. */
static int check_claims(struct worker *w, const struct img_extent *e, uint64_t off, size_t len)
{
    struct check *c = w->c;
    const uint8_t *p = w->theirs;
    if (e->reads_zero && (*p || memcmp(p, p + 1, len - 1)))
        return complain(c,
                        "the map says %" PRIu64 "+%" PRIu64
                        " reads as zeroes, the reference has data"
                        " in %" PRIu64 "+%zu",
                        e->start, e->length, off, len);
    if (e->kind != IMG_EXTENT_DATA || !e->has_offset)
        return 0;
    int fd = host_fd(w, e->filename);
    if (fd < 0 || read_padded(c, fd, e->filename, w->mine, len, e->offset + (off - e->start)) < 0)
        return -1;
    if (!memcmp(w->mine, p, len))
        return 0;
    size_t i = first_difference(w->mine, p, len);
    return complain(c,
                    "the map puts guest %" PRIu64 " at %" PRIu64 " of '%s', which holds %#04x, "
                    "%#04x in the reference",
                    off + i, e->offset + (off + i - e->start), e->filename, w->mine[i], p[i]);
}

/* Where the reference's next data is from OFF on, at most at END. */
static uint64_t next_data(const struct check *c, uint64_t off, uint64_t end)
{
    off_t at = lseek(c->fd, (off_t)(off - c->start), SEEK_DATA);
    if (at < 0)
        return errno == ENXIO ? end : off;
    return min((uint64_t)at + c->start, end);
}

static int compare_extent(struct worker *w, const struct img_extent *e)
{
    uint64_t off = e->start, end = e->start + e->length;
    while (off < end && !atomic_load(&w->c->failed)) {
        bool zero = e->kind == IMG_EXTENT_ZERO || e->kind == IMG_EXTENT_UNALLOCATED;
        uint64_t hole_end = zero && end - off > LONG_HOLE ? next_data(w->c, off, end) : off;
        size_t len = (size_t)min(CHUNK, end - off);
        if (compare_read(w, off, len) < 0 || check_claims(w, e, off, len) < 0)
            return -1;
        off += len;
        if (hole_end > off && hole_end - off > LONG_HOLE)
            off = hole_end - CHUNK;
    }
    return 0;
}

/* Where and how long the N-th random read is: all over the disk, or across the edge of an extent.
 */
static void choose(const struct check *c, unsigned long n, uint64_t *off, size_t *len)
{
    uint64_t r = mix(c->seed ^ mix(n)), s = mix(r), t = mix(s);
    size_t most = (size_t)1 << s % 19; /* short ones as often as long ones */
    *len = 1 + (size_t)(s >> 8) % most;
    *off = c->start + r % c->size;
    if (t & 1) {
        const struct img_extent *e = &c->map.items[r % c->map.count];
        uint64_t edge = t & 2 ? e->start : e->start + e->length;
        uint64_t before = (t >> 8) % (*len + 1);
        *off = edge - c->start > before ? edge - before : c->start;
    }
    if (*off >= c->start + c->size)
        *off = c->start + c->size - 1;
    *len = (size_t)min(*len, c->start + c->size - *off);
}

static void *work(void *opaque)
{
    struct worker *w = opaque;
    struct check *c = w->c;
    unsigned long i;
    while ((i = atomic_fetch_add(&c->next_chunk, 1)) < c->map.count && !atomic_load(&c->failed))
        compare_extent(w, &c->map.items[i]);
    while ((i = atomic_fetch_add(&c->next_read, 1)) < c->reads && !atomic_load(&c->failed)) {
        uint64_t off;
        size_t len;
        choose(c, i, &off, &len);
        if (compare_read(w, off, len) == 0)
            check_part(c, off, len);
    }
    for (size_t f = 0; f < w->files.count; f++)
        close(w->files.fds[f]);
    return NULL;
}

static int run_workers(struct check *c, unsigned threads)
{
    struct worker workers[MAX_THREADS] = {0};
    pthread_t ids[MAX_THREADS];
    uint8_t *buffers = malloc(2 * (size_t)CHUNK * threads);
    if (!buffers)
        abort();
    for (unsigned i = 0; i < threads; i++) {
        workers[i] = (struct worker){.c = c, .mine = buffers + 2 * (size_t)CHUNK * i};
        workers[i].theirs = workers[i].mine + CHUNK;
        if (pthread_create(&ids[i], NULL, work, &workers[i]))
            abort();
    }
    for (unsigned i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    free(buffers);
    return atomic_load(&c->failed) ? -1 : 0;
}

static int against_reference(struct check *c, unsigned threads)
{
    struct img_error err = IMG_ERROR_INIT;
    struct stat st;
    c->fd = open(c->reference, O_RDONLY | O_CLOEXEC);
    if (c->fd < 0 || fstat(c->fd, &st) < 0)
        return complain(c, "%s: %s", c->reference, strerror(errno));
    if ((uint64_t)st.st_size != c->size)
        return complain(c, "%s has %" PRIu64 " bytes, the reference %jd", c->image, c->size,
                        (intmax_t)st.st_size);
    int ret = img_map(c->img, c->start, c->size, collect, &c->map, &err);
    if (ret < 0)
        return complain_error(c, &err);
    ret = check_tiling(c, &c->map, c->start, c->start + c->size);
    return ret || !c->size ? ret : run_workers(c, threads);
}

/* ---- without a reference ---- */

static int read_extents(struct check *c, const struct extents *m, uint8_t *buf, uint64_t *total)
{
    struct img_error err = IMG_ERROR_INIT;
    for (size_t i = 0; i < m->count; i++) {
        const struct img_extent *e = &m->items[i];
        bool zero = e->kind == IMG_EXTENT_ZERO || e->kind == IMG_EXTENT_UNALLOCATED;
        for (uint64_t done = 0; done < e->length && *total < READ_ONLY_LIMIT; done += CHUNK) {
            size_t len = (size_t)min(CHUNK, e->length - done);
            if (img_read(c->img, buf, len, e->start + done, &err) < 0)
                return complain_error(c, &err);
            *total += len;
            if (zero)
                break;
        }
    }
    return 0;
}

static int read_all(struct check *c)
{
    struct img_error err = IMG_ERROR_INIT;
    struct extents m = {.limit = BATCH};
    uint64_t at = c->start, total = 0;
    uint8_t *buf = malloc(CHUNK);
    int ret = buf ? 0 : -1;
    for (; !ret && at < c->start + c->size; m.count = 0) {
        ret = img_map(c->img, at, c->start + c->size - at, collect, &m, &err);
        /* the extents before an error can be read all the same */
        if (read_extents(c, &m, buf, &total) < 0)
            ret = -1;
        else
            ret = ret < 0 ? complain_error(c, &err) : 0;
        if (m.count)
            at = m.items[m.count - 1].start + m.items[m.count - 1].length;
    }
    img_error_clear(&err);
    free(m.items);
    free(buf);
    return ret;
}

static int dump(struct check *c, const char *ranges)
{
    struct img_error err = IMG_ERROR_INIT;
    char *end = (char *)(uintptr_t)ranges;
    while (*end) {
        uint64_t off = strtoull(end, &end, 0);
        uint64_t len = *end == ',' ? strtoull(end + 1, &end, 0) : 0;
        end += *end == ',';
        uint8_t *buf = malloc(len + 1);
        if (!buf || img_read(c->img, buf, len, off, &err) < 0) {
            free(buf);
            return complain_error(c, &err);
        }
        fwrite(buf, 1, len, stdout);
        free(buf);
    }
    return fflush(stdout) ? complain(c, "could not write") : 0;
}

/* ---- the command ---- */

static int usage(void)
{
    fprintf(stderr,
            "usage: readcheck [-f FMT] [-l SNAPSHOT] [-w OFFSET,LENGTH] [-t THREADS] [-n READS]"
            " [-s SEED] [-r | -d OFFSET,LENGTH,...] IMAGE [REFERENCE]\n");
    return 2;
}

int main(int argc, char **argv)
{
    struct img_open_options options = {0};
    struct img_error err = IMG_ERROR_INIT;
    struct check c = {.seed = 1, .reads = 1000, .fd = -1};
    const char *ranges = NULL, *window = NULL;
    bool read_only = false;
    unsigned long threads = 4;
    int o;
    while ((o = getopt(argc, argv, "f:l:w:t:n:s:rd:")) != -1) {
        switch (o) {
        case 'f':
            options.format = optarg;
            break;
        case 'l':
            options.snapshot = optarg;
            break;
        case 'w':
            window = optarg;
            break;
        case 't':
            threads = strtoul(optarg, NULL, 0);
            break;
        case 'n':
            c.reads = strtoul(optarg, NULL, 0);
            break;
        case 's':
            c.seed = strtoull(optarg, NULL, 0);
            break;
        case 'r':
            read_only = true;
            break;
        case 'd':
            ranges = optarg;
            break;
        default:
            return usage();
        }
    }
    bool alone = read_only || ranges;
    if (optind + (alone ? 1 : 2) != argc || !threads || threads > MAX_THREADS)
        return usage();
    c.image = argv[optind];
    c.reference = argv[optind + 1];
    int ret = img_open(&c.img, c.image, &options, &err);
    if (ret < 0)
        return complain_error(&c, &err), 1;
    c.size = img_size(c.img);
    if (window && sscanf(window, "%" SCNu64 ",%" SCNu64, &c.start, &c.size) != 2)
        return usage();
    ret = ranges ? dump(&c, ranges) : read_only ? read_all(&c) : against_reference(&c, threads);
    if (c.fd >= 0)
        close(c.fd);
    free(c.map.items);
    img_close(c.img);
    return ret ? 1 : 0;
}
