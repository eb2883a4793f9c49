/*
 * Advice on the host file's blocks: preallocation, fragments, holes, and what lies past the end.
 *
 * Preallocation. The image's tables say which clusters have a place in the file, the host file's
 * layout says what is there:
 *
 *   off        not (nearly) all clusters have a place
 *   metadata   they have, but there are holes
 *   falloc     blocks are there, but many are unwritten
 *   full       blocks are there and written: by qemu-img or, one cannot tell, by the guest
 *
 * A raw file has a place for everything, so that with holes it is "off". Without FIEMAP, unwritten
 * blocks look like holes; but then the host has allocated more than the file has data.
 */
#include "lib/checked.h"
#include "lib/ops/advise.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MIB(n) ((uint64_t)(n) << 20)

/* A tail shorter than this is what growing in steps leaves behind. */
#define SHORT_TAIL MIB(16)

const char *advise_preallocation_name(enum advise_preallocation p)
{
    static const char *const names[] = {"unknown", "off",  "metadata",
                                        "falloc",  "full", "falloc or full"};
    return names[p];
}

/* PART of WHOLE in per cent. */
static double percent(uint64_t part, uint64_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

static uint64_t seen(const struct advise_placement *p)
{
    return p->hole + p->unwritten + p->written;
}

/* Holes and unwritten blocks, where they look alike: the first, the last? */
static enum advise_preallocation without_fiemap(const struct advise_facts *x, bool holes)
{
    const struct advise_host *h = &x->host;
    if (!h->layout.holes_known)
        return h->allocated >= x->tables.placed / 10 * 9 ? ADVISE_PREALLOC_FALLOC_OR_FULL
                                                         : ADVISE_PREALLOC_METADATA;
    if (!holes)
        return ADVISE_PREALLOC_FULL;
    uint64_t data = h->layout.span_bytes;
    uint64_t reserved = h->allocated > data ? h->allocated - data : 0;
    return reserved >= x->tables.placement.hole / 10 * 9 ? ADVISE_PREALLOC_FALLOC
                                                         : ADVISE_PREALLOC_METADATA;
}

enum advise_preallocation advise_preallocation_of(const struct advise_facts *x)
{
    const struct advise_tables *t = &x->tables;
    const struct advise_placement *p = &t->placement;
    if (t->error || x->raw_window || !x->host.regular || !t->looked_at)
        return ADVISE_PREALLOC_UNKNOWN;
    if (percent(t->placed, t->looked_at) < 90)
        return ADVISE_PREALLOC_OFF;
    if (!seen(p))
        return ADVISE_PREALLOC_UNKNOWN;
    bool holes = percent(p->hole, seen(p)) >= 10;
    enum advise_preallocation found;
    if (!x->host.layout.unwritten_known)
        found = without_fiemap(x, holes);
    else if (holes)
        found = ADVISE_PREALLOC_METADATA;
    else
        found = percent(p->unwritten, seen(p)) >= 10 ? ADVISE_PREALLOC_FALLOC
                                                     : ADVISE_PREALLOC_FULL;
    bool raw = !advise_top(x)->is_qcow2;
    return raw && found == ADVISE_PREALLOC_METADATA ? ADVISE_PREALLOC_OFF : found;
}

static void found_preallocation(struct advise_finding *f, const struct advise_facts *x,
                                enum advise_preallocation now, enum img_advice_state state)
{
    const struct advise_tables *t = &x->tables;
    const struct advise_placement *p = &t->placement;
    const char *about = t->sampled || x->host.layout.capped ? "about " : "";
    double there = percent(p->written + p->unwritten, seen(p));
    bool raw = !advise_top(x)->is_qcow2;
    const char *name = advise_preallocation_name(now);
    if (now == ADVISE_PREALLOC_OFF && raw)
        advise_found(f, state, "off: %s%.3g%% of the file has blocks", about, there);
    else if (now == ADVISE_PREALLOC_OFF)
        advise_found(f, state, "off: %s%.3g%% of the disk has a place in the file%s", about,
                     percent(t->placed + t->compressed, t->looked_at),
                     t->compressed > t->placed ? ", compressed" : "");
    else if (now == ADVISE_PREALLOC_METADATA)
        advise_found(f, state,
                     "metadata: the tables are complete, blocks for %s%.3g%% of the disk "
                     "are there",
                     about, there);
    else if (now == ADVISE_PREALLOC_FALLOC && x->host.layout.unwritten_known)
        advise_found(f, state, "falloc: blocks for the whole disk, %s%.3g%% of them unwritten",
                     about, percent(p->unwritten, seen(p)));
    else if (now == ADVISE_PREALLOC_FALLOC)
        advise_found(f, state, "falloc: blocks for the whole disk, %s%.3g%% of them with data",
                     about, there);
    else
        advise_found(f, state, "%s: blocks for the whole disk%s", name,
                     now == ADVISE_PREALLOC_FULL ? ", written"
                                                 : "; this file system does not tell "
                                                   "written from unwritten ones");
}

static void why_no_preallocation(struct advise_finding *f, const struct advise_facts *x)
{
    if (!x->host.regular)
        advise_found(f, IMG_ADVICE_NOT_APPLICABLE, "the image lies on a device");
    else if (x->raw_window)
        advise_found(f, IMG_ADVICE_NOT_APPLICABLE, "the image is only a part of its file");
    else if (!advise_top(x)->virtual_size)
        advise_found(f, IMG_ADVICE_NOT_APPLICABLE, "the disk has no bytes");
    else
        advise_found(f, IMG_ADVICE_UNKNOWN, "%s",
                     x->tables.error ? x->tables.error
                                     : "the host does not tell the file's blocks");
}

/* Fills the holes in place: for what has a place already. */
static void fix_fallocate(struct advise_finding *f, const struct advise_facts *x)
{
    char *path = advise_quote_path(x->host.path, ""), *command = NULL;
    if (!path || asprintf(&command, "fallocate -l %" PRIu64 " %s", x->host.length, path) < 0)
        f->nomem = true;
    else
        advise_fix(f, command);
    free(path);
}

void advise_preallocated(struct advise_finding *f, const struct advise_facts *x)
{
    const struct img_info *top = advise_top(x);
    enum advise_preallocation now = advise_preallocation_of(x);
    bool compressed = x->tables.compressed > x->tables.placed;
    bool thin = now == ADVISE_PREALLOC_OFF || now == ADVISE_PREALLOC_METADATA;
    bool grows = top->backing_filename || compressed;
    bool wanted = (x->use == IMG_USE_DATABASE && thin) ||
                  (x->use == IMG_USE_SEQUENTIAL && now == ADVISE_PREALLOC_OFF);
    advise_why(f,
               "With metadata an allocating write changes no table; with falloc and full it cannot "
               "find the file system full either, and the file lies together.");
    if (now == ADVISE_PREALLOC_UNKNOWN) {
        why_no_preallocation(f, x);
        return;
    }
    wanted &= !grows;
    found_preallocation(f, x, now, wanted ? IMG_ADVICE_ADVISED : IMG_ADVICE_OK);
    if (!wanted)
        return;
    bool falloc = x->use == IMG_USE_DATABASE || !top->is_qcow2;
    if (!top->is_qcow2 || now == ADVISE_PREALLOC_METADATA) {
        fix_fallocate(f, x);
        return;
    }
    struct advise_change change = {.preallocation = falloc ? "falloc" : "metadata"};
    const char *no = advise_no_convert(x);
    if (no)
        advise_why(f, " %s", no);
    else
        advise_fix(f, advise_convert(x, &change));
}

/* ---- fragments ---- */

static void fix_fragments(struct advise_finding *f, const struct advise_facts *x)
{
    const char *type = x->host.mount.type ? x->host.mount.type : "";
    const char *tool = !strcmp(type, "ext4")    ? "e4defrag"
                       : !strcmp(type, "xfs")   ? "xfs_fsr"
                       : !strcmp(type, "btrfs") ? "btrfs filesystem defragment -t 32M"
                                                : NULL;
    char *path = advise_quote_path(x->host.path, ""), *command = NULL;
    struct advise_change same = {0};
    if (!tool)
        command = advise_convert(x, &same);
    else if (!path || asprintf(&command, "%s %s", tool, path) < 0)
        f->nomem = true;
    if (!f->nomem)
        advise_fix(f, command);
    free(path);
}

void advise_fragmentation(struct advise_finding *f, const struct advise_facts *x)
{
    const struct advise_layout *l = &x->host.layout;
    advise_why(f, "Each fragment is a request of its own, and a seek on a rotating disk.");
    if (!x->host.regular) {
        advise_found(f, IMG_ADVICE_NOT_APPLICABLE, "the image lies on a device");
        return;
    }
    if (l->fiemap_error) {
        advise_found(f, IMG_ADVICE_UNKNOWN, "the file system does not tell a file's extents (%s)",
                     strerror(l->fiemap_error));
        return;
    }
    bool solid = x->host.disk_count > 0;
    for (size_t i = 0; i < x->host.disk_count; i++)
        solid &= x->host.disks[i].rotational == 0;
    uint64_t average = l->fragments ? l->fragment_bytes / l->fragments : 0;
    bool many = solid ? l->fragments > 20000 && average <= 64 << 10
                      : l->fragments > 1000 && average < MIB(1);
    char size[32];
    advise_found(f, many ? IMG_ADVICE_ADVISED : IMG_ADVICE_OK, "%s%" PRIu64 " fragment%s",
                 l->capped ? "more than " : "", l->fragments, l->fragments == 1 ? "" : "s");
    if (l->fragments > 1)
        advise_found(f, f->out.state, ", %s on average", advise_size(average, size));
    if (many)
        fix_fragments(f, x);
}

/* ---- holes ---- */

void advise_sparse(struct advise_finding *f, const struct advise_facts *x)
{
    const struct advise_host *h = &x->host;
    advise_why(f,
               "A sparse file takes only what was written, and promises more: when the file system "
               "is full, the guest's write fails and the machine stops.");
    if (!h->regular) {
        advise_found(f, IMG_ADVICE_NOT_APPLICABLE, "the image lies on a device");
        return;
    }
    char a[32], b[32], c[32];
    uint64_t full = advise_top(x)->is_qcow2 ? max_u64(advise_top(x)->virtual_size, h->length)
                                            : h->length;
    uint64_t growth = full > h->allocated ? full - h->allocated : 0;
    bool sparse = h->allocated < h->length / 100 * 98;
    bool short_of_space = h->free_known && growth > h->free_bytes;
    if (short_of_space)
        advise_found(f, IMG_ADVICE_ADVISED, "%s allocated; it can grow by %s, %s are free",
                     advise_size(h->allocated, a), advise_size(growth, b),
                     advise_size(h->free_bytes, c));
    else
        advise_found(f, IMG_ADVICE_OK, "%s: %s allocated for a file of %s",
                     sparse ? "sparse" : "not sparse", advise_size(h->allocated, a),
                     advise_size(h->length, b));
    if (short_of_space)
        advise_why(f, " No command mends this: '%s' needs more room, or the image another place.",
                   h->mount.point ? h->mount.point : "the file system");
}

/* ---- past the end ---- */

void advise_end_of_file(struct advise_finding *f, const struct advise_facts *x)
{
    const struct img_info *top = advise_top(x);
    advise_why(f,
               "Copies that know no holes write the empty tail in full, and what goes by a file's "
               "length counts it.");
    if (!top->is_qcow2 || !x->file_regular) {
        advise_found(f, IMG_ADVICE_NOT_APPLICABLE, "%s",
                     x->file_regular ? "a raw image ends with its file"
                                     : "the image lies on a device");
        return;
    }
    char a[32], b[32];
    uint64_t end = max_u64(x->tables.end, x->data_end);
    uint64_t tail = x->file_length > end ? x->file_length - end : 0;
    if (tail < SHORT_TAIL && x->data_end_known) {
        advise_found(f, IMG_ADVICE_OK, "the file ends where its last cluster does");
        return;
    }
    const char *doubt = x->tables.error       ? x->tables.error
                        : !x->data_end_known  ? "the file system does not tell holes from data"
                        : x->tables.sampled   ? "only a part of the tables was looked at"
                        : top->snapshot_count ? "internal snapshots may have their clusters there"
                                              : NULL;
    if (doubt) {
        advise_found(f, IMG_ADVICE_UNKNOWN, "%s", doubt);
        return;
    }
    advise_found(f, IMG_ADVICE_ADVISED, "%s after the last cluster, in a file of %s",
                 advise_size(tail, a), advise_size(x->file_length, b));
    struct advise_change same = {0};
    const char *no = advise_no_convert(x);
    if (no)
        advise_why(f, " %s", no);
    else
        advise_fix(f, advise_convert(x, &same));
}
