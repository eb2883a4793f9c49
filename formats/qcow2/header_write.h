/* Changing the header of an image in one step. */
#ifndef QCOW2_HEADER_WRITE_H
#define QCOW2_HEADER_WRITE_H

#include "formats/qcow2/encode.h"
#include "lib/head_change.h"

/*
 * What the header has besides numbers, as it stands. *CLUSTER: its bytes, which PARTS points into,
 * for free(). Names are those of the layer.
 */
int qcow2_read_parts(const struct qcow2 *q, struct qcow2_header_parts *parts, uint8_t **cluster,
                     struct img_error *err);

/* Would all of it have room? -ENOSPC: no. */
int qcow2_check_header(const struct qcow2 *q, const struct qcow2_header *header,
                       const struct qcow2_header_parts *parts, struct img_error *err);

/* What qcow2_write_header would write, and nothing is: OUT is for head_change_clear. */
int qcow2_plan_header(const struct qcow2 *q, const struct qcow2_header *header,
                      const struct qcow2_header_parts *parts, struct head_change *out,
                      struct img_error *err);

/*
 * Makes the header in the file say HEADER and, unless it is NULL, PARTS; all that was written
 * before has to be on disk. When it returns 0, the header is. At every instant the file has the old
 * header or the new one: what changes is the first sector, written at once. Where more has to
 * change, what the old header does not need is written first. There is one exception: names too
 * long for that in a cluster of 1 or 2 KiB, which is written whole.
 * *BEGUN (may be NULL) is set when the first byte is about to be written.
 */
int qcow2_write_header(struct qcow2 *q, const struct qcow2_header *header,
                       const struct qcow2_header_parts *parts, bool *begun, struct img_error *err);

#endif
