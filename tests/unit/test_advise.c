/* Advice: each judgement both ways from facts made by hand, and the parsers from sample texts. */
#include "lib/ops/advise.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <linux/fiemap.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
/* the order above is cmocka's demand */
#include <cmocka.h>

#define GIB(n) ((uint64_t)(n) << 30)
#define MIB(n) ((uint64_t)(n) << 20)
#define KIB(n) ((uint64_t)(n) << 10)

/* Facts about a sound 20 GiB image of default clusters on ext4 on a fast disk: nothing to advise. */
struct made {
    struct img_info info[12];
    struct img_info *layers[12];
    struct advise_facts x;
};

static void make(struct made *m)
{
    *m = (struct made){0};
    for (unsigned i = 0; i < 12; i++) {
        m->layers[i] = &m->info[i];
        m->info[i] = (struct img_info){
            .filename = "a.qcow2", .file_name = "a.qcow2", .format = "qcow2",
            .virtual_size = GIB(20), .cluster_size = KIB(64), .is_qcow2 = true,
            .qcow2 = {.version = 3, .refcount_bits = 16, .compression_type = "zlib"},
        };
    }
    m->x.path = "a.qcow2";
    m->x.chain = (struct img_chain_info){m->layers, 1};
    m->x.tables.looked_at = GIB(20);
    m->x.host = (struct advise_host){
        .path = "a.qcow2", .regular = true, .length = MIB(1), .allocated = MIB(1),
        .free_known = true, .free_bytes = GIB(100),
        .layout = {.holes_known = true, .unwritten_known = true, .fragments = 1,
                   .fragment_bytes = MIB(1)},
        .mount = {.type = "ext4", .point = "/", .source = "/dev/sda1", .options = "rw", .major = 8},
        .disk_count = 1,
        .disks = {{.name = "sda", .scheduler = "mq-deadline",
                   .available = "none [mq-deadline] bfq", .rotational = 0}},
    };
    m->x.file_length = MIB(1);
    m->x.file_regular = true;
    m->x.data_end_known = true;
    m->x.data_end = MIB(1);
}

/* Turns the image into a raw one. */
static void make_raw(struct made *m)
{
    m->info[0].is_qcow2 = false;
    m->info[0].format = "raw";
    m->info[0].cluster_size = 0;
    m->x.tables.placed = GIB(20);
    m->x.host.length = GIB(20);
}

typedef void (*judge_fn)(struct advise_finding *f, const struct advise_facts *x);

/* What JUDGE finds: its state, a part of what it found, and its command (NULL: none). */
static void expect(judge_fn judge, const struct made *m, enum img_advice_state state,
                   const char *found, const char *fix)
{
    struct advise_finding f = {0};
    judge(&f, &m->x);
    assert_false(f.nomem);
    assert_non_null(f.out.found);
    if (!strstr(f.out.found, found))
        fail_msg("found '%s', not '%s'", f.out.found, found);
    assert_string_equal(img_advice_state_name(f.out.state), img_advice_state_name(state));
    if (fix) {
        assert_non_null(f.out.fix);
        assert_string_equal(f.out.fix, fix);
    } else {
        assert_null(f.out.fix);
    }
    free(f.out.found);
    free(f.out.why);
    free(f.out.fix);
}

static void expect_why(judge_fn judge, const struct made *m, const char *part)
{
    struct advise_finding f = {0};
    judge(&f, &m->x);
    if (!f.out.why || !strstr(f.out.why, part))
        fail_msg("why '%s', not '%s'", f.out.why, part);
    free(f.out.found);
    free(f.out.why);
    free(f.out.fix);
}

/* ---- cluster size ---- */

#define TO_NEW " a.qcow2 a.qcow2.new && mv a.qcow2.new a.qcow2"

static void l2_need(void **state)
{
    (void)state;
    assert_int_equal(advise_l2_bytes(GIB(64), KIB(64), false), MIB(8));
    assert_int_equal(advise_l2_bytes(GIB(256), KIB(64), false), MIB(32));
    assert_int_equal(advise_l2_bytes(GIB(256), KIB(64), true), MIB(64));
    assert_int_equal(advise_l2_bytes(0, KIB(64), false), 0);
    assert_int_equal(advise_l2_bytes(1, KIB(64), false), KIB(64));
}

static void cluster_size_by_disk(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    expect(advise_cluster_size, &m, IMG_ADVICE_OK, "64 KiB for 20 GiB in general use", NULL);
    m.info[0].virtual_size = GIB(256);
    expect(advise_cluster_size, &m, IMG_ADVICE_OK, "take up to 32 MiB", NULL);
    m.info[0].virtual_size = GIB(256) + 512;
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "64 KiB",
           "qemu-img convert -f qcow2 -O qcow2 -o cluster_size=128k" TO_NEW);
    m.info[0].virtual_size = GIB(64 << 10); /* 64 TiB: no cluster size makes that fit */
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "64 TiB",
           "qemu-img convert -f qcow2 -O qcow2 -o cluster_size=2048k" TO_NEW);
    expect_why(advise_cluster_size, &m, "l2-cache-size=268435456");
    m.info[0].cluster_size = MIB(2);
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "2 MiB for 64 TiB",
           "imgtool advise-cache --output qemu a.qcow2");
    make(&m);
    m.info[0].cluster_size = KIB(4);
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "4 KiB",
           "qemu-img convert -f qcow2 -O qcow2" TO_NEW);
    m.info[0].virtual_size = GIB(2);
    expect(advise_cluster_size, &m, IMG_ADVICE_OK, "4 KiB for 2 GiB", NULL);
    make(&m);
    make_raw(&m);
    expect(advise_cluster_size, &m, IMG_ADVICE_NOT_APPLICABLE, "raw", NULL);
}

