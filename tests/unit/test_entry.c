/* L2 entries, decoded: a table of what each entry means, and reserved bits one by one. */
#include "formats/qcow2/entry.h"
#include "make_qcow2.h"

static const struct qcow2_geometry plain = {.version = 3,
                                            .cluster_bits = 16,
                                            .cluster_size = 65536,
                                            .l2_bits = 13,
                                            .l2_entry_size = 8,
                                            .subcluster_bits = 16};
static const struct qcow2_geometry old = {.version = 2,
                                          .cluster_bits = 16,
                                          .cluster_size = 65536,
                                          .l2_bits = 13,
                                          .l2_entry_size = 8,
                                          .subcluster_bits = 16};
static const struct qcow2_geometry external = {.version = 3,
                                               .cluster_bits = 16,
                                               .cluster_size = 65536,
                                               .l2_bits = 13,
                                               .l2_entry_size = 8,
                                               .subcluster_bits = 16,
                                               .external_data = true};
static const struct qcow2_geometry extended = {.version = 3,
                                               .cluster_bits = 16,
                                               .cluster_size = 65536,
                                               .l2_bits = 12,
                                               .l2_entry_size = 16,
                                               .subcluster_bits = 11,
                                               .extended_l2 = true};
static const struct qcow2_geometry extended_external = {.version = 3,
                                                        .cluster_bits = 16,
                                                        .cluster_size = 65536,
                                                        .l2_bits = 12,
                                                        .l2_entry_size = 16,
                                                        .subcluster_bits = 11,
                                                        .extended_l2 = true,
                                                        .external_data = true};

#define COPIED           ENTRY_COPIED
#define ALLOC(from, to)  ((0xffffffffull >> (31 - (to))) & (0xffffffffull << (from)) & 0xffffffffull)
#define ZEROED(from, to) (ALLOC(from, to) << 32)

static const struct {
    const struct qcow2_geometry *g;
    uint64_t entry, bitmap;
    unsigned sub;
    enum qcow2_mapping_type type;
    uint64_t host;
    unsigned subclusters;
} good[] = {
    {&plain, 0, 0, 0, MAP_UNALLOCATED, 0, 1},
    {&plain, COPIED, 0, 0, MAP_UNALLOCATED, 0, 1},
    {&plain, 0x50000 | COPIED, 0, 0, MAP_NORMAL, 0x50000, 1},
    {&plain, 0x50000, 0, 0, MAP_NORMAL, 0x50000, 1},
    {&plain, 0x00ffffffffff0000, 0, 0, MAP_NORMAL, 0x00ffffffffff0000, 1},
    {&plain, ENTRY_ZERO, 0, 0, MAP_ZERO_PLAIN, 0, 1},
    {&plain, 0x50000 | ENTRY_ZERO | COPIED, 0, 0, MAP_ZERO_ALLOC, 0x50000, 1},
    {&plain, 0x50000, UINT64_MAX, 7, MAP_NORMAL, 0x50000, 1}, /* no bitmaps here */
    {&old, 0x50000, 0, 0, MAP_NORMAL, 0x50000, 1},
    /* offset 0 is a place in a data file, told by COPIED */
    {&external, 0, 0, 0, MAP_UNALLOCATED, 0, 1},
    {&external, COPIED, 0, 0, MAP_NORMAL, 0, 1},
    {&external, COPIED | ENTRY_ZERO, 0, 0, MAP_ZERO_PLAIN, 0, 1},
    {&external, 0x50000 | COPIED, 0, 0, MAP_NORMAL, 0x50000, 1},
    /* extended: types, and how far each goes */
    {&extended, 0, 0, 0, MAP_UNALLOCATED, 0, 32},
    {&extended, 0, 0, 31, MAP_UNALLOCATED, 0, 1},
    {&extended, 0, ZEROED(0, 31), 0, MAP_ZERO_PLAIN, 0, 32},
    {&extended, 0, ZEROED(4, 7), 0, MAP_UNALLOCATED, 0, 4},
    {&extended, 0, ZEROED(4, 7), 5, MAP_ZERO_PLAIN, 0, 3},
    {&extended, 0, ZEROED(4, 7), 8, MAP_UNALLOCATED, 0, 24},
    {&extended, 0x50000 | COPIED, 0, 3, MAP_UNALLOCATED_ALLOC, 0x50000, 29},
    {&extended, 0x50000 | COPIED, ALLOC(0, 31), 0, MAP_NORMAL, 0x50000, 32},
    {&extended, 0x50000 | COPIED, ALLOC(0, 31), 31, MAP_NORMAL, 0x50000, 1},
    {&extended, 0x50000 | COPIED, ZEROED(0, 31), 16, MAP_ZERO_ALLOC, 0x50000, 16},
    {&extended, 0x50000, ALLOC(0, 9) | ZEROED(10, 19), 0, MAP_NORMAL, 0x50000, 10},
    {&extended, 0x50000, ALLOC(0, 9) | ZEROED(10, 19), 10, MAP_ZERO_ALLOC, 0x50000, 10},
    {&extended, 0x50000, ALLOC(0, 9) | ZEROED(10, 19), 20, MAP_UNALLOCATED_ALLOC, 0x50000, 12},
    {&extended, 0x50000, ALLOC(31, 31), 0, MAP_UNALLOCATED_ALLOC, 0x50000, 31},
    {&extended, 0x50000, ALLOC(31, 31), 31, MAP_NORMAL, 0x50000, 1},
    {&extended, 0x50000, 0xaaaaaaaa, 0, MAP_UNALLOCATED_ALLOC, 0x50000, 1},
    {&extended, 0x50000, 0xaaaaaaaa, 1, MAP_NORMAL, 0x50000, 1},
    {&extended_external, COPIED, ALLOC(0, 31), 0, MAP_NORMAL, 0, 32},
    {&extended_external, COPIED, 0, 0, MAP_UNALLOCATED_ALLOC, 0, 32},
};

