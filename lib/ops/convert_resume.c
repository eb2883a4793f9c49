/*
 * convert that goes on where it was interrupted.
 *
 * The log's head says what is being copied: first what is taken over from there, then pairs of a
 * label and a value, which must all be the same later. The files are held by their locks, so that
 * of two runs at once the second finds the target in use.
 */
#include "lib/bytes.h"
#include "lib/ops/convert.h"
#include "lib/ops/copy_log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

/* The head before the pairs: the inodes of the image and of its data file, how much data the map
 * has (64 bits), the sum of the map, flags (32 bits). */
enum { IMAGE_INODE = 0, DATA_INODE = 8, MAP_BYTES = 16, MAP_SUM = 24, FLAGS = 28, PAIRS = 32 };
enum { FLAG_SHARED = 1, FLAG_SALVAGED = 2 };
enum { FIRST_BYTES = 64 << 10 };

static bool wanted(const struct conversion *c)
{
    return c->given->flags & IMG_CONVERT_RESUME;
}

int conversion_resume_check(const struct conversion *c, struct img_error *err)
{
    unsigned flags = c->given->flags;
    const char *why = NULL;
    if (!wanted(c))
        return 0;
    if (flags & IMG_CONVERT_EXISTING)
        why = "an image that exists (-n) is written in place";
    else if (flags & IMG_CONVERT_ADOPT)
        why = "--adopt copies nothing";
    else if (flags & IMG_CONVERT_TO_STREAM)
        why = "what has gone into a stream is out of reach";
    else if (flags & IMG_CONVERT_FROM_STREAM)
        why = "a stream cannot be read again";
    return why ? img_fail(err, ENOTSUP, "--resume is not possible here: %s", why) : 0;
}

/* ---- what is copied ------------------------------------------------------------------------ */

__attribute__((format(printf, 3, 4))) static void say(FILE *out, const char *label,
                                                      const char *format, ...)
{
    va_list list;
    va_start(list, format);
    fputs(label, out);
    fputc(0, out);
    vfprintf(out, format, list);
    fputc(0, out);
    va_end(list);
}

static void say_of_file(FILE *out, const char *what, const struct file *f, const char *value)
{
    fprintf(out, "%s of '%s'", what, f->name);
    say(out, "", "%s", value);
}

static int say_file(FILE *out, struct file *f, struct img_error *err)
{
    struct stat st;
    uint64_t size;
    size_t got = 0;
    char text[64];
    uint8_t *head = malloc(FIRST_BYTES);
    int ret = head ? file_size(f, &size, err) : img_fail_nomem(err);
    if (!ret)
        ret = file_read_upto(f, head, FIRST_BYTES, host(0), &got, err);
    uLong sum = ret < 0 ? 0 : crc32(0, head, (uInt)got);
    free(head);
    if (ret < 0)
        return ret;
    snprintf(text, sizeof text, "%" PRIu64, size);
    say_of_file(out, "the size", f, text);
    /* of a device, these say nothing about what it holds */
    if (!f->device && f->fd >= 0 && fstat(f->fd, &st) == 0) {
        struct tm t;
        char day[32];
        strftime(day, sizeof day, "%F %T", gmtime_r(&st.st_mtim.tv_sec, &t));
        snprintf(text, sizeof text, "%s.%09ld UTC", day, st.st_mtim.tv_nsec);
        say_of_file(out, "the time of the last change", f, text);
        snprintf(text, sizeof text, "%" PRIuMAX, (uintmax_t)st.st_ino);
        say_of_file(out, "the inode", f, text);
    }
    snprintf(text, sizeof text, "%08lx", sum);
    say_of_file(out, "the checksum of the first 64 KiB", f, text);
    return 0;
}

static int say_chain(FILE *out, const char *name, const struct img *img, struct img_error *err)
{
    int ret = 0;
    fprintf(out, "the number of layers of '%s'", name);
    say(out, "", "%u", img->depth);
    for (unsigned i = 0; i < img->depth && !ret; i++) {
        ret = say_file(out, img->layers[i]->file, err);
        if (!ret && img->layers[i]->data_file)
            ret = say_file(out, img->layers[i]->data_file, err);
    }
    return ret;
}

static const char *or_none(const char *text)
{
    return text ? text : "none";
}