static void cluster_size_by_use(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    m.x.use = IMG_USE_SEQUENTIAL;
    expect(advise_cluster_size, &m, IMG_ADVICE_OK, "sequential", NULL);
    m.info[0].virtual_size = GIB(64);
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "64 KiB",
           "qemu-img convert -f qcow2 -O qcow2 -o cluster_size=1024k" TO_NEW);
    m.info[0].cluster_size = MIB(1);
    expect(advise_cluster_size, &m, IMG_ADVICE_OK, "1 MiB", NULL);

    make(&m);
    m.x.use = IMG_USE_OVERLAY;
    m.info[0].backing_filename = "base";
    m.info[0].backing_format = "raw";
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "overlay",
           "qemu-img convert -f qcow2 -O qcow2 -o cluster_size=128k,extended_l2=on -B base -F raw"
           TO_NEW);
    m.info[0].qcow2.extended_l2 = true;
    m.info[0].cluster_size = KIB(128);
    expect(advise_cluster_size, &m, IMG_ADVICE_OK, "128 KiB with subclusters", NULL);

    make(&m);
    m.x.use = IMG_USE_DATABASE;
    m.info[0].cluster_size = KIB(256);
    expect(advise_cluster_size, &m, IMG_ADVICE_OK, "database", NULL);
    m.info[0].backing_filename = "base";
    m.info[0].backing_format = "raw";
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "256 KiB",
           "qemu-img convert -f qcow2 -O qcow2 -B base -F raw" TO_NEW);
}

static void conversion_keeps_the_rest(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    m.info[0].virtual_size = GIB(512);
    m.info[0].qcow2.lazy_refcounts = true;
    m.info[0].qcow2.refcount_bits = 32;
    m.info[0].qcow2.compression_type = "zstd";
    m.info[0].qcow2.bitmap_count = 1;
    m.x.tables.compressed = GIB(10);
    m.x.path = "it's:a name";
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "64 KiB",
           "qemu-img convert -f qcow2 -O qcow2 -c --bitmaps -o cluster_size=128k,lazy_refcounts=on,"
           "refcount_bits=32,compression_type=zstd './it'\\''s:a name' './it'\\''s:a name.new' && "
           "mv './it'\\''s:a name.new' './it'\\''s:a name'");
    m.info[0].encrypted = true;
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "64 KiB", NULL);
    expect_why(advise_cluster_size, &m, "needs its key");
    m.info[0].encrypted = false;
    m.info[0].snapshot_count = 1;
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "64 KiB", NULL);
    expect_why(advise_cluster_size, &m, "internal snapshots");
    m.info[0].snapshot_count = 0;
    m.info[0].qcow2.has_data_file = true;
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "64 KiB", NULL);
    expect_why(advise_cluster_size, &m, "external data file");
}

/* ---- the other fields of the header ---- */

static void compat_level(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    expect(advise_compat, &m, IMG_ADVICE_OK, "1.1 (version 3)", NULL);
    m.info[0].qcow2.version = 2;
    m.x.path = "-x";
    expect(advise_compat, &m, IMG_ADVICE_ADVISED, "0.10 (version 2)",
           "qemu-img amend -f qcow2 -o compat=1.1 ./-x");
    make_raw(&m);
    expect(advise_compat, &m, IMG_ADVICE_NOT_APPLICABLE, "raw", NULL);
}

/* All clusters have a place, and the file's blocks are as told. */
static void make_preallocated(struct made *m, uint64_t hole, uint64_t unwritten, uint64_t written)
{
    m->x.tables.placed = m->x.tables.looked_at;
    m->x.tables.placement = (struct advise_placement){hole, unwritten, written};
    m->x.host.length = hole + unwritten + written;
    m->x.host.allocated = unwritten + written;
    m->x.host.layout.span_bytes = unwritten + written;
}

static void lazy_refcounts(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    expect(advise_lazy_refcounts, &m, IMG_ADVICE_OK, "off", NULL);
    m.x.use = IMG_USE_DATABASE;
    expect(advise_lazy_refcounts, &m, IMG_ADVICE_ADVISED, "off",
           "qemu-img amend -f qcow2 -o lazy_refcounts=on a.qcow2");
    make_preallocated(&m, 0, 0, GIB(20));
    expect(advise_lazy_refcounts, &m, IMG_ADVICE_OK, "off", NULL);
    m.info[0].qcow2.lazy_refcounts = true;
    expect(advise_lazy_refcounts, &m, IMG_ADVICE_ADVISED, "on, although all clusters are allocated",
           "qemu-img amend -f qcow2 -o lazy_refcounts=off a.qcow2");
    m.x.tables.placed = 0;
    expect(advise_lazy_refcounts, &m, IMG_ADVICE_OK, "on", NULL);
    m.info[0].dirty = true;
    expect(advise_lazy_refcounts, &m, IMG_ADVICE_ADVISED, "on, and the image is marked dirty",
           "qemu-img check -r all a.qcow2");
    m.info[0].qcow2.version = 2;
    expect(advise_lazy_refcounts, &m, IMG_ADVICE_NOT_APPLICABLE, "compat 1.1", NULL);
}

