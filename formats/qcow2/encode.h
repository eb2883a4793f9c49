/* A header's cluster as bytes. */
#ifndef QCOW2_ENCODE_H
#define QCOW2_ENCODE_H

#include "formats/qcow2/qcow2.h"

/* What the header's cluster holds besides numbers. */
struct qcow2_header_parts {
    const char *backing, *backing_format, *data_file; /* NULL: none */
    struct qcow2_extensions ext;
    /* carried over from the header that is replaced: fields that are not known here, whole
     * extensions that are not, one after another with their padding */
    const uint8_t *fields, *unknown;
    size_t fields_length, unknown_length;
    bool terse;          /* without the names of features, which are only for reading */
    size_t backing_from; /* the backing file name does not begin before this offset */
    const uint8_t *gap;  /* a cluster whose bytes stand before that, where nothing else does; NULL:
                            zeroes */
};

/*
 * Fills CLUSTER, which has the size of one. Of HEADER, backing_offset, backing_size and length are
 * not looked at: they follow. -ENOSPC when not everything has room.
 */
int qcow2_encode_header(uint8_t *cluster, const struct qcow2_header *header,
                        const struct qcow2_header_parts *parts);

/* The numbers alone, into the first HEADER->length bytes of a header. */
void qcow2_encode_fields(uint8_t *head, const struct qcow2_header *header);

#endif
