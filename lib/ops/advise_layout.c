/*
 * Where the blocks of the host file are: by FIEMAP where the file system has it, which also tells
 * blocks that are reserved but unwritten, and how often the file jumps on the disk; else by
 * SEEK_DATA and SEEK_HOLE. Nothing is flushed to make the answer better: a reader must not cause
 * writes.
 */
#include "lib/checked.h"
#include "lib/ops/advise.h"

#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { BATCH = 256 };

void advise_layout_clear(struct advise_layout *l)
{
    free(l->spans);
    *l = (struct advise_layout){0};
}

static bool add_span(struct advise_layout *l, uint64_t start, uint64_t length, bool unwritten)
{
    struct advise_span *last = l->count ? &l->spans[l->count - 1] : NULL;
    if (last && last->unwritten == unwritten && last->start + last->length == start) {
        last->length += length;
    } else {
        if (l->count == l->room) {
            size_t room = l->room ? l->room * 2 : 64;
            struct advise_span *grown = realloc(l->spans, room * sizeof *grown);
            if (!grown)
                return false;
            l->spans = grown;
            l->room = room;
        }
        l->spans[l->count++] = (struct advise_span){start, length, unwritten};
    }
    l->span_bytes += length;
    l->known_to = start + length;
    return true;
}

bool advise_layout_add(struct advise_layout *l, uint64_t logical, uint64_t physical,
                       uint64_t length, uint32_t flags)
{
    bool placeless = flags &
                     (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_DATA_INLINE);
    if (l->count >= ADVISE_MAX_SPANS || l->fragments >= ADVISE_MAX_SPANS) {
        l->capped = true;
        return false;
    }
    if (!placeless) {
        /* behind a hole a file may go on anywhere: that is no fragment */
        l->fragments += !l->fragments || (logical == l->known_to && physical != l->physical_end);
        l->fragment_bytes += length;
        l->physical_end = physical + length;
    }
    return add_span(l, logical, length, flags & FIEMAP_EXTENT_UNWRITTEN);
}

/* All extents of the file, batch by batch. Returns -errno where FIEMAP does not work. */
static int read_fiemap(struct advise_layout *l, int fd, uint64_t length)
{
    struct fiemap *map = calloc(1, sizeof *map + BATCH * sizeof map->fm_extents[0]);
    if (!map)
        return -ENOMEM;
    uint64_t at = 0;
    bool more = true;
    int ret = 0;
    while (more && at < length) {
        memset(map, 0, sizeof *map);
        map->fm_start = at;
        map->fm_length = length - at;
        map->fm_extent_count = BATCH;
        if (ioctl(fd, FS_IOC_FIEMAP, map) < 0) {
            ret = -errno;
            break;
        }
        more = map->fm_mapped_extents > 0;
        for (unsigned i = 0; i < map->fm_mapped_extents && more; i++) {
            const struct fiemap_extent *e = &map->fm_extents[i];
            more = !(e->fe_flags & FIEMAP_EXTENT_LAST);
            if (e->fe_length == 0 || e->fe_logical + e->fe_length <= at)
                continue; /* a file system that repeats itself must not keep us here */
            at = e->fe_logical + e->fe_length;
            more &= advise_layout_add(l, e->fe_logical, e->fe_physical, e->fe_length, e->fe_flags);
        }
    }
    free(map);
    if (!ret && !l->capped)
        l->known_to = length;
    return ret;
}

static void read_holes(struct advise_layout *l, int fd, uint64_t length, uint64_t allocated)
{
    uint64_t at = 0;
    while (at < length && l->count < ADVISE_MAX_SPANS) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA);
        if (data < 0 && errno != ENXIO)
            return;
        if (data < 0 || (uint64_t)data >= length) {
            at = length;
            break;
        }
        off_t hole = lseek(fd, data, SEEK_HOLE);
        if (hole <= data || !add_span(l, (uint64_t)data, (uint64_t)(hole - data), false))
            return;
        at = (uint64_t)hole;
    }
    l->capped = at < length;
    l->known_to = min_u64(at, length);
    /* a file system that knows no holes says "data" throughout, whatever it has allocated */
    l->holes_known = l->span_bytes < l->known_to || allocated >= length / 10 * 9;
}

int advise_layout_read(struct advise_layout *l, int fd, uint64_t length, uint64_t allocated)
{
    *l = (struct advise_layout){0};
    int ret = read_fiemap(l, fd, length);
    if (ret == 0) {
        l->holes_known = l->unwritten_known = true;
        return 0;
    }
    advise_layout_clear(l);
    l->fiemap_error = -ret;
    if (ret != -ENOMEM)
        read_holes(l, fd, length, allocated);
    return ret == -ENOMEM ? ret : 0;
}

/* The first span that ends behind OFF. */
static size_t find(const struct advise_layout *l, uint64_t off)
{
    size_t low = 0, high = l->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (l->spans[mid].start + l->spans[mid].length <= off)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

void advise_place(const struct advise_layout *l, uint64_t start, uint64_t length,
                  struct advise_placement *p)
{
    uint64_t end = start + min_u64(length, UINT64_MAX - start);
    end = min_u64(end, l->known_to);
    for (size_t i = find(l, start); start < end; i++) {
        uint64_t next = i < l->count ? min_u64(l->spans[i].start, end) : end;
        if (next > start) {
            p->hole += next - start;
            start = next;
        }
        if (i >= l->count || start >= end)
            break;
        next = min_u64(l->spans[i].start + l->spans[i].length, end);
        *(l->spans[i].unwritten ? &p->unwritten : &p->written) += next - start;
        start = next;
    }
}

bool advise_data_end(int fd, uint64_t from, uint64_t length, uint64_t *end)
{
    *end = from;
    for (unsigned i = 0; i < ADVISE_MAX_SPANS; i++) {
        if (*end >= length)
            return true;
        off_t data = lseek(fd, (off_t)*end, SEEK_DATA);
        if (data < 0)
            return errno == ENXIO;
        off_t hole = lseek(fd, data, SEEK_HOLE);
        if (hole <= data)
            return false;
        *end = (uint64_t)hole;
    }
    return false;
}
