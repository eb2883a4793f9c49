/*
 * Who is based on whom, while it is being found out.
 *
 * A node is a file (device and inode, whatever its name) in one format; or a name that leads
 * nowhere. First the folders are walked, which makes a node of every image in them; then every name
 * that a node's header holds is resolved, which may lead to nodes outside the folders, whose names
 * are resolved in turn.
 *
 * What a relative name means depends on the folder it is looked at from, and one file may have
 * names in several folders: it is resolved from each of them, and that is what PLACES is for.
 */
#ifndef LIB_OPS_TREE_H
#define LIB_OPS_TREE_H

#include "lib/image.h"

#include <sys/stat.h>

struct tree_place {
    char *path; /* one name of the file */
    struct file_identity folder;
};

/* What a name in the file leads to, seen from one place, and the place that the target is then seen
 * from. */
struct tree_edge {
    enum img_tree_kind kind;
    size_t place, target, target_place;
    bool cut;
};

struct tree_node {
    struct img_tree_image image;
    bool has_id;
    struct file_identity id;
    char *key;                   /* without an identity: the name that leads nowhere, absolute */
    const struct driver *driver; /* NULL: not known */
    bool probed;                 /* the driver is the one that looking at the file gives */
    bool by_link;                /* image.filename is a symbolic link's */
    uint64_t raw_offset, raw_size;
    char *backing_name, *backing_format, *data_file_name;
    struct tree_place *places;
    size_t place_count, places_done;
    size_t own_places; /* the first ones: under names of its own. The rest are names in images. */
    struct tree_edge *edges;
    size_t edge_count;
    size_t next; /* of the same hash; IMG_TREE_NONE ends */
};

struct tree {
    struct img_tree result;
    struct tree_node *nodes;
    size_t count, room;
    size_t *buckets; /* first node of each hash */
    size_t bucket_count;
    struct file_identity *folders; /* a hash table: those that were walked */
    size_t folder_count, folder_room;
};

/* How the headers are read: damage elsewhere in the file is no reason not to know its base. */
enum { TREE_OPEN_FLAGS = IMG_OPEN_NO_DATA | IMG_OPEN_CHECK | IMG_OPEN_FORCE_SHARE };

/* tree_nodes.c */
/* *NUMBER: the new node, whose PATH is copied. It has an ID, or else a KEY. */
int tree_add(struct tree *t, const char *path, const struct file_identity *id, const char *key,
             size_t *number, struct img_error *err);
/* The first node of this file, and the next; or of a name that leads nowhere. IMG_TREE_NONE: no
 * more. */
size_t tree_find_file(const struct tree *t, const struct file_identity *id);
size_t tree_next_file(const struct tree *t, size_t number);
size_t tree_find_name(const struct tree *t, const char *key);
/* Takes over what L's header says. */
int tree_fill(struct tree_node *n, const struct layer *l, struct img_error *err);
/* The node could not be read, as WHY says, which is cleared. */
int tree_set_unreadable(struct tree_node *n, struct img_error *why, struct img_error *err);
/* One more name to resolve the node's own names from, unless it was seen from there already.
 * *PLACE: its number; may be NULL. */
int tree_add_place(struct tree_node *n, const char *path, size_t *place, struct img_error *err);
/* Something that is no node could not be read, as WHY says, which is cleared. */
int tree_problem(struct tree *t, const char *path, struct img_error *why, struct img_error *err);
/* Where relative names in PATH begin; 0, 0 for a folder that is gone. */
int tree_folder_of(const char *path, struct file_identity *id, struct img_error *err);
/* Was the folder walked? */
bool tree_knows_folder(const struct tree *t, const struct file_identity *id);
/* *FIRST is false when it was met before. */
int tree_enter_folder(struct tree *t, const struct file_identity *id, bool *first,
                      struct img_error *err);
void tree_destroy(struct tree *t);

/* tree_walk.c: every image under FOLDER (or FOLDER itself, when it is a file). DEEP: the folders in
 * it, too. */
int tree_walk(struct tree *t, const char *folder, bool deep, struct img_error *err);

/* tree_resolve.c */
int tree_resolve(struct tree *t, struct img_error *err);

/* tree_findings.c: sorts the nodes into the result and says what is remarkable about each. */
int tree_finish(struct tree *t, struct img_error *err);

/* tree_broken.c: which images cannot be opened, and which come back to themselves. */
int tree_mark_broken(struct tree *t, struct img_error *err);

/* tree.c */
struct tree *tree_new(struct img_error *err);
/* The image of the result that is the file ID in the format DRIVER, or IMG_TREE_NONE. */
size_t tree_lookup(const struct tree *t, const struct file_identity *id,
                   const struct driver *driver);

/* Which file ST describes. */
struct file_identity tree_identity(const struct stat *st);

#endif
