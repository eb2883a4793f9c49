/*
 * A new image: options checked, its layout computed, then written front to back but for the header,
 * which comes last. Tables are made in pieces of a bounded size, whatever the size of the disk.
 */
#include "formats/qcow2/build.h"
#include "formats/qcow2/encode.h"
#include "formats/qcow2/layout.h"
#include "formats/qcow2/ondisk.h"
#include "lib/checked.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 20, HEADER_SECTOR = 512 };

const struct option_desc qcow2_create_options[] = {
    {"encryption", OPTION_BOOL,
     "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)", NULL},
    {"encrypt.format", OPTION_STRING, "Encrypt the image, format choices: 'aes', 'luks'", NULL},
    {"encrypt.key-secret", OPTION_STRING, "ID of secret providing qcow AES key or LUKS passphrase",
     NULL},
    {"encrypt.cipher-alg", OPTION_STRING, "Name of encryption cipher algorithm", NULL},
    {"encrypt.cipher-mode", OPTION_STRING, "Name of encryption cipher mode", NULL},
    {"encrypt.ivgen-alg", OPTION_STRING, "Name of IV generator algorithm", NULL},
    {"encrypt.ivgen-hash-alg", OPTION_STRING, "Name of IV generator hash algorithm", NULL},
    {"encrypt.hash-alg", OPTION_STRING, "Name of encryption hash algorithm", NULL},
    {"encrypt.iter-time", OPTION_NUMBER, "Time to spend in PBKDF in milliseconds", NULL},
    {"cluster_size", OPTION_SIZE, "qcow2 cluster size", "65536"},
    {"extended_l2", OPTION_BOOL, "Extended L2 tables", "off"},
    {"preallocation", OPTION_STRING,
     "Preallocation mode (allowed values: off, metadata, falloc, full)", NULL},
    {"compression_type", OPTION_STRING, "Compression method used for image cluster compression",
     "zlib"},
    QCOW2_COMMON_OPTIONS,
    {NULL, OPTION_STRING, NULL, NULL},
};

/* ---- options, in the order and the words of QEMU ---- */

/* Where TEXT stands in the list WORDS; PARAMETER is QEMU's newer name of the option. */
static int choose(const char *parameter, const char *text, const char *const *words, unsigned count,
                  unsigned *out, struct img_error *err)
{
    for (unsigned i = 0; i < count; i++)
        if (!strcmp(text, words[i])) {
            *out = i;
            return 0;
        }
    return img_fail(err, EINVAL, "Parameter '%s' does not accept value '%s'", parameter, text);
}

static int read_choices(struct qcow2_new *n, const struct option_set *o, struct img_error *err)
{
    static const char *const versions[] = {"0.10", "v2", "1.1", "v3"};
    static const char *const modes[] = {"off", "metadata", "falloc", "full"};
    static const char *const compressions[] = {"zlib", "zstd"};
    const char *compat = options_text(o, "compat"), *mode = options_text(o, "preallocation");
    unsigned version = 0, preallocation = 0, compression = 0;
    int ret = choose("version", compat ? compat : "v3", versions, 4, &version, err);
    if (!ret)
        ret = choose("preallocation", mode ? mode : "off", modes, 4, &preallocation, err);
    if (!ret)
        ret = choose("compression-type", options_text(o, "compression_type"), compressions, 2,
                     &compression, err);
    if (ret < 0)
        return ret;
    n->header.version = version < 2 ? 2 : 3;
    n->header.compression = (uint8_t)compression; /* the list is in the order of the numbers */
    n->preallocation = (enum preallocation)preallocation;
    return 0;
}

static int refuse_encryption(const struct option_set *o, struct img_error *err)
{
    for (size_t i = 0; i < o->count; i++) {
        const char *name = o->items[i].desc->name;
        bool wanted = !strcmp(name, "encryption") ? options_on(o, name) : options_given(o, name);
        if (!strncmp(name, "encrypt", 7) && wanted)
            return img_fail(err, ENOTSUP,
                            "Creating encrypted images is not supported (option '%s')", name);
    }
    return 0;
}