static void refcount_width(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    expect(advise_refcount_width, &m, IMG_ADVICE_OK, "16 bits, with 0 internal snapshots", NULL);
    m.info[0].snapshot_count = 40000;
    expect(advise_refcount_width, &m, IMG_ADVICE_ADVISED, "40000",
           "qemu-img amend -f qcow2 -o refcount_bits=32 a.qcow2");
    m.info[0].qcow2.refcount_bits = 64;
    expect(advise_refcount_width, &m, IMG_ADVICE_OK, "64 bits", NULL);
    m.info[0].snapshot_count = 1;
    expect(advise_refcount_width, &m, IMG_ADVICE_ADVISED, "64 bits, with 1 internal snapshot",
           "qemu-img amend -f qcow2 -o refcount_bits=16 a.qcow2");
    expect_why(advise_refcount_width, &m, "4 times as large");
    m.info[0].qcow2.refcount_bits = 1;
    expect(advise_refcount_width, &m, IMG_ADVICE_ADVISED, "1 bit,",
           "qemu-img amend -f qcow2 -o refcount_bits=16 a.qcow2");
    m.info[0].qcow2.refcount_bits = 8;
    expect(advise_refcount_width, &m, IMG_ADVICE_OK, "8 bits", NULL);
    m.info[0].snapshot_count = 127;
    expect(advise_refcount_width, &m, IMG_ADVICE_ADVISED, "8 bits",
           "qemu-img amend -f qcow2 -o refcount_bits=16 a.qcow2");
}

/* ---- the chain ---- */

/* COUNT layers in /tmp, each naming the next; the last one is raw. */
static void make_chain(struct made *m, unsigned count)
{
    static char names[12][16];
    make(m);
    m->x.path = "/tmp/l0";
    m->x.chain.count = count;
    for (unsigned i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "/tmp/l%u", i);
        m->info[i].filename = m->info[i].file_name = names[i];
        if (i)
            m->info[i - 1].backing_filename = names[i] + 5;
        if (i)
            m->info[i - 1].backing_format = i + 1 == count ? "raw" : "qcow2";
    }
    m->info[count - 1].format = count > 1 ? "raw" : "qcow2";
}

static void backing_format(void **state)
{
    (void)state;
    struct made m;
    make_chain(&m, 1);
    expect(advise_backing_format, &m, IMG_ADVICE_NOT_APPLICABLE, "no backing file", NULL);
    make_chain(&m, 3);
    expect(advise_backing_format, &m, IMG_ADVICE_OK, "stated in every layer", NULL);
    m.info[1].backing_format = NULL;
    expect(advise_backing_format, &m, IMG_ADVICE_ADVISED, "'/tmp/l1' states no format for 'l2'",
           "qemu-img rebase -u -f qcow2 -F raw -b l2 /tmp/l1");
    m.info[0].backing_format = "";
    expect(advise_backing_format, &m, IMG_ADVICE_ADVISED, "'l1', and 1 more layer",
           "qemu-img rebase -u -f qcow2 -F qcow2 -b l1 /tmp/l0 && "
           "qemu-img rebase -u -f qcow2 -F raw -b l2 /tmp/l1");
    make_chain(&m, 2);
    m.info[0].backing_format = NULL;
    m.x.chain.count = 1; /* the backing file is gone */
    m.x.chain_error = "No such file or directory";
    expect(advise_backing_format, &m, IMG_ADVICE_ADVISED, "states no format", NULL);
    expect_why(advise_backing_format, &m, "no command can be given");
}

static void backing_path(void **state)
{
    (void)state;
    struct made m;
    make_chain(&m, 1);
    expect(advise_backing_path, &m, IMG_ADVICE_NOT_APPLICABLE, "no backing file", NULL);
    make_chain(&m, 2);
    expect(advise_backing_path, &m, IMG_ADVICE_OK, "relative", NULL);
    m.info[0].backing_filename = "/tmp/l1";
    expect(advise_backing_path, &m, IMG_ADVICE_ADVISED, "absolute path, '/tmp/l1'",
           "qemu-img rebase -u -f qcow2 -F raw -b l1 /tmp/l0");
    m.info[0].backing_filename = "file:/usr/share/base";
    expect(advise_backing_path, &m, IMG_ADVICE_ADVISED, "absolute path",
           "qemu-img rebase -u -f qcow2 -F raw -b ../usr/share/base /tmp/l0");
    m.info[0].backing_filename = "/top";
    expect(advise_backing_path, &m, IMG_ADVICE_ADVISED, "absolute path",
           "qemu-img rebase -u -f qcow2 -F raw -b ../top /tmp/l0");
    m.info[0].backing_filename = "/no such folder/base";
    expect(advise_backing_path, &m, IMG_ADVICE_ADVISED, "absolute path", NULL);
    m.info[0].backing_filename = "nbd://host/export";
    expect(advise_backing_path, &m, IMG_ADVICE_OK, "not a path of this host", NULL);
}

