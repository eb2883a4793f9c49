/*
 * The walk through whole chains whose images may get new names: from each image to the end of its
 * chain, by the names as they will be. Every image is taken once, however many chains it is in.
 *
 * Where an interrupted change of one of them is found (journal.h), it is finished, and the walk
 * begins anew.
 */
#ifndef LIB_OPS_EDIT_WALK_H
#define LIB_OPS_EDIT_WALK_H

#include "lib/ops/chain_edit.h"

/* What lies below an image, and how that is named. */
struct below {
    struct image_ref ref; /* path NULL: nothing does */
    char *full;
    bool firm; /* a new name: it has to open, where an old one may end the walk */
};

void below_clear(struct below *b);

struct edit_walk {
    struct chain_edit edit;
    const struct img_open_options *open; /* how the images are opened; may be NULL */
    bool dry_run;                        /* nothing is finished, only said to be there */
    void (*warn)(void *opaque, enum img_warning warning, const char *message); /* may be NULL */
    void *opaque;                                                              /* WARN's */
    const struct cancel *cancel;
    /* Sets what shall change in I, and says what lies below it then. */
    int (*take)(struct edit_walk *w, struct edited_image *i, struct below *b,
                struct img_error *err);
    /* All that TAKE has been told does not count: the walk begins anew. May be NULL. */
    void (*forget)(struct edit_walk *w);
    void *job;     /* for these two */
    bool finished; /* an interrupted change was */
};

/* Always release with edit_clear(&w->edit). */
int edit_walk(struct edit_walk *w, const char *const *files, size_t count, struct img_error *err);

/* -ECANCELED when somebody asked to stop. */
int edit_go_on(const struct edit_walk *w, struct img_error *err);

/* What lies below I when it names NAME. */
int edit_find_below(const struct edited_image *i, const char *name, struct below *b,
                    struct img_error *err);
/* The same for the name it has now, which may lead elsewhere than to a file of this host: then B
 * stays empty, after a warning. */
int edit_follow(const struct edit_walk *w, const struct edited_image *i, struct below *b,
                struct img_error *err);

/* Sums up what changes, and tells FN (may be NULL) each. */
void edit_tell(const struct edit_walk *w, struct img_name_changes *sums,
               void (*fn)(void *opaque, const struct img_name_change *change));

#endif