int qcow2_read_cluster_size(uint32_t *bits, const struct option_set *o, struct img_error *err)
{
    uint64_t size = options_number(o, "cluster_size", 0);
    bool extended = options_on(o, "extended_l2");
    if (!size || !is_aligned(size, size) || size < 1u << MIN_CLUSTER_BITS ||
        size > 1u << MAX_CLUSTER_BITS)
        return img_fail(err, EINVAL, "Cluster size must be a power of two between %u and %uk",
                        1u << MIN_CLUSTER_BITS, 1u << (MAX_CLUSTER_BITS - 10));
    if (extended && size < SUBCLUSTERS << MIN_CLUSTER_BITS)
        return img_fail(err, EINVAL,
                        "Extended L2 entries are only supported with cluster sizes of "
                        "at least %d bytes",
                        SUBCLUSTERS << MIN_CLUSTER_BITS);
    *bits = (uint32_t)__builtin_ctzll(size);
    return 0;
}

static int check_clusters(struct qcow2_new *n, const struct option_set *o, struct img_error *err)
{
    bool extended = options_on(o, "extended_l2");
    if (extended && n->header.version < 3)
        return img_fail(err, EINVAL,
                        "Extended L2 entries are only supported with compatibility "
                        "level 1.1 and above (use version=v3 or greater)");
    n->layout.extended_l2 = extended;
    return qcow2_read_cluster_size(&n->header.cluster_bits, o, err);
}

static int check_backing(struct qcow2_new *n, const struct option_set *o, struct img_error *err)
{
    n->names.backing = options_text(o, "backing_file");
    n->names.backing_format = options_text(o, "backing_fmt");
    if (n->names.backing && n->preallocation != PREALLOC_OFF && !n->layout.extended_l2)
        return img_fail(err, EINVAL,
                        "Backing file and preallocation can only be used at the same "
                        "time if extended_l2 is on");
    if (n->names.backing_format && !n->names.backing)
        return img_fail(err, EINVAL, "Backing format cannot be used without backing file");
    return 0;
}

int qcow2_check_refcount_bits(uint64_t bits, uint32_t version, const char *newer,
                              struct img_error *err)
{
    if (!bits || bits > 64 || !is_aligned(bits, bits))
        return img_fail(err, EINVAL,
                        "Refcount width must be a power of two and may not exceed 64 bits");
    if (bits != 16 && version < 3)
        return img_fail(err, EINVAL,
                        "Different refcount widths than 16 bits require compatibility "
                        "level 1.1 or above (use %s or greater)",
                        newer);
    return 0;
}

static int check_refcounts(struct qcow2_new *n, const struct option_set *o, struct img_error *err)
{
    uint64_t bits = options_number(o, "refcount_bits", 0);
    bool lazy = options_on(o, "lazy_refcounts");
    if (lazy && n->header.version < 3)
        return img_fail(err, EINVAL,
                        "Lazy refcounts only supported with compatibility level 1.1 "
                        "and above (use version=v3 or greater)");
    int ret = qcow2_check_refcount_bits(bits, n->header.version, "version=v3", err);
    if (ret < 0)
        return ret;
    n->header.refcount_order = (uint32_t)__builtin_ctzll(bits);
    n->header.compatible = lazy ? COMPAT_LAZY_REFCOUNTS : 0;
    return 0;
}

static int check_data_file(struct qcow2_new *n, const struct option_set *o, struct img_error *err)
{
    const char *name = options_text(o, "data_file");
    bool raw = options_on(o, "data_file_raw");
    if (raw && !name)
        return img_fail(err, EINVAL, "data-file-raw requires data-file");
    if (raw && n->names.backing)
        return img_fail(err, EINVAL,
                        "Backing file and data-file-raw cannot be used at the same time");
    if (name && n->header.version < 3)
        return img_fail(err, EINVAL,
                        "External data files are only supported with compatibility "
                        "level 1.1 and above (use version=v3 or greater)");
    /* who reads the data file alone must see what the tables say: so they must say it of all of it
     */
    if (raw && n->preallocation == PREALLOC_OFF)
        n->preallocation = PREALLOC_METADATA;
    n->header.autoclear = raw ? AUTOCLEAR_DATA_FILE_RAW : 0;
    n->names.data_file = name && !strncmp(name, "file:", 5) ? name + 5 : name;
    return 0;
}

