/* Building a new image from front to back: see struct driver_building. */
#ifndef QCOW2_BUILD_H
#define QCOW2_BUILD_H

#include "formats/qcow2/create.h"

extern const struct driver_building qcow2_building;

/*
 * build_refs.c: the refcounts of a new file, kept a block at a time, so that it costs next to no
 * memory to go through them in order.
 */
struct build_refs {
    const struct qcow2_layout *layout;
    struct file *file;
    uint8_t *block; /* the one at hand */
    uint64_t index; /* of it; UINT64_MAX: none */
    bool dirty;
    uint8_t *stored; /* a bit for each block: it is in the file, or at hand */
};

int build_refs_init(struct build_refs *r, const struct qcow2_layout *l, struct file *f,
                    struct img_error *err);
void build_refs_free(struct build_refs *r);
/* COUNT clusters that nothing was said of yet are used once. */
int build_refs_fill(struct build_refs *r, uint64_t first, uint64_t count, struct img_error *err);
/* One reference more; *FULL: there is no room for another after it. */
int build_refs_add(struct build_refs *r, uint64_t cluster, bool *full, struct img_error *err);
/* Counts the blocks themselves, and writes what is at hand and the table that names them. */
int build_refs_finish(struct build_refs *r, struct img_error *err);

/* compressor.c */
int qcow2_compressor_create(void **compressor, const struct qcow2_header *header, int level,
                            struct img_error *err);
size_t qcow2_compressor_memory(const struct qcow2_header *header, int level);
void qcow2_compressor_destroy(void *compressor);
size_t qcow2_compress(void *compressor, const void *unit, void *out);

/* Writes LENGTH bytes of a table at AT of a file that reads as zeroes there: not those at both ends
 * that are zero in stretches that a host may leave out. */
int build_write(struct file *f, const uint8_t *data, size_t length, uint64_t at,
                struct img_error *err);

#endif
