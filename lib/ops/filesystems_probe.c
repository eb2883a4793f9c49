/* The child's part: libblkid, on a descriptor. Nothing here may be trusted afterwards. */
#ifdef HAVE_BLKID

#include "lib/checked.h"
#include "lib/ops/filesystems_search.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

void probe_put(char *field, size_t room, const char *text)
{
    if (text)
        snprintf(field, room, "%s", text);
}

struct probe_record *probe_add(struct search *s, enum img_volume_kind kind, uint32_t parent,
                               uint64_t start, uint64_t size)
{
    struct probe_report *report = s->report;
    if (report->count == PROBE_RECORDS_MAX) {
        report->cut = 1;
        return NULL;
    }
    struct probe_record *r = &report->records[report->count++];
    memset(r, 0, sizeof *r);
    r->kind = kind;
    r->parent = parent;
    r->start = start;
    r->size = size;
    return r;
}

static blkid_probe open_range(struct search *s, uint64_t start, uint64_t size)
{
    blkid_probe pr = size ? blkid_new_probe() : NULL; /* libblkid takes 0 for all that is left */
    if (!pr)
        return NULL;
    if (blkid_probe_set_device(pr, s->fd, (blkid_loff_t)start, (blkid_loff_t)size) < 0 ||
        blkid_probe_set_sectorsize(pr, s->sector_size) < 0) {
        blkid_free_probe(pr);
        return NULL;
    }
    return pr;
}

static const char *value(blkid_probe pr, const char *name)
{
    const char *data = NULL;
    return blkid_probe_lookup_value(pr, name, &data, NULL) < 0 ? NULL : data;
}

static enum img_content classify(const char *usage, const char *type)
{
    static const struct {
        const char *usage, *type;
        enum img_content content;
    } known[] = {
        {NULL, "swap", IMG_CONTENT_SWAP},        {NULL, "swsuspend", IMG_CONTENT_SWAP},
        {NULL, "LVM2_member", IMG_CONTENT_LVM},  {NULL, "LVM1_member", IMG_CONTENT_LVM},
        {NULL, "crypto_LUKS", IMG_CONTENT_LUKS}, {"filesystem", NULL, IMG_CONTENT_FILESYSTEM},
        {"raid", NULL, IMG_CONTENT_RAID},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].usage ? usage && !strcmp(usage, known[i].usage) : !strcmp(type, known[i].type))
            return known[i].content;
    return IMG_CONTENT_OTHER;
}

/* A file system, swap space, a part of something larger. */
void probe_inside(struct search *s, struct probe_record *r, uint64_t size)
{
    blkid_probe pr = open_range(s, r->start, size);
    if (!pr)
        return;
    blkid_probe_enable_superblocks(pr, 1);
    blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_LABEL | BLKID_SUBLKS_UUID |
                                              BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE |
                                              BLKID_SUBLKS_VERSION);
    errno = 0;
    int found = blkid_do_safeprobe(pr);
    s->report->starved |= found < 0 && errno == ENOMEM;
    const char *type = found == 0 ? value(pr, "TYPE") : NULL;
    if (found == -2)
        r->content = IMG_CONTENT_AMBIGUOUS;
    if (type) {
        r->content = classify(value(pr, "USAGE"), type);
        PUT(r, type, type);
        PUT(r, version, value(pr, "VERSION"));
        PUT(r, uuid, value(pr, "UUID"));
        PUT(r, label, value(pr, "LABEL"));
        r->content_size = probe_content_size(s, r);
    }
    blkid_free_probe(pr);
}

static bool is_extended(const struct probe_record *r)
{
    return !strcmp(r->part_type, "0x5") || !strcmp(r->part_type, "0xf") ||
           !strcmp(r->part_type, "0x85");
}