static void say_options(FILE *out, const struct conversion *c)
{
    const struct img_convert_options *g = c->given;
    const struct img_open_options *o = g->open;
    static const char *const reflink[] = {"auto", "never", "always"};
    say(out, "the version of imgtool", "%s", img_version());
    say(out, "the format (-O)", "%s", c->format);
    say(out, "the list of options (-o)", "%s", or_none(g->options));
    say(out, "the backing file (-B)", "%s", or_none(g->backing_file));
    say(out, "the format of the backing file (-F)", "%s", or_none(g->backing_format));
    say(out, "the compression (-c)", "%s", c->job.compress ? "on" : "off");
    say(out, "the size of zeroes that are left out (-S)", "%" PRIu64, c->job.sparse);
    say(out, "the sharing of data (--reflink)", "%s", reflink[g->reflink]);
    say(out, "the internal snapshot (-l)", "%s",
        or_none(!o                 ? NULL
                : o->snapshot      ? o->snapshot
                : o->snapshot_id   ? o->snapshot_id
                : o->snapshot_name ? o->snapshot_name
                                   : NULL));
    say(out, "the format of the source (-f)", "%s", or_none(o ? o->format : NULL));
    say(out, "the number of sources", "%zu", c->image_count);
}

/* The pairs, behind room for what comes first. */
static int describe(struct conversion *c, struct img_error *err)
{
    static const char room[PAIRS];
    FILE *out = open_memstream(&c->began, &c->began_length);
    if (!out)
        return img_fail_nomem(err);
    fwrite(room, 1, PAIRS, out);
    say_options(out, c);
    int ret = 0;
    for (size_t i = 0; i < c->image_count && !ret; i++)
        ret = say_chain(out, c->given->sources[i], c->images[i], err);
    if (!ret && c->below)
        ret = say_chain(out, c->backing, c->below, err);
    bool failed = ferror(out);
    if ((fclose(out) || failed) && !ret)
        ret = img_fail_nomem(err);
    return ret;
}

/* ---- is it the same? ----------------------------------------------------------------------- */

static uint64_t inode(const struct new_file *f)
{
    return f ? f->file->id.inode : 0;
}

/* The string at *AT, which moves behind it; NULL: there is none. */
static const char *next_text(const uint8_t *buf, size_t length, size_t *at)
{
    const char *text = (const char *)buf + *at;
    size_t n = strnlen(text, length - *at);
    if (*at + n >= length)
        return NULL;
    *at += n + 1;
    return text;
}

static int stale(const struct conversion *c, const char *label, const char *before, const char *now,
                 struct img_error *err)
{
    int ret = img_fail(err, ESTALE,
                       "--resume is not possible: %s was %s when the convert began, and is %s",
                       label, before, now);
    img_hint(err, "Remove '%s' and '%s' to begin anew.", c->target.image->temporary,
             c->job.log->path);
    return ret;
}

static int compare(const struct conversion *c, const struct copy_log *log, struct img_error *err)
{
    const uint8_t *now = (const uint8_t *)c->began;
    size_t old_at = PAIRS, now_at = PAIRS;
    for (;;) {
        const char *label = next_text(now, c->began_length, &now_at);
        const char *was = next_text(log->head, log->head_length, &old_at);
        if (!label && !was)
            return 0;
        const char *value = label ? next_text(now, c->began_length, &now_at) : NULL;
        const char *old = was ? next_text(log->head, log->head_length, &old_at) : NULL;
        if (!value || !old)
            return stale(c, "what is copied", "other files", "another", err);
        if (strcmp(value, old) != 0)
            return stale(c, label, old, value, err);
    }
}

static int check_same(const struct conversion *c, struct img_error *err)
{
    const struct copy_log *log = c->job.log;
    int ret = compare(c, log, err);
    if (!ret && (load_be32(log->head + FLAGS) & FLAG_SALVAGED) && !c->job.salvage)
        ret = stale(c, "--salvage", "given", "not", err);
    return ret;
}

/* Is what the log speaks of what lies here? */
static bool is_whole(const struct conversion *c)
{
    const struct copy_log *log = c->job.log;
    const struct new_image *n = &c->target;
    const uint8_t *head = log->head;
    uint64_t size = 0;
    const struct new_file *holder = n->data ? n->data : n->image;
    return log->head_length >= PAIRS && log->logged.at && n->image->found &&
           (!n->data || n->data->found) && load_be64(head + IMAGE_INODE) == inode(n->image) &&
           load_be64(head + DATA_INODE) == inode(n->data) &&
           file_size(holder->file, &size, NULL) == 0 && size >= log->logged.end;
}

