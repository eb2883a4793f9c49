/* Advice on the machine below the image: btrfs, NFS, and the disks' I/O scheduler. */
#include "lib/ops/advise.h"

#include <stdlib.h>
#include <string.h>

/* The guide's floor is 16 KiB; a default cluster should travel in one request. */
enum { NFS_LEAST = 64 << 10, NFS_WANTED = 1 << 20 };

static bool unknown_mount(struct advise_finding *f, const struct advise_host *h)
{
    if (h->mount.type)
        return false;
    advise_found(f, IMG_ADVICE_UNKNOWN, "the mount of the file is not known (no /proc?)");
    return true;
}

void advise_nocow(struct advise_finding *f, const struct advise_facts *x)
{
    const struct advise_host *h = &x->host;
    advise_why(f, "btrfs writes changed blocks elsewhere, which scatters an image and undoes its "
                  "preallocation. The attribute must be set while a file is empty; it takes "
                  "checksums and compression with it. New files inherit it from their folder.");
    if (!h->regular) {
        advise_found(f, IMG_ADVICE_NOT_APPLICABLE, "the image lies on a device");
        return;
    }
    if (unknown_mount(f, h))
        return;
    if (strcmp(h->mount.type, "btrfs")) {
        advise_found(f, IMG_ADVICE_NOT_APPLICABLE, "not on btrfs (%s)", h->mount.type);
        return;
    }
    bool mounted = h->mount.options && advise_mount_option(h->mount.options, "nodatacow", NULL, 0);
    if (h->nocow == ADVISE_YES || mounted) {
        advise_found(f, IMG_ADVICE_OK, "no copy-on-write on btrfs%s",
                     h->nocow == ADVISE_YES ? "" : " (mounted with nodatacow)");
        return;
    }
    if (h->nocow == ADVISE_NOT_KNOWN) {
        advise_found(f, IMG_ADVICE_UNKNOWN, "the file's attributes could not be read: %s",
                     strerror(h->nocow_error));
        return;
    }
    advise_found(f, IMG_ADVICE_ADVISED, "on btrfs with copy-on-write");
    char *old = advise_quote_path(h->path, ""), *new = advise_quote_path(h->path, ".new");
    char *command = NULL;
    if (!old || !new ||
        asprintf(&command,
                 "touch %s && chattr +C %s && cp --reflink=never --sparse=always %s %s "
                 "&& mv %s %s",
                 new, new, old, new, new, old) < 0)
        f->nomem = true;
    else
        advise_fix(f, command);
    free(old);
    free(new);
}

/* ---- NFS ---- */

/* The size option NAME, or the default where it is not listed. */
static unsigned long nfs_size(const char *options, const char *name)
{
    char value[32];
    return advise_mount_option(options, name, value, sizeof value) ? strtoul(value, NULL, 10)
                                                                   : NFS_WANTED;
}

static void fix_mount(struct advise_finding *f, const struct advise_mount *m)
{
    char version[32] = "", *command = NULL;
    char *source = advise_quote(m->source), *point = advise_quote(m->point);
    advise_mount_option(m->options, "vers", version, sizeof version);
    version[strspn(version, "0123456789.")] = 0;
    bool read_only = advise_mount_option(m->options, "ro", NULL, 0);
    if (!source || !point ||
        asprintf(&command, "umount %s && mount -t nfs -o %s,hard,rsize=%d,wsize=%d%s%s %s %s",
                 point, read_only ? "ro" : "rw", NFS_WANTED, NFS_WANTED, *version ? ",vers=" : "",
                 version, source, point) < 0)
        f->nomem = true;
    else
        advise_fix(f, command);
    free(source);
    free(point);
}

