/* What the parts of a check share: check.c says how they go together. */
#ifndef QCOW2_CHECK_H
#define QCOW2_CHECK_H

#include "formats/qcow2/check_refs.h"
#include "formats/qcow2/qcow2.h"
#include "lib/check.h"

/* An L2 table, however many L1 entries name it. */
struct l2_table {
    uint64_t offset;
    uint32_t uses;    /* L1 entries that name it; 0: a free slot */
    uint32_t last_l1; /* the number of the last L1 table that did */
    uint32_t found;   /* corruptions that a walk through it tells each time, */
    uint32_t flagged; /* and those that the check of its flags tells */
    uint32_t allocated, fragmented, compressed; /* what a walk for the active disk counts */
    bool seen, checked;                         /* walked already, flags checked already */
    bool not_copied;                            /* has an entry without the COPIED flag */
    bool active;                                /* belongs to the active disk; then */
    uint64_t l1_index;                          /* by this entry, the last one that names it */
    bool fix;                                   /* has an entry that is repaired */
    uint64_t moved;                             /* where a repair puts it; 0: it stays */
    bool shared;                                /* several entries of one L1 table name it */
};

struct l2_set {
    struct l2_table *slots;
    size_t capacity, count; /* capacity: a power of two */
};

/* Clusters, by number. */
struct cluster_list {
    uint64_t *items;
    size_t count, room;
};

/* A snapshot, as far as a check needs it. */
struct check_snapshot {
    uint64_t place;   /* of its entry */
    uint64_t extra;   /* bytes of extra data, as the entry says */
    uint64_t moved;   /* where a repair puts its L1 table; 0: it stays */
    uint64_t strings; /* where its ID and, behind that, its name lie */
    uint16_t id_size, name_size;
    uint32_t l1_size;
    uint64_t l1_offset;
    bool has_disk_size, walked;
    uint64_t disk_size;
};

struct check {
    struct qcow2 *q;
    struct check_report *report;
    struct img_error *err;
    uint64_t end; /* of the file, in whole sectors, as QEMU counts */
    uint64_t
        clusters; /* host clusters to compare: all in the file, and one more if it is referenced */
    struct refs refs;
    uint8_t *reftable; /* as on disk */
    uint64_t reftable_entries;
    struct l2_set tables;
    uint32_t l1_number; /* counts the L1 tables that were registered */
    struct check_snapshot *snapshots;
    uint32_t snapshot_count;
    uint64_t snapshots_size;    /* bytes of their table */
    uint64_t snapshots_dropped; /* that a repair gives up, at the end of the table */
    uint64_t once;              /* corruptions counted by check_once and by overflows */
    /* Sound tables do not overlap, so reading all of them reads no more than the file holds. */
    uint64_t budget;  /* bytes that may still be read for tables */
    uint64_t repeats; /* the same, for tables that are read again to tell again what is wrong */
    uint64_t hole_start, hole_end; /* a hole of the file that was met last */
    uint64_t told;                 /* bytes of tables, when progress was told last */
    bool exhausted;                /* the budget was not enough */
    bool plain;                    /* every cluster that is referenced has refcount 1 */
    uint8_t *piece;                /* PIECE bytes */

    /* What a check finds on the way to a repair; all of it nothing when FIX is 0. */
    unsigned fix;          /* enum img_repair_what */
    uint64_t outside_from; /* if the file were longer, something would refer to what is there */
    struct cluster_list beyond; /* clusters behind the end that something refers to, or */
    bool beyond_full;           /* more of them than are listed */
    bool hidden;                /* something cannot be followed: what it uses looks free */
    int failure;                /* a refcount block that could not be read: -errno */
    bool rebuild;               /* the refcounts are so wrong that they have to be made anew */
    bool again;                 /* walking a second time, for that: what is repaired was told */
    bool fix_flags;             /* COPIED flags are repaired */
    bool l1_fix;                /* the active L1 table has an entry that is repaired */
    bool snapshot_l1_fix;       /* a snapshot's has */
    bool pad;                   /* the last cluster of the file, cut short, is filled up */
    bool snapshots_fix;         /* the snapshot table is written anew */
    bool moves;                 /* what is being counted now gets another place */
    bool fixes_errors;          /* something else than leaks is repaired */
    uint64_t walk_errors;       /* corruptions of the tables that lead to clusters */
    uint64_t before;            /* corruptions of the snapshot table */
    struct cluster_list old;    /* clusters of refcount structures that are made anew */
    struct cluster_list gone;   /* where refcount blocks outside the file would lie; sorted */
    uint8_t *dirty;             /* for each refcount block: does a refcount in it change? */
};

enum { CHECK_PIECE = 64 << 10 };

/* Tells a corruption at host offset HOST, which QEMU tells too. */
#define check_bad(c, what, where, ...)                                                             \
    check_tell((c)->report,                                                                        \
               &(struct check_subject){.kind = IMG_FINDING_##what,                                 \
                                       .severity = IMG_SEVERITY_CORRUPTION,                        \
                                       .host = (where)},                                           \
               __VA_ARGS__)

