/*
 * Walking folders: what is an image is opened for its header, all else is passed over after a look
 * at its first bytes. One folder is open at a time, and entries are taken in the order of their
 * names, so that two runs say the same.
 */
#include "lib/ops/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

struct strings {
    char **items;
    size_t count, room;
};

static int push(struct strings *s, char *item, struct img_error *err)
{
    if (!item)
        return img_fail_nomem(err);
    if (s->count == s->room) {
        size_t room = s->room ? s->room * 2 : 16;
        char **items = realloc(s->items, room * sizeof *items);
        if (!items) {
            free(item);
            return img_fail_nomem(err);
        }
        s->items = items;
        s->room = room;
    }
    s->items[s->count++] = item;
    return 0;
}

static void clear(struct strings *s)
{
    for (size_t i = 0; i < s->count; i++)
        free(s->items[i]);
    free(s->items);
    *s = (struct strings){0};
}

/* ---- files ---- */

/* A file that is known has one more name. One that is no link is the better name. */
static int add_name(struct tree_node *n, const char *path, bool by_link, struct img_error *err)
{
    struct img_tree_image *image = &n->image;
    bool known = !strcmp(image->filename, path);
    for (size_t i = 0; i < image->other_name_count; i++)
        known |= !strcmp(image->other_names[i], path);
    if (known) /* it was given twice */
        return 0;
    char **names = realloc(image->other_names, (image->other_name_count + 1) * sizeof *names);
    if (!names)
        return img_fail_nomem(err);
    image->other_names = names;
    char *name = strdup(path);
    if (!name)
        return img_fail_nomem(err);
    if (n->by_link && !by_link) {
        char *link = image->filename;
        image->filename = name;
        name = link;
        n->by_link = false;
    }
    names[image->other_name_count++] = name;
    int ret = tree_add_place(n, path, NULL, err);
    n->own_places = n->place_count;
    return ret;
}

/* Does the format tell who an image is based on? A plain disk is none before somebody names it. */
static bool counts(const struct driver *driver)
{
    return !driver->plain && driver->map;
}

static int add_image(struct tree *t, struct file *f, const struct driver *driver, const char *path,
                     bool by_link, struct img_error *err)
{
    struct file_identity id = f->id;
    struct img_error why = IMG_ERROR_INIT;
    struct layer *l = NULL;
    size_t number;
    int opened = layer_open_file(&l, f, driver->name, TREE_OPEN_FLAGS, &why);
    int ret = opened == -ENOMEM ? img_fail_nomem(err) : tree_add(t, path, &id, NULL, &number, err);
    if (ret < 0) {
        layer_close(l);
        img_error_clear(&why);
        return ret;
    }
    struct tree_node *n = &t->nodes[number];
    n->driver = driver;
    n->image.format = driver->name;
    n->probed = true;
    n->by_link = by_link;
    ret = opened < 0 ? tree_set_unreadable(n, &why, err) : tree_fill(n, l, err);
    layer_close(l);
    if (!ret)
        ret = tree_add_place(n, path, NULL, err);
    n->own_places = n->place_count;
    return ret;
}

/* F is taken over. */
static int look_at(struct tree *t, struct file *f, const char *path, bool by_link,
                   struct img_error *err)
{
    const struct driver *driver = NULL;
    struct img_error why = IMG_ERROR_INIT;
    bool guessed;
    size_t known = tree_find_file(t, &f->id);
    if (known != IMG_TREE_NONE) {
        file_close(f);
        return add_name(&t->nodes[known], path, by_link, err);
    }
    int ret = driver_probe(&driver, f, false, &guessed, &why);
    if (!ret && counts(driver))
        return add_image(t, f, driver, path, by_link, err);
    file_close(f);
    return ret < 0 ? tree_problem(t, path, &why, err) : 0;
}

static int add_file(struct tree *t, const char *path, bool by_link, struct img_error *err)
{
    struct img_error why = IMG_ERROR_INIT;
    struct file *f;
    int ret = file_open_posix(&f, path, false, &why);
    t->result.files_seen++;
    if (!ret)
        return look_at(t, f, path, by_link, err);
    if (ret == -ENOMEM) {
        img_error_clear(&why);
        return img_fail_nomem(err);
    }
    if (ret == -ENOENT) { /* it was there a moment ago */
        img_error_clear(&why);
        return 0;
    }
    return tree_problem(t, path, &why, err);
}

