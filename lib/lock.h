/*
 * QEMU's image locks: which program may do what with a file, told by bytes of it that are locked.
 *
 * Byte 100 + i: "I use permission i"; byte 200 + i: "I do not share permission i". Every program
 * holds read locks on the bytes that say what it does, and finds a conflict by asking whether a
 * write lock could be had on the byte that speaks against it. A lock is taken first and trusted
 * only then, so that of two programs that start at once at least one sees the other.
 */
#ifndef LIB_LOCK_H
#define LIB_LOCK_H

#include "lib/file.h"

/* Permissions, as bits. */
enum {
    PERM_READ = 1 << 0, /* consistent read */
    PERM_WRITE = 1 << 1,
    PERM_WRITE_UNCHANGED = 1 << 2,
    PERM_RESIZE = 1 << 3,
};

struct lock {
    unsigned uses;     /* what is done to the file */
    unsigned unshared; /* what nobody else may do meanwhile */
};

/* A reader that shares the file with a writer, and any reader of a raw image, base or not. */
#define LOCK_SHARER ((struct lock){PERM_READ, 0})
/* A reader of an image with metadata. */
#define LOCK_READER ((struct lock){PERM_READ, PERM_WRITE | PERM_RESIZE})
/* A reader of an external data file. */
#define LOCK_DATA_READER ((struct lock){PERM_READ, PERM_RESIZE})

/* A writer, of any format: nobody else writes meanwhile, and nobody reads metadata. */
#define LOCK_WRITER ((struct lock){PERM_READ | PERM_WRITE | PERM_RESIZE, PERM_WRITE | PERM_RESIZE})
/* A writer of an external data file: who writes there was settled by the image that names it. */
#define LOCK_DATA_WRITER ((struct lock){PERM_READ | PERM_WRITE | PERM_RESIZE, PERM_RESIZE})

/*
 * Takes LOCK on F, or fails with -EAGAIN and QEMU's words when another program is in the way; who
 * that is becomes the error's context where /proc shows it. Held until F is closed. Files that know
 * no locks (memory, file systems without them) always succeed.
 */
int lock_take(struct file *f, struct lock lock, struct img_error *err);

#endif
