/* Runs of extents: over clusters, pieces of tables, tables, and where they must end. */
#include "formats/qcow2/qcow2.h"
#include "make_qcow2.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>

static void empty_disk(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 4 << 20, 0);
    expect_map(&m, "0+4194304 unallocated"); /* an empty table and none are alike */
    image_free(&m);
    m = make_qcow2(3, 12, 0, 0);
    expect_map(&m, "");
    image_free(&m);
    m = make_qcow2(3, 12, 512, 0);
    expect_map(&m, "0+512 unallocated");
    image_free(&m);
}

/* One of each kind, and what joins with what. */
static void kinds_and_neighbours(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 1 << 20, 0);
    size_t a = image_grow(&m, 4);
    image_set_entry(&m, 0, a | ENTRY_COPIED, 0);
    image_set_entry(&m, 1, a + 4096, 0); /* not COPIED: the same extent */
    image_set_entry(&m, 2, (a + 8192) | ENTRY_ZERO, 0);
    image_set_entry(&m, 3, ENTRY_ZERO, 0);
    image_set_entry(&m, 4, ENTRY_ZERO, 0);
    image_set_entry(&m, 6, ENTRY_COMPRESSED | a, 0);
    image_set_entry(&m, 7, ENTRY_COMPRESSED | (a + 700), 0);
    image_set_entry(&m, 8, (a + 12288) | ENTRY_COPIED, 0);
    image_set_entry(&m, 9, (a + 4096) | ENTRY_COPIED, 0); /* goes backwards */
    image_set_entry(&m, 10, (a + 4096) | ENTRY_COPIED, 0);
    expect_map(&m, "0+8192 data@20480 8192+4096 zero@28672 12288+8192 zero 20480+4096 unallocated "
                   "24576+8192 compressed 32768+4096 data@32768 36864+4096 data@24576 "
                   "40960+4096 data@24576 45056+1003520 unallocated");
    struct img *img = image_open(&m, 0);
    static const struct {
        uint64_t offset, length;
        const char *text;
    } parts[] = {
        {100, 5000, "100+5000 data@20580"},
        {4095, 2, "4095+2 data@24575"},
        {8191, 2, "8191+1 data@28671 8192+1 zero@28672"},
        {13000, 1, "13000+1 zero"},
        {30000, 10000, "30000+2768 compressed 32768+4096 data@32768 36864+3136 data@24576"},
        {1048575, 100, "1048575+1 unallocated"},
        {1048576, 100, ""},
        {UINT64_MAX, UINT64_MAX, ""},
        {45056, UINT64_MAX, "45056+1003520 unallocated"},
        {5, 0, ""},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char *text = map_text(img, parts[i].offset, parts[i].length);
        assert_string_equal(text, parts[i].text);
        free(text);
    }
    img_close(img);
    image_free(&m);
}

/* 512-byte clusters: 64 entries a table, 32 KiB of the disk. */
static void runs_cross_tables(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 9, 160 << 10, 0);
    size_t second = image_grow(&m, 1), data = image_grow(&m, 128);
    store_be64(m.data + m.l1 + 8, second | ENTRY_COPIED);
    for (size_t i = 0; i < 128; i++)
        store_be64(m.data + (i < 64 ? m.l2 : second) + (i % 64) * 8, data + i * 512);
    expect_map(&m, "0+65536 data@3072 65536+98304 unallocated");
    /* a hole in the L1 table and an empty table read alike */
    store_be64(m.data + m.l1, 0);
    store_be64(m.data + second, 0);
    expect_map(&m, "0+33280 unallocated 33280+32256 data@36352 65536+98304 unallocated");
    /* a table in the middle of nothing */
    store_be64(m.data + m.l1 + 8, 0);
    store_be64(m.data + m.l1 + 32, m.l2 | ENTRY_COPIED);
    expect_map(&m, "0+131072 unallocated 131072+32768 data@3072");
    image_free(&m);
}