/* ---- folders ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names of the folder's files, folders and links, sorted. */
static int list(struct strings *names, DIR *dir, const char *path, struct img_error *why)
{
    const struct dirent *e;
    int ret = 0;
    while (!ret && (errno = 0, e = readdir(dir))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        if (e->d_type == DT_REG || e->d_type == DT_DIR || e->d_type == DT_LNK ||
            e->d_type == DT_UNKNOWN)
            ret = push(names, strdup(e->d_name), why);
    }
    if (!ret && errno)
        ret = img_fail_errno(why, errno, "Could not read the folder '%s'", path);
    if (names->count)
        qsort(names->items, names->count, sizeof *names->items, compare_names);
    return ret;
}

/* Kernels' own file systems hold no images, and reading their files can have effects. */
static bool is_pseudo(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && (fs.f_type == PROC_SUPER_MAGIC || fs.f_type == SYSFS_MAGIC);
}

/* *DIR stays NULL for a folder that is not to be walked. */
static int open_folder(struct tree *t, DIR **dir, const char *path, struct img_error *why)
{
    struct stat st;
    bool first = false;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK), ret = 0;
    if (fd < 0 || fstat(fd, &st) < 0) {
        ret = img_fail_errno(why, errno, "Could not open the folder '%s'", path);
    } else if (!is_pseudo(fd)) {
        struct file_identity id = tree_identity(&st);
        ret = tree_enter_folder(t, &id, &first, why);
    }
    if (!ret && first) {
        *dir = fdopendir(fd);
        if (!*dir)
            ret = img_fail_errno(why, errno, "Could not open the folder '%s'", path);
    }
    if (fd >= 0 && !*dir)
        close(fd);
    return ret;
}

/* An entry of a folder: a file is looked at, a folder waits its turn. PATH is taken over. */
static int visit(struct tree *t, struct strings *waiting, char *path, struct img_error *err)
{
    struct stat st, target;
    struct img_error why = IMG_ERROR_INIT;
    int ret = 0;
    if (stat(path, &target) < 0) {
        if (errno != ENOENT && errno != ELOOP) { /* links that lead nowhere */
            img_fail_errno(&why, errno, "Could not look at '%s'", path);
            ret = tree_problem(t, path, &why, err);
        }
    } else if (S_ISREG(target.st_mode)) {
        bool by_link = lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
        ret = add_file(t, path, by_link, err);
    } else if (S_ISDIR(target.st_mode) && waiting) {
        return push(waiting, path, err);
    }
    free(path);
    return ret;
}

static char *join(const char *folder, const char *name)
{
    char *path;
    const char *slash = folder[strlen(folder) - 1] == '/' ? "" : "/";
    return asprintf(&path, "%s%s%s", folder, slash, name) < 0 ? NULL : path;
}

static int walk_folder(struct tree *t, struct strings *waiting, const char *path,
                       struct img_error *err, struct img_error *why)
{
    DIR *dir = NULL;
    struct strings names = {0};
    size_t before = waiting ? waiting->count : 0;
    int ret = 0, failed = open_folder(t, &dir, path, why);
    if (!failed && dir)
        failed = list(&names, dir, path, why);
    if (dir)
        closedir(dir);
    for (size_t i = 0; i < names.count && !ret; i++) {
        char *entry = join(path, names.items[i]);
        ret = entry ? visit(t, waiting, entry, err) : img_fail_nomem(err);
    }
    clear(&names);
    for (size_t a = before, b = waiting ? waiting->count : 0; a + 1 < b;
         a++) { /* the first on top */
        char *last = waiting->items[--b];
        waiting->items[b] = waiting->items[a];
        waiting->items[a] = last;
    }
    if (failed == -ENOMEM)
        return img_fail_nomem(err);
    return ret;
}

int tree_walk(struct tree *t, const char *folder, bool deep, struct img_error *err)
{
    struct stat st;
    if (stat(folder, &st) < 0)
        return img_fail_errno(err, errno, "Could not open '%s'", folder);
    if (S_ISREG(st.st_mode))
        return add_file(t, folder, false, err);
    struct strings waiting = {0};
    struct img_error why = IMG_ERROR_INIT;
    int ret = walk_folder(t, deep ? &waiting : NULL, folder, err, &why);
    if (!ret && why.code)
        ret = img_fail(err, why.code, "%s", img_error_message(&why));
    while (!ret && waiting.count) {
        char *path = waiting.items[--waiting.count];
        ret = walk_folder(t, &waiting, path, err, &why);
        if (!ret && why.code)
            ret = tree_problem(t, path, &why, err);
        free(path);
    }
    img_error_clear(&why);
    clear(&waiting);
    return ret;
}
