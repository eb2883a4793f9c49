/*
 * What a name in an image becomes when files have moved.
 *
 * A path is taken for one under FROM when its text is, or when it is once the symbolic links in its
 * folders are resolved: FROM itself need not exist any more. A relative name that leads nowhere is
 * looked at from where its image was before it moved, too.
 */
#include "lib/ops/relocate.h"
#include "lib/policy.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- paths --------------------------------------------------------------------------------- */

static char *absolute(const char *path)
{
    char *folder = *path == '/' ? strdup("") : getcwd(NULL, 0), *out = NULL;
    if (folder && asprintf(&out, "%s/%s", folder, path) < 0)
        out = NULL;
    free(folder);
    return out;
}

/* Takes ".", ".." and superfluous slashes out of an absolute path, in place; "" is the root. */
static void clean(char *path)
{
    char *to = path;
    for (const char *at = path; *at;) {
        at += strspn(at, "/");
        size_t n = strcspn(at, "/");
        if (n == 2 && at[0] == '.' && at[1] == '.') {
            while (to > path && *--to != '/')
                ;
        } else if (n && !(n == 1 && *at == '.')) {
            *to++ = '/';
            memmove(to, at, n);
            to += n;
        }
        at += n;
    }
    *to = 0;
}

/* The longest folder of PATH that exists, without symbolic links, and the rest of PATH. */
static char *resolve_folder(const char *path)
{
    char *head = strdup(path), *out = NULL;
    size_t length = strlen(path);
    while (head && !out) {
        while (length && head[length - 1] != '/')
            length--;
        length -= length > 0; /* the slash */
        head[length] = 0;
        char *real = length ? realpath(head, NULL) : strdup("");
        if (real && asprintf(&out, "%s%s", strcmp(real, "/") ? real : "", path + length) < 0)
            out = NULL;
        if (!real && (!length || errno == ENOMEM))
            break;
        free(real);
    }
    free(head);
    return out;
}

static void place_clear(struct place *p)
{
    free(p->text);
    free(p->real);
    *p = (struct place){0};
}

static int place_init(struct place *p, const char *path, struct img_error *err)
{
    char *whole = absolute(path);
    *p = (struct place){.text = whole ? strdup(whole) : NULL,
                        .real = whole ? resolve_folder(whole) : NULL};
    free(whole);
    if (!p->text || !p->real) {
        place_clear(p);
        return img_fail_nomem(err);
    }
    clean(p->text);
    clean(p->real);
    return 0;
}

/* What follows BASE in PATH, "" or from a slash on; NULL when PATH is not under it. */
static const char *under(const char *base, const char *path)
{
    size_t n = strlen(base);
    return !strncmp(base, path, n) && (!path[n] || path[n] == '/') ? path + n : NULL;
}

int relocation_map_init(struct relocation_map *m, const char *from, const char *to,
                        enum img_name_style style, struct img_error *err)
{
    *m = (struct relocation_map){.style = style};
    if (!*from || !*to)
        return img_fail(err, EINVAL, "The %s place is empty", *from ? "new" : "old");
    int ret = place_init(&m->from, from, err);
    if (!ret)
        ret = place_init(&m->to, to, err);
    if (!ret && !strcmp(m->from.text, m->to.text))
        ret = img_fail(err, EINVAL, "The old place '%s' is the new one", from);
    if (ret < 0)
        relocation_map_clear(m);
    return ret;
}

void relocation_map_clear(struct relocation_map *m)
{
    place_clear(&m->from);
    place_clear(&m->to);
}

/* Files may have moved deeper into the folder that they were in: a name that leads to the new place
 * leads under the old one, too, and is right as it is. */
static bool has_arrived(const struct place *from, const struct place *to, const struct place *p,
                        const char *path)
{
    return under(from->text, to->text) && under(to->text, p->text) && access(path, F_OK) == 0;
}

/* PATH with TO in the place of FROM; *OUT is NULL when it is not under FROM. */
static int swap_place(const struct place *from, const struct place *to, const char *path,
                      char **out, struct img_error *err)
{
    struct place p;
    int ret = place_init(&p, path, err);
    *out = NULL;
    if (ret < 0)
        return ret;
    const char *rest = strstr(path, "..") ? NULL : under(from->text, p.text);
    if (!rest && strcmp(from->real, to->real) != 0)
        rest = under(from->real, p.real);
    if (!rest && access(path, F_OK) < 0)
        rest = under(from->text, p.text);
    if (rest && !has_arrived(from, to, &p, path) && asprintf(out, "%s%s", to->text, rest) < 0) {
        *out = NULL;
        ret = img_fail_nomem(err);
    }
    place_clear(&p);
    return ret;
}

/* NAME as seen from the folder of FILE. */
static char *beside(const char *file, const char *name)
{
    const char *slash = strrchr(file, '/');
    char *out;
    int folder = slash && *name != '/' ? (int)(slash + 1 - file) : 0;
    return asprintf(&out, "%.*s%s", folder, file, name) < 0 ? NULL : out;
}

