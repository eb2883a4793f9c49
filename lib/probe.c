/* Which format is a file in? The surest answer of all drivers wins; raw takes what nobody wants. */
#include "lib/checked.h"
#include "lib/driver.h"

#include <string.h>

enum { HEAD = 2048 };

const struct driver *driver_by_name(const char *name)
{
    for (const struct driver *const *d = drivers; *d; d++)
        if (!strcmp((*d)->name, name))
            return *d;
    return NULL;
}

bool driver_named_by_qemu(const char *format)
{
    static const char *const names[] = {
        "blkdebug",
        "blklogwrites",
        "blkverify",
        "bochs",
        "cloop",
        "compress",
        "copy-before-write",
        "copy-on-read",
        "dmg",
        "file",
        "ftp",
        "ftps",
        "gluster",
        "host_cdrom",
        "host_device",
        "http",
        "https",
        "iscsi",
        "luks",
        "nbd",
        "nfs",
        "null-aio",
        "null-co",
        "nvme",
        "parallels",
        "preallocate",
        "qcow",
        "qcow2",
        "qed",
        "quorum",
        "raw",
        "rbd",
        "replication",
        "snapshot-access",
        "ssh",
        "throttle",
        "vdi",
        "vhdx",
        "vmdk",
        "vpc",
        "vvfat",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], format))
            return true;
    return false;
}

int driver_find(const struct driver **out, const char *format, struct img_error *err)
{
    if (!driver_named_by_qemu(format))
        return img_fail(err, EINVAL, "Unknown file format '%s'", format);
    *out = driver_by_name(!strcmp(format, "file") ? "raw" : format);
    return 0;
}

int driver_probe(const struct driver **out, struct file *f, bool far, bool *guessed,
                 struct img_error *err)
{
    uint8_t head[HEAD];
    uint64_t size;
    int ret = file_size(f, &size, err);
    if (ret < 0)
        return ret;
    size_t len = (size_t)min_u64(size, HEAD);
    ret = file_read_padded(f, head, len, host(0), err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not read image for determining its format: ");

    int best = 0;
    for (const struct driver *const *d = drivers; *d; d++) {
        int score = (*d)->probe(head, len);
        if (score > best) {
            best = score;
            *out = *d;
        }
    }
    *guessed = best <= 1;
    for (const struct driver *const *d = drivers; far && *guessed && *d; d++) {
        int score = (*d)->probe_far ? (*d)->probe_far(f, err) : 0;
        if (score < 0)
            return img_prefix(err, score, "Could not read image for determining its format: ");
        if (score > best) {
            best = score;
            *out = *d;
        }
    }
    return 0;
}