static void every_type(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct qcow2_mapping m;
        memset(&m, 0xee, sizeof m);
        const char *wrong = qcow2_decode_entry(good[i].g, good[i].entry, good[i].bitmap,
                                               good[i].sub, &m);
        if (wrong)
            fail_msg("case %zu: %s", i, wrong);
        if (m.type != good[i].type || m.host != good[i].host ||
            m.subclusters != good[i].subclusters)
            fail_msg("case %zu: type %d, host %#lx, %u subclusters", i, m.type,
                     (unsigned long)m.host, m.subclusters);
    }
}

static const char *complaint(const struct qcow2_geometry *g, uint64_t entry, uint64_t bitmap)
{
    struct qcow2_mapping m;
    const char *wrong = qcow2_decode_entry(g, entry, bitmap, 0, &m);
    return wrong ? wrong : "nothing";
}

static void what_is_wrong(void **state)
{
    (void)state;
    assert_string_equal(complaint(&plain, 0x50200, 0), "Cluster allocation offset unaligned");
    assert_string_equal(complaint(&plain, 0x50000 | ENTRY_ZERO | 0x8000, 0),
                        "Cluster allocation offset unaligned");
    assert_string_equal(complaint(&old, ENTRY_ZERO, 0), "Zero cluster entry found in pre-v3 image");
    assert_string_equal(complaint(&extended, 0x50000 | ENTRY_ZERO, 0),
                        "Reserved bits set in extended L2 entry");
    assert_string_equal(complaint(&extended, 0x50000, 1ull << 32 | 1),
                        "Subcluster both allocated and zero");
    assert_string_equal(complaint(&extended, 0x50000, 1ull << 63 | 1ull << 31),
                        "Subcluster both allocated and zero");
    assert_string_equal(complaint(&extended, 0, 1ull << 9),
                        "Subcluster allocated in an unallocated cluster");
    assert_string_equal(complaint(&external, ENTRY_COMPRESSED | 0x50000, 0),
                        "Compressed cluster entry found in image with external data file");
}

static void reserved_bits_one_by_one(void **state)
{
    (void)state;
    for (unsigned bit = 0; bit < 64; bit++) {
        bool reserved = (bit >= 1 && bit <= 8) || (bit >= 56 && bit <= 61);
        const char *want = reserved               ? "Reserved bits set in L2 entry"
                           : bit >= 9 && bit < 16 ? "Cluster allocation offset unaligned"
                                                  : "nothing";
        assert_string_equal(complaint(&plain, 0x50000 | 1ull << bit, 0), want);
    }
}

/* Offset and length of a compressed cluster share 62 bits, where depends on the cluster size. */
static void compressed_descriptors(void **state)
{
    (void)state;
    for (unsigned bits = 9; bits <= 21; bits++) {
        struct qcow2_geometry g = plain;
        struct qcow2_mapping m;
        g.cluster_bits = bits;
        g.cluster_size = 1u << bits;
        unsigned offset_bits = 62 - (bits - 8);
        uint64_t most_sectors = (1ull << (bits - 8)) - 1;
        uint64_t host = 0x12345;
        uint64_t entry = ENTRY_COMPRESSED | most_sectors << offset_bits | host;
        assert_null(qcow2_decode_entry(&g, entry, 0, 0, &m));
        assert_int_equal(m.type, MAP_COMPRESSED);
        assert_int_equal(m.host, host);
        assert_int_equal(m.host_length, (most_sectors + 1) * 512 - (host & 511));
        assert_true(m.host_length <= 2 * g.cluster_size);
        /* no additional sector: up to the end of the first one */
        assert_null(qcow2_decode_entry(&g, ENTRY_COMPRESSED | 1023, 0, 0, &m));
        assert_int_equal(m.host_length, 1);
        assert_int_equal(m.subclusters, 1);
    }
    struct qcow2_mapping m;
    assert_null(qcow2_decode_entry(&extended, ENTRY_COMPRESSED | 0x50000, 0, 0, &m));
    assert_int_equal(m.subclusters, 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type),
        cmocka_unit_test(what_is_wrong),
        cmocka_unit_test(reserved_bits_one_by_one),
        cmocka_unit_test(compressed_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
