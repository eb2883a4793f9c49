/* The nodes of a tree, found again by file or by name. */
#include "lib/ops/tree.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

struct file_identity tree_identity(const struct stat *st)
{
    bool device = S_ISBLK(st->st_mode) || S_ISCHR(st->st_mode);
    return device ? (struct file_identity){UINT64_MAX, st->st_rdev}
                  : (struct file_identity){st->st_dev, st->st_ino};
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t h = a * 0x9e3779b97f4a7c15u ^ b;
    h = (h ^ h >> 32) * 0xd6e8feb86659fd93u;
    return h ^ h >> 32;
}

static uint64_t hash_id(const struct file_identity *id)
{
    return mix(id->device, id->inode);
}

static uint64_t hash_name(const char *s)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *s; s++)
        h = (h ^ (uint8_t)*s) * 0x100000001b3u;
    return mix(h, 1);
}

static uint64_t hash_node(const struct tree_node *n)
{
    return n->has_id ? hash_id(&n->id) : hash_name(n->key);
}

static void link_node(struct tree *t, size_t number)
{
    struct tree_node *n = &t->nodes[number];
    size_t *bucket = &t->buckets[hash_node(n) & (t->bucket_count - 1)];
    n->next = *bucket;
    *bucket = number;
}

static int grow(struct tree *t, struct img_error *err)
{
    if (t->count < t->room)
        return 0;
    size_t room = t->room ? t->room * 2 : 64;
    struct tree_node *nodes = realloc(t->nodes, room * sizeof *nodes);
    if (!nodes)
        return img_fail_nomem(err);
    t->nodes = nodes;
    size_t *buckets = realloc(t->buckets, room * sizeof *buckets);
    if (!buckets)
        return img_fail_nomem(err);
    t->buckets = buckets;
    t->room = t->bucket_count = room;
    memset(buckets, 0xff, room * sizeof *buckets); /* IMG_TREE_NONE */
    for (size_t i = 0; i < t->count; i++)
        link_node(t, i);
    return 0;
}

int tree_add(struct tree *t, const char *path, const struct file_identity *id, const char *key,
             size_t *number, struct img_error *err)
{
    int ret = grow(t, err);
    if (ret < 0)
        return ret;
    char *name = strdup(path), *own_key = id ? NULL : strdup(key);
    if (!name || (!id && !own_key)) {
        free(name);
        free(own_key);
        return img_fail_nomem(err);
    }
    t->nodes[t->count] = (struct tree_node){
        .image = {.filename = name, .base = IMG_TREE_NONE},
        .has_id = id != NULL,
        .key = own_key,
        .id = id ? *id : (struct file_identity){0, 0},
        .raw_size = UINT64_MAX,
    };
    *number = t->count++;
    link_node(t, *number);
    return 0;
}

/* NUMBER or the first behind it that is the file ID. */
static size_t find_file(const struct tree *t, size_t number, const struct file_identity *id)
{
    for (; number != IMG_TREE_NONE; number = t->nodes[number].next) {
        const struct tree_node *n = &t->nodes[number];
        if (n->has_id && n->id.device == id->device && n->id.inode == id->inode)
            break;
    }
    return number;
}

size_t tree_find_file(const struct tree *t, const struct file_identity *id)
{
    if (!t->bucket_count)
        return IMG_TREE_NONE;
    return find_file(t, t->buckets[hash_id(id) & (t->bucket_count - 1)], id);
}

size_t tree_next_file(const struct tree *t, size_t number)
{
    return find_file(t, t->nodes[number].next, &t->nodes[number].id);
}

size_t tree_find_name(const struct tree *t, const char *key)
{
    size_t number = t->bucket_count ? t->buckets[hash_name(key) & (t->bucket_count - 1)]
                                    : IMG_TREE_NONE;
    while (number != IMG_TREE_NONE &&
           (t->nodes[number].has_id || strcmp(t->nodes[number].key, key) != 0))
        number = t->nodes[number].next;
    return number;
}

static int copy(char **out, const char *s, struct img_error *err)
{
    *out = s ? strdup(s) : NULL;
    return s && !*out ? img_fail_nomem(err) : 0;
}

int tree_fill(struct tree_node *n, const struct layer *l, struct img_error *err)
{
    n->driver = l->driver;
    n->image.format = l->driver->name;
    n->image.virtual_size = l->size;
    n->raw_offset = l->raw_offset;
    n->raw_size = l->raw_size;
    int ret = copy(&n->backing_name, l->backing_name, err);
    if (!ret)
        ret = copy(&n->backing_format, l->backing_format, err);
    if (!ret && l->external_data)
        ret = copy(&n->data_file_name, l->data_file_name, err);
    return ret;
}

int tree_set_unreadable(struct tree_node *n, struct img_error *why, struct img_error *err)
{
    n->image.state = IMG_TREE_UNREADABLE;
    free(n->image.error);
    n->image.error = strdup(img_error_message(why));
    img_error_clear(why);
    return n->image.error ? 0 : img_fail_nomem(err);
}

