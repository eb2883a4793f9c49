/* Bitmaps from inside: their bits, their tables, the directory of all. */
#ifndef QCOW2_BITMAP_H
#define QCOW2_BITMAP_H

#include "formats/qcow2/transaction.h"

/*
 * bitmap_bits.c: the bits of one bitmap, a piece at a time. A piece is what one cluster of the
 * image holds, bit N of the bitmap is bit N % 8 of byte N / 8, and stands for GRANULARITY bytes of
 * the disk from N * GRANULARITY on.
 *
 * Memory: the table, 8 bytes a piece, which is 8 MiB with the smallest clusters and 64 KiB with the
 * usual ones for the largest bitmap there can be (512 MiB of bits). Pieces are the caller's.
 */
struct bitmap_bits {
    struct qcow2 *q;
    const char *name; /* borrowed */
    unsigned granularity_bits;
    uint64_t count;        /* bits */
    uint32_t pieces;       /* how many pieces they are */
    uint64_t *table;       /* what is known of each piece, as on disk; NULL: all bits are clear */
    uint64_t table_offset; /* where the file has it; 0: nowhere */
};

/* A bitmap of clear bits for the disk as large as it is. */
void bits_init(struct bitmap_bits *b, struct qcow2 *q, const char *name, uint32_t granularity);
/* The bits that B has in the file, which is not in use. Release with bits_free. */
int bits_load(struct bitmap_bits *b, struct qcow2 *q, const struct qcow2_bitmap *bitmap,
              struct img_error *err);
void bits_free(struct bitmap_bits *b);

/* How many bits the piece INDEX has: all pieces but the last are full. */
uint64_t bits_in_piece(const struct bitmap_bits *b, uint32_t index);
/* Is it known without reading that none is set? */
bool bits_clear_piece(const struct bitmap_bits *b, uint32_t index);
/* Reads piece INDEX into PIECE, a cluster of bytes; what lies behind the last bit is clear. */
int bits_read_piece(const struct bitmap_bits *b, uint32_t index, uint8_t *piece,
                    struct img_error *err);

/*
 * What bits_store shall write. FILL makes PIECE, a cluster of zeroes, the bits of piece INDEX, or
 * says that they are what OLD has: BITS_KEPT.
 */
enum { BITS_KEPT = 1 };
struct bits_source {
    int (*fill)(void *opaque, uint32_t index, uint8_t *piece, struct img_error *err);
    void *opaque;
};

/*
 * Makes the bits of a bitmap, which are OLD's until then, those of SOURCE. What differs goes into
 * new clusters; pieces of equal bits take none. BITMAP gets the place of the table. One piece is in
 * memory at a time.
 */
int bits_store(struct transaction *t, const struct bitmap_bits *old,
               const struct bits_source *source, struct qcow2_bitmap *bitmap,
               struct img_error *err);

/* Gives back the clusters of a bitmap's bits and of its table. */
int bitmap_release(struct transaction *t, const struct qcow2_bitmap *bitmap, struct img_error *err);

/*
 * bitmap_merge.c: sets bits of DST's piece INDEX, in PIECE, for all that SRC has set, as QEMU does:
 * where SRC is finer, one of its bits is enough. The disks have the same size.
 */
struct bitmap_merge {
    struct bitmap_bits src;
    uint8_t *piece;  /* of SRC */
    uint32_t loaded; /* which one it is; UINT32_MAX: none */
};
int merge_open(struct bitmap_merge *m, struct qcow2 *q, const struct qcow2_bitmap *bitmap,
               struct img_error *err);
void merge_close(struct bitmap_merge *m);
int merge_piece(struct bitmap_merge *m, const struct bitmap_bits *dst, uint32_t index,
                uint8_t *piece, struct img_error *err);

/* bitmap_directory.c */
/* Bytes that the directory entry of a bitmap of that name takes. */
uint64_t bitmap_entry_size(const char *name);
/*
 * Makes LIST all bitmaps of the image: a new directory, the header extension that leads to it, and
 * the autoclear bit that says that both are valid; or none of them where LIST is empty.
 */
int bitmap_write_directory(struct transaction *t, const struct qcow2_bitmap *list, size_t count,
                           struct img_error *err);

#endif