/* Tables of 2 MiB clusters are looked at in pieces of 64 KiB: 8,192 entries. */
static void runs_cross_pieces(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 21, 512ull << 30, 0);
    uint64_t cluster = 2 << 20, base = 1ull << 40;
    for (size_t i = 0; i < 20000; i++)
        image_set_entry(&m, i, (base + i * cluster) | ENTRY_ZERO, 0);
    image_set_entry(&m, 8192 * 3, ENTRY_ZERO, 0);
    image_set_entry(&m, 262143, ENTRY_ZERO, 0);
    char want[400];
    snprintf(want, sizeof want,
             "0+%" PRIu64 " zero@%" PRIu64 " %" PRIu64 "+%" PRIu64 " unallocated %" PRIu64
             "+%" PRIu64 " zero %" PRIu64 "+%" PRIu64 " unallocated %" PRIu64 "+%" PRIu64 " zero",
             20000 * cluster, base, 20000 * cluster, (24576 - 20000) * cluster, 24576 * cluster,
             cluster, 24577 * cluster, (262143 - 24577) * cluster, 262143 * cluster, cluster);
    expect_map(&m, want);
    image_free(&m);
}

static void last_cluster_is_cut(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 4096 + 512, 0);
    size_t a = image_grow(&m, 2);
    image_set_entry(&m, 0, a, 0);
    image_set_entry(&m, 1, a + 4096, 0);
    image_set_entry(&m, 2, a, 0); /* past the disk's end */
    expect_map(&m, "0+4608 data@20480");
    image_free(&m);
}

/* What was found before the bad entry is told; the message says where it is. */
static void bad_entries(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 4 << 20, 0);
    size_t a = image_grow(&m, 2);
    image_set_entry(&m, 0, a, 0);
    image_set_entry(&m, 1, a + 4096, 0);
    image_set_entry(&m, 2, a + 8192, 0); /* continues the run, but the file ends there */
    expect_map(&m, "0+8192 data@20480 Could not read file metadata: Data cluster outside the "
                   "file: 0x7000 (L2 offset: 0x4000, L2 index: 0x2)");
    image_set_entry(&m, 2, ENTRY_COMPRESSED | (a + 8192), 0);
    expect_map(&m, "0+8192 data@20480 Could not read file metadata: Compressed cluster outside "
                   "the file: 0x7000 (L2 offset: 0x4000, L2 index: 0x2)");
    image_set_entry(&m, 1, ENTRY_COMPRESSED | (a + 8191), 0);
    expect_map(&m, "0+4096 data@20480 4096+4096 compressed Could not read file metadata: "
                   "Compressed cluster outside the file: 0x7000 (L2 offset: 0x4000, L2 index: "
                   "0x2)");
    image_set_entry(&m, 2, 1ull << 60 | a, 0);
    expect_map(&m, "0+4096 data@20480 4096+4096 compressed Could not read file metadata: "
                   "Reserved bits set in L2 entry: 0x1000000000005000 (L2 offset: 0x4000, L2 "
                   "index: 0x2)");
    image_set_entry(&m, 2, a + 512, 0);
    expect_map(&m, "0+4096 data@20480 4096+4096 compressed Could not read file metadata: "
                   "Cluster allocation offset unaligned: 0x5200 (L2 offset: 0x4000, L2 index: "
                   "0x2)");
    image_free(&m);
}

