/*
 * QEMU's rules for the caches of a qcow2 layer, and what follows from them. Nothing here opens a
 * file.
 *
 * What QEMU took by itself, over time:
 *
 *            L2 cache                               entry             refcount cache
 *   2.2      1 MiB, or 8 clusters if that is more   a cluster         a quarter of the L2 cache
 *   2.12     the same                               a cluster, or     4 clusters
 *                                                   l2-cache-entry-size
 *   3.1      32 MiB, never more than is needed;     the same          4 clusters
 *            that need was rounded down to tables
 *   4.0      the same                               4 KiB where the   4 clusters
 *                                                   cache maps less than the disk
 *   4.1.1    the need is rounded up                 the same          4 clusters
 *
 * Always at least 2 entries of L2 cache and 4 clusters of refcount cache. The 32 MiB are Linux's.
 *
 * More than 4 clusters of refcount blocks only matter with internal snapshots: without them, a
 * write touches refcounts where it allocates, which is mostly one block after the other; with them,
 * every first write to a shared cluster drops one reference and takes another, and taking, applying
 * or deleting a snapshot changes all of them. Then the advice is a cache that covers the blocks of
 * the file, but never more than the L2 cache: the length of a sparse file says little.
 */
#include "lib/checked.h"
#include "lib/error.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    CLUSTER_MIN = 512,
    CLUSTER_MAX = 2 << 20,
    EXTENDED_CLUSTER_MIN = 16 << 10,
    L1_MAX = 32 << 20, /* bytes of L1 table that QEMU opens */
    MIN_L2_ENTRIES = 2,
    MIN_REFCOUNT_CLUSTERS = 4,
    SMALL_ENTRY = 4 << 10,
    OLD_L2_BYTES = 1 << 20,
    OLD_L2_CLUSTERS = 8,
    OLD_REFCOUNT_PART = 4,
    DEFAULT_L2_MAX = 32 << 20,
    VERSION_PART_MAX = 999,
};

/* ---- versions ---- */

static bool at_least(const struct img_qemu_version *v, unsigned major, unsigned minor,
                     unsigned micro)
{
    if (!v || (!v->major && !v->minor && !v->micro))
        return true;
    if (v->major != major)
        return v->major > major;
    return v->minor != minor ? v->minor > minor : v->micro >= micro;
}

int img_qemu_version_parse(struct img_qemu_version *version, const char *text,
                           struct img_error *err)
{
    unsigned parts[3] = {0}, n = 0;
    const char *p = text;
    *version = (struct img_qemu_version){0};
    if (!strcmp(text, "newest"))
        return 0;
    do {
        if (n == 3 || !isdigit((unsigned char)*p))
            break;
        char *end;
        unsigned long value = strtoul(p, &end, 10);
        if (value > VERSION_PART_MAX)
            break;
        parts[n++] = (unsigned)value;
        p = end;
    } while (*p == '.' && *++p);
    if (*p || !n || p[-1] == '.')
        return img_fail(err, EINVAL, "'%s' is not a version of QEMU such as 3.1 or 10.0.2", text);
    *version = (struct img_qemu_version){parts[0], parts[1], parts[2]};
    if (!parts[0] || !at_least(version, 2, 2, 0))
        return img_fail(err, EINVAL, "QEMU %s has no cache that can be set; 2.2 is the first",
                        text);
    return 0;
}

bool img_qemu_has_l2_entry_size(const struct img_qemu_version *version)
{
    return at_least(version, 2, 12, 0);
}

/* ---- facts ---- */

static bool is_power_of_2(uint64_t v)
{
    return v && !(v & (v - 1));
}

static unsigned entry_bytes(const struct img_cache_facts *f)
{
    return f->extended_l2 ? 16 : 8;
}

static unsigned refcount_bits(const struct img_cache_facts *f)
{
    return f->refcount_bits ? f->refcount_bits : 16;
}

static int check_facts(const struct img_cache_facts *f, struct img_error *err)
{
    uint64_t cluster = f->cluster_size;
    if (cluster < CLUSTER_MIN || cluster > CLUSTER_MAX || !is_power_of_2(cluster))
        return img_fail(err, EINVAL,
                        "Cluster size %" PRIu64 " is not a power of two between %d and %d", cluster,
                        CLUSTER_MIN, CLUSTER_MAX);
    if (f->extended_l2 && cluster < EXTENDED_CLUSTER_MIN)
        return img_fail(err, EINVAL,
                        "Extended L2 entries need clusters of at least %d bytes, not %" PRIu64,
                        EXTENDED_CLUSTER_MIN, cluster);
    if (!is_power_of_2(refcount_bits(f)) || refcount_bits(f) > 64)
        return img_fail(err, EINVAL, "Refcount width %u is not a power of two up to 64",
                        f->refcount_bits);
    uint64_t per_table = cluster / entry_bytes(f) * cluster;
    if (f->virtual_size > INT64_MAX || div_round_up(f->virtual_size, per_table) > L1_MAX / 8)
        return img_fail(err, EINVAL,
                        "A disk of %" PRIu64 " bytes is too large for clusters of %" PRIu64,
                        f->virtual_size, cluster);
    if (f->file_length > INT64_MAX)
        return img_fail(err, EINVAL, "A file of %" PRIu64 " bytes cannot be", f->file_length);
    return 0;
}

