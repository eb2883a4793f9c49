/* Whether a state that a power failure left is one that may be left. */
#ifndef CRASH_JUDGE_H
#define CRASH_JUDGE_H

#include "qemu.h"
#include "states.h"
#include "view.h"

/* A step of a run: what the image is when it is done. */
struct version {
    struct view view;
    bool atomic;                  /* all of the step happens or nothing */
    struct disk files[MAX_FILES]; /* those whose bytes count */
};

/* Does it again on R, which has what a failure has left. */
typedef int again_fn(const struct scene *s, struct recorder *r, struct img_error *err);

struct judge {
    const struct scene *scene;
    struct version *versions; /* 0: before the run */
    unsigned count;
    bool may_leak;
    bool may_be_none;       /* a device in the middle of being written is no image */
    bool only_after;        /* nothing is promised while a step runs */
    bool qemu_alone;        /* the library's own check, which sees more, is not asked */
    const struct disk *end; /* what the files are after the run */
    bool exact[MAX_FILES];  /* once a step is durable, this file has these very bytes */
    again_fn *again;        /* whatever is left, this ends with the bytes of END; or NULL */
    bool undoable;          /* the second file is an undo file, which leads back to the start */
    /* what the images before and after the run have of their own, and its states may have too */
    struct damage own, own_qemu;
    struct damage after, after_qemu; /* of the image after it alone */
    struct checker *checker;         /* qemu-img; NULL: it is not asked */
};

enum { WHY_LENGTH = 400 };

struct verdict {
    bool corrupt, leaked, neither;
    char why[WHY_LENGTH]; /* the first thing that is wrong */
};

/* Adds the version that DISKS hold now; it is checked to be readable. */
int judge_add_version(struct judge *j, const struct disk *disks, bool atomic,
                      struct img_error *err);
void judge_free(struct judge *j);

/* Lets the states have what the images before and after have, and those in which all is reported
 * done what the one after has. */
int judge_allow_own(struct judge *j, const struct disk *before, const struct disk *after,
                    struct img_error *err);

/* The library's own check. */
int check_disks(const struct scene *s, const struct disk *disks, struct damage *d,
                struct img_error *err);

/* True: nothing is wrong with S. */
bool judge_state(const struct judge *j, const struct state *s, struct verdict *v);

#endif
