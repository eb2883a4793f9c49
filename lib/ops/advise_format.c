/*
 * Advice on what a qcow2 image was created with: cluster size, compat level, lazy refcounts,
 * refcount width.
 *
 * Cluster size. The L2 tables take 8 bytes a cluster (16 with subclusters); QEMU keeps at most 32
 * MiB of them at hand. What does not fit is read again and again, so the tables of a disk should
 * fit. Larger clusters mean fewer entries, and fewer, larger allocations; but the first write to a
 * cluster of an overlay, or after a snapshot, copies the rest of the cluster: 1 MiB for a guest's 4
 * KiB. Subclusters (extended L2) copy a 32nd of it. Hence, by use:
 *
 *   general     64 KiB; larger only where the tables would not fit
 *   database    as general; with something below to copy from at most 64 KiB, or subclusters
 *   sequential  1 MiB from 64 GiB on: copies are whole clusters anyway
 *   overlay     subclusters: 4 KiB of copying with the tables of 128 KiB clusters
 */
#include "lib/checked.h"
#include "lib/ops/advise.h"

#include <stdlib.h>
#include <string.h>

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)

#define QEMU_L2_CACHE_MAX MIB(32)

uint64_t advise_l2_bytes(uint64_t size, uint64_t cluster_size, bool extended_l2)
{
    return align_up(div_round_up(size, cluster_size) * (extended_l2 ? 16 : 8), cluster_size);
}

static bool not_qcow2(struct advise_finding *f, const struct advise_facts *x)
{
    if (advise_top(x)->is_qcow2)
        return false;
    advise_found(f, IMG_ADVICE_NOT_APPLICABLE, "not a qcow2 image (%s)", advise_top(x)->format);
    return true;
}

/* At least LEAST, and so that the tables fit in QEMU's cache where any cluster size does that. */
static uint64_t fitting(uint64_t size, uint64_t least, bool extended)
{
    uint64_t cluster = least;
    while (cluster < MIB(2) && advise_l2_bytes(size, cluster, extended) > QEMU_L2_CACHE_MAX)
        cluster *= 2;
    return cluster;
}

/* What the cluster size should be; 0: it is fine. *WHY says what is wrong with the one it has. */
static uint64_t better_cluster(const struct advise_facts *x, bool *extended, const char **why)
{
    const struct img_info *top = advise_top(x);
    uint64_t size = top->virtual_size, cluster = top->cluster_size;
    bool fits = advise_l2_bytes(size, cluster, top->qcow2.extended_l2) <= QEMU_L2_CACHE_MAX;
    bool copies = top->backing_filename || top->snapshot_count || x->use == IMG_USE_OVERLAY;
    bool sub = top->qcow2.extended_l2;
    *extended = sub;
    if (x->use == IMG_USE_OVERLAY && !sub && (cluster >= KIB(64) || !fits)) {
        *extended = true;
        *why = "The first write to a cluster of an overlay copies the rest of it from the backing "
               "file; subclusters (extended L2, QEMU 5.2 or later) copy only a 32nd part.";
        return fitting(size, KIB(128), true);
    }
    if (copies && !sub && cluster >= (x->use == IMG_USE_DATABASE ? KIB(128) : MIB(1)) &&
        x->use != IMG_USE_SEQUENTIAL && fitting(size, KIB(64), false) < cluster) {
        *why = "The first write to a cluster that lies in a backing file or a snapshot copies the "
               "whole cluster, however little is written.";
        return fitting(size, KIB(64), false);
    }
    if (x->use == IMG_USE_SEQUENTIAL && size >= GIB(64) && cluster < KIB(512)) {
        *why = "Large clusters keep the tables of a big disk small and its data together.";
        return fitting(size, MIB(1), sub);
    }
    if (!fits && cluster < MIB(2)) {
        *why = "What does not fit in the cache is read again for each random access.";
        return fitting(size, max_u64(cluster, KIB(64)), sub);
    }
    if (cluster < KIB(64) && size >= GIB(8) && x->use == IMG_USE_GENERAL && !sub) {
        *why = "Small clusters save a little space on a small disk; on one of this size they cost "
               "allocations, table reads and fragments.";
        return fitting(size, KIB(64), false);
    }
    return 0;
}

/* For a disk that no cluster size makes small enough. */
static void fix_cache(struct advise_finding *f, const struct advise_facts *x)
{
    char *path = advise_quote_path(x->path, ""), *command = NULL;
    advise_why(f, " The machine should have a larger cache.");
    if (!path || asprintf(&command, "imgtool advise-cache --output qemu %s", path) < 0)
        f->nomem = true;
    else
        advise_fix(f, command);
    free(path);
}

