/*
 * The disks under a block device, as sysfs has them: a partition lies in its disk's folder, what is
 * built of other devices (LVM, RAID, dm-crypt) has a folder "slaves", a loop device names its file.
 */
#include "lib/ops/advise.h"

#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { MAX_DEPTH = 8 };

struct search {
    const char *sys;
    struct advise_disk *disks;
    size_t count, max;
};

/* The first line of FOLDER/NAME, without its newline. */
static bool read_line(const char *folder, const char *name, char *buf, size_t size)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return false;
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(buf, (int)size, f);
    if (f)
        fclose(f);
    if (ok)
        buf[strcspn(buf, "\n")] = 0;
    return ok;
}

bool advise_scheduler_parse(const char *text, char *active, size_t size)
{
    const char *open = strchr(text, '['), *close = open ? strchr(open, ']') : NULL;
    size_t length = close ? (size_t)(close - open - 1) : strcspn(text, " \n");
    bool whole = close || (!open && length && !text[length + strspn(text + length, " \n")]);
    if (!whole || !length || length >= size)
        return false; /* several, and none of them active */
    memcpy(active, close ? open + 1 : text, length);
    active[length] = 0;
    return true;
}

static void add_disk(struct search *s, const char *folder)
{
    const char *name = strrchr(folder, '/');
    name = name ? name + 1 : folder;
    for (size_t i = 0; i < s->count; i++)
        if (!strcmp(s->disks[i].name, name))
            return;
    if (s->count == s->max)
        return;
    struct advise_disk *d = &s->disks[s->count];
    char rotational[16];
    *d = (struct advise_disk){.rotational = -1};
    if (!read_line(folder, "queue/scheduler", d->available, sizeof d->available) ||
        !advise_scheduler_parse(d->available, d->scheduler, sizeof d->scheduler))
        return;
    snprintf(d->name, sizeof d->name, "%s", name);
    if (read_line(folder, "queue/rotational", rotational, sizeof rotational))
        d->rotational = atoi(rotational) != 0;
    d->is_virtual = strstr(folder, "/virtio") || !strncmp(name, "vd", 2) ||
                    !strncmp(name, "xvd", 3);
    s->count++;
}

static void search_device(struct search *s, unsigned major_no, unsigned minor_no, unsigned depth);

/* What the device of FOLDER is built of. False: of nothing. */
static bool search_slaves(struct search *s, const char *folder, unsigned depth)
{
    char path[PATH_MAX], dev[32];
    if (snprintf(path, sizeof path, "%s/slaves", folder) >= (int)sizeof path)
        return false;
    DIR *dir = opendir(path);
    bool any = false;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char name[NAME_MAX + 8];
        unsigned a, b;
        snprintf(name, sizeof name, "%s/dev", e->d_name);
        if (*e->d_name == '.' || !read_line(path, name, dev, sizeof dev) ||
            sscanf(dev, "%u:%u", &a, &b) != 2)
            continue;
        search_device(s, a, b, depth + 1);
        any = true;
    }
    if (dir)
        closedir(dir);
    return any;
}

static void search_device(struct search *s, unsigned major_no, unsigned minor_no, unsigned depth)
{
    char link[PATH_MAX], file[PATH_MAX], line[16];
    struct stat st;
    if (depth > MAX_DEPTH || snprintf(link, sizeof link, "%s/dev/block/%u:%u", s->sys, major_no,
                                      minor_no) >= (int)sizeof link)
        return;
    char *folder = realpath(link, NULL);
    if (!folder)
        return;
    if (read_line(folder, "partition", line, sizeof line)) {
        char *slash = strrchr(folder, '/');
        if (slash)
            *slash = 0;
    }
    if (search_slaves(s, folder, depth))
        ;
    else if (read_line(folder, "loop/backing_file", file, sizeof file) && stat(file, &st) == 0)
        search_device(s, major(st.st_dev), minor(st.st_dev), depth + 1);
    else
        add_disk(s, folder);
    free(folder);
}

size_t advise_disks(const char *sys, unsigned major_no, unsigned minor_no,
                    struct advise_disk *disks, size_t max)
{
    struct search s = {.sys = sys, .disks = disks, .max = max};
    search_device(&s, major_no, minor_no, 0);
    return s.count;
}
