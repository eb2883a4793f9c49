/* imgtool ls: files of a guest, one a line. */
#include "commands.h"
#include "guest.h"
#include "../output.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { DEPTH_MAX = 512 };

struct listing {
    struct guest_request guest;
    const char *path;
    bool is_long, recursive;
};

static char kind_letter(int64_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return 'd';
    case S_IFLNK:
        return 'l';
    case S_IFBLK:
        return 'b';
    case S_IFCHR:
        return 'c';
    case S_IFIFO:
        return 'p';
    case S_IFSOCK:
        return 's';
    default:
        return '-';
    }
}

/* "drwxr-sr-x" */
static void mode_text(char out[11], int64_t mode)
{
    static const char letters[] = "rwxrwxrwx";
    out[0] = kind_letter(mode);
    for (int i = 0; i < 9; i++)
        out[i + 1] = mode >> (8 - i) & 1 ? letters[i] : '-';
    if (mode & S_ISUID)
        out[3] = out[3] == 'x' ? 's' : 'S';
    if (mode & S_ISGID)
        out[6] = out[6] == 'x' ? 's' : 'S';
    if (mode & S_ISVTX)
        out[9] = out[9] == 'x' ? 't' : 'T';
    out[10] = '\0';
}

static char *join(const char *dir, const char *name)
{
    char *path;
    const char *slash = dir[strlen(dir) - 1] == '/' ? "" : "/";
    return asprintf(&path, "%s%s%s", dir, slash, name) < 0 ? NULL : path;
}

static void print_long(struct guest *guest, const char *path, const char *name,
                       const struct guestfs_statns *st)
{
    char mode[11], when[32] = "";
    time_t seconds = (time_t)st->st_mtime_sec;
    struct tm tm;
    char *target = NULL, *safe = printable(name), *safe_target = NULL;
    mode_text(mode, st->st_mode);
    if (localtime_r(&seconds, &tm))
        strftime(when, sizeof when, "%Y-%m-%d %H:%M", &tm);
    if ((st->st_mode & S_IFMT) == S_IFLNK)
        target = guestfs_readlink(guest->g, path);
    if (target)
        safe_target = printable(target);
    printf("%s %3" PRIi64 " %5" PRIi64 " %5" PRIi64 " %10" PRIi64 " %s %s%s%s\n", mode,
           st->st_nlink, st->st_uid, st->st_gid, st->st_size, when, safe ? safe : "",
           safe_target ? " -> " : "", safe_target ? safe_target : "");
    free(safe);
    free(target);
    free(safe_target);
}

static void print_name(const char *name)
{
    char *safe = printable(name);
    puts(safe ? safe : "");
    free(safe);
}

static int list_dir(struct guest *guest, const struct listing *l, const char *dir, unsigned depth);

/* The folders among NAMES, one after the other. */
static int list_below(struct guest *guest, const struct listing *l, const char *dir, char **names,
                      const struct guestfs_statns_list *stats, unsigned depth)
{
    int failed = 0;
    for (size_t i = 0; i < stats->len && !failed; i++) {
        if ((stats->val[i].st_mode & S_IFMT) != S_IFDIR)
            continue;
        char *path = join(dir, names[i]);
        putchar('\n');
        failed = path ? list_dir(guest, l, path, depth + 1)
                      : tool_error(guest->tool, "Out of memory");
        free(path);
    }
    return failed;
}

static int list_dir(struct guest *guest, const struct listing *l, const char *dir, unsigned depth)
{
    if (depth > DEPTH_MAX)
        return tool_error(guest->tool, "'%s' lies too deep", dir);
    char **names = guestfs_ls(guest->g, dir);
    if (!names)
        return guest_error(guest, "Could not list '%s'", dir);
    struct guestfs_statns_list *stats = l->is_long || l->recursive
                                            ? guestfs_lstatnslist(guest->g, dir, names)
                                            : NULL;
    int failed = 0;
    if (!stats && (l->is_long || l->recursive))
        failed = guest_error(guest, "Could not look at what is in '%s'", dir);
    if (l->recursive && !failed) {
        char *safe = printable(dir);
        printf("%s:\n", safe ? safe : "");
        free(safe);
    }
    for (size_t i = 0; names[i] && !failed; i++) {
        if (!l->is_long) {
            print_name(names[i]);
            continue;
        }
        char *path = i < stats->len ? join(dir, names[i]) : NULL;
        if (path)
            print_long(guest, path, names[i], &stats->val[i]);
        free(path);
    }
    if (l->recursive && !failed)
        failed = list_below(guest, l, dir, names, stats, depth);
    guestfs_free_statns_list(stats);
    guest_list_free(names);
    return failed;
}

static int list_path(struct guest *guest, void *opaque)
{
    const struct listing *l = opaque;
    char *path = join("/", l->path[0] == '/' ? l->path + 1 : l->path);
    if (!path)
        return tool_error(guest->tool, "Out of memory");
    int failed = 0, is_dir = guestfs_is_dir(guest->g, path);
    struct guestfs_statns *st = is_dir == 1 ? NULL : guestfs_lstatns(guest->g, path);
    if (is_dir == 1)
        failed = list_dir(guest, l, path, 0);
    else if (!st)
        failed = guest_error(guest, "Could not look at '%s'", l->path);
    else if (l->is_long)
        print_long(guest, path, l->path, st);
    else
        print_name(l->path);
    guestfs_free_statns(st);
    free(path);
    return failed;
}

int cmd_ls(struct tool *tool, int argc, char **argv)
{
    static const struct option options[] = {GUEST_LONG,
                                            GUEST_MOUNT_LONG,
                                            {"long", no_argument, 0, 'l'},
                                            {"recursive", no_argument, 0, 'R'},
                                            {0, 0, 0, 0}};
    struct listing l = {.path = NULL};
    int c, code;
    while ((c = tool_getopt(tool, argc, argv, "hf:im:lR", options, &code)) != -1) {
        if (c == TOOL_STOP)
            return code;
        if (c == 'l')
            l.is_long = true;
        else if (c == 'R')
            l.recursive = true;
        else if (guest_option(tool, &l.guest, c, optarg) < 0)
            return 1;
    }
    if (optind != argc - 2)
        return tool_usage_error(tool, "Expecting an image file name and a path in it");
    l.guest.filename = argv[optind];
    l.path = argv[optind + 1];
    return guest_run(tool, &l.guest, list_path, &l);
}
