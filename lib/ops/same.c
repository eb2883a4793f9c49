/*
 * Do two files hold the same disk? Hard links and symbolic links of one file do, without a look.
 *
 * A copy of a layer may name another base than the original by then, or one that is gone. Where
 * both can be opened with all that is below them, what the guest reads is compared; else each layer
 * by itself, and which parts it leaves to its base.
 */
#include "lib/checked.h"
#include "lib/ops/relocate.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PIECE = 1 << 20 };

static int differ(const struct same_request *r, const char *how, struct img_error *err)
{
    return img_fail(err, EINVAL, "'%s' is not the same as '%s': %s", r->new, r->old, how);
}

/* As a program that reads while others may be writing elsewhere: who changes these is locked out
 * already, or knows what it does. */
static int open_one(struct img **out, const struct same_request *r, const char *path,
                    unsigned flags, struct img_error *err)
{
    struct img_open_options options = {.format = r->format, .flags = flags | IMG_OPEN_FORCE_SHARE};
    char *named = NULL; /* a path, whatever it looks like */
    if (asprintf(&named, "file:%s", path) < 0)
        return img_fail_nomem(err);
    int ret = img_open(out, named, &options, err);
    free(named);
    return ret;
}

static int compare_headers(struct same_request *r, struct img *old, struct img *new,
                           struct img_error *err)
{
    if (strcmp(img_layer_format(old, 0), img_layer_format(new, 0)) != 0)
        return img_fail(err, EINVAL, "'%s' is not the same as '%s': it is %s, not %s", r->new,
                        r->old, img_layer_format(new, 0), img_layer_format(old, 0));
    if (img_size(old) != img_size(new))
        return img_fail(err, EINVAL,
                        "'%s' is not the same as '%s': it has %" PRIu64 " bytes, not %" PRIu64,
                        r->new, r->old, img_size(new), img_size(old));
    return 0;
}

int same_look(struct same_request *r, struct img_error *err)
{
    struct stat a, b;
    struct img *old = NULL, *new = NULL;
    r->size = 0;
    if (stat(r->old, &a) < 0 ||
        (stat(r->new, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino))
        return 0;
    int ret = open_one(&old, r, r->old, IMG_OPEN_NO_DATA, err);
    if (!ret)
        ret = open_one(&new, r, r->new, IMG_OPEN_NO_DATA, err);
    if (!ret)
        ret = compare_headers(r, old, new, err);
    if (!ret)
        r->size = img_size(old);
    img_close(old);
    img_close(new);
    return ret;
}

/* ---- bytes --------------------------------------------------------------------------------- */

struct side {
    struct img *img;
    uint8_t *buf;
    struct extent e;
};

static int look(struct side *s, uint64_t at, uint64_t max, struct img_error *err)
{
    unsigned depth;
    return chain_map(s->img, guest(at), max, MAP_HOLES, NULL, &s->e, &depth, err);
}

static bool reads_zero(const struct extent *e)
{
    return e->kind == IMG_EXTENT_UNALLOCATED || e->kind == IMG_EXTENT_ZERO;
}

/* The next piece from AT on: *LENGTH of it are the same, or the call fails. ALONE: what a layer
 * leaves to its base must be the same, too. */
static int compare_piece(const struct same_request *r, struct side *a, struct side *b, uint64_t at,
                         bool alone, uint64_t *length, struct img_error *err)
{
    uint64_t left = r->size - at;
    int ret = look(a, at, left, err);
    if (!ret)
        ret = look(b, at, left, err);
    if (ret < 0)
        return ret;
    *length = min_u64(a->e.length, b->e.length);
    bool both_zero = reads_zero(&a->e) && reads_zero(&b->e);
    bool left_out = (a->e.kind == IMG_EXTENT_UNALLOCATED) != (b->e.kind == IMG_EXTENT_UNALLOCATED);
    if (both_zero && !(alone && left_out))
        return 0;
    *length = min_u64(*length, PIECE);
    ret = alone && left_out ? differ(r, "other parts of it are left to its base", err) : 0;
    if (!ret)
        ret = img_read(a->img, a->buf, *length, at, err);
    if (!ret)
        ret = img_read(b->img, b->buf, *length, at, err);
    if (!ret && memcmp(a->buf, b->buf, *length) != 0)
        ret = img_fail(err, EINVAL,
                       "'%s' is not the same as '%s': other bytes after offset %" PRIu64, r->new,
                       r->old, at);
    return ret;
}

static int open_both(const struct same_request *r, struct side *a, struct side *b, bool *alone,
                     struct img_error *err)
{
    *alone = false;
    int ret = open_one(&a->img, r, r->old, 0, NULL);
    if (!ret)
        ret = open_one(&b->img, r, r->new, 0, NULL);
    if (ret == -ENOMEM)
        return img_fail_nomem(err);
    if (!ret)
        return 0;
    *alone = true;
    img_close(a->img);
    a->img = NULL;
    ret = open_one(&a->img, r, r->old, IMG_OPEN_NO_BACKING, err);
    return ret < 0 ? ret : open_one(&b->img, r, r->new, IMG_OPEN_NO_BACKING, err);
}

int same_bytes(const struct same_request *r,
               int (*step)(void *opaque, uint64_t bytes, struct img_error *err), void *opaque,
               struct img_error *err)
{
    struct side a = {.buf = malloc(PIECE)}, b = {.buf = malloc(PIECE)};
    bool alone;
    uint64_t length;
    int ret = a.buf && b.buf ? open_both(r, &a, &b, &alone, err) : img_fail_nomem(err);
    for (uint64_t at = 0; !ret && at < r->size; at += length) {
        ret = compare_piece(r, &a, &b, at, alone, &length, err);
        if (!ret)
            ret = step(opaque, length, err);
    }
    img_close(a.img);
    img_close(b.img);
    free(a.buf);
    free(b.buf);
    return ret;
}
