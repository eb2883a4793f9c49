#include "make_qcow2.h"
#include "lib/checked.h"

#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void *need(void *p)
{
    assert_non_null(p);
    return p;
}

struct image make_qcow2(unsigned version, unsigned cluster_bits, uint64_t size,
                        uint64_t incompatible)
{
    struct image m = {.cluster = (size_t)1 << cluster_bits};
    bool extended = incompatible & INCOMPAT_EXTENDED_L2;
    m.entry = extended ? 16 : 8;
    uint64_t l1_entries = div_round_up(size, m.cluster / m.entry << cluster_bits);
    size_t l1_clusters = max_u64(1, div_round_up(l1_entries * 8, m.cluster));
    m.reftable = m.cluster;
    m.refblock = 2 * m.cluster;
    m.l1 = 3 * m.cluster;
    m.l2 = m.l1 + l1_clusters * m.cluster;
    m.size = m.l2 + m.cluster;
    m.data = need(calloc(1, m.size));
    m.extension = version == 2 ? HEADER_V2_LENGTH : sizeof(struct ondisk_header);

    memcpy(m.data, "QFI\xfb", 4);
    SET32(&m, version, version);
    SET32(&m, cluster_bits, cluster_bits);
    SET64(&m, size, size);
    SET32(&m, l1_size, l1_entries);
    SET64(&m, l1_table_offset, m.l1);
    SET64(&m, refcount_table_offset, m.reftable);
    SET32(&m, refcount_table_clusters, 1);
    if (version > 2) {
        SET64(&m, incompatible_features, incompatible);
        SET32(&m, refcount_order, 4);
        SET32(&m, header_length, sizeof(struct ondisk_header));
        *HEADER(&m, compression_type) = incompatible & INCOMPAT_COMPRESSION ? COMPRESSION_ZSTD : 0;
    }
    store_be64(m.data + m.reftable, m.refblock);
    for (size_t i = 0; i < m.size / m.cluster; i++)
        store_be16(m.data + m.refblock + 2 * i, 1);
    if (l1_entries)
        store_be64(m.data + m.l1, m.l2 | ENTRY_COPIED);
    return m;
}

void image_free(struct image *m)
{
    free(m->data);
    m->data = NULL;
}

void image_resize(struct image *m, size_t size)
{
    uint8_t *data = need(calloc(1, size ? size : 1));
    memcpy(data, m->data, size < m->size ? size : m->size);
    free(m->data);
    m->data = data;
    m->size = size;
}

size_t image_grow(struct image *m, size_t count)
{
    size_t at = align_up(m->size, m->cluster);
    image_resize(m, at + count * m->cluster);
    for (size_t i = at / m->cluster; i < m->size / m->cluster && 2 * i < m->cluster; i++)
        store_be16(m->data + m->refblock + 2 * i, 1);
    return at;
}

size_t image_add_data(struct image *m, uint8_t byte)
{
    size_t at = image_grow(m, 1);
    memset(m->data + at, byte, m->cluster);
    return at;
}

void image_extend(struct image *m, uint32_t type, const void *data, size_t length)
{
    assert_true(m->extension + 8 + align_up(length, 8) <= m->cluster);
    store_be32(m->data + m->extension, type);
    store_be32(m->data + m->extension + 4, (uint32_t)length);
    if (length)
        memcpy(m->data + m->extension + 8, data, length);
    m->extension += 8 + align_up(length, 8);
}

void image_set_backing(struct image *m, const char *name)
{
    size_t at = m->cluster - strlen(name);
    memcpy(m->data + at, name, strlen(name));
    SET64(m, backing_file_offset, at);
    SET32(m, backing_file_size, strlen(name));
}

void image_set_entry(struct image *m, size_t index, uint64_t entry, uint64_t bitmap)
{
    uint8_t *p = m->data + m->l2 + index * m->entry;
    store_be64(p, entry);
    if (m->entry == 16)
        store_be64(p + 8, bitmap);
}

size_t image_add_snapshots(struct image *m, const struct snapshot_spec *specs, size_t count)
{
    uint32_t l1_size = load_be32(HEADER(m, l1_size));
    size_t l1_clusters = m->l2 / m->cluster - m->l1 / m->cluster;
    size_t l1 = image_grow(m, l1_clusters), table = image_grow(m, 2), at = table;
    memcpy(m->data + l1, m->data + m->l1, l1_size * 8);
    for (size_t i = 0; i < count; i++) {
        const struct snapshot_spec *s = &specs[i];
        struct ondisk_snapshot *d = (struct ondisk_snapshot *)(m->data + at);
        store_be64(d->l1_table_offset, l1);
        store_be32(d->l1_size, l1_size);
        store_be16(d->id_size, (uint16_t)strlen(s->id));
        store_be16(d->name_size, (uint16_t)strlen(s->name));
        store_be32(d->date_sec, 1000 + (uint32_t)i);
        store_be32(d->date_nsec, 5);
        store_be64(d->vm_clock_nsec, 77);
        store_be32(d->vm_state_size, 123);
        store_be32(d->extra_data_size, s->extra_size);
        at += sizeof *d;
        struct ondisk_snapshot_extra extra;
        store_be64(extra.vm_state_size, 1ull << 33);
        store_be64(extra.disk_size, s->disk_size);
        store_be64(extra.icount, 42);
        memcpy(m->data + at, &extra, s->extra_size < sizeof extra ? s->extra_size : sizeof extra);
        at += s->extra_size;
        memcpy(m->data + at, s->id, strlen(s->id));
        at += strlen(s->id);
        memcpy(m->data + at, s->name, strlen(s->name));
        at = align_up(at + strlen(s->name), 8);
    }
    SET32(m, nb_snapshots, count);
    SET64(m, snapshots_offset, table);
    return table;
}