/* ---- the steps ----------------------------------------------------------------------------- */

static void say_kept(const struct conversion *c)
{
    char *name = new_file_beside(c->target.image->path, ".imgtool-partial"), *text = NULL;
    if ((c->given->flags & IMG_CONVERT_SAY_KEPT) && name && access(name, F_OK) == 0 &&
        asprintf(&text, "'%s' is left from an interrupted convert, with which --resume goes on",
                 name) >= 0)
        c->job.warn(c->job.opaque, text);
    free(text);
    free(name);
}

static int open_log(struct conversion *c, bool *found, struct img_error *err)
{
    char *path = new_file_beside(c->target.image->path, ".imgtool-resume");
    int ret = path ? copy_log_new(&c->job.log, path, err) : img_fail_nomem(err);
    free(path);
    return ret < 0 ? ret : copy_log_load(c->job.log, found, err);
}

static int make_empty(struct new_file *f, struct img_error *err)
{
    return f && f->found ? file_truncate(f->file, 0, err) : 0;
}

static void use_again(struct new_file *f, uint64_t good)
{
    if (!f)
        return;
    f->file->used = true;
    f->file->good = good;
}

int conversion_resume_find(struct conversion *c, struct img_error *err)
{
    struct new_image *n = &c->target;
    bool found;
    if (!wanted(c)) {
        say_kept(c);
        return 0;
    }
    if (n->image->in_place || (n->data && n->data->in_place))
        return img_fail(err, ENOTSUP,
                        "--resume is not possible here: a device is written in place");
    int ret = describe(c, err);
    if (!ret)
        ret = open_log(c, &found, err);
    if (ret < 0)
        return ret;
    c->goes_on = found && is_whole(c);
    if (c->goes_on) {
        use_again(n->image, n->data ? 0 : c->job.log->logged.end);
        use_again(n->data, c->job.log->logged.end);
        return check_same(c, err);
    }
    if (n->image->found && found && c->job.log->logged.at && c->job.warn)
        c->job.warn(c->job.opaque,
                    "what an interrupted convert has left is not whole: this one begins anew");
    c->anew = true;
    c->job.log->logged = (struct copy_progress){0};
    ret = make_empty(n->image, err);
    return ret < 0 ? ret : make_empty(n->data, err);
}

int conversion_resume_prepare(struct conversion *c, struct img_error *err)
{
    if (!wanted(c))
        return 0;
    uint8_t *began = (uint8_t *)c->began;
    struct new_image *n = &c->target;
    store_be64(began + IMAGE_INODE, inode(n->image));
    store_be64(began + DATA_INODE, inode(n->data));
    store_be64(began + MAP_BYTES, c->data_bytes);
    store_be32(began + MAP_SUM, c->job.map_sum);
    store_be32(began + FLAGS,
               (c->job.share ? FLAG_SHARED : 0u) | (c->job.salvage ? FLAG_SALVAGED : 0u));
    if (!c->goes_on)
        return 0;
    const uint8_t *head = c->job.log->head;
    c->job.share = load_be32(head + FLAGS) & FLAG_SHARED;
    if (load_be32(head + MAP_SUM) != c->job.map_sum || load_be64(head + MAP_BYTES) != c->data_bytes)
        return stale(c, "the place of holes and data in the source", "another", "not that", err);
    return 0;
}

int conversion_resume_begin(struct conversion *c, struct img_error *err)
{
    struct new_image *n = &c->target;
    if (!wanted(c))
        return 0;
    int ret = c->goes_on ? 0 : copy_log_create(c->job.log, c->began, c->began_length, err);
    if (ret < 0)
        return ret;
    c->job.log->files[0] = n->image->file;
    c->job.log->files[1] = n->data ? n->data->file : NULL;
    n->image->kept = true;
    if (n->data)
        n->data->kept = true;
    return 0;
}

void conversion_resume_end(struct conversion *c, int ret, struct img_error *err)
{
    struct new_image *n = &c->target;
    struct copy_log *log = c->job.log;
    if (log && !ret)
        copy_log_remove(log);
    if (log && ret < 0 && log->logged.at && ret != -ESTALE)
        img_hint(err, "What was copied is kept: convert --resume goes on with it.");
    if (log && ret < 0 && c->anew && !log->logged.at) {
        copy_log_remove(log);
        n->image->kept = false;
        if (n->data)
            n->data->kept = false;
    }
    copy_log_free(log);
    c->job.log = NULL;
    free(c->began);
}