static int check_options(struct qcow2_new *n, const struct option_set *o, struct img_error *err)
{
    int ret = refuse_encryption(o, err);
    if (!ret)
        ret = read_choices(n, o, err);
    if (!ret)
        ret = check_clusters(n, o, err);
    if (!ret)
        ret = check_backing(n, o, err);
    if (!ret)
        ret = check_refcounts(n, o, err);
    if (!ret)
        ret = check_data_file(n, o, err);
    if (!ret && n->header.compression != COMPRESSION_ZLIB && n->header.version < 3)
        ret = img_fail(err, EINVAL,
                       "Non-zlib compression type is only supported with compatibility "
                       "level 1.1 and above (use version=v3 or greater)");
    return ret;
}

/* ---- the plan ---- */

static int lay_out(struct qcow2_new *n, uint64_t size, struct img_error *err)
{
    struct qcow2_layout *l = &n->layout;
    struct qcow2_header *h = &n->header;
    if (size > INT64_MAX)
        return img_fail(err, EINVAL, "Could not resize image: Image size cannot be negative");
    l->size = align_up(size, 512);
    l->cluster_bits = h->cluster_bits;
    l->refcount_order = h->refcount_order;
    l->external_data = n->names.data_file != NULL;
    l->mapped = n->preallocation != PREALLOC_OFF;
    if (!qcow2_layout_compute(l))
        return img_fail(err, EFBIG, "The image size is too large");
    h->size = l->size;
    h->l1_size = (uint32_t)l->l1_entries;
    h->l1_offset = l->l1_offset;
    h->reftable_offset = l->reftable_offset;
    h->reftable_clusters = (uint32_t)l->reftable_clusters;
    h->incompatible = (l->external_data ? INCOMPAT_DATA_FILE : 0u) |
                      (h->compression ? INCOMPAT_COMPRESSION : 0u) |
                      (l->extended_l2 ? INCOMPAT_EXTENDED_L2 : 0u);
    return 0;
}

/* Does everything that the header names have room in its cluster? */
static int check_names(const struct qcow2_new *n, struct img_error *err)
{
    const struct qcow2_header_parts *names = &n->names;
    struct qcow2_header_parts alone = {.data_file = names->data_file};
    uint8_t *cluster = malloc((size_t)1 << n->header.cluster_bits);
    if (!cluster)
        return img_fail_nomem(err);
    int ret = qcow2_encode_header(cluster, &n->header, &alone);
    if (ret < 0 || (alone.data_file && strlen(alone.data_file) > MAX_DATA_FILE_NAME)) {
        ret = img_fail_errno(err, ENOSPC, "Could not update qcow2 header");
    } else if (names->backing) {
        ret = qcow2_encode_header(cluster, &n->header, names);
        if (strlen(names->backing) > MAX_BACKING_NAME)
            ret = -EINVAL;
        if (ret < 0)
            img_fail_errno(err, -ret, "Could not assign backing file '%s' with format '%s'",
                           names->backing, names->backing_format);
    }
    free(cluster);
    return ret;
}

int qcow2_plan(struct create_plan *plan, const struct option_set *options, struct img_error *err)
{
    struct qcow2_new *n = calloc(1, sizeof *n);
    if (!n)
        return img_fail_nomem(err);
    plan->layout = n;
    int ret = check_options(n, options, err);
    if (!ret)
        ret = lay_out(n, options_number(options, "size", 0), err);
    if (!ret)
        ret = check_names(n, err);
    if (ret < 0)
        return ret;
    bool reserve = n->preallocation == PREALLOC_FALLOC || n->preallocation == PREALLOC_FULL;
    plan->file_length = n->layout.end;
    plan->file_bytes = reserve ? n->layout.end : min_u64(n->layout.metadata, n->layout.end);
    plan->data_file = n->names.data_file;
    plan->data_size = n->layout.size;
    plan->data_preallocation = n->preallocation;
    return 0;
}

