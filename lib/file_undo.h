/*
 * Undo files: what a change is about to overwrite, saved before the first byte changes.
 *
 * Who is about to make a change tells first what will lie where, on the way as in the end; for
 * that, the bytes that are there now come into the undo file, and checksums of what will be.
 * undo_finish makes that file complete and flushes it; only then does it appear under its name.
 * Then the change is made to the image itself.
 *
 * The format, all numbers big-endian:
 *
 *   header   "IMGUNDO\n", version (32 bits), checksums of each sector (32 bits; in version 1 it is
 *            one, and these bits are 0; in version 2 up to 64), the image's length before and after
 *            the change, the number of records, the length of the undo file (64 bits each), CRC-32
 *            of all bytes before it
 *   record   offset in the image (64 bits), bytes that change, bytes of them that are saved (32
 *            bits each; what lay behind the image's end is not), CRC-32 of the record without
 *            these four bytes; for each 512 bytes (the last may be shorter) the CRC-32s of what
 *            will lie there, one after the other; the saved bytes
 *
 * Records do not overlap.
 */
#ifndef LIB_FILE_UNDO_H
#define LIB_FILE_UNDO_H

#include "lib/file.h"
#include "lib/imgtool.h"

struct undo_writer;

/* Begins PATH, which must not exist. No sector of IMAGE will hold more than VERSIONS contents, one
 * after the other. */
int undo_start(struct undo_writer **out, struct file *image, const char *path, unsigned versions,
               struct img_error *err);

/* LEN bytes from OFF, a sector's beginning, will change, none of them told before: NEW has for each
 * sector VERSIONS times 512 bytes. */
int undo_save(struct undo_writer *w, host_off off, size_t len, const uint8_t *new,
              struct img_error *err);

/* Makes the undo file complete. Without this, closing the writer leaves nothing behind. */
int undo_finish(struct undo_writer *w, struct img_error *err);

/* The image has not changed: there is nothing to undo, and no file for it. */
void undo_withdraw(struct undo_writer *w);

/* W may be NULL. */
void undo_close(struct undo_writer *w);

/* Puts back what UNDO holds, once it is known to belong to IMAGE; until then IMAGE->cancel is
 * asked. */
int undo_apply(struct file *undo, struct file *image, struct img_undone *result,
               struct img_error *err);

#endif