size_t image_add_bitmap(struct image *m, const char *name)
{
    size_t table = image_grow(m, 1), directory = image_grow(m, 1);
    struct ondisk_bitmap *d = (struct ondisk_bitmap *)(m->data + directory);
    store_be64(d->table_offset, table);
    store_be32(d->table_size, 1);
    store_be32(d->flags, IMG_BITMAP_AUTO);
    d->type = 1;
    d->granularity_bits = 16;
    store_be16(d->name_size, (uint16_t)strlen(name));
    memcpy(d + 1, name, strlen(name));
    struct ondisk_bitmaps ext = {0};
    store_be32(ext.nb_bitmaps, 1);
    store_be64(ext.directory_size, align_up(sizeof *d + strlen(name), 8));
    store_be64(ext.directory_offset, directory);
    image_extend(m, EXT_BITMAPS, &ext, sizeof ext);
    SET64(m, autoclear_features, AUTOCLEAR_BITMAPS);
    return directory;
}

struct img *image_open(const struct image *m, unsigned flags)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL;
    if (img_open_memory(&img, m->data, m->size, "qcow2", flags, &err) < 0)
        fail_msg("the image should open: %s", img_error_message(&err));
    return img;
}

/* As the command prints it: the message, and in brackets what is known besides. */
static char *error_text(const struct img_error *err)
{
    char *text = NULL;
    if (asprintf(&text, err->context ? "%s (%s)" : "%s", img_error_message(err), err->context) < 0)
        text = NULL;
    return need(text);
}

void expect_error(struct img_error *err, int ret, int code, const char *message)
{
    char *text = error_text(err);
    assert_string_equal(text, message);
    free(text);
    assert_int_equal(ret, -code);
    assert_int_equal(err->code, code);
    img_error_clear(err);
}

void expect_open(const struct image *m, unsigned flags, int code, const char *message)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL;
    int ret = img_open_memory(&img, m->data, m->size, "qcow2", flags, &err);
    if (!ret)
        img_close(img);
    expect_error(&err, ret, code, message);
}

void expect_opens(const struct image *m, unsigned flags)
{
    img_close(image_open(m, flags));
}

static int add_text(void *opaque, const struct img_extent *e)
{
    static const char *const kinds[] = {"unallocated", "zero", "data", "compressed", "encrypted"};
    FILE *out = opaque;
    fprintf(out, "%s%" PRIu64 "+%" PRIu64 " %s", ftell(out) ? " " : "", e->start, e->length,
            kinds[e->kind]);
    if (e->depth)
        fprintf(out, "/%u", e->depth);
    if (e->has_offset)
        fprintf(out, "@%" PRIu64, e->offset);
    fflush(out);
    return 0;
}

char *map_text(struct img *img, uint64_t offset, uint64_t length)
{
    struct img_error err = IMG_ERROR_INIT;
    char *text = NULL;
    size_t size;
    FILE *out = need(open_memstream(&text, &size));
    if (img_map(img, offset, length, add_text, out, &err) < 0) {
        char *error = error_text(&err);
        fprintf(out, "%s%s", ftell(out) ? " " : "", error);
        free(error);
    }
    img_error_clear(&err);
    fclose(out);
    return text;
}

void expect_map(const struct image *m, const char *text)
{
    struct img *img = image_open(m, 0);
    char *got = map_text(img, 0, UINT64_MAX);
    assert_string_equal(got, text);
    free(got);
    img_close(img);
}

/* ---- files -------------------------------------------------------------------------------- */

static char folder[200];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static void remove_folder(void)
{
    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

const char *test_path(const char *name)
{
    static char paths[8][400];
    static unsigned next;
    if (!*folder) {
        const char *tmp = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%s/unit-XXXXXX", tmp ? tmp : "/tmp");
        need(mkdtemp(folder));
        atexit(remove_folder);
    }
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

void write_file(const char *path, const void *data, size_t size)
{
    FILE *f = need(fopen(path, "wb"));
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

void image_write(const struct image *m, const char *name)
{
    write_file(test_path(name), m->data, m->size);
}
