/* A header's cluster as bytes. */
#ifndef QCOW2_ENCODE_H
#define QCOW2_ENCODE_H

#include "formats/qcow2/qcow2.h"

/* What the header names besides numbers; NULL: nothing. */
struct qcow2_names {
    const char *backing, *backing_format, *data_file;
};

/*
 * Fills CLUSTER, which has the size of one. Of HEADER, backing_offset, backing_size and length are
 * not looked at: they follow. -ENOSPC when not everything has room.
 */
int qcow2_encode_header(uint8_t *cluster, const struct qcow2_header *header,
                        const struct qcow2_names *names);

#endif
