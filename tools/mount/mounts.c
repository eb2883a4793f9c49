/* What is encrypted is opened, and the guest's file systems are mounted inside the appliance. */
#include "guest.h"
#include "prompt.h"
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEY_MAX = 64 << 10 };

/* ---- keys --------------------------------------------------------------------------------------
 */

static char *read_key_from(struct tool *tool, int fd, const char *name)
{
    char *key = malloc(KEY_MAX + 1);
    size_t length = 0;
    ssize_t got = 1;
    while (key && length < KEY_MAX && (got = read(fd, key + length, KEY_MAX - length)) != 0) {
        if (got < 0 && errno != EINTR)
            break;
        length += got > 0 ? (size_t)got : 0;
    }
    if (!key || got < 0) {
        tool_error(tool, "Could not read the key from '%s': %s", name, strerror(errno));
        free(key);
        return NULL;
    }
    if (length && key[length - 1] == '\n')
        length--;
    key[length] = '\0';
    if (length && strlen(key) == length)
        return key;
    tool_error(tool, "The key from '%s' %s", name, length ? "has a NUL in it" : "is empty");
    free(key);
    return NULL;
}

static char *read_key(struct tool *tool, const char *where)
{
    char *end;
    long number = strtol(where, &end, 10);
    bool is_fd = *where >= '0' && *where <= '9' && !*end && number < 1 << 20;
    int fd = is_fd ? (int)number : open(where, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        tool_error(tool, "Could not open '%s', where the key is: %s", where, strerror(errno));
        return NULL;
    }
    char *key = read_key_from(tool, fd, where);
    if (!is_fd)
        close(fd);
    return key;
}

/* Without --key, a terminal is asked. */
static int collect_keys(struct tool *tool, const struct guest_request *r, const char *device,
                        char *keys[GUEST_LIST_MAX], size_t *count)
{
    char question[64];
    for (size_t i = 0; i < r->key_count; i++) {
        keys[*count] = read_key(tool, r->keys[i]);
        if (!keys[(*count)++])
            return 1;
    }
    if (*count)
        return 0;
    snprintf(question, sizeof question, "Key of %s: ", device);
    char *typed = isatty(0) ? prompt_key(question) : NULL;
    if (typed)
        keys[(*count)++] = typed;
    else if (signals_pending())
        tool_error(tool, "Interrupted");
    else
        tool_error(tool, "%s is encrypted: give its key with --key", device);
    return !typed;
}

/* ---- LUKS --------------------------------------------------------------------------------------
 */

static int unlock_one(struct guest *guest, const struct guest_request *r, const char *device,
                      unsigned number, char *const *keys, size_t count)
{
    char name[32];
    snprintf(name, sizeof name, "luks%u", number);
    for (size_t i = 0; i < count; i++)
        if (guestfs_cryptsetup_open(guest->g, device, keys[i], name,
                                    GUESTFS_CRYPTSETUP_OPEN_READONLY, r->writable ? 0 : 1, -1) == 0)
            return 0;
    return guest_error(guest, count > 1 ? "None of the keys opens %s" : "The key does not open %s",
                       device);
}

int guest_unlock(struct guest *guest, const struct guest_request *r, enum unlock_need need)
{
    char *keys[GUEST_LIST_MAX + 1] = {NULL};
    size_t count = 0;
    unsigned opened = 0;
    int failed = 0;
    for (size_t i = 0; guest->volumes && i < guest->volumes->count && !failed; i++) {
        const struct img_volume *v = &guest->volumes->volumes[i];
        if (v->content != IMG_CONTENT_LUKS || (!r->key_count && need == UNLOCK_IF_KEYS))
            continue;
        if (!r->key_count && need == UNLOCK_OR_WARN) {
            tool_error(guest->tool,
                       "warning: %s is encrypted and not looked into: give its key with --key",
                       v->name);
            continue;
        }
        if (!count)
            failed = collect_keys(guest->tool, r, v->name, keys, &count);
        if (!failed)
            failed = unlock_one(guest, r, v->name, ++opened, keys, count);
    }
    if (!failed && opened && guestfs_lvm_scan(guest->g, 1) < 0)
        failed = guest_error(guest, "Could not look for LVM behind what was encrypted");
    for (size_t i = 0; i < count; i++)
        if (keys[i]) {
            explicit_bzero(keys[i], strlen(keys[i]));
            free(keys[i]);
        }
    return failed;
}

/* ---- mounting ----------------------------------------------------------------------------------
 */

static int mount_one(struct guest *guest, const struct guest_request *r, const char *device,
                     const char *dir)
{
    guest->changes |= r->writable;
    return r->writable ? guestfs_mount_options(guest->g, "", device, dir)
                       : guestfs_mount_ro(guest->g, device, dir);
}

/* DEV[:DIR]; a subvolume's name has a colon of its own. */
static int mount_given(struct guest *guest, const struct guest_request *r, const char *what)
{
    char *device = strdup(what);
    static const char subvolume[] = "btrfsvol:";
    size_t own = strncmp(what, subvolume, strlen(subvolume)) ? 0 : strlen(subvolume);
    char *colon = device ? strchr(device + own, ':') : NULL;
    int failed = !device;
    if (colon)
        *colon++ = '\0';
    if (failed)
        tool_error(guest->tool, "Out of memory");
    else if (mount_one(guest, r, device, colon && *colon ? colon : "/") < 0)
        failed = guest_error(guest, "Could not mount %s", device);
    free(device);
    return failed;
}

static int by_length(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    size_t m = strlen(*x), n = strlen(*y);
    return m < n ? -1 : m > n ? 1 : strcmp(*x, *y);
}

/* The root must be there; what else the fstab names may be on other disks. */
int guest_mount_root(struct guest *guest, const struct guest_request *r, const char *root)
{
    char **points = guestfs_inspect_get_mountpoints(guest->g, root);
    size_t count = 0;
    int failed = 0;
    if (!points)
        return guest_error(guest, "Could not read which file systems belong to %s", root);
    while (points[count])
        count += 2;
    qsort(points, count / 2, 2 * sizeof *points, by_length);
    for (size_t i = 0; i < count && !failed; i += 2)
        if (mount_one(guest, r, points[i + 1], points[i]) < 0) {
            bool is_root = !strcmp(points[i], "/");
            guest_error(guest, "%sould not mount %s on %s", is_root ? "C" : "warning: c",
                        points[i + 1], points[i]);
            failed = is_root;
        }
    guest_list_free(points);
    return failed;
}

static int mount_inspected(struct guest *guest, const struct guest_request *r)
{
    char **roots = guestfs_inspect_os(guest->g);
    int failed = 0;
    if (!roots)
        return guest_error(guest, "Could not look for an operating system");
    if (!roots[0])
        failed = tool_error(guest->tool,
                            "No operating system was found in '%s': say with -m what to mount "
                            "('imgtool filesystems' lists what there is)",
                            guest->path);
    else if (roots[1])
        failed = tool_error(
            guest->tool,
            "There are several operating systems, on %s and %s: say with -m what to "
            "mount",
            roots[0], roots[1]);
    else
        failed = guest_mount_root(guest, r, roots[0]);
    guest_list_free(roots);
    return failed;
}

int guest_mount(struct guest *guest, const struct guest_request *r)
{
    int failed = guest_unlock(guest, r, r->mount_count ? UNLOCK_IF_KEYS : UNLOCK_ALL);
    if (!failed && !r->mount_count)
        return mount_inspected(guest, r);
    for (size_t i = 0; i < r->mount_count && !failed; i++)
        failed = mount_given(guest, r, r->mounts[i]);
    return failed;
}