static void bad_tables(void **state)
{
    (void)state;
    static const struct {
        uint64_t entry;
        const char *message;
    } cases[] = {
        {0x4200, "L2 table offset 0x4200 unaligned (L1 index: 0x1)"},
        {0x7000, "L2 table offset 0x7000 outside the file (L1 index: 0x1)"},
        {0x00fffffffffff000, "L2 table offset 0xfffffffffff000 outside the file (L1 index: 0x1)"},
        {0x3000, "L2 table offset 0x3000 is inside the active L1 table (L1 index: 0x1)"},
        {0x1000, "L2 table offset 0x1000 is inside the refcount table (L1 index: 0x1)"},
        {0x4001, "Reserved bits set in L1 entry 0x4001 (L1 index: 0x1)"},
        {1ull << 62 | 0x4000, "Reserved bits set in L1 entry 0x4000000000004000 (L1 index: 0x1)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct image m = make_qcow2(3, 12, 4 << 20, 0);
        char want[300];
        store_be64(m.data + m.l1 + 8, cases[i].entry);
        snprintf(want, sizeof want, "0+2097152 unallocated Could not read file metadata: %s",
                 cases[i].message);
        expect_map(&m, want);
        image_free(&m);
    }
    /* the last cluster of the file is cut: a table there is not whole */
    struct image m = make_qcow2(3, 12, 4 << 20, 0);
    image_resize(&m, m.size - 1);
    expect_map(&m, "Could not read file metadata: L2 table offset 0x4000 outside the file (L1 "
                   "index: 0)");
    image_free(&m);
}

/* 16 KiB clusters, subclusters of 512 bytes. */
static void extended_entries(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 14, 1 << 20, INCOMPAT_EXTENDED_L2);
    size_t a = image_grow(&m, 4);
    image_set_entry(&m, 0, a, 0x00000000ffffffff);
    image_set_entry(&m, 1, a + 16384, 0x00000000ffffffff);
    image_set_entry(&m, 2, a + 32768, 0xff00000000ffff00); /* 8 nothing, 16 data, 8 zeroes */
    image_set_entry(&m, 3, 0, 0xffffffff00000000);
    image_set_entry(&m, 4, 0, 0x0000ffff00000000);
    expect_map(&m, "0+32768 data@81920 32768+4096 unallocated@114688 36864+8192 data@118784 "
                   "45056+4096 zero@126976 49152+24576 zero 73728+974848 unallocated");
    /* the run goes on after a cluster whose end is alike */
    image_set_entry(&m, 1, a + 16384, 0x00000000ffff0000);
    image_set_entry(&m, 2, a + 32768, 0x00000000ffffffff);
    image_set_entry(&m, 3, a + 49152, 0x000000000000ffff);
    image_set_entry(&m, 4, 0, 0);
    expect_map(&m, "0+16384 data@81920 16384+8192 unallocated@98304 24576+32768 data@106496 "
                   "57344+8192 unallocated@139264 65536+983040 unallocated");
    struct img *img = image_open(&m, 0);
    char *text = map_text(img, 25000, 40000);
    assert_string_equal(text, "25000+32344 data@106920 57344+7656 unallocated@139264");
    free(text);
    img_close(img);
    image_set_entry(&m, 1, a + 16384, 0x00000001ffff0001);
    expect_map(&m, "0+16384 data@81920 Could not read file metadata: Subcluster both allocated "
                   "and zero: 0x18000 (L2 offset: 0x10000, L2 index: 0x1)");
    image_free(&m);
}

static void external_data_file(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 1 << 20, INCOMPAT_DATA_FILE);
    image_extend(&m, EXT_DATA_FILE, "data", 4);
    image_set_entry(&m, 0, ENTRY_COPIED, 0);
    image_set_entry(&m, 1, 4096 | ENTRY_COPIED, 0);
    image_set_entry(&m, 255, (255 << 12) | ENTRY_COPIED, 0); /* past the end of any file: padded */
    expect_map(&m, "0+8192 data@0 8192+1036288 unallocated 1044480+4096 data@1044480");
    struct img *img = image_open(&m, 0);
    uint8_t byte = 1;
    assert_int_equal(img_read(img, &byte, 1, 1044480, NULL), 0);
    assert_int_equal(byte, 0);
    img_close(img);
    image_set_entry(&m, 1, 8192 | ENTRY_COPIED, 0);
    expect_map(&m, "0+4096 data@0 Could not read file metadata: External data file host "
                   "cluster offset 0x2000 does not match guest cluster offset: 0x1000, L2 "
                   "index: 0x1");
    image_free(&m);
}

static int stop_at_second(void *opaque, const struct img_extent *e)
{
    (void)e;
    return ++*(int *)opaque == 2 ? 77 : 0;
}

static void the_walk_stops_when_told(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 1 << 20, 0);
    int seen = 0;
    for (size_t i = 0; i < 256; i += 2)
        image_set_entry(&m, i, ENTRY_ZERO, 0);
    struct img *img = image_open(&m, 0);
    assert_int_equal(img_map(img, 0, UINT64_MAX, stop_at_second, &seen, NULL), 77);
    assert_int_equal(seen, 2);
    img_close(img);
    image_free(&m);
}

