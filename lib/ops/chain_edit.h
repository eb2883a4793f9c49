/*
 * Images that are looked at together and of which some get new names: all of them, or none, also
 * when the machine fails (journal.h).
 *
 *   edit_add        an image, open for its metadata only, which stays open and locked
 *   ...             set ->backing, ->backing_format, ->data_file of those that shall change
 *   edit_open       opens these to be written, and locks them
 *   edit_plan       computes what changes in each; without edit_open, only to see whether it can
 *   edit_commit
 */
#ifndef LIB_OPS_CHAIN_EDIT_H
#define LIB_OPS_CHAIN_EDIT_H

#include "lib/image.h"
#include "lib/ops/journal.h"

struct edited_image {
    struct layer *layer;
    char *backing, *backing_format, *data_file; /* new ones; NULL: as it is */
    struct head_change change;
};

struct chain_edit {
    struct edited_image *images;
    size_t count;
    const struct cancel *cancel; /* asked until edit_commit has its journal */
};

/* L is taken over, on failure too. *IMAGE: valid until the next one is added. */
int edit_add(struct chain_edit *e, struct layer *l, struct edited_image **image,
             struct img_error *err);

/* Is the file of L in the format of L there already? */
bool edit_knows(const struct chain_edit *e, const struct layer *l);

bool edit_changes(const struct edited_image *i);

int edit_open(struct chain_edit *e, struct img_error *err);
int edit_plan(struct chain_edit *e, struct img_error *err);
int edit_commit(struct chain_edit *e, struct img_error *err);
void edit_clear(struct chain_edit *e);

#endif