static void chain_depth(void **state)
{
    (void)state;
    struct made m;
    make_chain(&m, 5);
    expect(advise_chain_depth, &m, IMG_ADVICE_OK, "5 layers", NULL);
    m.x.use = IMG_USE_DATABASE;
    expect(advise_chain_depth, &m, IMG_ADVICE_ADVISED, "5 layers",
           "qemu-img rebase -f qcow2 -F raw -b l4 /tmp/l0");
    make_chain(&m, 6);
    expect(advise_chain_depth, &m, IMG_ADVICE_ADVISED, "6 layers",
           "qemu-img rebase -f qcow2 -F raw -b l5 /tmp/l0");
    m.x.use = IMG_USE_OVERLAY;
    expect(advise_chain_depth, &m, IMG_ADVICE_OK, "6 layers", NULL);
    m.x.chain_error = "Could not open 'x': No such file or directory";
    expect(advise_chain_depth, &m, IMG_ADVICE_UNKNOWN, "Could not open 'x'", NULL);
    m.x.use = IMG_USE_GENERAL;
    expect(advise_chain_depth, &m, IMG_ADVICE_ADVISED, "at least 6 layers", NULL);
}

/* ---- blocks ---- */

static void preallocation_by_fiemap(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    expect(advise_preallocated, &m, IMG_ADVICE_OK, "off: 0% of the disk", NULL);
    m.x.tables.placed = GIB(17);
    assert_int_equal(advise_preallocation_of(&m.x), ADVISE_PREALLOC_OFF);
    make_preallocated(&m, GIB(20), 0, 0);
    expect(advise_preallocated, &m, IMG_ADVICE_OK, "metadata: ", NULL);
    make_preallocated(&m, GIB(10), 0, GIB(10));
    expect(advise_preallocated, &m, IMG_ADVICE_OK, "blocks for 50% of the disk", NULL);
    make_preallocated(&m, 0, GIB(19), GIB(1));
    expect(advise_preallocated, &m, IMG_ADVICE_OK, "falloc: blocks for the whole disk, 95% of them",
           NULL);
    make_preallocated(&m, 0, 0, GIB(20));
    expect(advise_preallocated, &m, IMG_ADVICE_OK, "full: blocks for the whole disk, written", NULL);
    m.x.tables.sampled = true;
    make_preallocated(&m, GIB(15), 0, GIB(5));
    expect(advise_preallocated, &m, IMG_ADVICE_OK, "about 25%", NULL);
    m.x.tables.error = "Invalid L1 entry";
    expect(advise_preallocated, &m, IMG_ADVICE_UNKNOWN, "Invalid L1 entry", NULL);
    m.x.host.regular = false;
    expect(advise_preallocated, &m, IMG_ADVICE_NOT_APPLICABLE, "device", NULL);
}

/* Where FIEMAP is missing, unwritten blocks look like holes. */
static void preallocation_without_fiemap(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    make_preallocated(&m, GIB(19), 0, GIB(1));
    m.x.host.layout.unwritten_known = false;
    assert_int_equal(advise_preallocation_of(&m.x), ADVISE_PREALLOC_METADATA);
    m.x.host.allocated = GIB(20);
    expect(advise_preallocated, &m, IMG_ADVICE_OK, "5% of them with data", NULL);
    assert_int_equal(advise_preallocation_of(&m.x), ADVISE_PREALLOC_FALLOC);
    make_preallocated(&m, 0, 0, GIB(20));
    assert_int_equal(advise_preallocation_of(&m.x), ADVISE_PREALLOC_FULL);
    m.x.host.layout.holes_known = false; /* all is "data" there */
    expect(advise_preallocated, &m, IMG_ADVICE_OK, "falloc or full", NULL);
    m.x.host.allocated = GIB(1);
    assert_int_equal(advise_preallocation_of(&m.x), ADVISE_PREALLOC_METADATA);
}

static void preallocation_by_use(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    m.x.use = IMG_USE_DATABASE;
    expect(advise_preallocated, &m, IMG_ADVICE_ADVISED, "off",
           "qemu-img convert -f qcow2 -O qcow2 -o preallocation=falloc" TO_NEW);
    make_preallocated(&m, GIB(20), 0, 0);
    expect(advise_preallocated, &m, IMG_ADVICE_ADVISED, "metadata",
           "fallocate -l 21474836480 a.qcow2");
    make_preallocated(&m, 0, GIB(20), 0);
    expect(advise_preallocated, &m, IMG_ADVICE_OK, "falloc", NULL);
    make(&m);
    m.x.use = IMG_USE_SEQUENTIAL;
    expect(advise_preallocated, &m, IMG_ADVICE_ADVISED, "off",
           "qemu-img convert -f qcow2 -O qcow2 -o preallocation=metadata" TO_NEW);
    m.info[0].backing_filename = "base"; /* an overlay grows; that is what it is for */
    expect(advise_preallocated, &m, IMG_ADVICE_OK, "off", NULL);
    make(&m);
    make_raw(&m);
    m.x.tables.placement = (struct advise_placement){GIB(19), 0, GIB(1)};
    expect(advise_preallocated, &m, IMG_ADVICE_OK, "off: 5% of the file has blocks", NULL);
    m.x.use = IMG_USE_DATABASE;
    expect(advise_preallocated, &m, IMG_ADVICE_ADVISED, "off", "fallocate -l 21474836480 a.qcow2");
    m.x.raw_window = true;
    expect(advise_preallocated, &m, IMG_ADVICE_NOT_APPLICABLE, "part of its file", NULL);
}

