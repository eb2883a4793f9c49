/* What is copied: the disks of some images, one behind the other. */
#ifndef LIB_OPS_COPY_SOURCE_H
#define LIB_OPS_COPY_SOURCE_H

#include "lib/image.h"

enum copy_kind {
    COPY_DATA,
    COPY_ZERO,
    COPY_SHARED, /* data that is not copied: source and target share its space on the host */
    COPY_ABSENT, /* not in the image itself: only where what lies below it is not wanted */
};

/* A stretch of one of the disks that is stored in one way. */
struct copy_part {
    enum copy_kind kind;
    uint64_t length;
    struct layer *layer; /* that holds it */
    uint64_t offset;     /* in its disk */
    struct extent extent;
};

struct copy_source {
    struct copy_disk {
        struct img *img;
        struct img view; /* the same, or its top layer alone */
        uint64_t start;  /* in the whole */
        struct chain_walk walk;
        bool *holes;      /* of each layer: does its data lie in holes of its file? */
        uint64_t cluster; /* what the tables of a layer speak of, the smallest */
    } * disks;
    size_t count;
    uint64_t first; /* what is before it in the whole is left out */
    uint64_t size;
    uint64_t largest; /* compressed cluster that the survey met; 0: none */
    struct {          /* the stretch of a host file that was asked for last */
        struct file *file;
        uint64_t start;
        struct file_extent extent;
    } stretch;
    /* Where the tables cannot be read, the disk is zero, cluster by cluster; else that is an error.
     */
    bool salvage;
    void (*warn)(void *opaque,
                 const char *message); /* of that, when it is met first; may be NULL */
    void *opaque;
    struct { /* what was met last */
        uint64_t end, said;
        char *why;
    } broken;
};

/* TOP_ONLY: of an image with a backing file, only what it holds itself. */
int copy_source_init(struct copy_source *s, struct img *const *images, size_t count, bool top_only,
                     struct img_error *err);
void copy_source_free(struct copy_source *s);

/* The part at OFF, at most MAX bytes long; for one thread, and fast when OFF ascends. */
int copy_source_map(struct copy_source *s, uint64_t off, uint64_t max, struct copy_part *out,
                    struct img_error *err);
/* Starts from the front again. */
void copy_source_rewind(struct copy_source *s);

/* Its first LENGTH bytes; from several threads at once. */
int copy_part_read(const struct copy_part *p, void *buf, uint64_t length, struct img_error *err);

#endif
