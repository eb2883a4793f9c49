/*
 * The subvolumes of a Btrfs file system, from its trees (btrfs_tree.h). Runs in the child.
 *
 * The tree of roots has for each subvolume where its own tree begins, and under which name it lies
 * in which folder of which other subvolume; folders' names are looked up in that one's tree. Where
 * a node lies on the disk the tree of chunks says, and where its nodes lie, an array in the
 * superblock. The subvolume that mounting shows, the default, is the file system itself.
 *
 * What is striped over several devices, or not on this one, is left out. Each node that is read
 * or walked through counts, and there is an end to it: trees of a hostile disk may be endless.
 */
#ifdef HAVE_BLKID

#include "lib/checked.h"
#include "lib/ops/filesystems_search.h"

#include <stdlib.h>
#include <string.h>

enum {
    LEVELS = 8,
    NODES_MAX = 4096,
    SUBVOLUMES_MAX = PROBE_RECORDS_MAX,
    DEPTH_MAX = 32, /* of folders and subvolumes */
    NAME = 256,
    HEADER = 101,
    ITEM = 25,
    POINTER = 33,
    CHUNK = 48,
    STRIPE = 32,
};

/* Objects and types of items. */
enum {
    ROOT_TREE_DIR = 6,
    TOP_LEVEL = 5,
    FIRST_FREE = 256, /* the first subvolume; also the topmost folder of each */
    INODE_REF = 12,
    DIR_ITEM = 84,
    ROOT_ITEM = 132,
    ROOT_BACKREF = 144,
    CHUNK_ITEM = 228,
    STRIPED = 1 << 3 | 1 << 6 | 1 << 7 | 1 << 8, /* RAID 0, 10, 5, 6 */
};

struct key {
    uint64_t object, offset;
    unsigned type;
};

struct item {
    struct key key;
    const uint8_t *data;
    size_t size;
};

struct tree {
    uint64_t root; /* a logical address */
    unsigned level;
};

struct subvolume {
    uint64_t id, parent, folder;
    struct tree tree;
    char name[NAME]; /* empty: it is in no folder */
};

/* The node of a level that was read last. */
struct node {
    uint8_t *data;
    uint64_t logical;
    bool good;
};

struct btrfs {
    struct search *search;
    uint64_t base, device, size, default_id;
    size_t node_size;
    struct tree roots, chunks;
    uint8_t array[2048];
    size_t array_size;
    unsigned nodes_read, nodes_walked;
    bool mapping; /* inside map() */
    struct node nodes[2][LEVELS];
    struct subvolume *subvolumes;
    size_t count;
    bool full;  /* there are more subvolumes than there is room */
    bool spent; /* no node is read any more */
};

/* ---- nodes -------------------------------------------------------------------------------------
 */

static struct key load_key(const uint8_t *p)
{
    return (struct key){probe_little(p, 8), probe_little(p + 9, 8), p[8]};
}

static int compare(struct key a, struct key b)
{
    if (a.object != b.object)
        return a.object < b.object ? -1 : 1;
    if (a.type != b.type)
        return a.type < b.type ? -1 : 1;
    return a.offset < b.offset ? -1 : a.offset > b.offset;
}

/* Where a chunk has LOGICAL on this device. */
static bool map_in_chunk(const struct btrfs *b, uint64_t start, const uint8_t *chunk, size_t room,
                         uint64_t logical, uint64_t *at)
{
    if (room < CHUNK || logical < start || logical - start >= probe_little(chunk, 8) ||
        probe_little(chunk + 24, 8) & STRIPED)
        return false;
    size_t stripes = probe_little(chunk + 44, 2);
    for (size_t i = 0; i < stripes && CHUNK + (i + 1) * STRIPE <= room; i++) {
        const uint8_t *stripe = chunk + CHUNK + i * STRIPE;
        if (probe_little(stripe, 8) == b->device)
            return !__builtin_add_overflow(probe_little(stripe + 8, 8), logical - start, at) &&
                   *at < b->size;
    }
    return false;
}

static bool map_by_array(const struct btrfs *b, uint64_t logical, uint64_t *at)
{
    const uint8_t *p = b->array, *end = b->array + b->array_size;
    while (end - p >= 17 + CHUNK) {
        struct key key = load_key(p);
        size_t room = (size_t)(end - p) - 17, stripes = probe_little(p + 17 + 44, 2);
        if (key.type != CHUNK_ITEM || CHUNK + stripes * STRIPE > room)
            return false;
        if (map_in_chunk(b, key.offset, p + 17, room, logical, at))
            return true;
        p += 17 + CHUNK + stripes * STRIPE;
    }
    return false;
}

static bool find(struct btrfs *b, const struct tree *tree, struct key key, struct item *found);

