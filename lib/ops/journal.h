/*
 * Changes of the heads of several files, all of them or none: a journal that stands beside the
 * first file, as ".NAME.imgtool-journal", while they are made.
 *
 * It appears under its name when it is whole and on disk; before that no file has changed. From
 * then on all of the changes are as good as made: who finds it makes those that are missing, and
 * removes it when the last one is on disk. So after a crash the next run goes forward, never back.
 *
 * It holds each file's path, relative to its own folder where that can be, and its head as it was
 * and as it shall be. A file whose head is neither, nor on the way from one to the other, was
 * changed since by somebody else: then nothing is done.
 */
#ifndef LIB_OPS_JOURNAL_H
#define LIB_OPS_JOURNAL_H

#include "lib/head_change.h"

struct journal_entry {
    char *path; /* absolute */
    struct head_change change;
};

struct journal {
    char *path;
    struct journal_entry *items;
    size_t count;
};

void journal_clear(struct journal *j);

/* Writes J, of which the items are set, and sets its path: beside the first item. */
int journal_write(struct journal *j, const struct cancel *cancel, struct img_error *err);

/* Reads the journal that concerns the file PATH, if there is one: else J->path is NULL. */
int journal_find(struct journal *j, const char *path, struct img_error *err);

/* Makes the changes that are missing, in FILES, one for each item, which are open and locked. */
int journal_make(const struct journal *j, struct file *const *files, struct img_error *err);

/* Takes back those that were made; the journal then may go. */
int journal_take_back(const struct journal *j, struct file *const *files, struct img_error *err);

int journal_remove(const struct journal *j, struct img_error *err);

/* What a program that died has left: opens and locks the files, makes the changes, removes J. */
int journal_finish(const struct journal *j, struct img_error *err);

#endif
