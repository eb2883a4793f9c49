#include "formats/qcow2/header_write.h"
#include "formats/qcow2/ondisk.h"
#include "lib/bytes.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A disk writes a sector of this size whole or not at all. */
enum { SECTOR = 512 };

static bool is_known(uint32_t type)
{
    static const uint32_t known[] = {EXT_BACKING_FORMAT, EXT_FEATURE_NAMES, EXT_BITMAPS, EXT_CRYPTO,
                                     EXT_DATA_FILE};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i] == type)
            return true;
    return false;
}

/* Moves the extensions that are not known here together, at the end of the header's fields. */
static void collect_unknown(const struct qcow2 *q, uint8_t *cluster,
                            struct qcow2_header_parts *parts)
{
    const struct qcow2_header *h = &q->header;
    size_t at = h->length, to = at;
    size_t end = h->backing_offset ? h->backing_offset : q->geometry.cluster_size;
    parts->unknown = cluster + to;
    while (end - at >= sizeof(struct ondisk_extension)) {
        uint32_t type = load_be32(cluster + at);
        size_t length = sizeof(struct ondisk_extension) + align_up(load_be32(cluster + at + 4), 8);
        if (type == EXT_END || length > end - at)
            break;
        if (!is_known(type)) {
            memmove(cluster + to, cluster + at, length);
            to += length;
        }
        at += length;
    }
    parts->unknown_length = to - h->length;
}

static int read_cluster(const struct qcow2 *q, uint8_t **cluster, struct img_error *err)
{
    *cluster = malloc(q->geometry.cluster_size);
    if (!*cluster)
        return img_fail_nomem(err);
    int ret = file_read_padded(q->file, *cluster, q->geometry.cluster_size, host(0), err);
    if (ret < 0) {
        free(*cluster);
        *cluster = NULL;
        img_prefix(err, ret, "Could not read qcow2 header: ");
    }
    return ret;
}

int qcow2_read_parts(const struct qcow2 *q, struct qcow2_header_parts *parts, uint8_t **cluster,
                     struct img_error *err)
{
    const struct layer *l = q->layer;
    const struct qcow2_header *h = &q->header;
    int ret = read_cluster(q, cluster, err);
    if (ret < 0)
        return ret;
    *parts = (struct qcow2_header_parts){.backing = l->backing_name,
                                         .backing_format = l->backing_format,
                                         .data_file = l->data_file_name,
                                         .ext = q->ext};
    if (h->version > 2 && h->length > sizeof(struct ondisk_header)) {
        parts->fields = *cluster + sizeof(struct ondisk_header);
        parts->fields_length = h->length - sizeof(struct ondisk_header);
    }
    collect_unknown(q, *cluster, parts);
    return 0;
}

/* ---- writing ------------------------------------------------------------------------------- */

/* Writes the sectors of [FROM, END) in which NEW differs from OLD, and flushes if there were any.
 */
static int write_difference(struct qcow2 *q, uint8_t *old, const uint8_t *new, size_t from,
                            size_t end, struct img_error *err)
{
    bool any = false;
    for (size_t at = from; at < end; at += SECTOR) {
        if (!memcmp(old + at, new + at, SECTOR))
            continue;
        int ret = file_write(q->file, new + at, SECTOR, host(at), err);
        if (ret < 0)
            return ret;
        memcpy(old + at, new + at, SECTOR);
        any = true;
    }
    return any ? file_flush(q->file, err) : 0;
}

/* Is there nothing behind the first sector that the old header needs and the new one changes? */
static bool harmless(const struct qcow2_header *old, const uint8_t *before, const uint8_t *after)
{
    uint64_t from = max_u64(old->backing_offset, SECTOR);
    uint64_t end = old->backing_offset + old->backing_size;
    return !old->backing_offset || end <= from || !memcmp(before + from, after + from, end - from);
}

/*
 * The old header with all that it needs in the first sector, the backing file's name apart, which
 * stays where it is. False: there is no room for that.
 */
static bool encode_terse(const struct qcow2 *q, const struct qcow2_header_parts *parts,
                         uint8_t *cluster)
{
    struct qcow2_header_parts terse = *parts, nameless;
    terse.terse = true;
    terse.backing_from = q->header.backing_offset;
    nameless = terse;
    nameless.backing = NULL;
    if (qcow2_encode_header(cluster, &q->header, &nameless) < 0)
        return false;
    for (size_t i = SECTOR; i < q->geometry.cluster_size; i++)
        if (cluster[i])
            return false;
    return qcow2_encode_header(cluster, &q->header, &terse) == 0;
}

