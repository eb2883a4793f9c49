/* A qcow2 image in memory: what its files share among themselves. */
#ifndef QCOW2_H
#define QCOW2_H

#include "formats/qcow2/cache.h"
#include "formats/qcow2/entry.h"
#include "lib/driver.h"

#include <pthread.h>
#include <stdatomic.h>

/* The header, decoded. Numbers are as the file has them until header.c has checked them. */
struct qcow2_header {
    uint32_t version;
    uint64_t backing_offset;
    uint32_t backing_size;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt_method;
    uint32_t l1_size;
    uint64_t l1_offset;
    uint64_t reftable_offset;
    uint32_t reftable_clusters;
    uint32_t snapshot_count;
    uint64_t snapshots_offset;
    uint64_t incompatible, compatible, autoclear;
    uint32_t refcount_order;
    uint32_t length;
    uint8_t compression;
};

/* What the header extensions say. */
struct qcow2_extensions {
    bool has_bitmaps;
    uint32_t bitmap_count;
    uint64_t bitmap_directory_offset, bitmap_directory_size;
    bool has_crypto;
    uint64_t crypto_offset, crypto_length;
};

struct qcow2_snapshot {
    struct img_snapshot_info info;
    bool has_disk_size; /* recorded; else it is the disk's size now */
    uint64_t l1_offset;
    uint32_t l1_size;
    uint64_t place; /* of its entry in the file */
    uint32_t extra_size;
};

struct qcow2_bitmap {
    struct img_bitmap_info info;
    uint64_t table_offset;
    uint32_t table_entries;
    bool recording; /* it is in use by this handle, which is going to complete it */
};

/* A table whose place the header names. */
struct placed_table {
    const char *name;
    uint64_t offset, length;
};

enum { PLACED_TABLES = 5 };

struct qcow2 {
    struct layer *layer;
    struct file *file;
    uint64_t file_size; /* when it was opened */
    unsigned flags;     /* how it was opened */
    bool tolerant;      /* opened to be checked: damage is for check.c to report */
    bool writable;
    bool lost;     /* its metadata could not be read again after a change */
    uint8_t *head; /* the file's first HEAD_LENGTH bytes, while it is being opened */
    struct qcow2_header header;
    struct qcow2_extensions ext;
    struct qcow2_geometry geometry;
    struct placed_table placed[PLACED_TABLES];
    struct qcow2_snapshot *snapshots;
    size_t snapshot_count;
    uint64_t snapshots_length; /* bytes of their table */
    struct qcow2_bitmap *bitmaps;
    size_t bitmap_count;
    struct img_encryption_info encryption;

    /* The disk that is read: the active one or a snapshot's. */
    uint64_t l1_offset;
    uint32_t l1_size;
    uint8_t *l1; /* as on disk; NULL when opened for metadata only */

    struct cache tables;                /* pieces of L2 tables */
    struct cache clusters;              /* decompressed clusters */
    atomic_uint_least64_t known_size;   /* of the file: refreshed when an offset lies past it */
    atomic_int data_has_holes;          /* -1: not known yet */
    struct decompressor *decompressors; /* that no thread needs now (compress.c) */
    pthread_mutex_t decompressors_lock;
    struct qcow2_writer *writer; /* guest writes (write.h); NULL: none so far */
    struct write_log *log;       /* what was written, for the bitmaps; NULL: none records it */
};

/* snapshot_view.c */
int qcow2_snapshot_head(struct layer *l, uint8_t head[SNAPSHOT_HEAD], struct img_error *err);

/* qcow2.c */
/* Reads all metadata again, after a transaction. When that fails, the handle is good for nothing.
 */
int qcow2_reload(struct qcow2 *q, struct img_error *err);

/* -EBADF when it is not. */
int qcow2_still_there(const struct qcow2 *q, struct img_error *err);

/* header.c */
/* LEN bytes out of the first cluster; past the end of the file they are zeroes. */
int qcow2_read_head(const struct qcow2 *q, void *buf, size_t len, uint64_t offset,
                    struct img_error *err);
