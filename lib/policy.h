/* Which files an image's own words may lead to, and how such names resolve. */
#ifndef LIB_POLICY_H
#define LIB_POLICY_H

#include "lib/driver.h"

/*
 * A backing file's name, put together with the folder of the image that names it. Absolute names
 * and names with a protocol stay as they are. *FULL is owned by the caller.
 */
int policy_backing_name(char **full, const char *overlay, const char *name, struct img_error *err);

/*
 * Where the data file NAME of IMAGE lies. It is always a plain path, never json: or a protocol, and
 * is looked for where QEMU does (relative to the current folder), then beside the image.
 */
int policy_data_file_path(char **path, const char *image, const char *name, struct img_error *err);

/*
 * May a backing file whose format nobody stated be opened as what it looks like? GUESSED as from
 * driver_probe.
 */
int policy_probed_backing(const struct driver *probed, struct file *f, bool guessed,
                          struct img_error *err);

/* NAME as an absolute path, for messages; never fails but for memory. */
char *policy_absolute(const char *name);

#endif