void advise_nfs_options(struct advise_finding *f, const struct advise_facts *x)
{
    const struct advise_mount *m = &x->host.mount;
    advise_why(f,
               "A soft mount gives a guest's write up when the server is slow, which damages its "
               "file systems; small requests cost a round trip each.");
    if (unknown_mount(f, &x->host))
        return;
    if (!x->host.regular || strncmp(m->type, "nfs", 3)) {
        advise_found(f, IMG_ADVICE_NOT_APPLICABLE, "not on NFS (%s)",
                     x->host.regular ? m->type : "a device");
        return;
    }
    if (!m->options || !m->source || !m->point) {
        advise_found(f, IMG_ADVICE_UNKNOWN, "on NFS, but the mount's options are not known");
        return;
    }
    bool soft = advise_mount_option(m->options, "soft", NULL, 0) ||
                advise_mount_option(m->options, "softerr", NULL, 0);
    unsigned long rsize = nfs_size(m->options, "rsize"), wsize = nfs_size(m->options, "wsize");
    bool small = rsize < NFS_LEAST || wsize < NFS_LEAST;
    advise_found(f, soft || small ? IMG_ADVICE_ADVISED : IMG_ADVICE_OK,
                 "on NFS: %s, rsize=%lu, wsize=%lu", soft ? "soft" : "hard", rsize, wsize);
    if (soft || small) {
        advise_why(f, " For good, change the same options in /etc/fstab.");
        fix_mount(f, m);
    }
}

/* ---- the I/O scheduler ---- */

static bool offers(const struct advise_disk *d, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = d->available; (at = strstr(at, name)); at += n) {
        bool starts = at == d->available || strchr(" [", at[-1]);
        if (starts && (!at[n] || strchr(" ]\n", at[n])))
            return true;
    }
    return false;
}

/* The scheduler that D should have instead of the one it has; NULL: it is fine. */
static const char *better_scheduler(const struct advise_disk *d)
{
    bool none = !strcmp(d->scheduler, "none") || !strcmp(d->scheduler, "noop");
    bool deadline = strstr(d->scheduler, "deadline") != NULL;
    bool fair = !strcmp(d->scheduler, "bfq") || !strcmp(d->scheduler, "cfq");
    bool rotating = d->rotational == 1 && !d->is_virtual;
    if (deadline || (!rotating && !fair))
        return NULL;
    bool nvme = !strncmp(d->name, "nvme", 4);
    static const char *const wanted[] = {"mq-deadline", "deadline", "none", "noop"};
    for (size_t i = nvme ? 2 : 0; i < sizeof wanted / sizeof *wanted; i++)
        if (offers(d, wanted[i]))
            return none && i >= 2 ? NULL : wanted[i];
    return NULL;
}

static void fix_schedulers(struct advise_finding *f, const struct advise_host *h)
{
    char *text = NULL;
    size_t size;
    bool any = false;
    FILE *out = open_memstream(&text, &size);
    for (size_t i = 0; out && i < h->disk_count; i++) {
        const char *better = better_scheduler(&h->disks[i]);
        char *name = better ? advise_quote(h->disks[i].name) : NULL;
        if (!name)
            continue;
        fprintf(out, "%secho %s | sudo tee /sys/block/%s/queue/scheduler", any ? " && " : "",
                better, name);
        any = true;
        free(name);
    }
    if (!out || fclose(out)) {
        f->nomem = true;
        free(text);
    } else {
        advise_fix(f, text);
    }
}

void advise_io_scheduler(struct advise_finding *f, const struct advise_facts *x)
{
    const struct advise_host *h = &x->host;
    const char *type = h->mount.type;
    advise_why(f,
               "A host of machines wants a deadline scheduler, which keeps one guest's stream from "
               "starving the others; the fair ones cost time for a fairness between processes. "
               "Fast disks, and disks that are virtual themselves, do best with none.");
    if (!h->disk_count) {
        bool no_disk = h->regular && type && !h->mount.major &&
                       (!h->mount.source || *h->mount.source != '/');
        if (no_disk)
            advise_found(f, IMG_ADVICE_NOT_APPLICABLE, "no disk of this host below (%s)", type);
        else
            advise_found(f, IMG_ADVICE_UNKNOWN, "/sys tells no scheduler for the disk below");
        return;
    }
    bool change = false;
    for (size_t i = 0; i < h->disk_count; i++) {
        const struct advise_disk *d = &h->disks[i];
        change |= better_scheduler(d) != NULL;
        advise_found(f, IMG_ADVICE_OK, "%s%s on %s%s", i ? ", " : "", d->scheduler, d->name,
                     d->is_virtual        ? " (a virtual disk)"
                     : d->rotational == 1 ? " (rotating)"
                                          : "");
    }
    f->out.state = change ? IMG_ADVICE_ADVISED : IMG_ADVICE_OK;
    if (change) {
        advise_why(f, " To keep it, write a udev rule.");
        fix_schedulers(f, h);
    }
}
