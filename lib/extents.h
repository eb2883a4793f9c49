/* What a format answers for a range of the guest's disk, and how such answers join up. */
#ifndef LIB_EXTENTS_H
#define LIB_EXTENTS_H

#include "lib/addr.h"
#include "lib/file.h"

struct extent {
    uint64_t length;
    enum img_extent_kind kind;
    struct file
        *file;     /* the host file that holds it, or NULL: DATA, and ZERO that is preallocated */
    host_off host; /* where in FILE */
};

/* Does NEXT continue PREV, so that one extent can say both? */
static inline bool extent_continues(const struct extent *prev, const struct extent *next)
{
    return prev->kind == next->kind && prev->file == next->file &&
           (!prev->file || prev->host.v + prev->length == next->host.v);
}

/* Cuts SKIP bytes from the front. */
static inline void extent_skip(struct extent *e, uint64_t skip)
{
    e->length -= skip;
    e->host.v += e->file ? skip : 0;
}

/* Joins what is handed to it, in order, and gives each finished img_extent to a function. */
struct extent_joiner {
    int (*fn)(void *opaque, const struct img_extent *extent);
    void *opaque;
    struct img_extent pending; /* length 0: none */
};

/* Returns what the function returned when it was called, else 0. */
int extent_join(struct extent_joiner *j, const struct img_extent *next);
int extent_join_finish(struct extent_joiner *j);

#endif
