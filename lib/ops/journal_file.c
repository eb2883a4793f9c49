/*
 * The journal as a file, all numbers big-endian:
 *
 *   header   "IMGJRNL\n", version, number of items (32 bits each), length of the file (64 bits)
 *   item     lengths of the path and of the head, 1 when there is a sector for the time between,
 *            else 0 (32 bits each); the path; the old head, the new head, that sector
 *   end      CRC-32 of all before it
 *
 * Who can write a folder could put a journal there: it is taken from the user that runs this, or
 * from root, only, and from nobody else when others may write it.
 */
#include "lib/bytes.h"
#include "lib/ops/journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

static const char magic[8] = "IMGJRNL\n";
static const char suffix[] = ".imgtool-journal";

enum { VERSION = 1, HEAD = 24, ITEM_HEAD = 12, NAME_PART = 200 };

#define MAX_LENGTH ((size_t)1 << 30)

void journal_clear(struct journal *j)
{
    for (size_t i = 0; i < j->count; i++) {
        free(j->items[i].path);
        head_change_clear(&j->items[i].change);
    }
    free(j->items);
    free(j->path);
    *j = (struct journal){0};
}

static uint32_t sum(const uint8_t *data, size_t length)
{
    return (uint32_t)crc32_z(0, data, length);
}

/* The length of PATH's folder with the slash. */
static size_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash + 1 - path) : 0;
}

/* PATH from the folder of the journal, where it lies under that. */
static const char *from_folder(const char *journal, const char *path)
{
    size_t n = folder_length(journal);
    return n && !strncmp(journal, path, n) ? path + n : path;
}

/* ---- writing ------------------------------------------------------------------------------- */

static size_t encoded_length(const struct journal *j)
{
    size_t length = HEAD + 4;
    for (size_t i = 0; i < j->count; i++) {
        const struct head_change *c = &j->items[i].change;
        length += ITEM_HEAD + strlen(from_folder(j->path, j->items[i].path)) + 2 * c->length +
                  (c->between ? HEAD_SECTOR : 0);
    }
    return length;
}

static uint8_t *put(uint8_t *at, const void *data, size_t length)
{
    memcpy(at, data, length);
    return at + length;
}

static void encode(const struct journal *j, uint8_t *buf, size_t length)
{
    uint8_t *at = put(buf, magic, sizeof magic);
    store_be32(at, VERSION);
    store_be32(at + 4, (uint32_t)j->count);
    store_be64(at + 8, length);
    at += 16;
    for (size_t i = 0; i < j->count; i++) {
        const struct head_change *c = &j->items[i].change;
        const char *path = from_folder(j->path, j->items[i].path);
        store_be32(at, (uint32_t)strlen(path));
        store_be32(at + 4, (uint32_t)c->length);
        store_be32(at + 8, c->between != NULL);
        at = put(at + ITEM_HEAD, path, strlen(path));
        at = put(at, c->old, c->length);
        at = put(at, c->new, c->length);
        if (c->between)
            at = put(at, c->between, HEAD_SECTOR);
    }
    store_be32(at, sum(buf, (size_t)(at - buf)));
}

int journal_write(struct journal *j, const struct cancel *cancel, struct img_error *err)
{
    const char *first = j->items[0].path;
    size_t folder = folder_length(first);
    struct new_file_options options = {.cancel = cancel};
    struct new_file *out = NULL;
    if (asprintf(&j->path, "%.*s.%.*s%s", (int)folder, first, (int)NAME_PART, first + folder,
                 suffix) < 0) {
        j->path = NULL;
        return img_fail_nomem(err);
    }
    size_t length = encoded_length(j);
    uint8_t *buf = length <= MAX_LENGTH ? malloc(length) : NULL;
    int ret = buf ? new_file_open(&out, j->path, &options, err) : img_fail_nomem(err);
    if (!ret) {
        encode(j, buf, length);
        ret = file_write(out->file, buf, length, host(0), err);
    }
    if (!ret)
        ret = new_file_finish(out, err);
    if (!ret)
        ret = new_file_publish(out, err);
    if (ret < 0 && out)
        new_file_withdraw(out);
    new_file_close(out);
    free(buf);
    return ret;
}

/* ---- reading ------------------------------------------------------------------------------- */

struct reader {
    const uint8_t *at;
    size_t left;
};

static const uint8_t *get(struct reader *r, size_t length)
{
    if (length > r->left)
        return NULL;
    const uint8_t *p = r->at;
    r->at += length;
    r->left -= length;
    return p;
}

static uint8_t *copy(struct reader *r, size_t length)
{
    const uint8_t *from = get(r, length);
    uint8_t *to = from ? malloc(length + 1) : NULL;
    if (to) {
        memcpy(to, from, length);
        to[length] = 0;
    }
    return to;
}