/* Partitions that begin behind the disk's end do not exist; of others, what lies on it does. */
static void add_partition(struct search *s, blkid_partition par)
{
    uint64_t start, size;
    blkid_loff_t first = blkid_partition_get_start(par), length = blkid_partition_get_size(par);
    if (first < 0 || length <= 0 || __builtin_mul_overflow((uint64_t)first, 512, &start) ||
        __builtin_mul_overflow((uint64_t)length, 512, &size) || start >= s->size)
        return;
    struct probe_record *r = probe_add(s, IMG_VOLUME_PARTITION, 0, start,
                                       min_u64(size, s->size - start));
    if (!r)
        return;
    r->number = (uint32_t)blkid_partition_get_partno(par);
    r->flags = blkid_partition_get_flags(par);
    PUT(r, part_uuid, blkid_partition_get_uuid(par));
    PUT(r, part_label, blkid_partition_get_name(par));
    const char *type = blkid_partition_get_type_string(par);
    if (type)
        PUT(r, part_type, type);
    else
        snprintf(r->part_type, sizeof r->part_type, "%#x", (unsigned)blkid_partition_get_type(par));
}

static void find_partitions(struct search *s, blkid_probe pr)
{
    blkid_probe_enable_superblocks(pr, 0);
    blkid_probe_enable_partitions(pr, 1);
    errno = 0;
    blkid_partlist list = blkid_probe_get_partitions(pr);
    s->report->starved |= !list && errno == ENOMEM;
    blkid_parttable table = list ? blkid_partlist_get_table(list) : NULL;
    if (!table)
        return;
    PUT(&s->report->records[0], table, blkid_parttable_get_type(table));
    PUT(&s->report->records[0], table_id, blkid_parttable_get_id(table));
    int count = blkid_partlist_numof_partitions(list);
    for (int i = 0; i < count; i++)
        add_partition(s, blkid_partlist_get_partition(list, i));
}

/* Of what is striped, only the first piece can be read like this. */
static bool is_in_one_piece(const struct probe_record *r)
{
    return r->kind != IMG_VOLUME_ARRAY || r->number == 1;
}

/* All that is seen when sectors have SECTOR_SIZE bytes. Returns how many partitions hold something
 * that is known. */
static uint32_t look(struct search *s, unsigned sector_size)
{
    struct probe_report *report = s->report;
    report->count = report->cut = report->starved = 0;
    report->sector_size = s->sector_size = sector_size;
    struct probe_record *disk = probe_add(s, IMG_VOLUME_DISK, 0, 0, s->size);
    blkid_probe pr = open_range(s, 0, s->size);
    if (!pr)
        return 0;
    find_partitions(s, pr);
    blkid_free_probe(pr);
    probe_inside(s, disk, disk->size);
    uint32_t known = 0, count = report->count;
    for (uint32_t i = 1; i < count; i++) {
        struct probe_record *r = &report->records[i];
        if (!is_extended(r))
            probe_inside(s, r, r->size);
        known += r->content != IMG_CONTENT_UNKNOWN;
    }
    probe_md(s);
    count = report->count;
    for (uint32_t i = 0; i < count; i++)
        if (!strcmp(report->records[i].type, "LVM2_member") && is_in_one_piece(&report->records[i]))
            probe_lvm(s, i);
    count = report->count;
    for (uint32_t i = 0; i < count; i++)
        if (!strcmp(report->records[i].type, "btrfs") && is_in_one_piece(&report->records[i]))
            probe_btrfs(s, i);
    return known;
}

/*
 * A table does not say how large its sectors are. They have 512 bytes, unless only 4,096 make sense
 * of it: a GPT lies elsewhere then, and the partitions of an MBR are elsewhere.
 */
void probe_disk(struct probe_report *report, int fd, uint64_t size, unsigned sector_size)
{
    struct search s = {.report = report, .fd = fd, .size = size};
    uint32_t known = look(&s, sector_size ? sector_size : 512);
    const struct probe_record *disk = &report->records[0];
    bool is_done = sector_size || known || disk->content == IMG_CONTENT_FILESYSTEM ||
                   !strcmp(disk->table, "gpt") || size % 4096;
    if (!is_done && !look(&s, 4096) && strcmp(disk->table, "gpt") != 0)
        look(&s, 512);
    report->outcome = PROBE_DONE;
}

#endif
