/* From the child's report to img_filesystems: copied field by field, each checked. */
#include "lib/ops/filesystems.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The child may have been made to leave out the NUL. */
static int copy_text(char **out, const char *field, size_t room)
{
    size_t length = strnlen(field, room - 1);
    *out = NULL;
    if (!length)
        return 0;
    *out = strndup(field, length);
    return *out ? 0 : -1;
}

#define COPY(volume, record, field)                                                                \
    copy_text(&(volume)->field, (record)->field, sizeof(record)->field)

static int copy_texts(struct img_volume *v, const struct probe_record *r)
{
    return COPY(v, r, table) || COPY(v, r, table_id) || COPY(v, r, part_type) ||
           COPY(v, r, part_uuid) || COPY(v, r, part_label) || COPY(v, r, type) ||
           COPY(v, r, version) || COPY(v, r, uuid) || COPY(v, r, label);
}

/* The name that a Linux guest gives it, were this its first disk; a subvolume's is libguestfs's. */
static int make_name(struct img_volume *v, const struct probe_record *r,
                     const struct img_volume *parent)
{
    int length = (int)strnlen(r->name, sizeof r->name - 1);
    switch (v->kind) {
    case IMG_VOLUME_PARTITION:
        return asprintf(&v->name, "/dev/sda%u", v->number);
    case IMG_VOLUME_SUBVOLUME:
        return asprintf(&v->name, "btrfsvol:%s/%.*s", parent->name, length, r->name);
    case IMG_VOLUME_ARRAY:
    case IMG_VOLUME_GROUP:
    case IMG_VOLUME_LOGICAL:
        return asprintf(&v->name, "/dev/%.*s", length, r->name);
    default:
        return asprintf(&v->name, "/dev/sda");
    }
}

/* Does it contradict the disk, or what was there before it? The disk comes first. */
static bool is_possible(const struct probe_record *r, uint32_t index, uint32_t count, uint64_t size)
{
    if (r->kind > IMG_VOLUME_SUBVOLUME || r->group >= count || r->content_size > INT64_MAX ||
        r->content > IMG_CONTENT_AMBIGUOUS || r->number > INT32_MAX ||
        (r->kind == IMG_VOLUME_DISK) != (index == 0))
        return false;
    if (index ? r->parent >= index : r->parent != 0)
        return false;
    if (r->kind >= IMG_VOLUME_GROUP)
        return r->name[0] && r->size <= INT64_MAX && r->start <= size;
    return r->start <= size && r->size <= size - r->start;
}

static int decode_one(struct img_volume *volumes, uint32_t index, const struct probe_record *r,
                      struct img_error *err)
{
    struct img_volume *v = &volumes[index];
    *v = (struct img_volume){
        .kind = (enum img_volume_kind)r->kind,
        .content = (enum img_content)r->content,
        .number = r->number,
        .parent = r->parent,
        .group = r->group,
        .content_size = r->content_size,
        .start = r->start,
        .size = r->size,
        .part_flags = r->flags,
    };
    if (make_name(v, r, &volumes[r->parent]) < 0) {
        v->name = NULL;
        return img_fail_nomem(err);
    }
    return copy_texts(v, r) ? img_fail_nomem(err) : 0;
}

int probe_decode(struct img_filesystems **out, const struct probe_report *report, uint64_t size,
                 struct img_error *err)
{
    uint32_t count = report->count;
    if (count > PROBE_RECORDS_MAX ||
        (report->sector_size != 512 && report->sector_size != 4096 && count))
        return img_fail(err, EPROTO, "What was found on the disk contradicts itself");
    struct img_filesystems *f = calloc(1, sizeof *f);
    struct img_volume *volumes = calloc(count ? count : 1, sizeof *volumes);
    if (!f || !volumes) {
        free(f);
        free(volumes);
        return img_fail_nomem(err);
    }
    *f = (struct img_filesystems){.sector_size = report->sector_size, .volumes = volumes};
    int ret = 0;
    for (uint32_t i = 0; i < count && !ret; i++) {
        struct probe_record r = report->records[i];
        if (!is_possible(&r, i, count, size))
            ret = img_fail(err, EPROTO, "What was found on the disk contradicts itself");
        else
            ret = decode_one(volumes, (uint32_t)f->count++, &r, err);
    }
    if (ret < 0) {
        img_filesystems_free(f);
        return ret;
    }
    *out = f;
    return 0;
}
