/* Rebasing: lib/ops/rebase*.c among themselves. */
#ifndef LIB_OPS_REBASE_H
#define LIB_OPS_REBASE_H

#include "lib/ops/pair.h"

struct rebase {
    const struct img_rebase_options *options;
    struct img_open_options open;
    struct img *img;      /* the image; its chain is below it, but in unsafe mode */
    struct img *new_base; /* with its chain; NULL: none */
    struct img old_base;  /* the chain below IMG, whose layers these are */
    bool has_old;         /* is there one? */
    const char *new_name; /* as the image will name it; NULL: none */
    uint64_t size;        /* of the disk that is gone over: the image's, or a snapshot's */
    const char *phase;    /* of that, for the progress */
    bool all;             /* go over what the image holds itself, too */
    bool differs;         /* REBASE_COMPARE has failed as something differs, first at DIFFERENCE */
    uint64_t difference;
    struct img_rebase_result result;
};

/* rebase_copy.c */
enum rebase_mode {
    REBASE_COPY,    /* the image gets what differs */
    REBASE_SURVEY,  /* nothing is read, the result says what would be */
    REBASE_COMPARE, /* -EINVAL where something differs */
};

/* Goes over all of the disk that the image does not hold itself. */
int rebase_differences(struct rebase *r, enum rebase_mode mode, struct img_error *err);

void rebase_progress(const struct rebase *r, uint64_t done);

/* rebase_growth.c: ranges are added in ascending order. */
struct rebase_growth {
    uint64_t cluster, per_table; /* bytes of the disk that an L2 table maps */
    unsigned refcount_bits;
    bool says_zero; /* zeroes take no space */
    uint64_t clusters, tables;
    uint64_t clusters_behind, tables_behind;
};

int rebase_growth_init(struct rebase_growth *g, const struct img *img, struct img_error *err);
/* ZERO: the range will be zeroes. */
void rebase_growth_add(struct rebase_growth *g, uint64_t off, uint64_t length, bool zero);
uint64_t rebase_growth_bytes(const struct rebase_growth *g);

/*
 * rebase_pack.c: the clusters of a piece, compressed by one thread, written by another.
 */
struct rebase_pack {
    void *compressor;
    uint8_t *clusters; /* the compressed ones, each where its plain one is in the piece */
    size_t *stored;    /* the length of each; 0: it is to be written as it is */
    size_t room, count;
    uint8_t *padded; /* room for the disk's last cluster */
};

/* Makes room for a piece of LENGTH bytes at OFFSET; none of it is compressed yet. */
int rebase_pack_start(struct rebase_pack *k, const struct img *img, uint64_t offset, size_t length,
                      struct img_error *err);
/* LENGTH bytes of the piece from AT on, in one cluster. */
int rebase_pack(struct rebase_pack *k, const struct img *img, const uint8_t *data, uint64_t offset,
                size_t at, size_t length, struct img_error *err);
/* Clusters of which the image holds a part, made whole and compressed one at a time. */
struct rebase_merge {
    void *compressor;
    uint8_t *plain, *packed;
    uint64_t end; /* behind the last one; it needs nothing any more */
};

/* Writes a run of the piece, compressed where that made it shorter. */
int rebase_pack_write(const struct rebase_pack *k, struct rebase_merge *m, struct img *img,
                      const uint8_t *data, uint64_t offset, size_t at, size_t length,
                      struct img_error *err);
void rebase_merge_free(struct rebase_merge *m, const struct img *img);
void rebase_pack_free(struct rebase_pack *k, const struct img *img);

/* rebase_snapshots.c: -EBUSY when an internal snapshot of the image would read other data over the
 * new base. */
int rebase_check_snapshots(const struct rebase *r, struct img_error *err);

/* rebase_check.c: refuses a new base that cannot hold the chain together. */
int rebase_check_base(struct rebase *r, struct img_error *err);

/* rebase.c */
int rebase_open_new(struct rebase *r, struct img_error *err);

#endif