void advise_cluster_size(struct advise_finding *f, const struct advise_facts *x)
{
    static const char *const uses[] = {"general", "database", "sequential", "overlay"};
    advise_why(f, "QEMU keeps at most 32 MiB of L2 tables at hand, 64 KiB clusters up to 256 GiB.");
    if (not_qcow2(f, x))
        return;
    const struct img_info *top = advise_top(x);
    char a[32], b[32], c[32];
    uint64_t need = advise_l2_bytes(top->virtual_size, top->cluster_size, top->qcow2.extended_l2);
    bool extended, fits = need <= QEMU_L2_CACHE_MAX;
    const char *why = NULL;
    uint64_t better = better_cluster(x, &extended, &why);
    bool same = better == top->cluster_size && extended == top->qcow2.extended_l2;
    advise_found(f, (better && !same) || !fits ? IMG_ADVICE_ADVISED : IMG_ADVICE_OK,
                 "%s%s for %s in %s use; its L2 tables take up to %s",
                 advise_size(top->cluster_size, a),
                 top->qcow2.extended_l2 ? " with subclusters" : "",
                 advise_size(top->virtual_size, b), uses[x->use], advise_size(need, c));
    if (!better || same) {
        if (!fits)
            fix_cache(f, x);
        return;
    }
    advise_why(f, " %s", why);
    struct advise_change change = {.cluster_size = better,
                                   .extended_l2 = extended && !top->qcow2.extended_l2};
    const char *no = advise_no_convert(x);
    if (no)
        advise_why(f, " %s A new image should have cluster_size=%lluk%s.", no,
                   (unsigned long long)(better >> 10), extended ? ",extended_l2=on" : "");
    else
        advise_fix(f, advise_convert(x, &change));
    if (advise_l2_bytes(top->virtual_size, better, extended) > QEMU_L2_CACHE_MAX)
        advise_why(f, " Even then a larger cache is needed: l2-cache-size=%llu.",
                   (unsigned long long)advise_l2_bytes(top->virtual_size, better, extended));
}

static void fix_amend(struct advise_finding *f, const struct advise_facts *x, const char *option)
{
    char *path = advise_quote_path(x->path, ""), *command = NULL;
    if (!path || asprintf(&command, "%s amend -f qcow2 -o %s %s", x->program, option, path) < 0)
        f->nomem = true;
    else
        advise_fix(f, command);
    free(path);
}

void advise_compat(struct advise_finding *f, const struct advise_facts *x)
{
    advise_why(f,
               "Only compat 1.1 (QEMU 1.1, 2012) has zero clusters, lazy refcounts, a dirty mark, "
               "bitmaps for incremental backup and subclusters.");
    if (not_qcow2(f, x))
        return;
    bool old = advise_top(x)->qcow2.version < 3;
    advise_found(f, old ? IMG_ADVICE_ADVISED : IMG_ADVICE_OK, "%s (version %u)",
                 old ? "0.10" : "1.1", advise_top(x)->qcow2.version);
    if (old)
        fix_amend(f, x, "compat=1.1");
}

void advise_lazy_refcounts(struct advise_finding *f, const struct advise_facts *x)
{
    advise_why(f,
               "Lazy refcounts spare each allocating write the update of a refcount block, which "
               "counts with cache=writethrough; after a crash of the host they are rebuilt, which "
               "takes a while.");
    if (not_qcow2(f, x))
        return;
    const struct img_info *top = advise_top(x);
    bool on = top->qcow2.lazy_refcounts;
    enum advise_preallocation p = advise_preallocation_of(x);
    if (top->qcow2.version < 3) {
        advise_found(f, IMG_ADVICE_NOT_APPLICABLE, "off: they need compat 1.1");
    } else if (top->dirty) {
        char *path = advise_quote_path(x->path, ""), *command = NULL;
        advise_found(f, IMG_ADVICE_ADVISED, "%s, and the image is marked dirty", on ? "on" : "off");
        advise_why(f, " The refcounts are out of date: a writer ended before it wrote them, or is "
                      "still running. If it is not, they must be rebuilt.");
        if (path && asprintf(&command, "%s check -r all %s", x->program, path) > 0)
            advise_fix(f, command);
        free(path);
    } else if (on && p > ADVISE_PREALLOC_OFF && !top->snapshot_count) {
        advise_found(f, IMG_ADVICE_ADVISED, "on, although all clusters are allocated");
        advise_why(f, " Here no refcount changes any more, so that nothing is saved.");
        fix_amend(f, x, "lazy_refcounts=off");
    } else if (!on && x->use == IMG_USE_DATABASE && p == ADVISE_PREALLOC_OFF) {
        advise_found(f, IMG_ADVICE_ADVISED, "off, for many small synchronous writes");
        fix_amend(f, x, "lazy_refcounts=on");
    } else {
        advise_found(f, IMG_ADVICE_OK, "%s", on ? "on" : "off");
    }
}

void advise_refcount_width(struct advise_finding *f, const struct advise_facts *x)
{
    advise_why(f, "16 bits are enough for 65535 references to a cluster.");
    if (not_qcow2(f, x))
        return;
    const struct img_info *top = advise_top(x);
    unsigned bits = top->qcow2.refcount_bits;
    uint64_t most = bits >= 64 ? UINT64_MAX : (1ull << bits) - 1;
    bool tight = bits < 8 || top->snapshot_count >= most / 2;
    bool wide = bits > 16 && top->snapshot_count < 32768;
    bool possible = top->qcow2.version >= 3;
    advise_found(f, possible && (tight || wide) ? IMG_ADVICE_ADVISED : IMG_ADVICE_OK,
                 "%u bit%s, with %zu internal snapshot%s", bits, bits == 1 ? "" : "s",
                 top->snapshot_count, top->snapshot_count == 1 ? "" : "s");
    if (tight)
        advise_why(f, " With %u a cluster has at most %llu; a snapshot beyond that fails.", bits,
                   (unsigned long long)most);
    if (wide)
        advise_why(f, " Here the refcount blocks are %u times as large as they need be.",
                   bits / 16);
    if (possible && tight && bits >= 16)
        fix_amend(f, x, "refcount_bits=32");
    else if (possible && (tight || wide))
        fix_amend(f, x, "refcount_bits=16");
}