static bool map(struct btrfs *b, uint64_t logical, uint64_t *at)
{
    struct item chunk;
    if (map_by_array(b, logical, at))
        return true;
    if (b->mapping) /* the tree of chunks does not describe itself */
        return false;
    b->mapping = true;
    bool found = find(b, &b->chunks, (struct key){FIRST_FREE, logical, CHUNK_ITEM}, &chunk);
    b->mapping = false;
    return found && chunk.key.type == CHUNK_ITEM &&
           map_in_chunk(b, chunk.key.offset, chunk.data, chunk.size, logical, at);
}

/* The node at LOGICAL, until the next one of its level is read; NULL: it is none. */
static const uint8_t *read_node(struct btrfs *b, uint64_t logical, unsigned level)
{
    uint64_t at;
    if (level >= LEVELS)
        return NULL;
    struct node *node = &b->nodes[b->mapping][level];
    if (node->good && node->logical == logical)
        return node->data;
    if (!map(b, logical, &at))
        return NULL;
    node->good = false;
    if (b->nodes_read++ == NODES_MAX || (!node->data && !(node->data = malloc(b->node_size))))
        b->spent = true;
    if (b->spent || !probe_read(b->search, node->data, b->node_size, b->base, at))
        return NULL;
    size_t each = level ? POINTER : ITEM;
    node->logical = logical;
    node->good = probe_little(node->data + 48, 8) == logical && node->data[100] == level &&
                 probe_little(node->data + 96, 4) <= (b->node_size - HEADER) / each;
    return node->good ? node->data : NULL;
}

static bool load_item(const struct btrfs *b, const uint8_t *leaf, size_t index, struct item *item)
{
    const uint8_t *p = leaf + HEADER + index * ITEM;
    uint64_t at = probe_little(p + 17, 4), size = probe_little(p + 21, 4);
    size_t room = b->node_size - HEADER;
    *item = (struct item){load_key(p), leaf + HEADER + at, (size_t)size};
    return at <= room && size <= room - at;
}

