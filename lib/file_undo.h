/*
 * Undo files: what a change is about to overwrite, saved before the first byte changes.
 *
 * The change is made twice. First to a recorder, which writes nothing to the image: for everything
 * that would be written it puts the bytes that are there now into the undo file, and checksums of
 * what would be there. undo_finish makes that file complete and flushes it; only then does it
 * appear under its name. Then the change is made to the image itself.
 *
 * The format, all numbers big-endian:
 *
 *   header   "IMGUNDO\n", version (32 bits), 32 bits of 0, the image's length before the change and
 *            after it, the number of records, the length of the undo file (64 bits each), CRC-32 of
 *            all bytes before it
 *   record   offset in the image (64 bits), bytes that change, bytes of them that are saved (32
 *            bits each; what lay behind the image's end is not), CRC-32 of the record without
 *            these four bytes; a CRC-32 for each 512 bytes (the last may be shorter) as they will
 *            be; the saved bytes
 *
 * Records do not overlap.
 */
#ifndef LIB_FILE_UNDO_H
#define LIB_FILE_UNDO_H

#include "lib/file.h"
#include "lib/imgtool.h"

/* A file that reads as IMAGE and records what is written to it. PATH must not exist. */
int undo_start(struct file **recorder, struct file *image, const char *path, struct img_error *err);

/* Makes the undo file complete. Without this, closing the recorder leaves nothing behind. */
int undo_finish(struct file *recorder, struct img_error *err);

/* The image has not changed: there is nothing to undo, and no file for it. */
void undo_withdraw(struct file *recorder);

/* Puts back what UNDO holds, once it is known to belong to IMAGE; until then IMAGE->cancel is
 * asked. */
int undo_apply(struct file *undo, struct file *image, struct img_undone *result,
               struct img_error *err);

#endif