int tree_folder_of(const char *path, struct file_identity *id, struct img_error *err)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash + 1 - path)) : strdup(".");
    struct stat st;
    *id = (struct file_identity){0, 0};
    if (!folder)
        return img_fail_nomem(err);
    if (stat(folder, &st) == 0)
        *id = tree_identity(&st);
    free(folder);
    return 0;
}

/* Do names in N depend on the folder that they are looked at from? */
static bool has_relative_names(const struct tree_node *n)
{
    const char *b = n->backing_name, *d = n->data_file_name;
    return (b && *b != '/' && b[strcspn(b, ":/")] != ':') || (d && *d != '/');
}

int tree_add_place(struct tree_node *n, const char *path, size_t *place, struct img_error *err)
{
    size_t ignored, *number = place ? place : &ignored;
    *number = 0;
    if (n->place_count && !has_relative_names(n))
        return 0;
    struct file_identity folder;
    int ret = tree_folder_of(path, &folder, err);
    if (ret < 0)
        return ret;
    for (; *number < n->place_count; ++*number)
        if (n->places[*number].folder.device == folder.device &&
            n->places[*number].folder.inode == folder.inode)
            return 0;
    struct tree_place *places = realloc(n->places, (n->place_count + 1) * sizeof *places);
    if (!places)
        return img_fail_nomem(err);
    n->places = places;
    places[n->place_count] = (struct tree_place){strdup(path), folder};
    if (!places[n->place_count].path)
        return img_fail_nomem(err);
    n->place_count++;
    return 0;
}

int tree_problem(struct tree *t, const char *path, struct img_error *why, struct img_error *err)
{
    struct img_tree *r = &t->result;
    struct img_tree_problem *problems = realloc(r->problems,
                                                (r->problem_count + 1) * sizeof *problems);
    if (!problems) {
        img_error_clear(why);
        return img_fail_nomem(err);
    }
    r->problems = problems;
    struct img_tree_problem *p = &problems[r->problem_count];
    *p = (struct img_tree_problem){strdup(path), strdup(img_error_message(why))};
    r->problem_count++;
    img_error_clear(why);
    return p->filename && p->error ? 0 : img_fail_nomem(err);
}

/* ---- folders: a table with open addressing, at most half full; device and inode 0 are no folder
 */

static void put_folder(struct file_identity *slots, size_t room, const struct file_identity *id)
{
    size_t at = hash_id(id) & (room - 1);
    while (slots[at].device || slots[at].inode)
        at = (at + 1) & (room - 1);
    slots[at] = *id;
}

bool tree_knows_folder(const struct tree *t, const struct file_identity *id)
{
    for (size_t at = hash_id(id); t->folder_room; at++) {
        const struct file_identity *slot = &t->folders[at & (t->folder_room - 1)];
        if (slot->device == id->device && slot->inode == id->inode)
            return true;
        if (!slot->device && !slot->inode)
            break;
    }
    return false;
}

int tree_enter_folder(struct tree *t, const struct file_identity *id, bool *first,
                      struct img_error *err)
{
    *first = !tree_knows_folder(t, id);
    if (!*first)
        return 0;
    if (t->folder_count * 2 >= t->folder_room) {
        size_t room = t->folder_room ? t->folder_room * 2 : 64;
        struct file_identity *slots = calloc(room, sizeof *slots);
        if (!slots)
            return img_fail_nomem(err);
        for (size_t i = 0; i < t->folder_room; i++)
            if (t->folders[i].device || t->folders[i].inode)
                put_folder(slots, room, &t->folders[i]);
        free(t->folders);
        t->folders = slots;
        t->folder_room = room;
    }
    put_folder(t->folders, t->folder_room, id);
    t->folder_count++;
    return 0;
}

/* ---- the end ---- */

static void clear_image(struct img_tree_image *image)
{
    for (size_t i = 0; i < image->other_name_count; i++)
        free(image->other_names[i]);
    for (size_t i = 0; i < image->reference_count; i++) {
        free(image->references[i].name);
        free(image->references[i].format);
    }
    free(image->other_names);
    free(image->references);
    free(image->overlays);
    free(image->filename);
    free(image->error);
}

static void clear_node(struct tree_node *n)
{
    for (size_t i = 0; i < n->place_count; i++)
        free(n->places[i].path);
    free(n->places);
    free(n->edges);
    free(n->key);
    free(n->backing_name);
    free(n->backing_format);
    free(n->data_file_name);
}

void tree_destroy(struct tree *t)
{
    struct img_tree *r = &t->result;
    for (size_t i = 0; i < t->count; i++) {
        clear_node(&t->nodes[i]);
        clear_image(r->images ? &r->images[i] : &t->nodes[i].image);
    }
    for (size_t i = 0; i < r->problem_count; i++) {
        free(r->problems[i].filename);
        free(r->problems[i].error);
    }
    free(r->images);
    free(r->problems);
    free(t->nodes);
    free(t->buckets);
    free(t->folders);
    free(t);
}