static void fragmentation(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    expect(advise_fragmentation, &m, IMG_ADVICE_OK, "1 fragment", NULL);
    m.x.host.layout.fragments = 5000;
    m.x.host.layout.fragment_bytes = MIB(500);
    expect(advise_fragmentation, &m, IMG_ADVICE_OK, "5000 fragments, 102 KiB on average", NULL);
    m.x.host.disks[0].rotational = 1;
    expect(advise_fragmentation, &m, IMG_ADVICE_ADVISED, "5000", "e4defrag a.qcow2");
    m.x.host.mount.type = "xfs";
    expect(advise_fragmentation, &m, IMG_ADVICE_ADVISED, "5000", "xfs_fsr a.qcow2");
    m.x.host.mount.type = "jfs";
    expect(advise_fragmentation, &m, IMG_ADVICE_ADVISED, "5000",
           "qemu-img convert -f qcow2 -O qcow2" TO_NEW);
    m.x.host.layout.fragment_bytes = GIB(50);
    expect(advise_fragmentation, &m, IMG_ADVICE_OK, "10.2 MiB on average", NULL);
    m.x.host.disks[0].rotational = 0;
    m.x.host.layout.capped = true;
    m.x.host.layout.fragments = 100000;
    m.x.host.layout.fragment_bytes = 100000 * KIB(64);
    m.x.host.mount.type = "btrfs";
    expect(advise_fragmentation, &m, IMG_ADVICE_ADVISED, "more than 100000 fragments",
           "btrfs filesystem defragment -t 32M a.qcow2");
    m.x.host.layout.fiemap_error = EOPNOTSUPP;
    expect(advise_fragmentation, &m, IMG_ADVICE_UNKNOWN, "Operation not supported", NULL);
    m.x.host.regular = false;
    expect(advise_fragmentation, &m, IMG_ADVICE_NOT_APPLICABLE, "device", NULL);
}

static void sparse(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    expect(advise_sparse, &m, IMG_ADVICE_OK, "not sparse", NULL);
    m.x.host.length = GIB(20);
    expect(advise_sparse, &m, IMG_ADVICE_OK, "sparse: 1 MiB allocated for a file of 20 GiB", NULL);
    m.x.host.free_bytes = GIB(19);
    expect(advise_sparse, &m, IMG_ADVICE_ADVISED, "can grow by 20 GiB, 19 GiB are free", NULL);
    m.x.host.free_known = false;
    expect(advise_sparse, &m, IMG_ADVICE_OK, "sparse", NULL);
    m.x.host.regular = false;
    expect(advise_sparse, &m, IMG_ADVICE_NOT_APPLICABLE, "device", NULL);
}

static void end_of_file(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    expect(advise_end_of_file, &m, IMG_ADVICE_OK, "where its last cluster does", NULL);
    m.x.file_length = GIB(3);
    expect(advise_end_of_file, &m, IMG_ADVICE_ADVISED, "3 GiB after the last cluster",
           "qemu-img convert -f qcow2 -O qcow2" TO_NEW);
    m.x.tables.end = GIB(3); /* preallocated metadata: clusters in a hole */
    expect(advise_end_of_file, &m, IMG_ADVICE_OK, "where its last cluster does", NULL);
    m.x.tables.end = 0;
    m.x.tables.sampled = true;
    expect(advise_end_of_file, &m, IMG_ADVICE_UNKNOWN, "a part of the tables", NULL);
    m.x.tables.sampled = false;
    m.info[0].snapshot_count = 1;
    expect(advise_end_of_file, &m, IMG_ADVICE_UNKNOWN, "internal snapshots", NULL);
    m.x.data_end_known = false;
    expect(advise_end_of_file, &m, IMG_ADVICE_UNKNOWN, "holes from data", NULL);
    make_raw(&m);
    expect(advise_end_of_file, &m, IMG_ADVICE_NOT_APPLICABLE, "raw", NULL);
}

/* ---- the machine ---- */

static void nocow(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    expect(advise_nocow, &m, IMG_ADVICE_NOT_APPLICABLE, "not on btrfs (ext4)", NULL);
    m.x.host.mount.type = "btrfs";
    expect(advise_nocow, &m, IMG_ADVICE_ADVISED, "with copy-on-write",
           "touch a.qcow2.new && chattr +C a.qcow2.new && "
           "cp --reflink=never --sparse=always a.qcow2 a.qcow2.new && mv a.qcow2.new a.qcow2");
    m.x.host.mount.options = "rw,nodatasum,nodatacow,space_cache=v2";
    expect(advise_nocow, &m, IMG_ADVICE_OK, "mounted with nodatacow", NULL);
    m.x.host.mount.options = "rw";
    m.x.host.nocow = ADVISE_YES;
    expect(advise_nocow, &m, IMG_ADVICE_OK, "no copy-on-write", NULL);
    m.x.host.nocow = ADVISE_NOT_KNOWN;
    m.x.host.nocow_error = EPERM;
    expect(advise_nocow, &m, IMG_ADVICE_UNKNOWN, "Operation not permitted", NULL);
    m.x.host.mount.type = NULL;
    expect(advise_nocow, &m, IMG_ADVICE_UNKNOWN, "mount of the file is not known", NULL);
}