/* L2 tables of the whole disk. */
static uint64_t l2_need(const struct img_cache_facts *f)
{
    return align_up(div_round_up(f->virtual_size, f->cluster_size) * entry_bytes(f),
                    f->cluster_size);
}

static uint64_t refcount_minimum(const struct img_cache_facts *f)
{
    return MIN_REFCOUNT_CLUSTERS * f->cluster_size;
}

/* See the head of this file. */
static uint64_t refcount_need(const struct img_cache_facts *f)
{
    uint64_t least = refcount_minimum(f);
    if (!f->snapshots)
        return least;
    uint64_t clusters = div_round_up(f->file_length, f->cluster_size);
    uint64_t blocks = align_up(div_round_up(clusters * refcount_bits(f), 8), f->cluster_size);
    return max_u64(least, min_u64(blocks, l2_need(f)));
}

/* ---- what QEMU makes of it ---- */

/* More L2 cache than this is not taken. */
static uint64_t l2_ceiling(const struct img_cache_facts *f, const struct img_qemu_version *v)
{
    if (!at_least(v, 3, 1, 0))
        return UINT64_MAX;
    return at_least(v, 4, 1, 1) ? l2_need(f) : f->virtual_size / (f->cluster_size / entry_bytes(f));
}

/* The smallest entries that can be asked for with advantage. */
static uint64_t small_entry(const struct img_cache_facts *f, const struct img_qemu_version *v)
{
    return img_qemu_has_l2_entry_size(v) ? min_u64(f->cluster_size, SMALL_ENTRY) : f->cluster_size;
}

static uint64_t whole_entries(uint64_t l2, uint64_t entry)
{
    return max_u64(l2 / entry, MIN_L2_ENTRIES) * entry;
}

static void set_coverage(struct img_cache_sizes *s, const struct img_cache_facts *f)
{
    s->covers_disk = s->l2_cache_size >= l2_need(f);
    s->coverage = s->covers_disk ? f->virtual_size
                                 : min_u64(f->virtual_size,
                                           s->l2_cache_size / entry_bytes(f) * f->cluster_size);
}

static void qemu_default(struct img_cache_sizes *s, const struct img_cache_facts *f,
                         const struct img_qemu_version *v)
{
    uint64_t l2 = min_u64(DEFAULT_L2_MAX, l2_ceiling(f, v));
    if (!at_least(v, 3, 1, 0))
        l2 = max_u64(OLD_L2_BYTES, OLD_L2_CLUSTERS * f->cluster_size);
    bool split = at_least(v, 4, 0, 0) && l2 < l2_ceiling(f, v);
    s->l2_entry_size = split ? small_entry(f, v) : f->cluster_size;
    s->l2_cache_size = whole_entries(l2, s->l2_entry_size);
    s->refcount_cache_size = refcount_minimum(f);
    if (!at_least(v, 2, 12, 0))
        s->refcount_cache_size = max_u64(s->refcount_cache_size,
                                         align_down(l2 / OLD_REFCOUNT_PART, f->cluster_size));
    set_coverage(s, f);
}

/* Would this QEMU take less than ADVISED when told so by l2-cache-size? */
static bool is_cut_down(const struct img_cache_sizes *s, const struct img_cache_facts *f,
                        const struct img_qemu_version *v)
{
    uint64_t asked = min_u64(s->l2_cache_size, l2_ceiling(f, v));
    return whole_entries(asked, s->l2_entry_size) < s->l2_cache_size;
}

int img_advise_cache(struct img_cache_advice *advice, const struct img_cache_facts *f,
                     const struct img_qemu_version *v, struct img_error *err)
{
    *advice = (struct img_cache_advice){.verdict = IMG_CACHE_NOT_APPLICABLE,
                                        .reason = IMG_CACHE_NO_TABLES};
    if (!f->cluster_size)
        return 0;
    int ret = check_facts(f, err);
    if (ret < 0)
        return ret;
    struct img_cache_sizes *advised = &advice->advised, *taken = &advice->taken;
    qemu_default(taken, f, v);
    advised->l2_cache_size = l2_need(f);
    advised->l2_entry_size = f->cluster_size;
    advised->refcount_cache_size = refcount_need(f);
    set_coverage(advised, f);
    advice->l2_by_sum = is_cut_down(advised, f, v);
    advice->verdict = IMG_CACHE_SET;
    if (!taken->covers_disk) {
        advice->reason = IMG_CACHE_TOO_SMALL;
    } else if (taken->refcount_cache_size < advised->refcount_cache_size) {
        advice->reason = IMG_CACHE_REFCOUNTS;
    } else {
        advice->verdict = IMG_CACHE_KEEP_DEFAULT;
        advice->reason = IMG_CACHE_COVERED;
    }
    return 0;
}

