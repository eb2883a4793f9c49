/*
 * What is put to the test: commands and sequences of guest writes, and the images they start on.
 *
 * To add a command: a file subjects_GROUP.c with a table of subjects, each with its row of the
 * report, its start image (a recipe in images.c) and either a script, whose calls are recorded
 * ("$P $IMGTOOL ... image.qcow2"), or a function that calls the library on stage->img and
 * stage_step after each change. End it with SUBJECT_GROUP(GROUP). The Makefile finds it, and so
 * does `make crash-mutants`; tests/crash/test_GROUP, a copy of its siblings, brings it into `make
 * check`.
 */
#ifndef CRASH_SUBJECTS_H
#define CRASH_SUBJECTS_H

#include "judge.h"

/* A run under way. */
struct stage {
    struct recorder recorder;
    struct judge *judge;
    const struct scene *scene;
    struct img *img; /* opened to be written, on the recorder's files */
    uint64_t seed;
};

enum subject_flags {
    MAY_LEAK = 1 << 0,
    DAMAGED = 1 << 1,    /* the start image is broken on purpose */
    ON_DEVICE = 1 << 2,  /* the image is written in place, from nothing: stage->img is NULL */
    EXPECT_BAD = 1 << 3, /* a writer that is wrong on purpose: to see that it is found out */
    ONLY_AFTER = 1 << 4, /* nothing is promised while it runs */
    CLOSED = 1 << 5,     /* stage->img is NULL: it opens the files itself */
    NO_CHECKER = 1 << 6, /* qemu-img cannot check the start image */
    UNDOABLE = 1 << 7,   /* the script makes a file "undo", which always leads back */
    /* once a step is done and durable, this file has the very bytes that it has without failures */
    EXACT_IMAGE = 1 << 8,
    EXACT_DATA_FILE = 1 << 9,
};

struct subject {
    const char *command; /* the row of the report that it counts for */
    const char *image;   /* name of its start image */
    unsigned flags;      /* enum subject_flags, or-ed */
    /* Does it by calling the library, or, where it is NULL, the script does: shell commands that
     * change image.qcow2; $P before one has its calls recorded. */
    int (*run)(struct stage *s, struct img_error *err);
    const char *script;
    again_fn *again;      /* what can be done again whenever it was interrupted; may be NULL */
    const char *qemu;     /* the same done by QEMU's programs; NULL: it cannot be */
    const char *expect;   /* EXPECT_BAD: "corrupt", "leaked" or "neither", which must come */
    const char *needless; /* why some flushes of it may be left out; NULL: none may */
};

/* Why the flush between two rounds of a repair may be left out. */
#define BETWEEN_ROUNDS                                                                             \
    "between rounds: nothing leads to what the second one writes before its header"

/*
 * A file subjects_GROUP.c ends with a table GROUP_subjects, whose last entry is empty, and
 * SUBJECT_GROUP(GROUP), which makes it known.
 */
struct group {
    const char *name;
    const struct subject *subjects;
    struct group *next;
};

void group_add(struct group *g);

#define SUBJECT_GROUP(g)                                                                           \
    static struct group g##_group = {#g, g##_subjects, NULL};                                      \
    __attribute__((constructor)) static void add_##g(void)                                         \
    {                                                                                              \
        group_add(&g##_group);                                                                     \
    }

/* The image was changed as far as the next step: ATOMIC, all at once; DURABLE, and it survives. */
int stage_step(struct stage *s, bool atomic, bool durable, struct img_error *err);

/* Does the subject on a fresh scene; what was recorded, and the versions in JUDGE, are left. */
int stage_run(struct stage *s, const struct subject *what, const struct scene *scene,
              struct judge *judge, uint64_t seed, struct img_error *err);

/*
 * The same by SCRIPT, right after scene_make; the versions are for stage_settle, as JUDGE may not
 * have its checker yet.
 */
int record_script(struct log *log, struct disk *end, const char *script, unsigned flags,
                  const struct scene *scene, struct judge *judge, struct img_error *err);

/* Lets the states have what is wrong with the images before and after, if FLAGS allow them any. */
int stage_settle(struct judge *judge, const struct disk *end, unsigned flags,
                 struct img_error *err);

/* images.c: makes a start image by its name. */
void scene_make(struct scene *s, const char *name);

#endif