static void nfs_options(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    expect(advise_nfs_options, &m, IMG_ADVICE_NOT_APPLICABLE, "not on NFS (ext4)", NULL);
    m.x.host.mount = (struct advise_mount){
        .type = "nfs4", .point = "/srv/vm images", .source = "nas:/export",
        .options = "rw,relatime,rw,vers=4.2,rsize=1048576,wsize=1048576,namlen=255,hard,proto=tcp"};
    expect(advise_nfs_options, &m, IMG_ADVICE_OK, "hard, rsize=1048576, wsize=1048576", NULL);
    m.x.host.mount.options = "rw,rw,vers=4.2,rsize=8192,wsize=8192,hard";
    expect(advise_nfs_options, &m, IMG_ADVICE_ADVISED, "hard, rsize=8192, wsize=8192",
           "umount '/srv/vm images' && mount -t nfs -o rw,hard,rsize=1048576,wsize=1048576,vers=4.2 "
           "nas:/export '/srv/vm images'");
    m.x.host.mount.options = "ro,ro,vers=3,rsize=65536,wsize=65536,soft,softreval";
    expect(advise_nfs_options, &m, IMG_ADVICE_ADVISED, "soft, rsize=65536",
           "umount '/srv/vm images' && mount -t nfs -o ro,hard,rsize=1048576,wsize=1048576,vers=3 "
           "nas:/export '/srv/vm images'");
    m.x.host.mount.options = NULL;
    expect(advise_nfs_options, &m, IMG_ADVICE_UNKNOWN, "options are not known", NULL);
    m.x.host.mount.type = NULL;
    expect(advise_nfs_options, &m, IMG_ADVICE_UNKNOWN, "mount of the file is not known", NULL);
}

static void set_disk(struct made *m, const char *name, const char *available, int rotational,
                     bool is_virtual)
{
    struct advise_disk *d = &m->x.host.disks[0];
    *d = (struct advise_disk){.rotational = rotational, .is_virtual = is_virtual};
    snprintf(d->name, sizeof d->name, "%s", name);
    snprintf(d->available, sizeof d->available, "%s", available);
    assert_true(advise_scheduler_parse(available, d->scheduler, sizeof d->scheduler));
}

static void io_scheduler(void **state)
{
    (void)state;
    struct made m;
    make(&m);
    expect(advise_io_scheduler, &m, IMG_ADVICE_OK, "mq-deadline on sda", NULL);
    set_disk(&m, "sdb", "none mq-deadline [bfq]", 1, false);
    expect(advise_io_scheduler, &m, IMG_ADVICE_ADVISED, "bfq on sdb (rotating)",
           "echo mq-deadline | sudo tee /sys/block/sdb/queue/scheduler");
    set_disk(&m, "sdb", "noop deadline [cfq]", 1, false);
    expect(advise_io_scheduler, &m, IMG_ADVICE_ADVISED, "cfq on sdb",
           "echo deadline | sudo tee /sys/block/sdb/queue/scheduler");
    set_disk(&m, "sdb", "[none] mq-deadline", 1, false);
    expect(advise_io_scheduler, &m, IMG_ADVICE_ADVISED, "none on sdb",
           "echo mq-deadline | sudo tee /sys/block/sdb/queue/scheduler");
    set_disk(&m, "nvme0n1", "none mq-deadline [bfq]", 0, false);
    expect(advise_io_scheduler, &m, IMG_ADVICE_ADVISED, "bfq on nvme0n1",
           "echo none | sudo tee /sys/block/nvme0n1/queue/scheduler");
    set_disk(&m, "nvme0n1", "[none] mq-deadline", 0, false);
    expect(advise_io_scheduler, &m, IMG_ADVICE_OK, "none on nvme0n1", NULL);
    set_disk(&m, "vda", "[none] mq-deadline", 1, true); /* virtio disks call themselves rotating */
    expect(advise_io_scheduler, &m, IMG_ADVICE_OK, "none on vda (a virtual disk)", NULL);
    set_disk(&m, "dm-0", "none", 1, false); /* no choice */
    expect(advise_io_scheduler, &m, IMG_ADVICE_OK, "none on dm-0", NULL);
    m.x.host.disk_count = 0;
    expect(advise_io_scheduler, &m, IMG_ADVICE_UNKNOWN, "/sys tells no scheduler", NULL);
    m.x.host.mount = (struct advise_mount){.type = "tmpfs", .source = "tmpfs"};
    expect(advise_io_scheduler, &m, IMG_ADVICE_NOT_APPLICABLE, "no disk of this host below (tmpfs)",
           NULL);
}

/* ---- parsers ---- */

static void scheduler_texts(void **state)
{
    (void)state;
    char name[32], tiny[5];
    assert_true(advise_scheduler_parse("none [mq-deadline] kyber bfq \n", name, sizeof name));
    assert_string_equal(name, "mq-deadline");
    assert_true(advise_scheduler_parse("[none]", name, sizeof name));
    assert_string_equal(name, "none");
    assert_true(advise_scheduler_parse("none\n", name, sizeof name));
    assert_string_equal(name, "none");
    assert_false(advise_scheduler_parse("none bfq", name, sizeof name));
    assert_false(advise_scheduler_parse("", name, sizeof name));
    assert_false(advise_scheduler_parse("[", name, sizeof name));
    assert_false(advise_scheduler_parse("[mq-deadline]", tiny, sizeof tiny));
}