/* The new header, of which no byte takes the place of the old backing file name, if that can be. */
static int encode_new(const struct qcow2 *q, const struct qcow2_header *header,
                      const struct qcow2_header_parts *parts, const uint8_t *before, uint8_t *after,
                      struct img_error *err)
{
    struct qcow2_header_parts p = *parts;
    const struct qcow2_header *old = &q->header;
    for (unsigned attempt = 0; attempt < 4; attempt++) {
        p.terse = attempt & 2;
        p.backing_from = attempt & 1 ? old->backing_offset + old->backing_size : 0;
        p.gap = attempt & 1 ? before : NULL; /* the old name stays, for the old header */
        int ret = qcow2_encode_header(after, header, &p);
        if (!ret && harmless(old, before, after))
            return 0;
    }
    if (qcow2_encode_header(after, header, parts) == 0)
        return 0;
    return img_fail_detail(err, ENOSPC, "Header cluster too small for what it has to hold",
                           "%" PRIu32 " bytes", q->geometry.cluster_size);
}

int qcow2_check_header(const struct qcow2 *q, const struct qcow2_header *header,
                       const struct qcow2_header_parts *parts, struct img_error *err)
{
    uint8_t *before, *after = malloc(q->geometry.cluster_size);
    int ret = after ? read_cluster(q, &before, err) : img_fail_nomem(err);
    if (!ret) {
        ret = encode_new(q, header, parts, before, after, err);
        free(before);
    }
    free(after);
    return ret;
}

/* BEFORE and AFTER differ in more than one sector. */
static int write_in_steps(struct qcow2 *q, uint8_t *before, const uint8_t *after,
                          struct img_error *err)
{
    size_t size = q->geometry.cluster_size;
    struct qcow2_header_parts parts;
    uint8_t *carried = NULL, *between = malloc(size);
    int ret = between ? qcow2_read_parts(q, &parts, &carried, err) : img_fail_nomem(err);
    if (!ret && encode_terse(q, &parts, between) && harmless(&q->header, before, after)) {
        ret = write_difference(q, before, between, 0, SECTOR, err);
        if (!ret)
            ret = write_difference(q, before, after, SECTOR, size, err);
        if (!ret)
            ret = write_difference(q, before, after, 0, SECTOR, err);
    } else if (!ret) {
        ret = file_write(q->file, after, size, host(0), err);
        if (!ret)
            ret = file_flush(q->file, err);
    }
    free(carried);
    free(between);
    return ret;
}

static int write_cluster(struct qcow2 *q, uint8_t *before, const uint8_t *after,
                         struct img_error *err)
{
    size_t size = q->geometry.cluster_size, different = 0;
    for (size_t at = 0; at < size; at += SECTOR)
        different += memcmp(before + at, after + at, SECTOR) != 0;
    if (different <= 1)
        return write_difference(q, before, after, 0, size, err);
    return write_in_steps(q, before, after, err);
}

int qcow2_write_header(struct qcow2 *q, const struct qcow2_header *header,
                       const struct qcow2_header_parts *parts, bool *begun, struct img_error *err)
{
    uint8_t *before, *after = malloc(q->geometry.cluster_size);
    if (!after)
        return img_fail_nomem(err);
    int ret = read_cluster(q, &before, err);
    if (!ret && parts) {
        ret = encode_new(q, header, parts, before, after, err);
    } else if (!ret) {
        memcpy(after, before, q->geometry.cluster_size);
        qcow2_encode_fields(after, header);
    }
    if (!ret && begun)
        *begun = true;
    if (!ret)
        ret = write_cluster(q, before, after, err);
    free(before);
    free(after);
    return ret < 0 ? img_prefix(err, ret, "Could not write qcow2 header: ") : 0;
}

/* ---- for later ----------------------------------------------------------------------------- */

/* The header as it is between the old and the new one, if there is one: only its first sector
 * differs from the old. */
static int plan_between(const struct qcow2 *q, struct head_change *c, struct img_error *err)
{
    size_t size = q->geometry.cluster_size;
    struct qcow2_header_parts parts;
    uint8_t *carried = NULL, *between = malloc(size);
    int ret = between ? qcow2_read_parts(q, &parts, &carried, err) : img_fail_nomem(err);
    if (!ret && harmless(&q->header, c->old, c->new) && encode_terse(q, &parts, between)) {
        c->between = between;
        between = NULL;
    }
    free(carried);
    free(between);
    return ret;
}

int qcow2_plan_header(const struct qcow2 *q, const struct qcow2_header *header,
                      const struct qcow2_header_parts *parts, struct head_change *out,
                      struct img_error *err)
{
    size_t size = q->geometry.cluster_size, last = 0, different = 0;
    *out = (struct head_change){.new = malloc(size)};
    int ret = out->new ? read_cluster(q, &out->old, err) : img_fail_nomem(err);
    if (!ret)
        ret = encode_new(q, header, parts, out->old, out->new, err);
    for (size_t at = 0; at < size && !ret; at += SECTOR) {
        bool differs = memcmp(out->old + at, out->new + at, SECTOR) != 0;
        different += differs;
        last = differs ? at + SECTOR : last;
    }
    out->length = last;
    if (!ret && different > 1)
        ret = plan_between(q, out, err);
    if (ret < 0)
        head_change_clear(out);
    return ret;
}