/* How many of a node's keys are not greater than KEY: they are sorted. */
static size_t count_until(const uint8_t *node, unsigned level, struct key key)
{
    size_t low = 0, high = probe_little(node + 96, 4), each = level ? POINTER : ITEM;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(load_key(node + HEADER + middle * each), key) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The last item that is not greater than KEY. */
static bool find(struct btrfs *b, const struct tree *tree, struct key key, struct item *found)
{
    uint64_t logical = tree->root;
    for (unsigned level = tree->level;; level--) {
        const uint8_t *node = read_node(b, logical, level);
        size_t count = node ? count_until(node, level, key) : 0;
        if (!count)
            return false;
        if (!level)
            return load_item(b, node, count - 1, found);
        logical = probe_little(node + HEADER + (count - 1) * POINTER + 17, 8);
    }
}

/* Calls FN for each item below a node, in order. What cannot be read is left out. */
static void each_item(struct btrfs *b, uint64_t logical, unsigned level,
                      void (*fn)(struct btrfs *b, const struct item *item))
{
    if (b->nodes_walked++ == NODES_MAX)
        b->spent = true;
    const uint8_t *node = read_node(b, logical, level);
    size_t count = node ? probe_little(node + 96, 4) : 0;
    struct item item;
    for (size_t i = 0; i < count && !b->spent && !b->full; i++)
        if (level)
            each_item(b, probe_little(node + HEADER + i * POINTER + 17, 8), level - 1, fn);
        else if (load_item(b, node, i, &item))
            fn(b, &item);
}

/* ---- subvolumes --------------------------------------------------------------------------------
 */

static struct subvolume *find_subvolume(struct btrfs *b, uint64_t id)
{
    for (size_t i = b->count; i-- > 0;) /* the one that was added last, most often */
        if (b->subvolumes[i].id == id)
            return &b->subvolumes[i];
    return NULL;
}

static struct subvolume *need_subvolume(struct btrfs *b, uint64_t id)
{
    struct subvolume *v = find_subvolume(b, id);
    if (v)
        return v;
    if (b->count == SUBVOLUMES_MAX) {
        b->full = true;
        return NULL;
    }
    v = &b->subvolumes[b->count++];
    *v = (struct subvolume){.id = id};
    return v;
}

/* A NUL or a slash in a name is nobody's. */
static bool take_name(char out[NAME], const uint8_t *p, size_t length, size_t room)
{
    if (!length || length >= NAME || length > room || memchr(p, '/', length) ||
        memchr(p, '\0', length))
        return false;
    memcpy(out, p, length);
    out[length] = '\0';
    return true;
}

static void take_root(struct btrfs *b, const struct item *i)
{
    enum { ADDRESS = 176, LEVEL = 238 };
    bool is_subvolume = i->key.object == TOP_LEVEL || i->key.object >= FIRST_FREE;
    struct subvolume *v = NULL;
    if (is_subvolume && i->key.object <= INT64_MAX && i->size > LEVEL)
        v = need_subvolume(b, i->key.object);
    if (v)
        v->tree = (struct tree){probe_little(i->data + ADDRESS, 8), i->data[LEVEL]};
}

static void take_place(struct btrfs *b, const struct item *i)
{
    struct subvolume *v = find_subvolume(b, i->key.object);
    if (!v || i->size < 18 ||
        !take_name(v->name, i->data + 18, probe_little(i->data + 16, 2), i->size - 18))
        return;
    v->parent = i->key.offset;
    v->folder = probe_little(i->data, 8);
}

/* "default" in the folder of the tree of roots. */
static void take_default(struct btrfs *b, const struct item *i)
{
    const uint8_t *p = i->data;
    if (i->size >= 30 + 7 && probe_little(p + 27, 2) == 7 && !memcmp(p + 30, "default", 7))
        b->default_id = load_key(p).object;
}

static void take_item(struct btrfs *b, const struct item *i)
{
    if (i->key.type == ROOT_ITEM)
        take_root(b, i);
    else if (i->key.type == ROOT_BACKREF)
        take_place(b, i);
    else if (i->key.type == DIR_ITEM && i->key.object == ROOT_TREE_DIR)
        take_default(b, i);
}

/* ---- paths -------------------------------------------------------------------------------------
 */

/* A path grows from its end. */
struct path {
    char text[PROBE_PATH];
    size_t start;
    unsigned depth;
};

static bool put_before(struct path *p, const char *name)
{
    size_t length = strlen(name), slash = p->start < sizeof p->text - 1;
    if (p->depth++ == DEPTH_MAX || p->start < length + slash)
        return false;
    if (slash)
        p->text[--p->start] = '/';
    p->start -= length;
    memcpy(p->text + p->start, name, length);
    return true;
}

/* The folders from the top of a subvolume to FOLDER. */
static bool put_folders(struct btrfs *b, const struct subvolume *v, uint64_t folder, struct path *p)
{
    char name[NAME];
    struct item i;
    while (folder != FIRST_FREE) {
        if (!find(b, &v->tree, (struct key){folder, UINT64_MAX, INODE_REF}, &i) ||
            i.key.object != folder || i.key.type != INODE_REF || i.size < 10 ||
            !take_name(name, i.data + 10, probe_little(i.data + 8, 2), i.size - 10) ||
            !put_before(p, name))
            return false;
        folder = i.key.offset;
    }
    return true;
}

static bool make_path(struct btrfs *b, const struct subvolume *v, struct path *p)
{
    p->start = sizeof p->text - 1;
    p->text[p->start] = '\0';
    p->depth = 0;
    while (v && v->id != TOP_LEVEL) {
        const struct subvolume *parent = find_subvolume(b, v->parent);
        if (!*v->name || !parent || !put_before(p, v->name) ||
            !put_folders(b, parent, v->folder, p))
            return false;
        v = parent;
    }
    return v && p->text[p->start];
}

static void list(struct btrfs *b, uint32_t fs)
{
    struct path path;
    for (size_t i = 0; i < b->count; i++) {
        const struct subvolume *v = &b->subvolumes[i];
        if (v->id == b->default_id || !make_path(b, v, &path))
            continue;
        struct probe_record *r = probe_add(b->search, IMG_VOLUME_SUBVOLUME, fs, b->base, 0);
        if (!r)
            return;
        const struct probe_record *whole = &b->search->report->records[fs];
        PUT(r, name, path.text + path.start);
        r->content = whole->content;
        PUT(r, type, whole->type);
        PUT(r, uuid, whole->uuid);
        PUT(r, label, whole->label);
    }
}

/* ---- the file system ---------------------------------------------------------------------------
 */

static bool read_super(struct btrfs *b)
{
    uint8_t super[4096];
    if (!probe_read(b->search, super, sizeof super, b->base, 65536))
        return false;
    b->roots = (struct tree){probe_little(super + 0x50, 8), super[0xc6]};
    b->chunks = (struct tree){probe_little(super + 0x58, 8), super[0xc7]};
    b->node_size = probe_little(super + 0x94, 4);
    b->array_size = probe_little(super + 0xa0, 4);
    b->device = probe_little(super + 0xc9, 8);
    memcpy(b->array, super + 0x32b, sizeof b->array);
    return b->array_size <= sizeof b->array && b->node_size >= 4096 && b->node_size <= 65536 &&
           !(b->node_size & (b->node_size - 1));
}

void probe_btrfs(struct search *s, uint32_t fs)
{
    const struct probe_record *r = &s->report->records[fs];
    struct btrfs *b = calloc(1, sizeof *b);
    if (b) {
        *b = (struct btrfs){.search = s, .base = r->start, .default_id = TOP_LEVEL};
        b->size = min_u64(r->size, s->size - r->start);
        b->subvolumes = calloc(SUBVOLUMES_MAX, sizeof *b->subvolumes);
    }
    if (b && b->subvolumes && read_super(b)) {
        each_item(b, b->roots.root, b->roots.level, take_item);
        list(b, fs);
        s->report->cut |= b->full || b->spent;
    }
    for (size_t i = 0; b && i < 2 * LEVELS; i++)
        free(b->nodes[i / LEVELS][i % LEVELS].data);
    free(b ? b->subvolumes : NULL);
    free(b);
}

#endif
