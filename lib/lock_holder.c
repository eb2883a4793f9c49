/*
 * An OFD lock belongs to an open file, not to a process, and F_OFD_GETLK answers pid -1. But
 * /proc/PID/fdinfo/FD lists the locks of each open file of each process that we may look at:
 *
 *     lock:   1: OFDLCK  ADVISORY  READ -1 fe:00:10961236 100 100
 */
#include "lib/lock_holder.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Does this text of an fdinfo file name an OFD lock on BYTE? */
static bool names_lock(FILE *fdinfo, unsigned byte)
{
    char line[256];
    while (fgets(line, sizeof line, fdinfo)) {
        unsigned long long start, end;
        char *kind = strncmp(line, "lock:", 5) ? NULL : strstr(line, "OFDLCK");
        if (kind && sscanf(kind, "OFDLCK %*s %*s %*s %*s %llu %llu", &start, &end) == 2 &&
            start <= byte && byte <= end)
            return true;
    }
    return false;
}

static bool process_holds(const struct file *f, const struct stat *wanted, const char *pid,
                          unsigned byte)
{
    char path[600];
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *fds = opendir(path);
    bool found = false;
    for (struct dirent *d; fds && !found && (d = readdir(fds));) {
        struct stat st;
        if (!isdigit((unsigned char)*d->d_name) ||
            (atoi(pid) == getpid() && atoi(d->d_name) == f->fd))
            continue;
        snprintf(path, sizeof path, "/proc/%s/fd/%s", pid, d->d_name);
        if (stat(path, &st) < 0 || st.st_dev != wanted->st_dev || st.st_ino != wanted->st_ino)
            continue;
        snprintf(path, sizeof path, "/proc/%s/fdinfo/%s", pid, d->d_name);
        FILE *fdinfo = fopen(path, "re");
        found = fdinfo && names_lock(fdinfo, byte);
        if (fdinfo)
            fclose(fdinfo);
    }
    if (fds)
        closedir(fds);
    return found;
}

static char *describe(const char *pid)
{
    char path[600], name[64] = "?", *out;
    snprintf(path, sizeof path, "/proc/%s/comm", pid);
    FILE *comm = fopen(path, "re");
    if (comm && fgets(name, sizeof name, comm))
        name[strcspn(name, "\n")] = 0;
    if (comm)
        fclose(comm);
    return asprintf(&out, "%s (process %s)", name, pid) < 0 ? NULL : out;
}

char *lock_find_holder(const struct file *f, unsigned byte)
{
    struct stat st;
    char *holder = NULL;
    if (fstat(f->fd, &st) < 0)
        return NULL;
    DIR *proc = opendir("/proc");
    for (struct dirent *d; proc && !holder && (d = readdir(proc));)
        if (isdigit((unsigned char)*d->d_name) && process_holds(f, &st, d->d_name, byte))
            holder = describe(d->d_name);
    if (proc)
        closedir(proc);
    return holder;
}
