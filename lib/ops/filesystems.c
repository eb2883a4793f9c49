/* Partitions and file systems of a guest's disk. */
#include "lib/image.h"
#include "lib/ops/filesystems.h"

#include <stdlib.h>
#include <string.h>

enum {
    CHILD_MEMORY = 16 << 20,
    CHILD_TIME = 800000000, /* ns: with all around it, the command takes less than a second */
};

static int read_disk(void *opaque, void *buf, size_t len, uint64_t off, struct img_error *err)
{
    return img_read(opaque, buf, len, off, err);
}

/* In one sentence; NULL: everything was looked at. */
static const char *describe_trouble(unsigned trouble, const struct probe_report *report)
{
    if (trouble & PROBE_DIED)
        return "what is on the disk crashed the search for file systems";
    if (trouble & PROBE_TOO_LONG)
        return "the disk's tables lead to more work than those of any real disk";
    if (trouble & PROBE_TOO_LARGE || report->starved || report->outcome == PROBE_FAILED)
        return "a table on the disk claims to be larger than any real one";
    return report->cut ? "the disk has more partitions or volumes than are listed" : NULL;
}

static int add_trouble(struct img_filesystems *f, const char *trouble, struct img_error *err)
{
    if (!trouble)
        return 0;
    f->problem = strdup(trouble);
    return f->problem ? 0 : img_fail_nomem(err);
}

int img_filesystems(struct img_filesystems **out, struct img *img,
                    const struct img_filesystems_options *options, struct img_error *err)
{
    struct probe_job job = {
        .size = img_size(img),
        .sector_size = options ? options->sector_size : 0,
        .read = read_disk,
        .opaque = img,
        .memory = CHILD_MEMORY,
        .time = CHILD_TIME,
    };
    if (job.sector_size && job.sector_size != 512 && job.sector_size != 4096)
        return img_fail(err, EINVAL, "A disk's sectors have 512 or 4096 bytes, not %u",
                        job.sector_size);
    struct probe_report *report = NULL;
    struct img_filesystems *f = NULL;
    unsigned trouble = 0;
    int ret = probe_run(&report, &trouble, &job, err);
    if (!ret)
        ret = probe_decode(&f, report, job.size, err);
    if (!ret)
        ret = add_trouble(f, describe_trouble(trouble, report), err);
    probe_report_free(report);
    if (ret < 0)
        img_filesystems_free(f);
    else
        *out = f;
    return ret < 0
               ? img_prefix(err, ret,
                            "Could not look for file systems in '%s': ", img_layer_filename(img, 0))
               : 0;
}

static void volume_free(struct img_volume *v)
{
    free(v->name);
    free(v->table);
    free(v->table_id);
    free(v->part_type);
    free(v->part_uuid);
    free(v->part_label);
    free(v->type);
    free(v->version);
    free(v->uuid);
    free(v->label);
}

void img_filesystems_free(struct img_filesystems *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->count; i++)
        volume_free(&f->volumes[i]);
    free(f->volumes);
    free(f->problem);
    free(f);
}

const char *img_content_name(enum img_content content)
{
    static const char *const names[] = {
        [IMG_CONTENT_UNKNOWN] = "unknown", [IMG_CONTENT_FILESYSTEM] = "filesystem",
        [IMG_CONTENT_SWAP] = "swap",       [IMG_CONTENT_LVM] = "lvm",
        [IMG_CONTENT_LUKS] = "luks",       [IMG_CONTENT_RAID] = "raid",
        [IMG_CONTENT_OTHER] = "other",     [IMG_CONTENT_AMBIGUOUS] = "ambiguous",
    };
    return (unsigned)content < sizeof names / sizeof *names ? names[content] : NULL;
}

const char *img_volume_kind_name(enum img_volume_kind kind)
{
    static const char *const names[] = {
        [IMG_VOLUME_DISK] = "disk",          [IMG_VOLUME_PARTITION] = "partition",
        [IMG_VOLUME_GROUP] = "volume-group", [IMG_VOLUME_LOGICAL] = "logical-volume",
        [IMG_VOLUME_ARRAY] = "raid-array",   [IMG_VOLUME_SUBVOLUME] = "subvolume",
    };
    return (unsigned)kind < sizeof names / sizeof *names ? names[kind] : NULL;
}