/* How to get from the folder of FILE to PATH. */
static int make_relative(const char *file, const char *path, char **out, struct img_error *err)
{
    struct place a, b;
    int ret = place_init(&a, file, err);
    if (ret < 0)
        return ret;
    ret = place_init(&b, path, err);
    if (ret < 0) {
        place_clear(&a);
        return ret;
    }
    size_t same = 0, up = 0;
    for (size_t i = 0; a.real[i] && a.real[i] == b.real[i]; i++)
        same = a.real[i] == '/' ? i + 1 : same;
    for (const char *at = a.real + same; (at = strchr(at, '/')); at++)
        up++;
    const char *rest = b.real + same;
    bool colon = !up && rest[strcspn(rest, ":/")] == ':'; /* not to look like a protocol */
    *out = malloc(3 * up + 2 + strlen(rest) + 1);
    if (*out) {
        char *to = *out;
        for (size_t i = 0; i < up; i++)
            to = stpcpy(to, "../");
        stpcpy(colon ? stpcpy(to, "./") : to, rest);
    }
    place_clear(&a);
    place_clear(&b);
    return *out ? 0 : img_fail_nomem(err);
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static bool same_file(const char *a, const char *b)
{
    struct stat s, t;
    return stat(a, &s) == 0 && stat(b, &t) == 0 && s.st_dev == t.st_dev && s.st_ino == t.st_ino;
}

/* ---- one path ------------------------------------------------------------------------------ */

/*
 * Where the file is now that L's name WHAT, which leads to PATH, has meant; *OUT is NULL when the
 * name can stay. RELATIVE: the name as it stands, when it counts from L's folder.
 */
static int find_target(const struct relocation_map *m, const struct layer *l, const char *path,
                       const char *relative, const char *what, char **out, struct img_error *err)
{
    char *before = NULL;
    int ret = swap_place(&m->from, &m->to, path, out, err);
    if (!ret && !*out && relative && !exists(path)) {
        ret = swap_place(&m->to, &m->from, l->filename, &before, err);
        char *then = before ? beside(before, relative) : NULL;
        if (before && !then)
            ret = img_fail_nomem(err);
        if (then) /* its folder may be gone, and nothing leads through it */
            clean(then);
        if (!ret && then)
            ret = swap_place(&m->from, &m->to, then, out, err);
        if (!ret && then && !*out && exists(then)) /* it has stayed where it was */
            *out = absolute(then);
        if (*out && !exists(*out)) { /* no better than what is there */
            free(*out);
            *out = NULL;
        }
        free(before);
        free(then);
    }
    if (!ret && *out && !exists(*out))
        ret = img_fail_errno(err, errno, "'%s', which the %s of '%s' is to be, cannot be had", *out,
                             what, l->filename);
    if (ret < 0) {
        free(*out);
        *out = NULL;
    }
    return ret;
}

/* ---- json: --------------------------------------------------------------------------------- */

static bool names_file(const char *key)
{
    const char *dot = strrchr(key, '.');
    return !strcmp(dot ? dot + 1 : key, "filename");
}

static int change_object(const struct relocation_map *m, const struct layer *l,
                         struct json_object *object, bool *changed, struct img_error *err);

static int change_value(const struct relocation_map *m, const struct layer *l,
                        struct json_object *value, bool *changed, struct img_error *err)
{
    char *target;
    int ret = find_target(m, l, json_object_get_string(value), NULL, "backing file", &target, err);
    if (ret < 0 || !target)
        return ret;
    *changed = true;
    ret = json_object_set_string(value, target) ? 0 : img_fail_nomem(err);
    free(target);
    return ret;
}

static int change_object(const struct relocation_map *m, const struct layer *l,
                         struct json_object *object, bool *changed, struct img_error *err)
{
    int ret = 0;
    struct json_object_iterator it = json_object_iter_begin(object);
    struct json_object_iterator end = json_object_iter_end(object);
    for (; !ret && !json_object_iter_equal(&it, &end); json_object_iter_next(&it)) {
        struct json_object *value = json_object_iter_peek_value(&it);
        if (json_object_is_type(value, json_type_object))
            ret = change_object(m, l, value, changed, err);
        else if (json_object_is_type(value, json_type_string) &&
                 names_file(json_object_iter_peek_name(&it)))
            ret = change_value(m, l, value, changed, err);
    }
    return ret;
}

/* Its paths count from the current folder, so that the new ones are absolute. */
static int change_json(const struct relocation_map *m, const struct layer *l, const char *json,
                       char **out, struct img_error *err)
{
    struct json_object *root = json_tokener_parse(json);
    bool changed = false;
    *out = NULL;
    if (!json_object_is_type(root, json_type_object)) {
        json_object_put(root);
        return img_fail(err, EINVAL, "Could not parse the JSON options of '%s'", l->filename);
    }
    int ret = change_object(m, l, root, &changed, err);
    if (!ret && changed) {
        const char *text = json_object_to_json_string_ext(root, JSON_C_TO_STRING_PLAIN |
                                                                    JSON_C_TO_STRING_NOSLASHESCAPE);
        if (!text || asprintf(out, "json:%s", text) < 0) {
            *out = NULL;
            ret = img_fail_nomem(err);
        }
    }
    json_object_put(root);
    return ret;
}

/* ---- names --------------------------------------------------------------------------------- */

/* *TARGET, which is taken over, as L is to name it; PREFIX is in front of it. */
static int put_name(const struct layer *l, bool relative, const char *prefix, char *target,
                    char **name, struct img_error *err)
{
    int ret = 0;
    if (relative)
        ret = make_relative(l->filename, target, name, err);
    else if (asprintf(name, "%s%s", prefix, target) < 0)
        ret = img_fail_nomem(err);
    if (ret < 0)
        *name = NULL;
    free(target);
    return ret;
}

/* A relative name must lead from the image to the file, through its symbolic links, too. */
static int check_way(const struct layer *l, const char *name, const char *target,
                     struct img_error *err)
{
    char *way = beside(l->filename, name);
    int ret = way ? 0 : img_fail_nomem(err);
    if (!ret && !same_file(way, target))
        ret = img_fail(err, EINVAL, "No relative name leads from '%s' to '%s'", l->filename,
                       target);
    free(way);
    return ret;
}

static int finish_name(const struct relocation_map *m, const struct layer *l, bool was_relative,
                       const char *prefix, char *target, char **name, struct img_error *err)
{
    bool relative = m->style == IMG_NAMES_KEEP ? was_relative : m->style == IMG_NAMES_RELATIVE;
    char *copy = strdup(target);
    int ret = put_name(l, relative, relative || was_relative ? "" : prefix, target, name, err);
    if (!ret && !copy)
        ret = img_fail_nomem(err);
    if (!ret && relative)
        ret = check_way(l, *name, copy, err);
    free(copy);
    if (ret < 0) {
        free(*name);
        *name = NULL;
    }
    return ret;
}

static int backing_name(const struct relocation_map *m, const struct layer *l, char **name,
                        struct img_error *err)
{
    const char *now = l->backing_name;
    if (!strncmp(now, "json:", 5))
        return change_json(m, l, now + 5, name, err);
    struct image_ref ref = {0};
    struct img_error why = IMG_ERROR_INIT;
    char *full = NULL, *target = NULL;
    int ret = chain_backing_ref(&ref, &full, l, &why);
    img_error_clear(&why);
    if (ret < 0) /* another protocol: no file of this host */
        return ret == -ENOMEM ? img_fail_nomem(err) : 0;
    if (ref.null) {
        ref_clear(&ref);
        free(full);
        return 0;
    }
    size_t colon = strcspn(now, ":/");
    bool has_prefix = now[colon] == ':';
    char prefix[16] = "";
    if (has_prefix)
        snprintf(prefix, sizeof prefix, "%.*s", (int)colon + 1, now);
    const char *relative = *now == '/' || has_prefix ? NULL : now;
    ret = find_target(m, l, ref.path, relative, "backing file", &target, err);
    if (!ret && target)
        ret = finish_name(m, l, relative != NULL, prefix, target, name, err);
    ref_clear(&ref);
    free(full);
    return ret;
}

/*
 * A relative one counts from the current folder or, failing that, from the image's. Only what was
 * found beside the image stays relative: QEMU would not find another one from everywhere.
 */
static int data_file_name(const struct relocation_map *m, const struct layer *l, char **name,
                          struct img_error *err)
{
    const char *now = l->data_file_name;
    bool relative = *now != '/' && !exists(now);
    char *target = NULL, *near = relative ? beside(l->filename, now) : NULL;
    int ret = near ? find_target(m, l, near, now, "data file", &target, NULL) : 0;
    if ((relative && !near) || ret == -ENOMEM) {
        free(near);
        return img_fail_nomem(err);
    }
    if (!target && !(near && exists(near))) {
        relative = false;
        ret = find_target(m, l, now, NULL, "data file", &target, err);
    }
    if (!ret && target && relative && m->style != IMG_NAMES_ABSOLUTE)
        ret = finish_name(m, l, true, "", target, name, err);
    else if (!ret)
        *name = target;
    free(near);
    return ret;
}

int relocation_name(const struct relocation_map *m, const struct layer *l, bool data_file,
                    char **name, struct img_error *err)
{
    const char *now = data_file ? l->data_file_name : l->backing_name;
    *name = NULL;
    if (!now || !*now)
        return 0;
    int ret = data_file ? data_file_name(m, l, name, err) : backing_name(m, l, name, err);
    if (*name && !strcmp(*name, now)) {
        free(*name);
        *name = NULL;
    }
    return ret;
}