int qcow2_read_header(struct qcow2 *q, struct img_error *err);
/* A table of COUNT entries of ENTRY_SIZE bytes: its size, alignment and place in the file. */
int qcow2_validate_table(const struct qcow2 *q, uint64_t offset, uint64_t count,
                         uint64_t entry_size, uint64_t max_bytes, const char *name,
                         const char *count_name, struct img_error *err);
/* The tables that the header names must not lie on top of each other. */
int qcow2_check_overlaps(struct qcow2 *q, struct img_error *err);
/* The name of such a table that shares a byte with this range, or NULL. */
const char *qcow2_overlapped(const struct qcow2 *q, uint64_t offset, uint64_t length);

/* extensions.c */
int qcow2_read_extensions(struct qcow2 *q, struct img_error *err);
/* A name of LENGTH bytes in the place of *OUT; WHAT it is, for messages. */
int qcow2_read_name(const struct qcow2 *q, uint64_t offset, uint32_t length, const char *what,
                    char **out, struct img_error *err);
/* Words the refusal of incompatible features, with their names out of the image's own table. */
int qcow2_refuse_features(struct qcow2 *q, uint64_t unknown, struct img_error *err);

/* snapshot.c, bitmap.c, crypt.c */
int qcow2_read_snapshots(struct qcow2 *q, struct img_error *err);
const struct qcow2_snapshot *qcow2_find_snapshot(const struct qcow2 *q, const char *id_or_name);
/* Each may be NULL: any. */
const struct qcow2_snapshot *qcow2_find_snapshot_both(const struct qcow2 *q, const char *id,
                                                      const char *name);
const struct qcow2_snapshot *qcow2_find_snapshot_name(const struct qcow2 *q, const char *name);
int qcow2_read_bitmaps(struct qcow2 *q, struct img_error *err);
int qcow2_read_luks_header(struct qcow2 *q, struct img_error *err);

/* tables.c */
int qcow2_load_l1(struct qcow2 *q, struct img_error *err);
/* The piece of an L2 table that holds L2_INDEX. MAX: how many bytes the caller wants mapped. */
struct l2_piece {
    struct page *page;
    const uint8_t *entries; /* of the piece's first entry */
    uint32_t first, count;  /* the entries it holds */
};
int qcow2_l2_piece(struct qcow2 *q, uint64_t table, uint32_t l2_index, uint64_t max,
                   struct l2_piece *out, struct img_error *err);
/* How many bytes a piece has. */
uint32_t qcow2_piece_bytes(const struct qcow2 *q);
/* *TABLE: the L2 table's offset, 0 where there is none. */
int qcow2_l1_entry(struct qcow2 *q, uint64_t l1_index, uint64_t *table, struct img_error *err);
/* Is what an L1 entry names a place for an L2 table? */
int qcow2_check_l1_entry(struct qcow2 *q, uint64_t entry, uint64_t l1_index, struct img_error *err);
int qcow2_count_l2(struct qcow2 *q, uint64_t *tables, struct img_error *err);
/* Does the file reach past OFFSET now? */
bool qcow2_in_file(struct qcow2 *q, uint64_t offset);

/* map.c */
int qcow2_map(struct layer *l, guest_off off, uint64_t max, enum map_detail detail,
              struct extent *out, struct img_error *err);
/* The mapping of one cluster: for compressed reads. */
int qcow2_lookup(struct qcow2 *q, guest_off off, struct qcow2_mapping *out, struct img_error *err);

/* compress.c */
int qcow2_read_compressed(struct layer *l, void *buf, size_t len, guest_off off,
                          struct img_error *err);
void qcow2_free_decompressors(struct qcow2 *q);

/* bitmap_change.c */
int qcow2_change_bitmap(struct layer *l, const char *name, const struct bitmap_action *actions,
                        size_t count, size_t *failed, struct img_error *err);

/* check.c */
struct check_report;
int qcow2_check(struct layer *l, struct check_report *report, struct img_error *err);

/* repair.c */
int qcow2_repair(struct layer *l, const struct img_repair_options *options,
                 struct check_report *report, struct img_error *err);
/* Repairs an image whose writer died, as far as it can be, before it is written again. */
int qcow2_repair_dirty(struct layer *l, struct img_error *err);
int qcow2_sweep(struct layer *l, struct img_error *err);

/* refcount.c */
bool qcow2_data_has_holes(struct layer *l);

#endif
