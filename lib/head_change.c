#include "lib/head_change.h"

#include <stdlib.h>
#include <string.h>

void head_change_clear(struct head_change *c)
{
    free(c->old);
    free(c->new);
    free(c->between);
    *c = (struct head_change){0};
}

static int read_now(const struct head_change *c, struct file *f, uint8_t **now,
                    struct img_error *err)
{
    *now = malloc(c->length + 1);
    if (!*now)
        return img_fail_nomem(err);
    int ret = file_read_padded(f, *now, c->length, host(0), err);
    if (ret < 0) {
        free(*now);
        *now = NULL;
    }
    return ret;
}

int head_change_look(const struct head_change *c, struct file *f, bool *old, bool *new, bool *mine,
                     struct img_error *err)
{
    uint8_t *now;
    int ret = read_now(c, f, &now, err);
    if (ret < 0)
        return ret;
    *old = !memcmp(now, c->old, c->length);
    *new = !memcmp(now, c->new, c->length);
    *mine = true;
    for (size_t at = 0; at < c->length; at += HEAD_SECTOR)
        *mine &= !memcmp(now + at, c->old + at, HEAD_SECTOR) ||
                 !memcmp(now + at, c->new + at, HEAD_SECTOR) ||
                 (!at && c->between && !memcmp(now, c->between, HEAD_SECTOR));
    free(now);
    return 0;
}

/* Writes the sectors of [FROM, END) in which TO differs from NOW. Those that do not may have been
 * written by a program that was killed: what it wrote is brought to disk, too. */
static int write_difference(struct file *f, uint8_t *now, const uint8_t *to, size_t from,
                            size_t end, struct img_error *err)
{
    for (size_t at = from; at < end; at += HEAD_SECTOR) {
        if (!memcmp(now + at, to + at, HEAD_SECTOR))
            continue;
        int ret = file_write(f, to + at, HEAD_SECTOR, host(at), err);
        if (ret < 0)
            return ret;
        memcpy(now + at, to + at, HEAD_SECTOR);
    }
    return file_flush(f, err);
}

int head_change_do(const struct head_change *c, struct file *f, struct img_error *err)
{
    uint8_t *now;
    int ret = read_now(c, f, &now, err);
    if (ret < 0 || !c->length) {
        free(now);
        return ret;
    }
    size_t first = HEAD_SECTOR;
    bool behind = memcmp(now + first, c->new + first, c->length - first) != 0;
    if (behind && c->between && memcmp(now, c->new, first) != 0)
        ret = write_difference(f, now, c->between, 0, first, err);
    if (!ret)
        ret = write_difference(f, now, c->new, first, c->length, err);
    if (!ret)
        ret = write_difference(f, now, c->new, 0, first, err);
    free(now);
    return ret;
}

int head_change_undo(const struct head_change *c, struct file *f, struct img_error *err)
{
    uint8_t *now;
    int ret = read_now(c, f, &now, err);
    if (!ret)
        ret = write_difference(f, now, c->old, 0, c->length, err);
    free(now);
    return ret;
}
