/*
 * What the host says of a file: its blocks, its mount, its file system's flags, the disks below.
 *
 * The mount is found by its ID, which the kernel tells for each open file: device numbers would not
 * do, since btrfs gives every subvolume one that no mount has.
 */
#include "lib/ops/advise.h"

#include <errno.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

/* ---- /proc/self/mountinfo ---- */

/* Takes the next field off *LINE, with \040 and the like made plain. NULL: no more, or no memory.
 */
static char *next_field(const char **line)
{
    *line += strspn(*line, " \n");
    size_t length = strcspn(*line, " \n");
    if (!length)
        return NULL;
    char *field = malloc(length + 1), *p = field;
    for (const char *s = *line; field && s < *line + length; s++) {
        bool escaped = s[0] == '\\' && s + 3 < *line + length && s[1] >= '0' && s[1] <= '3' &&
                       s[2] >= '0' && s[2] <= '7' && s[3] >= '0' && s[3] <= '7';
        *p++ = escaped ? (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0')) : *s;
        s += escaped ? 3 : 0;
    }
    if (field)
        *p = 0;
    *line += length;
    return field;
}

void advise_mount_clear(struct advise_mount *m)
{
    free(m->type);
    free(m->point);
    free(m->source);
    free(m->options);
    *m = (struct advise_mount){0};
}

bool advise_mount_parse(struct advise_mount *m, const char *line, long *id)
{
    int used = 0;
    *m = (struct advise_mount){0};
    if (sscanf(line, "%ld %*d %u:%u%n", id, &m->major, &m->minor, &used) != 3 || !used)
        return false;
    const char *separator = strstr(line + used, " - "), *rest = line + used;
    if (!separator)
        return false;
    free(next_field(&rest)); /* the root within the file system */
    m->point = next_field(&rest);
    char *own = next_field(&rest);
    bool in_order = rest <= separator;
    rest = separator + 3;
    m->type = next_field(&rest);
    m->source = next_field(&rest);
    char *super = next_field(&rest);
    bool whole = in_order && m->point && own && m->type && m->source;
    if (whole && asprintf(&m->options, "%s%s%s", own, super ? "," : "", super ? super : "") < 0)
        m->options = NULL;
    free(own);
    free(super);
    if (whole && m->options)
        return true;
    advise_mount_clear(m);
    return false;
}

bool advise_mount_find(struct advise_mount *m, FILE *mountinfo, long id)
{
    char *line = NULL;
    size_t room = 0;
    bool found = false;
    long this;
    while (!found && getline(&line, &room, mountinfo) > 0) {
        char *end;
        this = strtol(line, &end, 10);
        if (end != line && this == id)
            found = advise_mount_parse(m, line, &this);
    }
    free(line);
    return found;
}

bool advise_mount_option(const char *options, const char *name, char *value, size_t size)
{
    size_t length = strlen(name);
    for (const char *at = options; *at; at += *at == ',') {
        size_t n = strcspn(at, ",");
        bool same = n >= length && !strncmp(at, name, length);
        if (same && (n == length || at[length] == '=')) {
            size_t skip = n > length ? length + 1 : length;
            if (value)
                snprintf(value, size, "%.*s", (int)(n - skip), at + skip);
            return true;
        }
        at += n;
    }
    return false;
}

static long mount_id(int fd)
{
    char path[64], line[128];
    long id = -1;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    FILE *f = fopen(path, "re");
    while (f && id < 0 && fgets(line, sizeof line, f))
        if (sscanf(line, "mnt_id: %ld", &id) != 1)
            id = -1;
    if (f)
        fclose(f);
    return id;
}

static void read_mount(struct advise_host *h, int fd)
{
    long id = mount_id(fd);
    FILE *f = id < 0 ? NULL : fopen("/proc/self/mountinfo", "re");
    if (!f)
        return;
    advise_mount_find(&h->mount, f, id);
    fclose(f);
}

/* ---- the rest ---- */

static void read_nocow(struct advise_host *h, int fd)
{
    int flags = 0;
    struct statfs fs;
    h->nocow = ADVISE_NOT_KNOWN;
    if (fstatfs(fd, &fs) < 0) {
        h->nocow_error = errno;
        return;
    }
    if (!h->mount.type && (unsigned long)fs.f_type == BTRFS_SUPER_MAGIC)
        h->mount.type = strdup("btrfs"); /* no /proc here */
    if (!h->mount.type && (unsigned long)fs.f_type == NFS_SUPER_MAGIC)
        h->mount.type = strdup("nfs");
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
        h->nocow_error = errno;
    else
        h->nocow = flags & FS_NOCOW_FL ? ADVISE_YES : ADVISE_NO;
}

static void read_disks(struct advise_host *h, const struct stat *st)
{
    struct stat source;
    unsigned major_no = h->mount.major, minor_no = h->mount.minor;
    if (S_ISBLK(st->st_mode)) {
        major_no = major(st->st_rdev);
        minor_no = minor(st->st_rdev);
    } else if (!h->mount.type) {
        return;
    } else if (!major_no) { /* btrfs: the device it was mounted from, one of maybe many */
        if (*h->mount.source != '/' || stat(h->mount.source, &source) < 0 ||
            !S_ISBLK(source.st_mode))
            return;
        major_no = major(source.st_rdev);
        minor_no = minor(source.st_rdev);
    }
    h->disk_count = advise_disks("/sys", major_no, minor_no, h->disks, ADVISE_MAX_DISKS);
}

void advise_host_read(struct advise_host *h, int fd)
{
    struct stat st;
    struct statvfs vfs;
    if (fstat(fd, &st) < 0)
        return;
    h->regular = S_ISREG(st.st_mode);
    h->allocated = (uint64_t)st.st_blocks * 512;
    read_mount(h, fd);
    if (h->regular) {
        h->length = (uint64_t)st.st_size;
        advise_layout_read(&h->layout, fd, h->length, h->allocated);
        read_nocow(h, fd);
        h->free_known = fstatvfs(fd, &vfs) == 0 && vfs.f_blocks;
        h->free_bytes = h->free_known ? (uint64_t)vfs.f_bavail * vfs.f_frsize : 0;
    }
    read_disks(h, &st);
}

void advise_host_clear(struct advise_host *h)
{
    advise_layout_clear(&h->layout);
    advise_mount_clear(&h->mount);
    free(h->path);
    *h = (struct advise_host){0};
}
