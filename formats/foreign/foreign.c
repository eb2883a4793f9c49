/*
 * Formats that are known by name, so that they are not taken for raw, and that are not read. A file
 * in one of them, read as raw, would give its container's bytes for the guest's disk.
 */
#include "lib/bytes.h"
#include "lib/checked.h"
#include "lib/driver.h"

#include <errno.h>
#include <string.h>

static int refuse(struct layer *l, unsigned flags, struct img_error *err)
{
    (void)flags;
    int ret = img_fail(err, ENOTSUP, "Format '%s' is recognised, but cannot be read",
                       l->driver->name);
    if (!strcmp(l->driver->name, "iso"))
        img_hint(err, "An ISO image is a plain disk too: state the format raw to read it as one.");
    return ret;
}

static int starts_with(const uint8_t *head, size_t len, const char *magic, size_t magic_len)
{
    return len >= magic_len && !memcmp(head, magic, magic_len) ? 100 : 0;
}

static int probe_qcow(const uint8_t *head, size_t len)
{
    return len >= 8 && load_be32(head) == 0x514649fb && load_be32(head + 4) == 1 ? 100 : 0;
}

static int probe_qed(const uint8_t *head, size_t len)
{
    return starts_with(head, len, "QED\0", 4);
}

/* A sparse extent, an ESX extent, or a text descriptor that may begin with comments. */
static int probe_vmdk(const uint8_t *head, size_t len)
{
    if (starts_with(head, len, "KDMV", 4) || starts_with(head, len, "COWD", 4))
        return 100;
    const uint8_t *p = head, *end = head + len;
    while (p < end) {
        const uint8_t *eol = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((eol ? eol : end) - p);
        bool blank = n == 0 || *p == '#' || (n == 1 && *p == '\r') || *p == ' ';
        if (!blank)
            return n >= 9 && (!memcmp(p, "version=1", 9) || !memcmp(p, "version=2", 9) ||
                              !memcmp(p, "version=3", 9))
                       ? 100
                       : 0;
        p += n + 1;
    }
    return 0;
}

static int probe_vdi(const uint8_t *head, size_t len)
{
    return len >= 0x44 && load_le32(head + 0x40) == 0xbeda107f ? 100 : 0;
}

static int probe_vhdx(const uint8_t *head, size_t len)
{
    return starts_with(head, len, "vhdxfile", 8);
}

static int probe_vpc(const uint8_t *head, size_t len)
{
    return starts_with(head, len, "conectix", 8);
}

/* A fixed-size VHD is a raw disk with a footer. */
static int probe_vpc_footer(struct file *f, struct img_error *err)
{
    uint8_t footer[8];
    uint64_t size;
    int ret = file_size(f, &size, err);
    if (ret < 0 || size < 1024)
        return ret;
    ret = file_read_padded(f, footer, sizeof footer, host(size - 512), err);
    if (ret < 0)
        return ret;
    return memcmp(footer, "conectix", 8) ? 0 : 50;
}

static int probe_luks(const uint8_t *head, size_t len)
{
    return starts_with(head, len, "LUKS\xba\xbe", 6);
}

static int probe_parallels(const uint8_t *head, size_t len)
{
    if (starts_with(head, len, "WithoutFreeSpace", 16))
        return 100;
    return starts_with(head, len, "WithouFreSpacExt", 16);
}

/* ISO 9660: the first volume descriptor, in sector 16 of 2,048 bytes. */
static int probe_iso(struct file *f, struct img_error *err)
{
    uint8_t descriptor[6];
    uint64_t size;
    int ret = file_size(f, &size, err);
    if (ret < 0 || size < 32768 + sizeof descriptor)
        return ret;
    ret = file_read_padded(f, descriptor, sizeof descriptor, host(32768), err);
    if (ret < 0)
        return ret;
    return memcmp(descriptor + 1, "CD001", 5) ? 0 : 50;
}

static int probe_never(const uint8_t *head, size_t len)
{
    (void)head;
    (void)len;
    return 0;
}

const struct driver qcow_driver = {.name = "qcow", .probe = probe_qcow, .open = refuse};
const struct driver qed_driver = {.name = "qed", .probe = probe_qed, .open = refuse};
const struct driver vmdk_driver = {.name = "vmdk", .probe = probe_vmdk, .open = refuse};
const struct driver vdi_driver = {.name = "vdi", .probe = probe_vdi, .open = refuse};
const struct driver vhdx_driver = {.name = "vhdx", .probe = probe_vhdx, .open = refuse};
const struct driver vpc_driver = {
    .name = "vpc", .probe = probe_vpc, .probe_far = probe_vpc_footer, .open = refuse};
const struct driver luks_driver = {.name = "luks", .probe = probe_luks, .open = refuse};
const struct driver parallels_driver = {
    .name = "parallels", .probe = probe_parallels, .open = refuse};
const struct driver iso_driver = {
    .name = "iso", .probe = probe_never, .probe_far = probe_iso, .open = refuse};
