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
    uint8_t *stored;          /* a bit for each block: it is in the file, or at hand */
    uint64_t skip_from, skip; /* blocks that are not, and have no place */
};

int build_refs_init(struct build_refs *r, const struct qcow2_layout *l, struct file *f,
                    struct img_error *err);
void build_refs_free(struct build_refs *r);
/* COUNT clusters that nothing was said of yet are used once. */
int build_refs_fill(struct build_refs *r, uint64_t first, uint64_t count, struct img_error *err);
/* One reference more; *FULL: there is no room for another after it. */
int build_refs_add(struct build_refs *r, uint64_t cluster, bool *full, struct img_error *err);
/* COUNT blocks from FIRST on never come to be: those behind them lie as if they were not. Before
 * any block is at hand. */
void build_refs_skip(struct build_refs *r, uint64_t first, uint64_t count);
/* Counts the blocks themselves, and writes what is at hand and the table that names them. */
int build_refs_finish(struct build_refs *r, struct img_error *err);

/* build.c */

enum { HOST_BLOCK = 4096 }; /* what a host file system gives a place at once */

struct builder {
    const struct create_plan *given;
    struct qcow2_new *plan; /* its layout */
    struct qcow2_layout *layout;
    struct file *file, *data_file;
    bool mapped;     /* all clusters have their places: the plan has laid them out */
    bool sequential; /* the file is a pipe: first the tables come into being, then the data comes */
    bool written;    /* and they are */
    bool compress;
    bool small; /* clusters are smaller than a block of the host: see build_small.c */
    /* what is expected: tables are bits, clusters are counted up to NEXT_EXPECTED */
    uint8_t *tables;
    uint64_t next_expected;
    /* what has come */
    uint64_t table;       /* index of the L1 entry whose table is at hand; UINT64_MAX: none */
    uint8_t *l2;          /* that table */
    uint64_t tables_used; /* with it */
    uint8_t *l1;
    uint64_t l1_at;        /* offset of the piece in the L1 table */
    uint64_t cluster;      /* the guest's, that was given a place last; UINT64_MAX: none */
    uint64_t cluster_host; /* that place */
    uint64_t next_host;    /* first cluster of the file that is free */
    uint64_t uncounted;    /* clusters from here on have no refcount yet, up to NEXT_HOST */
    uint64_t free_byte;    /* where the next compressed data can go on; 0: nowhere */
    struct build_refs refs;
};

/* Guest clusters that a table stands for, as a power of two. */
static inline unsigned table_bits(const struct builder *b)
{
    return b->layout->cluster_bits - (b->layout->extended_l2 ? 4 : 3);
}

static inline uint64_t cluster_size(const struct builder *b)
{
    return 1ull << b->layout->cluster_bits;
}

/* build_start.c: for struct driver_building. */
int build_expect(void *builder, guest_off off, uint64_t len, struct img_error *err);
int build_start(void *builder, struct file *f, struct file *data_file, bool sequential,
                struct img_error *err);

/* build_small.c: what has its place before the data. */
void build_small_lay_out(struct builder *b);
/* All tables and data are written: where the refcounts go, and which data moves; counts the table
 * of refcounts and that data. */
int build_small_finish(struct builder *b, struct img_error *err);

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
