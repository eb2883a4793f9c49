/*
 * Images outside a chain that name a file of it: they are looked for in folders, and read what a
 * change of that file would change.
 */
#ifndef LIB_OPS_RELATIVES_H
#define LIB_OPS_RELATIVES_H

#include "lib/ops/tree.h"

/* Everything in FOLDER_COUNT folders and all below them, and in the folders, alone, of the files of
 * the first LAYERS layers of IMG. STRICT: one of those that cannot be read is an error, too. */
int relatives_read(struct tree *t, const struct img *img, unsigned layers,
                   const char *const *folders, size_t folder_count, bool strict,
                   struct img_error *err);

/* IMAGE names the file, or the data file, of layer LAYER. */
typedef int (*relative_fn)(void *opaque, const struct img_tree_image *image, unsigned layer,
                           struct img_error *err);

/* Calls FN for every image that names a file of the chain and is not the layer above it, or that
 * layer itself. */
int relatives_each(const struct tree *t, const struct img *img, relative_fn fn, void *opaque,
                   struct img_error *err);

#endif