/* ---- sharing a budget ---- */

/*
 * A byte of L2 cache maps cluster size / entry bytes of the disk, the same for each byte of an
 * image until all of it is mapped. So the greedy order, highest first, is the best one.
 */
struct share {
    uint64_t unit;     /* an entry of the L2 cache */
    uint64_t l2, full; /* given so far; all that is of use */
    uint64_t maps;     /* bytes of disk that a byte of cache maps; 0: nothing to give */
};

static void start_share(struct share *s, const struct img_cache_facts *f,
                        const struct img_qemu_version *v)
{
    *s = (struct share){.unit = small_entry(f, v)};
    s->l2 = MIN_L2_ENTRIES * s->unit;
    s->full = max_u64(s->l2, l2_need(f));
    s->maps = f->cluster_size / entry_bytes(f);
}

/* The images in which a byte maps most, below BELOW. */
static uint64_t next_rate(const struct share *shares, size_t count, uint64_t below)
{
    uint64_t best = 0;
    for (size_t i = 0; i < count; i++)
        if (shares[i].maps < below)
            best = max_u64(best, shares[i].maps);
    return best;
}

static void give(struct share *s, uint64_t bytes, uint64_t *left)
{
    bytes = min_u64(align_down(bytes, s->unit), s->full - s->l2);
    s->l2 += bytes;
    *left -= bytes;
}

/* To each in proportion to what it lacks; then what rounding left over, in order. */
static void share_among(struct share *shares, size_t count, uint64_t rate, uint64_t *left)
{
    uint64_t lack = 0, pot;
    for (size_t i = 0; i < count; i++)
        if (shares[i].maps == rate)
            lack += shares[i].full - shares[i].l2;
    pot = min_u64(*left, lack);
    for (size_t i = 0; i < count && lack; i++)
        if (shares[i].maps == rate) {
            unsigned __int128 part = (unsigned __int128)pot * (shares[i].full - shares[i].l2);
            give(&shares[i], (uint64_t)(part / lack), left);
        }
    for (size_t i = 0; i < count; i++)
        if (shares[i].maps == rate)
            give(&shares[i], *left, left);
}

static void finish_share(struct img_cache_advice *a, const struct img_cache_facts *f,
                         const struct img_qemu_version *v, const struct share *s, uint64_t *left)
{
    struct img_cache_sizes *advised = &a->advised, *taken = &a->taken;
    uint64_t wish = advised->refcount_cache_size - refcount_minimum(f);
    uint64_t more = min_u64(wish, align_down(*left, f->cluster_size));
    *left -= more;
    advised->refcount_cache_size = refcount_minimum(f) + more;
    advised->l2_cache_size = s->l2;
    /* whole tables where all are held, and where that takes no more than was given */
    bool whole = s->l2 >= l2_need(f) && s->l2 >= MIN_L2_ENTRIES * f->cluster_size;
    advised->l2_entry_size = whole ? f->cluster_size : s->unit;
    set_coverage(advised, f);
    a->l2_by_sum = is_cut_down(advised, f, v);
    bool same = advised->l2_cache_size == taken->l2_cache_size &&
                advised->l2_entry_size == taken->l2_entry_size &&
                advised->refcount_cache_size == taken->refcount_cache_size;
    a->verdict = same ? IMG_CACHE_KEEP_DEFAULT : IMG_CACHE_SET;
    a->reason = same && taken->covers_disk ? IMG_CACHE_COVERED : IMG_CACHE_SHARED;
}

int img_share_cache(struct img_cache_advice *advice, const struct img_cache_facts *facts,
                    size_t count, uint64_t budget, const struct img_qemu_version *v,
                    uint64_t *least, struct img_error *err)
{
    struct share *shares = calloc(count ? count : 1, sizeof *shares);
    uint64_t sum = 0, rate = UINT64_MAX;
    int ret = shares ? 0 : img_fail_nomem(err);
    for (size_t i = 0; i < count && !ret; i++) {
        ret = img_advise_cache(&advice[i], &facts[i], v, err);
        if (!ret && advice[i].verdict != IMG_CACHE_NOT_APPLICABLE) {
            start_share(&shares[i], &facts[i], v);
            sum += shares[i].l2 + refcount_minimum(&facts[i]);
        }
    }
    if (least)
        *least = ret ? 0 : sum;
    if (!ret && sum > budget)
        ret = img_fail(err, ENOSPC,
                       "A budget of %" PRIu64 " bytes is too small: QEMU takes at least %" PRIu64
                       " bytes for %zu image%s",
                       budget, sum, count, count == 1 ? "" : "s");
    if (!ret) {
        budget -= sum;
        while ((rate = next_rate(shares, count, rate)))
            share_among(shares, count, rate, &budget);
        for (size_t i = 0; i < count; i++)
            if (shares[i].maps)
                finish_share(&advice[i], &facts[i], v, &shares[i], &budget);
    }
    free(shares);
    return ret;
}