/* ---- writing ---- */

typedef void fill_fn(const struct qcow2_layout *l, uint8_t *buf, uint64_t offset, size_t length);

static int write_table(struct file *f, const struct qcow2_layout *l, uint64_t at, uint64_t length,
                       fill_fn *fill, uint8_t *buf, struct img_error *err)
{
    int ret = 0;
    for (uint64_t done = 0; done < length && !ret;) {
        size_t n = (size_t)min_u64(length - done, PIECE);
        fill(l, buf, done, n);
        ret = f->device ? file_write(f, buf, n, host(at + done), err)
                        : build_write(f, buf, n, at + done, err);
        done += n;
    }
    return ret;
}

static int write_tables(struct file *f, const struct qcow2_layout *l, uint8_t *buf,
                        struct img_error *err)
{
    unsigned bits = l->cluster_bits;
    int ret = write_table(f, l, l->reftable_offset, l->reftable_clusters << bits,
                          qcow2_layout_reftable, buf, err);
    if (!ret)
        ret = write_table(f, l, l->refblocks_offset, l->refblocks << bits, qcow2_layout_refblocks,
                          buf, err);
    if (!ret && l->l2_tables)
        ret = write_table(f, l, l->l1_offset, l->l2_offset - l->l1_offset, qcow2_layout_l1, buf,
                          err);
    else if (!ret && l->l1_entries) /* nothing in it: a hole, as long as nobody looks */
        ret = file_zero(f, host(l->l1_offset), l->l1_entries * 8, err);
    if (!ret)
        ret = write_table(f, l, l->l2_offset, l->l2_tables << bits, qcow2_layout_l2, buf, err);
    return ret;
}

int qcow2_write_new_header(struct file *f, const struct qcow2_new *n, struct img_error *err)
{
    size_t size = (size_t)1 << n->header.cluster_bits;
    uint8_t *cluster = malloc(size);
    if (!cluster)
        return img_fail_nomem(err);
    int ret = qcow2_encode_header(cluster, &n->header, &n->names);
    if (ret < 0) /* the plan has seen that it fits */
        ret = img_fail_errno(err, -ret, "Could not write qcow2 header");
    if (!ret && size > HEADER_SECTOR)
        ret = file_write(f, cluster + HEADER_SECTOR, size - HEADER_SECTOR, host(HEADER_SECTOR),
                         err);
    if (!ret && f->device)
        ret = file_flush(f, err);
    if (!ret)
        ret = file_write(f, cluster, HEADER_SECTOR, host(0), err);
    free(cluster);
    return ret;
}

int qcow2_clear_header(struct file *f, struct img_error *err)
{
    int ret = file_zero(f, host(0), HEADER_SECTOR, err);
    return ret < 0 ? ret : file_flush(f, err);
}

int qcow2_write_new_tables(struct file *f, const struct qcow2_new *n, struct img_error *err)
{
    const struct qcow2_layout *l = &n->layout;
    uint8_t *buf = malloc(PIECE);
    int ret = buf ? 0 : img_fail_nomem(err);
    if (!ret && f->device)
        ret = qcow2_clear_header(f, err);
    if (!ret)
        ret = write_tables(f, l, buf, err);
    uint64_t data = min_u64(l->metadata, l->end);
    if (!ret && f->device) /* what it held before is not the new guest's to read */
        ret = file_zero(f, host(data), l->end - data, err);
    if (!ret && !f->used)
        ret = file_extend(f, data, l->end, l->external_data ? PREALLOC_OFF : n->preallocation, err);
    if (ret < 0 && ret != -ECANCELED)
        img_prefix(err, ret, "Could not resize image: ");
    free(buf);
    return ret;
}

int qcow2_create(const struct create_plan *plan, struct file *f, struct img_error *err)
{
    const struct qcow2_new *n = plan->layout;
    int ret = qcow2_write_new_tables(f, n, err);
    if (!ret && plan->before_image)
        ret = plan->before_image(plan->opaque, err);
    return ret < 0 ? ret : qcow2_write_new_header(f, n, err);
}