/* False: it makes no sense, or memory is out. */
static bool decode_item(struct reader *r, const char *journal, struct journal_entry *e)
{
    const uint8_t *head = get(r, ITEM_HEAD);
    if (!head)
        return false;
    uint32_t name = load_be32(head), length = load_be32(head + 4), between = load_be32(head + 8);
    char *path = length && length % HEAD_SECTOR == 0 ? (char *)copy(r, name) : NULL;
    if (path && strlen(path) == name && *path == '/')
        e->path = strdup(path);
    else if (path && strlen(path) == name && name &&
             asprintf(&e->path, "%.*s%s", (int)folder_length(journal), journal, path) < 0)
        e->path = NULL;
    free(path);
    e->change.length = length;
    e->change.old = copy(r, length);
    e->change.new = copy(r, length);
    e->change.between = between ? copy(r, HEAD_SECTOR) : NULL;
    return e->path && e->change.old && e->change.new && (e->change.between || !between);
}

static bool decode(struct journal *j, const uint8_t *buf, size_t length)
{
    if (length < HEAD + 4 || memcmp(buf, magic, sizeof magic) != 0 ||
        load_be32(buf + 8) != VERSION || load_be64(buf + 16) != length ||
        load_be32(buf + length - 4) != sum(buf, length - 4))
        return false;
    struct reader r = {buf + HEAD, length - HEAD - 4};
    uint32_t count = load_be32(buf + 12);
    if (!count || count > r.left / ITEM_HEAD)
        return false;
    j->items = calloc(count, sizeof *j->items);
    for (uint32_t i = 0; j->items && i < count; i++) {
        j->count++;
        if (!decode_item(&r, j->path, &j->items[i]))
            return false;
    }
    return j->items && !r.left;
}

static int read_all(int fd, uint8_t **buf, size_t *length, struct img_error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return img_fail_errno(err, errno, "fstat");
    if (!S_ISREG(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0) ||
        ((st.st_mode & S_IWOTH) && st.st_uid != geteuid()))
        return img_fail(err, EPERM, "it belongs to another user");
    if ((uint64_t)st.st_size > MAX_LENGTH)
        return img_fail(err, EINVAL, "it is damaged");
    *length = (size_t)st.st_size;
    *buf = malloc(*length + 1);
    if (!*buf)
        return img_fail_nomem(err);
    ssize_t n = pread(fd, *buf, *length, 0);
    if (n < 0)
        return img_fail_errno(err, errno, "Could not read it");
    *length = (size_t)n;
    return 0;
}

static int load(struct journal *j, const char *path, struct img_error *err)
{
    uint8_t *buf = NULL;
    size_t length = 0;
    *j = (struct journal){.path = strdup(path)};
    int fd = j->path ? open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;
    int ret = !j->path ? img_fail_nomem(err)
              : fd < 0 ? img_fail_errno(err, errno, "Could not open it")
                       : read_all(fd, &buf, &length, err);
    if (!ret && !decode(j, buf, length))
        ret = img_fail(err, EINVAL, "it is damaged");
    if (fd >= 0)
        close(fd);
    free(buf);
    if (ret < 0) {
        img_prefix(err, ret, "The journal '%s' of an interrupted change: ", path);
        journal_clear(j);
    }
    return ret;
}

static bool concerns(const struct journal *j, const struct stat *file)
{
    struct stat st;
    for (size_t i = 0; i < j->count; i++)
        if (stat(j->items[i].path, &st) == 0 && st.st_dev == file->st_dev &&
            st.st_ino == file->st_ino)
            return true;
    return false;
}

static bool is_journal(const char *name)
{
    size_t n = strlen(name), end = sizeof suffix - 1;
    return *name == '.' && n > end && !strcmp(name + n - end, suffix);
}

int journal_find(struct journal *j, const char *path, struct img_error *err)
{
    struct stat st;
    struct dirent *entry;
    int ret = 0;
    size_t n = folder_length(path);
    char *folder = n ? strndup(path, n) : strdup("./"), *name;
    *j = (struct journal){0};
    DIR *d = folder && stat(path, &st) == 0 ? opendir(folder) : NULL;
    while (d && !ret && !j->path && (entry = readdir(d))) {
        if (!is_journal(entry->d_name))
            continue;
        if (asprintf(&name, "%s%s", folder, entry->d_name) < 0) {
            ret = img_fail_nomem(err);
            break;
        }
        ret = load(j, name, err);
        free(name);
        if (!ret && !concerns(j, &st))
            journal_clear(j);
    }
    if (d)
        closedir(d);
    if (!folder)
        ret = img_fail_nomem(err);
    free(folder);
    return ret;
}
