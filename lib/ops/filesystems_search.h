/* What the parts of the search share, inside the child. */
#ifndef LIB_OPS_FILESYSTEMS_SEARCH_H
#define LIB_OPS_FILESYSTEMS_SEARCH_H

#include "lib/ops/filesystems.h"

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

/* filesystems_lvm.c: adds the group that the physical volume PV belongs to, and what is in it. */
void probe_lvm(struct search *s, uint32_t pv);

#endif