static void reading(void **state)
{
    (void)state;
    struct image m = make_qcow2(3, 12, 1 << 20, 0);
    struct img_error err = IMG_ERROR_INIT;
    uint8_t buf[12288], want[12288];
    size_t a = image_add_data(&m, 'a'), b = image_add_data(&m, 'b');
    image_set_entry(&m, 0, b, 0);
    image_set_entry(&m, 1, a, 0);
    image_set_entry(&m, 2, b | ENTRY_ZERO, 0);
    image_resize(&m, m.size - 96); /* the end of the last cluster is missing: zeroes */
    memset(want, 'b', 4000);
    memset(want + 4000, 0, 96);
    memset(want + 4096, 'a', 4096);
    memset(want + 8192, 0, 4096);
    struct img *img = image_open(&m, 0);
    for (size_t offset = 0; offset < sizeof buf; offset += 997)
        for (size_t n = 1; n <= sizeof buf - offset; n = n * 3 + 1) {
            memset(buf, 0xee, sizeof buf);
            assert_int_equal(img_read(img, buf, n, offset, NULL), 0);
            assert_memory_equal(buf, want + offset, n);
            assert_true(n == sizeof buf || buf[n] == 0xee);
        }
    assert_int_equal(img_read(img, buf, 0, 1 << 20, NULL), 0);
    expect_error(&err, img_read(img, buf, 2, (1 << 20) - 1, &err), EINVAL,
                 "Read of 2 bytes at 1048575 is past the end of the disk (1048576 bytes)");
    expect_error(&err, img_read(img, buf, 1, UINT64_MAX, &err), EINVAL,
                 "Read of 1 bytes at 18446744073709551615 is past the end of the disk (1048576 "
                 "bytes)");
    img_close(img);
    img = image_open(&m, IMG_OPEN_NO_DATA);
    expect_error(&err, img_read(img, buf, 1, 0, &err), EINVAL,
                 "The image was opened for its metadata only");
    img_close(img);
    image_set_entry(&m, 1, 0x100000, 0);
    img = image_open(&m, 0);
    expect_error(&err, img_read(img, buf, 8192, 0, &err), EINVAL,
                 "Error while reading offset 4096 of 'memory': Data cluster outside the file: "
                 "0x100000 (L2 offset: 0x4000, L2 index: 0x1)");
    img_close(img);
    image_free(&m);
}

struct job {
    struct img *img;
    uint64_t seed;
    unsigned wrong;
};

/* Cluster I of the disk holds the byte I % 7, at a place that was shuffled. */
static void *read_randomly(void *opaque)
{
    struct job *job = opaque;
    uint8_t buf[600];
    for (unsigned i = 0; i < 3000; i++) {
        job->seed = job->seed * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t at = (job->seed >> 33) % ((256 << 10) - sizeof buf);
        if (img_read(job->img, buf, sizeof buf, at, NULL) < 0)
            job->wrong++;
        for (size_t j = 0; j < sizeof buf; j++)
            job->wrong += buf[j] != (at + j) / 512 % 7;
        if (i % 500 == 0) {
            char *text = map_text(job->img, 0, UINT64_MAX);
            job->wrong += !strstr(text, "data@");
            free(text);
        }
    }
    return NULL;
}

static void one_handle_in_several_threads(void **state)
{
    (void)state;
    enum { THREADS = 4, TABLES = 8 };
    struct image m = make_qcow2(3, 9, 256 << 10, 0);
    size_t tables = image_grow(&m, TABLES), data = image_grow(&m, 512);
    for (size_t i = 0; i < TABLES; i++)
        store_be64(m.data + m.l1 + 8 * i, tables + i * 512);
    for (size_t i = 0; i < 512; i++) {
        size_t at = data + (i * 211 % 512) * 512;
        store_be64(m.data + tables + i * 8, at);
        memset(m.data + at, (int)(i % 7), 512);
    }
    struct img *img = image_open(&m, 0);
    struct job jobs[THREADS];
    pthread_t ids[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){img, i, 0};
        assert_int_equal(pthread_create(&ids[i], NULL, read_randomly, &jobs[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(ids[i], NULL);
        assert_int_equal(jobs[i].wrong, 0);
    }
    img_close(img);
    image_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_disk),
        cmocka_unit_test(kinds_and_neighbours),
        cmocka_unit_test(runs_cross_tables),
        cmocka_unit_test(runs_cross_pieces),
        cmocka_unit_test(last_cluster_is_cut),
        cmocka_unit_test(bad_entries),
        cmocka_unit_test(bad_tables),
        cmocka_unit_test(extended_entries),
        cmocka_unit_test(external_data_file),
        cmocka_unit_test(the_walk_stops_when_told),
        cmocka_unit_test(reading),
        cmocka_unit_test(one_handle_in_several_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
