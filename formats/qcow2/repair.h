/* What the parts of a repair share: repair.c says how they go together. */
#ifndef QCOW2_REPAIR_H
#define QCOW2_REPAIR_H

#include "formats/qcow2/check.h"
#include "lib/file_overlay.h"

/* A repair from beginning to end (repair_run.c): rounds, each of them one look and what it plans.
 */
struct repair_run {
    struct qcow2 *q;
    const struct img_repair_options *options;
    struct file *overlay; /* holds what the rounds have changed; NULL: nothing so far */
    uint32_t safe;        /* stages of it after which the image is still the old one */
    bool changed;         /* the last round found something to do */
    bool new_header;      /* a round changes the header */
};

enum { CHANGES_IN_MEMORY = 16 << 20 };

/* References that end once all places have been chosen. */
struct release {
    uint64_t first, count, times;
};

struct repair {
    struct check *c;
    struct qcow2 *q;
    const struct img_repair_options *options;
    struct img_error *err;
    struct qcow2_header header; /* as it shall be */
    bool flags;                 /* only its feature bits differ: the rest is as it was by then */
    bool in_place;

    /* Moving: everything that changes is written elsewhere. */
    uint64_t limit;      /* clusters before this one belong to the file as it is */
    uint64_t next_block; /* where the search for a block's place begins, at the earliest */
    bool append;         /* nothing inside the file is taken, however free it seems */
    uint64_t most;       /* as many clusters the file may have */
    bool desperate;      /* what leaks is taken too */
    uint64_t *places;    /* for each refcount block: where it moves; 0: it stays */
    uint64_t blocks;     /* entries of PLACES and of the check's DIRTY */
    struct release *releases;
    size_t release_count, release_room;
    bool released;      /* the counts are what the refcounts shall be */
    uint8_t *snapshots; /* the new snapshot table; NULL: it stays */
    uint64_t snapshots_size;

    /* The piece of a refcount block looked at last. */
    uint8_t *old_piece, *new_piece;
    uint64_t old_at; /* its first cluster, plus 1; 0: none */
};

/* repair_tables.c */

/* What becomes of an L2 entry: true when it changes. */
bool repair_l2_entry(struct repair *r, const struct l2_table *t, uint8_t *entry);
/* Chooses places for the tables that change, and whatever names them. */
int repair_place_tables(struct repair *r);
int repair_write_tables(struct repair *r);
/* Writes the sectors of tables that change. *SECTORS counts them; with COUNT_ONLY that is all. */
int repair_tables_in_place(struct repair *r, bool count_only, uint64_t *sectors);
/* Tells every entry that changes. */
int repair_tell_tables(struct repair *r);
/* Is there any such table? */
bool repair_has_tables(const struct repair *r);
/* Is each of them only that? Otherwise what else it is must stay as it is. */
bool repair_tables_alone(const struct repair *r);

/* repair_snapshots.c: the snapshot table with its L1 tables where they will be. */
int repair_build_snapshots(struct repair *r);

/* repair_refcounts.c */

/* COUNT clusters in a row that nothing uses, not before FROM; counted from now on. */
int repair_allocate(struct repair *r, uint64_t count, uint64_t from, uint64_t *offset);
/* TIMES references less to all clusters of a range, in the end. */
int repair_release(struct repair *r, uint64_t offset, uint64_t length, uint64_t times);
int repair_place_refcounts(struct repair *r);
int repair_write_refcounts(struct repair *r);
int repair_refcounts_in_place(struct repair *r, bool count_only, uint64_t *sectors);
int repair_tell_refcounts(struct repair *r);
bool repair_has_refcounts(const struct repair *r);

/* repair.c */

/* Looks, plans, tells; what there is to do is done in the overlay, which is the image's file then.
 */
int repair_round(struct repair_run *run, struct check_report *report, struct img_error *err);
void repair_tell(struct repair *r, const struct img_change *change);
/* Writes those sectors of NEW that differ from OLD; both lie at OFFSET. */
int repair_sectors(struct repair *r, const uint8_t *old, const uint8_t *new, size_t len,
                   uint64_t offset, bool count_only, uint64_t *sectors);

#endif
