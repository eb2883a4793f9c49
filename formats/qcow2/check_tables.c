/*
 * Reading tables for a check, and the set of L2 tables.
 *
 * An L2 table may belong to the disk and to many snapshots. Walking it for each of them would cost
 * as many times the time, so all L1 tables are read first, to know how often each L2 table is used;
 * it is then walked once, and all it references is counted so many times.
 *
 * A hostile file can name the same bytes as a table over and over (unaligned tables, L1 tables on
 * top of each other). Reading is therefore bounded by what the file holds; holes are not read at
 * all.
 */
#include "formats/qcow2/check.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <stdlib.h>
#include <string.h>

/* Smaller reads are not worth asking where the holes are. */
enum { HOLES_FROM = 16 << 10 };

/* So many bytes are a step of progress. */
enum { TELL_EACH = 4 << 20 };

/* Does [OFFSET, OFFSET + LEN) lie in a hole? */
static bool in_hole(struct check *c, uint64_t offset, size_t len)
{
    struct file_extent e;
    if (len < HOLES_FROM)
        return false;
    if (offset >= c->hole_start && offset + len <= c->hole_end)
        return true;
    if (c->q->file->ops->extent(c->q->file, host(offset), &e) < 0 || e.data || e.length < len)
        return false;
    c->hole_start = offset;
    c->hole_end = offset + min_u64(e.length, INT64_MAX - offset);
    return true;
}

int check_read(struct check *c, void *buf, size_t len, uint64_t offset, bool *zeroes)
{
    *zeroes = true;
    c->report->done += len;
    if (c->report->done - c->told >= TELL_EACH) {
        c->told = c->report->done;
        check_progress(c->report);
    }
    if (offset >= c->q->file_size || in_hole(c, offset, len))
        return 0;
    if (len > c->budget) {
        c->exhausted = true;
        return 0;
    }
    c->budget -= len;
    *zeroes = false;
    return file_read_padded(c->q->file, buf, len, host(offset), c->err);
}

bool check_repeat(struct check *c, uint64_t len)
{
    if (len > c->repeats)
        return false;
    c->repeats -= len;
    c->budget += len;
    return true;
}

int check_each_l1(struct check *c, uint64_t offset, uint32_t size, bool active, check_l1_fn fn)
{
    uint8_t piece[16 << 10];
    uint64_t bytes = size * 8ull;
    if (offset > INT64_MAX - bytes)
        return 0;
    for (uint64_t at = 0; at < bytes && offset + at < c->end; at += sizeof piece) {
        size_t n = (size_t)min_u64(sizeof piece, bytes - at);
        bool zeroes;
        int ret = check_read(c, piece, n, offset + at, &zeroes);
        for (size_t i = 0; i < n && !zeroes && !ret; i += 8) {
            uint64_t entry = load_be64(piece + i);
            if (!entry)
                continue;
            ret = file_go_on(c->q->file, c->err);
            if (!ret)
                ret = fn(c, (at + i) / 8, entry, offset + at + i, active);
        }
        if (ret == -ECANCELED)
            return ret;
        if (ret < 0)
            return img_prefix(c->err, ret, "Could not read L1 table: ");
        if (zeroes && c->hole_start <= offset + at && c->hole_end > offset + at + 2 * sizeof piece)
            at = align_down(c->hole_end - offset, sizeof piece) - sizeof piece;
    }
    return 0;
}

/* The slot of OFFSET, or the free one where it belongs. */
static struct l2_table *slot_of(const struct l2_set *s, uint64_t offset)
{
    size_t i = (size_t)((offset >> 9) * 0x9e3779b97f4a7c15ull >> 20);
    for (;; i++) {
        struct l2_table *t = &s->slots[i & (s->capacity - 1)];
        if (!t->uses || t->offset == offset)
            return t;
    }
}

static int grow(struct check *c)
{
    struct l2_set *s = &c->tables;
    struct l2_set wider = {.capacity = s->capacity ? s->capacity * 2 : 256, .count = s->count};
    wider.slots = calloc(wider.capacity, sizeof *wider.slots);
    if (!wider.slots)
        return img_fail_nomem(c->err);
    for (size_t i = 0; i < s->capacity; i++)
        if (s->slots[i].uses)
            *slot_of(&wider, s->slots[i].offset) = s->slots[i];
    free(s->slots);
    *s = wider;
    return 0;
}

struct l2_table *check_find_l2(struct check *c, uint64_t offset)
{
    struct l2_table *t = c->tables.capacity ? slot_of(&c->tables, offset) : NULL;
    return t && t->uses ? t : NULL;
}

static int register_l2(struct check *c, uint64_t index, uint64_t entry, uint64_t place, bool active)
{
    struct l2_set *s = &c->tables;
    (void)index, (void)place, (void)active;
    if (check_is_void(c, entry))
        return 0;
    if (s->count * 3 >= s->capacity * 2) {
        int ret = grow(c);
        if (ret < 0)
            return ret;
    }
    struct l2_table *t = slot_of(s, entry & L1_OFFSET_MASK);
    if (!t->uses) {
        s->count++;
        t->offset = entry & L1_OFFSET_MASK;
    } else if (t->last_l1 == c->l1_number) {
        t->shared = true;
    }
    t->last_l1 = c->l1_number;
    t->uses += t->uses < UINT32_MAX;
    return 0;
}

int check_register_l1(struct check *c, uint64_t offset, uint32_t size)
{
    c->l1_number++;
    return check_each_l1(c, offset, size, false, register_l2);
}
