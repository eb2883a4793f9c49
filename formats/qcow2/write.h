/*
 * Guest writes: what is known of an image while its disk is being changed.
 *
 * Changes of the mapping stay in memory until they are flushed, as pieces of L2 tables that reads
 * through the same handle see before those in the file. A flush then takes these steps, with a
 * flush of the host file between each and the next (write_commit.c):
 *
 *   1. guest data, which was written meanwhile; refcounts of all that is new; new L2 tables
 *   2. the refcount table's entries for new refcount blocks, if there are any
 *   3. entries of existing L2 tables, and of the L1 table
 *   4. refcounts of what these entries no longer name; only now such a cluster can be taken again
 *
 * So at every instant each entry in the file leads to something complete that is counted, and each
 * sector of the disk is the old one or the new one. What a crash leaves behind are clusters that
 * are counted and not used.
 */
#ifndef QCOW2_WRITE_H
#define QCOW2_WRITE_H

#include "formats/qcow2/refcounts.h"
#include "formats/qcow2/write_log.h"

/* A piece of an L2 table that differs from the file, or did; as long as those of tables.c. */
struct pending_piece {
    struct pending_piece *next;    /* in its bucket */
    uint64_t offset;               /* in the file */
    bool fresh;                    /* of a table that nothing in the file names yet */
    uint32_t dirty_from, dirty_to; /* bytes that the file lacks; fresh: all */
    uint8_t data[];
};

enum { PENDING_BUCKETS = 4096 };

/* Clusters that lose a reference once the file's entries no longer name them. */
struct freed {
    uint64_t first, count;
    bool punch; /* the host gets the space back */
};

struct qcow2_writer {
    struct refcounts refs;
    struct pending_piece *buckets[PENDING_BUCKETS];
    struct pending_piece **pieces; /* the same, in the order in which they came */
    size_t piece_count, piece_capacity;
    size_t piece_bytes; /* that they take together */
    uint32_t *l1_dirty; /* indices of L1 entries that the file lacks */
    size_t l1_dirty_count, l1_dirty_capacity;
    struct freed *freed;
    size_t freed_count, freed_capacity;
    uint64_t packed;     /* where the next compressed cluster can go on; 0: nowhere */
    uint64_t file_end;   /* nothing was ever written from here on: it reads as zeroes */
    bool unflushed;      /* something was written to the image file since its last flush */
    bool data_unflushed; /* or to the external data file */
    bool broken;         /* a flush failed: what is on disk is not known any more */
};

/* write.c */
/* Makes the image ready for its first guest write; nothing when it is. */
int qcow2_start_writing(struct qcow2 *q, struct img_error *err);
/* Brings everything to disk and forgets the writer: the file alone says what the image is. */
int qcow2_settle(struct qcow2 *q, struct img_error *err);
/* The same at the end, as far as it is possible. */
void qcow2_stop_writing(struct qcow2 *q);
int qcow2_flush(struct layer *l, struct img_error *err);
int qcow2_settle_layer(struct layer *l, struct img_error *err);

/* The L2 table for GUEST is this disk's alone from now on, if it was not. */
int qcow2_own_table(struct qcow2 *q, uint64_t guest, struct img_error *err);

/* write_tables.c */
/* The piece that differs from the file at OFFSET; NULL: there is none. */
struct pending_piece *qcow2_pending(const struct qcow2 *q, uint64_t offset);
/* The entry of GUEST's cluster to look at, and those behind it in its piece. Always put ->page. */
struct entries_view {
    struct page *page;
    const uint8_t *at; /* NULL: there is no table */
    uint32_t count;    /* up to the end of the piece, be it there or not */
    bool private;      /* the table is this disk's alone */
};
int qcow2_entries_view(struct qcow2 *q, uint64_t guest, struct entries_view *out,
                       struct img_error *err);
/* The same to change them, in a table that is this disk's alone; qcow2_entries_changed says how
 * many of them were. */
struct entries {
    struct pending_piece *piece;
    uint8_t *at;
    uint32_t count;
};
int qcow2_entries_for_change(struct qcow2 *q, uint64_t guest, struct entries *out,
                             struct img_error *err);
void qcow2_entries_changed(struct qcow2 *q, const struct entries *e, uint32_t count);
void qcow2_forget_pieces(struct qcow2 *q);

/* write_free.c */
/* Room for COUNT more stretches, so that noting them cannot fail. */
int qcow2_reserve_freed(struct qcow2 *q, size_t count, struct img_error *err);
/* Is all that ENTRY names counted in the file? If not, the image is damaged. */
int qcow2_check_freed(struct qcow2 *q, uint64_t entry, struct img_error *err);
void qcow2_note_freed(struct qcow2 *q, uint64_t entry, bool punch);
void qcow2_note_freed_clusters(struct qcow2 *q, uint64_t first, uint64_t count, bool punch);

/* write_commit.c */
int qcow2_commit(struct qcow2 *q, struct img_error *err);
/* The same, if more is waiting than memory should hold. */
int qcow2_commit_if_full(struct qcow2 *q, struct img_error *err);

/* write_bitmaps.c */
/* Marks the bitmaps that record writes as in use, on disk, and starts to note writes for them. */
int qcow2_open_bitmaps(struct qcow2 *q, struct img_error *err);
/* Stores them with what was noted; nothing when none is open. All else has to be on disk. */
int qcow2_store_bitmaps(struct qcow2 *q, struct img_error *err);
void qcow2_forget_log(struct qcow2 *q);

/* write_place.c */
int qcow2_place(struct layer *l, guest_off off, uint64_t max, struct placement *out,
                struct img_error *err);
int qcow2_link(struct layer *l, guest_off off, const struct placement *p, struct img_error *err);
void qcow2_give_up(struct layer *l, guest_off off, const struct placement *p);

/* write_compressed.c */
enum { PLACED_COMPRESSED = 1 << 8 }; /* placement.how, beside those of write_place.c */
int qcow2_place_compressed(struct layer *l, guest_off off, size_t stored, struct placement *out,
                           struct img_error *err);
int qcow2_link_compressed(struct layer *l, guest_off off, const struct placement *p,
                          struct img_error *err);
void qcow2_give_up_compressed(struct qcow2 *q, const struct placement *p);
int qcow2_layer_compressor(void **compressor, const struct layer *l, struct img_error *err);

/* write_zero.c */
uint64_t qcow2_zero_unit(const struct layer *l);
int qcow2_zero(struct layer *l, guest_off off, uint64_t len, unsigned flags, uint64_t *done,
               struct img_error *err);
int qcow2_discard(struct layer *l, guest_off off, uint64_t len, uint64_t *done,
                  struct img_error *err);

#endif
