/* Advice on the image and its file: each judgement both ways, from facts made by hand. */
#include "advise_facts.h"

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
           "imgtool convert -f qcow2 -O qcow2 -o cluster_size=128k" TO_NEW);
    m.info[0].virtual_size = GIB(64 << 10); /* 64 TiB: no cluster size makes that fit */
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "64 TiB",
           "imgtool convert -f qcow2 -O qcow2 -o cluster_size=2048k" TO_NEW);
    expect_why(advise_cluster_size, &m, "l2-cache-size=268435456");
    m.info[0].cluster_size = MIB(2);
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "2 MiB for 64 TiB",
           "imgtool advise-cache --output qemu a.qcow2");
    make(&m);
    m.info[0].cluster_size = KIB(4);
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "4 KiB",
           "imgtool convert -f qcow2 -O qcow2" TO_NEW);
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
           "imgtool convert -f qcow2 -O qcow2 -o cluster_size=1024k" TO_NEW);
    m.info[0].cluster_size = MIB(1);
    expect(advise_cluster_size, &m, IMG_ADVICE_OK, "1 MiB", NULL);

    make(&m);
    m.x.use = IMG_USE_OVERLAY;
    m.info[0].backing_filename = "base";
    m.info[0].backing_format = "raw";
    expect(advise_cluster_size, &m, IMG_ADVICE_ADVISED, "overlay",
           "imgtool convert -f qcow2 -O qcow2 -o cluster_size=128k,extended_l2=on -B base -F "
           "raw" TO_NEW);
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
           "imgtool convert -f qcow2 -O qcow2 -B base -F raw" TO_NEW);
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
           "imgtool convert -f qcow2 -O qcow2 -c --bitmaps -o cluster_size=128k,lazy_refcounts=on,"
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
           "imgtool amend -f qcow2 -o compat=1.1 ./-x");
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
           "imgtool amend -f qcow2 -o lazy_refcounts=on a.qcow2");
    make_preallocated(&m, 0, 0, GIB(20));
    expect(advise_lazy_refcounts, &m, IMG_ADVICE_OK, "off", NULL);
    m.info[0].qcow2.lazy_refcounts = true;
    expect(advise_lazy_refcounts, &m, IMG_ADVICE_ADVISED, "on, although all clusters are allocated",
           "imgtool amend -f qcow2 -o lazy_refcounts=off a.qcow2");
    m.x.tables.placed = 0;
    expect(advise_lazy_refcounts, &m, IMG_ADVICE_OK, "on", NULL);
    m.info[0].dirty = true;
    expect(advise_lazy_refcounts, &m, IMG_ADVICE_ADVISED, "on, and the image is marked dirty",
           "imgtool check -r all a.qcow2");
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
           "imgtool amend -f qcow2 -o refcount_bits=32 a.qcow2");
    m.info[0].qcow2.refcount_bits = 64;
    expect(advise_refcount_width, &m, IMG_ADVICE_OK, "64 bits", NULL);
    m.info[0].snapshot_count = 1;
    expect(advise_refcount_width, &m, IMG_ADVICE_ADVISED, "64 bits, with 1 internal snapshot",
           "imgtool amend -f qcow2 -o refcount_bits=16 a.qcow2");
    expect_why(advise_refcount_width, &m, "4 times as large");
    m.info[0].qcow2.refcount_bits = 1;
    expect(advise_refcount_width, &m, IMG_ADVICE_ADVISED, "1 bit,",
           "imgtool amend -f qcow2 -o refcount_bits=16 a.qcow2");
    m.info[0].qcow2.refcount_bits = 8;
    expect(advise_refcount_width, &m, IMG_ADVICE_OK, "8 bits", NULL);
    m.info[0].snapshot_count = 127;
    expect(advise_refcount_width, &m, IMG_ADVICE_ADVISED, "8 bits",
           "imgtool amend -f qcow2 -o refcount_bits=16 a.qcow2");
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
           "imgtool rebase -u -f qcow2 -F raw -b l2 /tmp/l1");
    m.info[0].backing_format = "";
    expect(advise_backing_format, &m, IMG_ADVICE_ADVISED, "'l1', and 1 more layer",
           "imgtool rebase -u -f qcow2 -F qcow2 -b l1 /tmp/l0 && "
           "imgtool rebase -u -f qcow2 -F raw -b l2 /tmp/l1");
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
           "imgtool rebase -u -f qcow2 -F raw -b l1 /tmp/l0");
    m.info[0].backing_filename = "file:/usr/share/base";
    expect(advise_backing_path, &m, IMG_ADVICE_ADVISED, "absolute path",
           "imgtool rebase -u -f qcow2 -F raw -b ../usr/share/base /tmp/l0");
    m.info[0].backing_filename = "/top";
    expect(advise_backing_path, &m, IMG_ADVICE_ADVISED, "absolute path",
           "imgtool rebase -u -f qcow2 -F raw -b ../top /tmp/l0");
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
           "imgtool rebase -f qcow2 -F raw -b l4 /tmp/l0");
    make_chain(&m, 6);
    expect(advise_chain_depth, &m, IMG_ADVICE_ADVISED, "6 layers",
           "imgtool rebase -f qcow2 -F raw -b l5 /tmp/l0");
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
    expect(advise_preallocated, &m, IMG_ADVICE_OK, "full: blocks for the whole disk, written",
           NULL);
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
           "imgtool convert -f qcow2 -O qcow2 -o preallocation=falloc" TO_NEW);
    make_preallocated(&m, GIB(20), 0, 0);
    expect(advise_preallocated, &m, IMG_ADVICE_ADVISED, "metadata",
           "fallocate -l 21474836480 a.qcow2");
    make_preallocated(&m, 0, GIB(20), 0);
    expect(advise_preallocated, &m, IMG_ADVICE_OK, "falloc", NULL);
    make(&m);
    m.x.use = IMG_USE_SEQUENTIAL;
    expect(advise_preallocated, &m, IMG_ADVICE_ADVISED, "off",
           "imgtool convert -f qcow2 -O qcow2 -o preallocation=metadata" TO_NEW);
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
           "imgtool convert -f qcow2 -O qcow2" TO_NEW);
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
           "imgtool convert -f qcow2 -O qcow2" TO_NEW);
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
