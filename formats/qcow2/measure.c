/*
 * How large a qcow2 image would be, counted as qemu-img measure counts: a new file's layout with
 * every cluster in its place, less the data that is not there.
 */
#include "formats/qcow2/bitmap.h"
#include "formats/qcow2/create.h"
#include "formats/qcow2/layout.h"
#include "formats/qcow2/ondisk.h"
#include "lib/checked.h"

#include <errno.h>
#include <string.h>

/* What the options say, in the order and the words of QEMU, which here differ from create's. */
struct measured {
    struct qcow2_layout layout;
    uint32_t version;
    bool reserved; /* preallocation gives all data its space */
    bool backed;
    uint64_t luks; /* bytes for the header of an encrypted image */
};

static int read_version(struct measured *m, const struct option_set *o, struct img_error *err)
{
    const char *compat = options_text(o, "compat");
    bool old = compat && !strcmp(compat, "0.10");
    if (compat && !old && strcmp(compat, "1.1"))
        return img_fail(err, EINVAL, "Invalid compatibility level: '%s'", compat);
    m->version = old ? 2 : 3;
    return 0;
}

static int read_preallocation(struct measured *m, const struct option_set *o, struct img_error *err)
{
    const char *mode = options_text(o, "preallocation");
    m->reserved = mode && (!strcmp(mode, "falloc") || !strcmp(mode, "full"));
    if (mode && !m->reserved && strcmp(mode, "off") && strcmp(mode, "metadata"))
        return img_fail(err, EINVAL, "invalid parameter value: %s", mode);
    return 0;
}

/*
 * LUKS version 1 as QEMU writes it: a header of 4 KiB, then 8 slots that hold the key in 4,000
 * stripes each, rounded up to 4 KiB.
 */
static uint64_t luks_header_bytes(uint64_t key_bytes)
{
    enum { HEADER = 4096, SLOTS = 8, STRIPES = 4000 };
    return HEADER + SLOTS * align_up(key_bytes * STRIPES, HEADER);
}

static int read_encryption(struct measured *m, const struct option_set *o, struct img_error *err)
{
    static const struct {
        const char *name;
        unsigned key_bytes;
    } ciphers[] = {
        {"aes-128", 16},     {"aes-192", 24},     {"aes-256", 32},     {"des", 8},
        {"3des", 24},        {"cast5-128", 16},   {"serpent-128", 16}, {"serpent-192", 24},
        {"serpent-256", 32}, {"twofish-128", 16}, {"twofish-192", 24}, {"twofish-256", 32},
        {"sm4", 16},
    };
    const char *format = options_text(o, "encrypt.format");
    const char *cipher = options_text(o, "encrypt.cipher-alg");
    const char *mode = options_text(o, "encrypt.cipher-mode");
    if (!format || strcmp(format, "luks"))
        return 0;
    if (!options_given(o, "encrypt.key-secret"))
        return img_fail(err, EINVAL, "Parameter 'encrypt.key-secret' is required for cipher");
    cipher = cipher ? cipher : "aes-256";
    for (size_t i = 0; i < sizeof ciphers / sizeof *ciphers; i++)
        if (!strcmp(cipher, ciphers[i].name)) {
            bool two_keys = !mode || !strcmp(mode, "xts");
            m->luks = luks_header_bytes(ciphers[i].key_bytes * (two_keys ? 2u : 1u));
            return 0;
        }
    return img_fail(err, EINVAL, "Parameter 'cipher-alg' does not accept value '%s'", cipher);
}

static int read_options(struct measured *m, const struct option_set *o, struct img_error *err)
{
    uint64_t refcount_bits = options_number(o, "refcount_bits", 0);
    m->layout.extended_l2 = options_on(o, "extended_l2");
    int ret = qcow2_read_cluster_size(&m->layout.cluster_bits, o, err);
    if (!ret)
        ret = read_version(m, o, err);
    if (!ret)
        ret = qcow2_check_refcount_bits(refcount_bits, m->version, "compat=1.1", err);
    if (!ret)
        ret = read_preallocation(m, o, err);
    if (!ret)
        ret = read_encryption(m, o, err);
    if (ret < 0)
        return ret;
    m->layout.refcount_order = (unsigned)__builtin_ctzll(refcount_bits);
    m->backed = options_given(o, "backing_file");
    return 0;
}

/* The bitmaps of SOURCE, each with all of its bits, in clusters of CLUSTER bytes. */
static uint64_t bitmap_bytes(const struct img_info *source, uint64_t cluster)
{
    uint64_t sum = 0, directory = 0;
    for (size_t i = 0; i < source->qcow2.bitmap_count; i++) {
        const struct img_bitmap_info *b = &source->qcow2.bitmaps[i];
        uint64_t bits = div_round_up(source->virtual_size, b->granularity);
        uint64_t clusters = div_round_up(div_round_up(bits, 8), cluster);
        sum += clusters * cluster + align_up(clusters * 8, cluster);
        directory += bitmap_entry_size(b->name);
    }
    return sum + align_up(directory, cluster);
}

int qcow2_measure(const struct measure_request *r, struct img_measurement *out,
                  struct img_error *err)
{
    struct measured m = {.layout.mapped = true};
    const struct img_info *source = r->source;
    int ret = read_options(&m, r->options, err);
    if (ret < 0)
        return ret;
    uint64_t cluster = 1ull << m.layout.cluster_bits, data = 0;
    m.layout.size = source ? source->virtual_size : options_number(r->options, "size", 0);
    /* of an image that is there, QEMU prints how large it would be, whether it can be or not */
    if (!qcow2_layout_count(&m.layout) || (!source && !qcow2_layout_l1_fits(&m.layout)))
        return img_fail(err, EFBIG,
                        "The image size is too large (try using a larger cluster size)");
    uint64_t disk = m.layout.data_clusters << m.layout.cluster_bits;
    if (m.reserved || (source && m.backed)) /* what the backing file has of it, nobody knows */
        data = disk;
    else if (source)
        ret = r->data(r->opaque, cluster, &data, err);
    if (ret < 0)
        return ret;
    uint64_t all = align_up(m.luks, cluster) + (m.layout.clusters << m.layout.cluster_bits);
    *out = (struct img_measurement){.required = all - disk + data, .fully_allocated = all};
    out->has_bitmaps = m.version >= 3 && source && source->is_qcow2 && source->qcow2.version >= 3;
    out->bitmaps = out->has_bitmaps ? bitmap_bytes(source, cluster) : 0;
    return 0;
}