static void mount_lines(void **state)
{
    (void)state;
    struct advise_mount m;
    long id;
    assert_true(advise_mount_parse(
        &m, "36 35 0:52 / /srv/vm\\040images rw,noatime master:1 shared:7 - nfs4 nas:/x rw,vers=4.2\n",
        &id));
    assert_int_equal(id, 36);
    assert_int_equal(m.major, 0);
    assert_int_equal(m.minor, 52);
    assert_string_equal(m.point, "/srv/vm images");
    assert_string_equal(m.type, "nfs4");
    assert_string_equal(m.source, "nas:/x");
    assert_string_equal(m.options, "rw,noatime,rw,vers=4.2");
    advise_mount_clear(&m);
    assert_true(advise_mount_parse(&m, "1 1 8:1 / / rw - ext4 /dev/sda1", &id)); /* no options */
    assert_string_equal(m.options, "rw");
    advise_mount_clear(&m);
    static const char *const bad[] = {"", "x", "36", "36 35 0:52", "36 35 0:52 / /mnt rw", "\n",
                                      "36 35 0:52 / /mnt rw - ", "36 35 0:52 - nfs4 nas:/x rw",
                                      "36 35 0:52 / /mnt rw - nfs4"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(advise_mount_parse(&m, bad[i], &id));
        assert_null(m.type);
    }
}

static void mount_by_id(void **state)
{
    (void)state;
    static char text[] = "22 27 0:21 / /proc rw - proc proc rw\n"
                         "garbage\n"
                         "27 1 8:2 / / rw,relatime shared:1 - btrfs /dev/sda2 rw,subvol=/@\n"
                         "271 1 8:3 / /home rw - xfs /dev/sda3 rw\n";
    struct advise_mount m = {0};
    FILE *f = fmemopen(text, strlen(text), "r");
    assert_true(advise_mount_find(&m, f, 27));
    assert_string_equal(m.type, "btrfs");
    assert_int_equal(m.major, 8);
    assert_int_equal(m.minor, 2);
    advise_mount_clear(&m);
    rewind(f);
    assert_false(advise_mount_find(&m, f, 2));
    fclose(f);
}

static void mount_options(void **state)
{
    (void)state;
    char v[8];
    assert_true(advise_mount_option("rw,rsize=8192,hard", "rsize", v, sizeof v));
    assert_string_equal(v, "8192");
    assert_true(advise_mount_option("rw,hard", "hard", v, sizeof v));
    assert_string_equal(v, "");
    assert_false(advise_mount_option("rw,softreval", "soft", NULL, 0));
    assert_false(advise_mount_option("rw,xsoft", "soft", NULL, 0));
    assert_false(advise_mount_option("", "soft", NULL, 0));
    assert_true(advise_mount_option("rsize=1234567890", "rsize", v, sizeof v));
    assert_string_equal(v, "1234567");
}

