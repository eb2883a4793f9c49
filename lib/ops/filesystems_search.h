/* What the parts of the search share, inside the child. */
#ifndef LIB_OPS_FILESYSTEMS_SEARCH_H
#define LIB_OPS_FILESYSTEMS_SEARCH_H

#include "lib/ops/filesystems.h"

#include <unistd.h>

struct search {
    struct probe_report *report;
    int fd;
    uint64_t size;
    unsigned sector_size;
};

/* filesystems_probe.c. A new record; NULL: there is no room, and the report says so. */
struct probe_record *probe_add(struct search *s, enum img_volume_kind kind, uint32_t parent,
                               uint64_t start, uint64_t size);
/* Says in R what lies in SIZE bytes from its start on. */
void probe_inside(struct search *s, struct probe_record *r, uint64_t size);
/* TEXT into a field of ROOM bytes; NULL is nothing. */
void probe_put(char *field, size_t room, const char *text);

#define PUT(record, field, text) probe_put((record)->field, sizeof(record)->field, (text))

/* An integer of BYTES bytes, the lowest first. */
static inline uint64_t probe_little(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;
    while (bytes--)
        v = v << 8 | p[bytes];
    return v;
}

/* LEN bytes, OFF bytes behind BASE; false: the disk has not as many. */
static inline bool probe_read(const struct search *s, void *buf, size_t len, uint64_t base,
                              uint64_t off)
{
    return off <= s->size && base <= s->size - off &&
           pread(s->fd, buf, len, (off_t)(base + off)) == (ssize_t)len;
}

/* filesystems_size.c: how large the file system in R says that it is; 0: not known. */
uint64_t probe_content_size(const struct search *s, const struct probe_record *r);

/* filesystems_md.c: adds the arrays that the members found until now make up. */
void probe_md(struct search *s);

/* filesystems_lvm.c: adds the group that the physical volume PV belongs to, and what is in it. */
void probe_lvm(struct search *s, uint32_t pv);

/* filesystems_btrfs.c: adds the subvolumes of the file system FS. */
void probe_btrfs(struct search *s, uint32_t fs);

#endif
