/* QEMU's own programs, as judges and as makers of images. */
#ifndef CRASH_QEMU_H
#define CRASH_QEMU_H

#include "record.h"

struct damage {
    uint64_t corruptions, leaks; /* what could not be checked counts as a corruption */
};

/*
 * `qemu-img check`, without the cost of starting it each time (see preload.c). The images lie in
 * memory; only their names are in a folder.
 */
struct checker;

/* BASE (may be NULL): the backing file. NULL with a message on stderr when it cannot be started. */
struct checker *checker_start(unsigned files, const struct disk *base);
void checker_stop(struct checker *c);

/* Begins the check of DISKS; checker_end waits for it. */
void checker_begin(struct checker *c, const struct disk *disks);
int checker_end(struct checker *c, struct damage *d, struct img_error *err);

/* A folder for files, removed when the program ends. */
const char *work_folder(void);

/* Runs SCRIPT with the shell, in the work folder; $QEMU_IMG and $QEMU_IO are set, with PRELOAD
 * $PRELOAD too. False: it failed. */
bool run_script(const char *script);

/* A file of the work folder. False: there is none. */
bool read_work_file(struct disk *d, const char *name);
void write_work_file(const struct disk *d, const char *name);

#endif