/* The same, which QEMU does not see. */
#define check_once(c, what, where, ...)                                                            \
    ((c)->once++, check_tell((c)->report,                                                          \
                             &(struct check_subject){.kind = IMG_FINDING_##what,                   \
                                                     .severity = IMG_SEVERITY_CORRUPTION,          \
                                                     .host = (where),                              \
                                                     .unseen = true},                              \
                             __VA_ARGS__))

/* Says what is behind findings that are counted already. */
#define check_note(c, what, where, ...)                                                            \
    check_tell((c)->report,                                                                        \
               &(struct check_subject){                                                            \
                   .kind = IMG_FINDING_##what, .severity = IMG_SEVERITY_NOTE, .host = (where)},    \
               __VA_ARGS__)

/* Tells that something is, or will be, repaired; or how. */
#define check_repairs(c, what, where, ...)                                                         \
    check_tell((c)->report,                                                                        \
               &(struct check_subject){.kind = IMG_FINDING_##what,                                 \
                                       .severity = IMG_SEVERITY_REPAIRED,                          \
                                       .host = (where)},                                           \
               __VA_ARGS__)

/* check_tables.c */

/* Reads LEN bytes of a table; past the end of the file are zeroes. *ZEROES: it holds nothing else,
 * and BUF was not touched. */
int check_read(struct check *c, void *buf, size_t len, uint64_t offset, bool *zeroes);
/* Is there budget left to read LEN bytes again? */
bool check_repeat(struct check *c, uint64_t len);
/* Calls FN for every L1 entry that is not 0. */
typedef int (*check_l1_fn)(struct check *c, uint64_t index, uint64_t entry, uint64_t place,
                           bool active);
int check_each_l1(struct check *c, uint64_t offset, uint32_t size, bool active, check_l1_fn fn);
/* Notes which L2 tables an L1 table names. */
int check_register_l1(struct check *c, uint64_t offset, uint32_t size);
struct l2_table *check_find_l2(struct check *c, uint64_t offset);

/* check.c */

/* Counts TIMES references to every cluster of a range; KIND of thing and PLACE that names it. */
int check_reference(struct check *c, uint64_t offset, uint64_t length, uint64_t times,
                    uint64_t place);
/* Notes a reference that is not counted, since it leads behind the end of the file. */
int check_note_outside(struct check *c, uint64_t offset, uint64_t length);
/* An L1 entry that names no table, and is not 0 either: as if it were, if that is repaired. */
bool check_is_void(const struct check *c, uint64_t l1_entry);
/* Counts every reference there is, but for those of the refcount structures. */
int check_count_references(struct check *c);
int check_start_counting(struct check *c);
/* All of a check. What it leaves in C is for check_end. */
int check_run(struct check *c);
void check_end(struct check *c);

/* check_snapshots.c */
int check_read_snapshots(struct check *c);
/* ID and name, cut where they are very long. */
void check_snapshot_names(struct check *c, const struct check_snapshot *s, char id[256],
                          char name[256]);

/* check_l2.c: the entries of one table, and what they reference. */
int check_l2_table(struct check *c, struct l2_table *t, uint64_t l1_index, bool active);

/*
 * check_bitmaps.c: counts what the bitmaps reference; AGAIN: looks, when that was compared, for
 * overlaps.
 */
int check_bitmaps(struct check *c, bool again);

/* check_refcounts.c */
int check_refcount_blocks(struct check *c);
/* FIX: which differences are repaired. LAST: from now on the counts stand for the refcounts. */
int check_compare_refcounts(struct check *c, unsigned fix, bool last);
/* The refcount of any cluster, as stored; false when it cannot be read. */
bool check_stored_refcount(struct check *c, uint64_t cluster, uint64_t *refcount);

/* check_flags.c */
int check_copied_flags(struct check *c);
/* Is the refcount of the cluster at OFFSET 1, or will it be? False: nobody can say. */
bool check_is_one(struct check *c, uint64_t offset, bool *one);
/* Is there nothing in the way of moving T to another place? What else lies where it does stays. */
bool check_can_move(const struct check *c, const struct l2_table *t);

/* check_fix.c: from a comparison to what is to be done about it. */
int check_fix_refcounts(struct check *c);
int cluster_list_add(struct cluster_list *l, uint64_t cluster, struct img_error *err);
void cluster_list_sort(struct cluster_list *l);
bool cluster_list_has(const struct cluster_list *l, uint64_t cluster);

/* check_overlaps.c: what the refcounts agree with and is wrong all the same. */
int check_overlaps(struct check *c);
/* Does something else use a cluster of this range, which NAME has for itself? One finding at most.
 */
void check_alone(struct check *c, const char *name, uint64_t offset, uint64_t length);

#endif
