/*
 * A change of the first bytes of a file that is known before it is made: so that it can be written
 * down, made in steps, and finished by another program after a crash.
 *
 * A disk writes a sector whole or not at all. The old first sector becomes BETWEEN, which means the
 * same but needs nothing behind it that changes; then all behind it changes; then the first sector.
 * At every instant the file has the old meaning or the new one. Without BETWEEN the old header
 * needs what changes, or only one sector does.
 */
#ifndef LIB_HEAD_CHANGE_H
#define LIB_HEAD_CHANGE_H

#include "lib/file.h"

enum { HEAD_SECTOR = 512 };

struct head_change {
    size_t length; /* a multiple of HEAD_SECTOR; 0: nothing changes */
    uint8_t *old, *new;
    uint8_t *between; /* the first sector meanwhile; NULL: see above */
};

void head_change_clear(struct head_change *c);

/* *OLD, *NEW: is that all that F has now? When neither, *MINE says whether it is on its way. */
int head_change_look(const struct head_change *c, struct file *f, bool *old, bool *new, bool *mine,
                     struct img_error *err);

/* Brings F, which is somewhere on the way, to the new state, and to disk. */
int head_change_do(const struct head_change *c, struct file *f, struct img_error *err);

/* Back to the old one. Not in steps: between the first write and the flush F may be neither. */
int head_change_undo(const struct head_change *c, struct file *f, struct img_error *err);

#endif