static void put(const char *root, const char *path, const char *text)
{
    char full[512], *slash;
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (slash = full + strlen(root) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        assert_true(mkdir(full, 0777) == 0 || errno == EEXIST);
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void link_device(const char *root, const char *dev, const char *folder)
{
    char full[512], target[256];
    put(root, "dev/block/.keep", "");
    snprintf(full, sizeof full, "%s/dev/block/%s", root, dev);
    snprintf(target, sizeof target, "../../devices/%s", folder);
    assert_int_equal(symlink(target, full), 0);
}

/* A sysfs of our own: LVM on a RAID of a partition and a whole disk. */
static void disks_below(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    char root[256], command[300];
    snprintf(root, sizeof root, "%s/advise-sys-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(root));
    put(root, "devices/pci/sda/queue/scheduler", "none [bfq] mq-deadline\n");
    put(root, "devices/pci/sda/queue/rotational", "1\n");
    put(root, "devices/pci/sda/sda1/partition", "1\n");
    put(root, "devices/pci/virtio3/vdb/queue/scheduler", "[none] mq-deadline\n");
    put(root, "devices/pci/virtio3/vdb/queue/rotational", "0\n");
    put(root, "devices/md0/slaves/sda1/dev", "8:1\n");
    put(root, "devices/md0/slaves/vdb/dev", "253:16\n");
    put(root, "devices/dm-0/slaves/md0/dev", "9:0\n");
    put(root, "devices/dm-1/slaves/dm-1/dev", "252:1\n"); /* of itself */
    link_device(root, "8:0", "pci/sda");
    link_device(root, "8:1", "pci/sda/sda1");
    link_device(root, "253:16", "pci/virtio3/vdb");
    link_device(root, "9:0", "md0");
    link_device(root, "252:0", "dm-0");
    link_device(root, "252:1", "dm-1");

    struct advise_disk d[4];
    assert_int_equal(advise_disks(root, 8, 1, d, 4), 1);
    assert_string_equal(d[0].name, "sda");
    assert_string_equal(d[0].scheduler, "bfq");
    assert_int_equal(d[0].rotational, 1);
    assert_false(d[0].is_virtual);
    assert_int_equal(advise_disks(root, 252, 0, d, 4), 2);
    bool first = !strcmp(d[0].name, "vdb");
    assert_string_equal(d[!first].name, "vdb");
    assert_true(d[!first].is_virtual);
    assert_int_equal(d[!first].rotational, 0);
    assert_string_equal(d[first].name, "sda");
    assert_int_equal(advise_disks(root, 252, 0, d, 1), 1);
    assert_int_equal(advise_disks(root, 252, 1, d, 4), 0);
    assert_int_equal(advise_disks(root, 1, 1, d, 4), 0);
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    assert_int_equal(system(command), 0);
}

/* ---- layout ---- */

static void layout_of_extents(void **state)
{
    (void)state;
    struct advise_layout l = {0};
    /* two adjacent extents, a hole, an unwritten one elsewhere, one not yet placed */
    assert_true(advise_layout_add(&l, 0, MIB(100), MIB(1), 0));
    assert_true(advise_layout_add(&l, MIB(1), MIB(101), MIB(1), 0));
    assert_true(advise_layout_add(&l, MIB(4), MIB(200), MIB(2), FIEMAP_EXTENT_UNWRITTEN));
    assert_true(advise_layout_add(&l, MIB(6), 0, MIB(1), FIEMAP_EXTENT_DELALLOC));
    assert_int_equal(l.count, 3);
    assert_int_equal(l.fragments, 2);
    assert_int_equal(l.fragment_bytes, MIB(4));
    assert_int_equal(l.span_bytes, MIB(5));
    struct advise_placement p = {0};
    advise_place(&l, 0, MIB(7), &p);
    assert_int_equal(p.written, MIB(3));
    assert_int_equal(p.hole, MIB(2));
    assert_int_equal(p.unwritten, MIB(2));
    p = (struct advise_placement){0};
    advise_place(&l, MIB(1) + 512, MIB(3), &p);
    assert_int_equal(p.written, MIB(1) - 512);
    assert_int_equal(p.hole, MIB(2));
    assert_int_equal(p.unwritten, 512);
    p = (struct advise_placement){0};
    advise_place(&l, MIB(7), UINT64_MAX, &p); /* nothing is known of what lies there */
    assert_int_equal(p.written + p.hole + p.unwritten, 0);
    l.known_to = MIB(10);
    advise_place(&l, MIB(6) + 1, UINT64_MAX, &p);
    assert_int_equal(p.written, MIB(1) - 1);
    assert_int_equal(p.hole, MIB(3));
    advise_layout_clear(&l);
}

static void layout_is_bounded(void **state)
{
    (void)state;
    struct advise_layout l = {0};
    for (uint64_t i = 0; i < ADVISE_MAX_SPANS; i++)
        assert_true(advise_layout_add(&l, i * 8192, i * 8192, 4096, 0));
    assert_false(advise_layout_add(&l, 1ull << 40, 0, 4096, 0));
    assert_true(l.capped);
    assert_int_equal(l.count, ADVISE_MAX_SPANS);
    advise_layout_clear(&l);
}

/* ---- words ---- */

static void quoting(void **state)
{
    (void)state;
    static const struct {
        const char *name, *quoted;
    } cases[] = {
        {"a.qcow2", "a.qcow2"},
        {"", "''"},
        {"/a b/c", "'/a b/c'"},
        {"it's", "'it'\\''s'"},
        {"$(rm)", "'$(rm)'"},
        {"a\nb'c\\", "$'a\\012b\\'c\\\\'"},
        {"\xc3\xa9", "'\xc3\xa9'"},
        {"~x", "'~x'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *q = advise_quote(cases[i].name);
        assert_string_equal(q, cases[i].quoted);
        free(q);
    }
    char *q = advise_quote_path("-rf", ".new");
    assert_string_equal(q, "./-rf.new");
    free(q);
    q = advise_quote_path("nbd:x", "");
    assert_string_equal(q, "./nbd:x");
    free(q);
    q = advise_quote_path("a/b:c", "");
    assert_string_equal(q, "a/b:c");
    free(q);
}

static void sizes(void **state)
{
    (void)state;
    char b[32];
    assert_string_equal(advise_size(0, b), "0 bytes");
    assert_string_equal(advise_size(512, b), "512 bytes");
    assert_string_equal(advise_size(KIB(64), b), "64 KiB");
    assert_string_equal(advise_size(GIB(1) + GIB(1) / 2, b), "1.5 GiB");
    assert_string_equal(advise_size(UINT64_MAX, b), "16 EiB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(l2_need),
        cmocka_unit_test(cluster_size_by_disk),
        cmocka_unit_test(cluster_size_by_use),
        cmocka_unit_test(conversion_keeps_the_rest),
        cmocka_unit_test(compat_level),
        cmocka_unit_test(lazy_refcounts),
        cmocka_unit_test(refcount_width),
        cmocka_unit_test(backing_format),
        cmocka_unit_test(backing_path),
        cmocka_unit_test(chain_depth),
        cmocka_unit_test(preallocation_by_fiemap),
        cmocka_unit_test(preallocation_without_fiemap),
        cmocka_unit_test(preallocation_by_use),
        cmocka_unit_test(fragmentation),
        cmocka_unit_test(sparse),
        cmocka_unit_test(end_of_file),
        cmocka_unit_test(nocow),
        cmocka_unit_test(nfs_options),
        cmocka_unit_test(io_scheduler),
        cmocka_unit_test(scheduler_texts),
        cmocka_unit_test(mount_lines),
        cmocka_unit_test(mount_by_id),
        cmocka_unit_test(mount_options),
        cmocka_unit_test(disks_below),
        cmocka_unit_test(layout_of_extents),
        cmocka_unit_test(layout_is_bounded),
        cmocka_unit_test(quoting),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
