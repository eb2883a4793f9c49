/* Bitmaps that are written: runs of bits, pieces and their encodings, merges, whole changes. */
#include "formats/qcow2/bit_runs.h"
#include "formats/qcow2/bitmap.h"
#include "lib/checked.h"
#include "make_qcow2.h"

#include <stdio.h>
#include <unistd.h>

static char path[] = "/tmp/test_bitmap_change.XXXXXX";
static uint64_t seed;

static uint64_t draw(uint64_t below)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (seed >> 24) % below;
}

static void fail_with(struct img_error *err)
{
    fail_msg("%s", img_error_message(err));
}

static struct img *open_path(const char *name, unsigned flags)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = NULL;
    struct img_open_options o = {.format = "qcow2", .flags = flags};
    if (img_open(&img, name, &o, &err) < 0)
        fail_with(&err);
    return img;
}

static struct img *create_at(const char *name, uint64_t size, const char *options)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_create_options o = {.format = "qcow2", .size = size, .options = options};
    if (img_create(name, &o, &err) < 0)
        fail_with(&err);
    return open_path(name, IMG_OPEN_WRITE);
}

static struct img *create(uint64_t size, const char *options)
{
    return create_at(path, size, options);
}

static struct qcow2 *state_of(struct img *img)
{
    return img->layers[0]->state;
}

static void expect_sound(void)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_check result;
    struct img *img = open_path(path, IMG_OPEN_CHECK | IMG_OPEN_FORCE_SHARE);
    if (img_check(img, &result, NULL, NULL, &err) < 0)
        fail_with(&err);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(result.check_errors, 0);
    img_close(img);
}

static void done(int ret, struct img_error *err)
{
    if (ret < 0)
        fail_with(err);
}

static void refused(int ret, int code, struct img_error *err, const char *message)
{
    assert_int_equal(ret, -code);
    assert_string_equal(img_error_message(err), message);
    img_error_clear(err);
}

/* ---- runs of bits -------------------------------------------------------------------------- */

static bool bit(const uint8_t *p, uint64_t n)
{
    return p[n / 8] >> n % 8 & 1;
}

static void runs_are_what_single_bits_say(void **state)
{
    (void)state;
    enum { BYTES = 40 };
    for (unsigned round = 0; round < 3000; round++) {
        uint8_t p[BYTES], before[BYTES];
        for (size_t i = 0; i < BYTES; i++)
            p[i] = draw(3) ? (draw(2) ? 0xff : 0) : (uint8_t)draw(256);
        memcpy(before, p, BYTES);
        uint64_t from = draw(BYTES * 8), to = from + 1 + draw(BYTES * 8 - from);
        bool value = draw(2);
        uint64_t at = from;
        while (at < to && bit(p, at) != value)
            at++;
        assert_int_equal(bits_find(p, from, to, value), at);
        bits_set(p, from, to);
        for (uint64_t i = 0; i < BYTES * 8; i++)
            assert_int_equal(bit(p, i), bit(before, i) || (i >= from && i < to));
        bits_cut(p, from, BYTES);
        for (uint64_t i = 0; i < BYTES * 8; i++)
            assert_int_equal(bit(p, i), i < from && bit(before, i));
    }
}

/* ---- pieces -------------------------------------------------------------------------------- */

/* Bits in memory, for bits_store. */
struct pattern {
    uint8_t *bytes; /* whole pieces */
    uint64_t pieces, cluster;
    uint32_t only; /* this piece is stored, the others are kept; UINT32_MAX: all are stored */
};

static int give(void *opaque, uint32_t index, uint8_t *piece, struct img_error *err)
{
    const struct pattern *p = opaque;
    (void)err;
    assert_true(index < p->pieces);
    assert_true(bytes_are(piece, p->cluster, 0));
    if (p->only != UINT32_MAX && p->only != index)
        return BITS_KEPT;
    memcpy(piece, p->bytes + index * p->cluster, p->cluster);
    return 0;
}

/* Pieces of ones, of zeroes, and of anything. */
static struct pattern make_pattern(const struct bitmap_bits *b)
{
    struct pattern p = {
        .pieces = b->pieces, .cluster = b->q->geometry.cluster_size, .only = UINT32_MAX};
    p.bytes = calloc(p.pieces, p.cluster);
    assert_non_null(p.bytes);
    for (uint64_t i = 0; i < p.pieces; i++) {
        uint64_t kind = draw(4);
        if (kind == 1)
            memset(p.bytes + i * p.cluster, 0xff, p.cluster);
        for (uint64_t k = 0; kind > 1 && k < 1 + draw(kind == 2 ? 2 : p.cluster); k++)
            p.bytes[i * p.cluster + draw(p.cluster)] ^= (uint8_t)draw(256);
    }
    bits_cut(p.bytes, b->count, p.pieces * p.cluster);
    return p;
}

/* Stores P as the bits of the image's only bitmap. */
static void store(struct img *img, struct pattern *p)
{
    struct img_error err = IMG_ERROR_INIT;
    struct qcow2 *q = state_of(img);
    struct qcow2_bitmap bitmap = q->bitmaps[0];
    struct bits_source source = {give, p};
    struct bitmap_bits old;
    struct transaction t;
    done(bits_load(&old, q, &bitmap, &err), &err);
    done(tx_begin(&t, q, &err), &err);
    done(bits_store(&t, &old, &source, &bitmap, &err), &err);
    done(bitmap_write_directory(&t, &bitmap, 1, &err), &err);
    done(tx_commit(&t, &err), &err);
    tx_end(&t);
    bits_free(&old);
}

static void expect_pattern(struct img *img, const struct pattern *p)
{
    struct img_error err = IMG_ERROR_INIT;
    struct bitmap_bits b;
    uint8_t *piece = malloc(p->cluster);
    assert_non_null(piece);
    done(bits_load(&b, state_of(img), &state_of(img)->bitmaps[0], &err), &err);
    assert_int_equal(b.pieces, p->pieces);
    for (uint32_t i = 0; i < b.pieces; i++) {
        const uint8_t *wanted = p->bytes + i * p->cluster;
        bool full = bits_in_piece(&b, i) == p->cluster * 8;
        done(bits_read_piece(&b, i, piece, &err), &err);
        assert_memory_equal(piece, wanted, p->cluster);
        /* equal bits take no cluster; a last piece that is not full is no piece of ones */
        if (bytes_are(wanted, p->cluster, 0))
            assert_int_equal(b.table[i], 0);
        else if (full && bytes_are(wanted, p->cluster, 0xff))
            assert_int_equal(b.table[i], BITMAP_ALL_ONES);
        else
            assert_in_range(b.table[i], p->cluster, UINT64_MAX);
    }
    bits_free(&b);
    free(piece);
}

static void stored(uint64_t size, const char *options, uint32_t granularity)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = create(size, options);
    struct bitmap_bits shape;
    done(img_bitmap_add(img, "bitmap", granularity, &err), &err);
    bits_init(&shape, state_of(img), "bitmap", granularity);
    for (unsigned round = 0; round < 6; round++) {
        struct pattern p = make_pattern(&shape);
        store(img, &p);
        expect_pattern(img, &p);
        free(p.bytes);
        expect_sound();
    }
    img_close(img);
}

static void what_is_stored_is_read(void **state)
{
    (void)state;
    stored(64 << 20, "cluster_size=512", 512);
    stored((64 << 20) + 512, "cluster_size=512", 1024);
    stored(5 << 20, "cluster_size=4096", 512);
    stored(1 << 20, "cluster_size=2M", 65536);
    stored(512, NULL, 1u << 31);
    stored(1ull << 40, "cluster_size=64k", 4096);
}

static void what_is_kept_stays_where_it_is(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = create(64 << 20, "cluster_size=512");
    struct bitmap_bits before, after;
    done(img_bitmap_add(img, "bitmap", 512, &err), &err);
    bits_init(&before, state_of(img), "bitmap", 512);
    struct pattern p = make_pattern(&before);
    store(img, &p);
    done(bits_load(&before, state_of(img), &state_of(img)->bitmaps[0], &err), &err);
    p.only = 7;
    memset(p.bytes + 7 * p.cluster, 0x55, p.cluster);
    store(img, &p);
    expect_pattern(img, &p);
    done(bits_load(&after, state_of(img), &state_of(img)->bitmaps[0], &err), &err);
    for (uint32_t i = 0; i < after.pieces; i++)
        assert_true((after.table[i] == before.table[i]) == (i != 7));
    /* and where all is kept, the table too */
    p.only = after.pieces;
    store(img, &p);
    assert_int_equal(state_of(img)->bitmaps[0].table_offset, after.table_offset);
    expect_sound();
    bits_free(&before);
    bits_free(&after);
    free(p.bytes);
    img_close(img);
}

/* ---- merging ------------------------------------------------------------------------------- */

/* Every bit of SRC sets those of DST that share a byte of the disk with it. */
static uint8_t *merged(const struct pattern *src, uint32_t from, const struct pattern *dst,
                       uint32_t to, uint64_t size)
{
    uint8_t *out = malloc(dst->pieces * dst->cluster);
    assert_non_null(out);
    memcpy(out, dst->bytes, dst->pieces * dst->cluster);
    uint64_t count = div_round_up(size, from);
    for (uint64_t i = 0; i < count; i++)
        for (uint64_t at = i * from; bit(src->bytes, i) && at < min_u64((i + 1) * from, size);
             at += 512)
            out[at / to / 8] |= (uint8_t)(1 << at / to % 8);
    return out;
}

static void merges(const char *here, uint32_t granularity, const char *there, uint32_t other)
{
    struct img_error err = IMG_ERROR_INIT;
    uint64_t size = (6 << 20) + 512 * draw(3000);
    struct bitmap_bits shape, other_shape;
    struct img *img = create(size, here), *source = create_at(test_path("source"), size, there);
    done(img_bitmap_add(img, "bitmap", granularity, &err), &err);
    done(img_bitmap_add(source, "other", other, &err), &err);
    bits_init(&shape, state_of(img), "bitmap", granularity);
    bits_init(&other_shape, state_of(source), "other", other);
    struct pattern p = make_pattern(&shape), o = make_pattern(&other_shape);
    store(img, &p);
    store(source, &o);
    uint8_t *sum = merged(&o, other, &p, granularity, size);
    done(img_bitmap_merge(img, "bitmap", source, "other", &err), &err);
    free(p.bytes);
    p.bytes = sum;
    expect_pattern(img, &p);
    free(p.bytes);
    free(o.bytes);
    img_close(source);
    img_close(img);
    expect_sound();
}

static void merging_sets_what_the_other_has(void **state)
{
    (void)state;
    static const char *const options[] = {"cluster_size=512", "cluster_size=1024",
                                          "cluster_size=4096", "cluster_size=64k"};
    for (unsigned round = 0; round < 60; round++)
        merges(options[draw(4)], 512u << draw(8), options[draw(4)], 512u << draw(8));
    merges("cluster_size=512", 512, "cluster_size=2M", 1u << 31);
    merges("cluster_size=2M", 1u << 31, "cluster_size=512", 512);
}

/* ---- changes ------------------------------------------------------------------------------- */

static void all_actions_or_none(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = create(1 << 20, NULL);
    size_t failed = 77;
    const struct img_bitmap_action actions[] = {
        {.kind = IMG_BITMAP_ADD, .granularity = 512},
        {.kind = IMG_BITMAP_DISABLE},
        {.kind = IMG_BITMAP_MERGE, .source_name = "none"},
        {.kind = IMG_BITMAP_CLEAR},
    };
    refused(img_bitmap_change(img, "a", actions, 4, &failed, &err), ENOENT, &err,
            "Dirty bitmap 'none' not found");
    assert_int_equal(failed, 2);
    assert_int_equal(state_of(img)->bitmap_count, 0);
    done(img_bitmap_change(img, "a", actions, 2, &failed, &err), &err);
    assert_int_equal(failed, 2);
    assert_int_equal(state_of(img)->bitmap_count, 1);
    assert_int_equal(state_of(img)->bitmaps[0].info.flags, 0);
    done(img_bitmap_enable(img, "a", &err), &err);
    assert_int_equal(state_of(img)->bitmaps[0].info.flags, IMG_BITMAP_AUTO);
    done(img_bitmap_disable(img, "a", &err), &err);
    done(img_bitmap_clear(img, "a", &err), &err);
    assert_int_equal(state_of(img)->bitmaps[0].info.flags, 0);
    done(img_bitmap_remove(img, "a", &err), &err);
    assert_int_equal(state_of(img)->header.autoclear, 0);
    assert_false(state_of(img)->ext.has_bitmaps);
    img_close(img);
    expect_sound();
    img = open_path(path, 0);
    assert_int_equal(img_bitmap_add(img, "a", 0, &err), -EBADF);
    img_error_clear(&err);
    img_close(img);
}

/* QEMU's limits, at which it says so itself. */
static void limits(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = create(1 << 20, NULL);
    struct qcow2 *q = state_of(img);
    struct qcow2_bitmap *list = calloc(MAX_BITMAPS, sizeof *list);
    char text[MAX_BITMAP_NAME + 1], other[MAX_BITMAP_NAME + 1], message[4096];
    assert_non_null(list);
    memset(text, 'x', MAX_BITMAP_NAME);
    text[MAX_BITMAP_NAME] = '\0';
    memcpy(other, text, sizeof other);
    other[0] = 'y';
    for (size_t i = 0; i < MAX_BITMAPS; i++)
        list[i].info.name = (char *)"name";
    q->bitmaps = list;
    q->bitmap_count = MAX_BITMAPS;
    snprintf(message, sizeof message,
             "Can't make bitmap 'a' persistent in '%s': Maximum number of persistent bitmaps is "
             "already reached",
             path);
    refused(img_bitmap_add(img, "a", 0, &err), ENOSPC, &err, message);
    for (size_t i = 0; i < MAX_BITMAPS; i++)
        list[i].info.name = text;
    q->bitmap_count = MAX_BITMAP_DIRECTORY_BYTES / bitmap_entry_size(text);
    snprintf(message, sizeof message,
             "Can't make bitmap '%s' persistent in '%s': Not enough space in the bitmap directory",
             other, path);
    refused(img_bitmap_add(img, other, 0, &err), ENOSPC, &err, message);
    q->bitmaps = NULL;
    q->bitmap_count = 0;
    free(list);
    img_close(img);
}

static void bad_granularities(void **state)
{
    (void)state;
    static const uint64_t bad[] = {1, 256, 511, 513, 65537, 1ull << 32, 5ull << 30, UINT64_MAX};
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = create(1 << 20, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(img_bitmap_add(img, "a", bad[i], &err), EINVAL, &err,
                "Granularity must be power of 2 and at least 512");
    done(img_bitmap_add(img, "a", 512, &err), &err);
    done(img_bitmap_add(img, "b", 1ull << 31, &err), &err);
    assert_int_equal(state_of(img)->bitmaps[1].info.granularity, 1u << 31);
    img_close(img);
    expect_sound();
}

/* Writes WIDTH bytes of VALUE behind the back of the handle that is opened then. */
static struct img *patched(struct img *img, uint64_t offset, unsigned width, uint64_t value)
{
    struct img_error err = IMG_ERROR_INIT;
    uint8_t bytes[8];
    store_be64(bytes, value);
    done(file_write(state_of(img)->file, bytes + 8 - width, width, host(offset), &err), &err);
    img_close(img);
    return open_path(path, IMG_OPEN_WRITE);
}

static void a_table_that_lies_is_not_followed(void **state)
{
    (void)state;
    static const struct {
        uint64_t entry;
        const char *says;
    } lies[] = {
        {1ull << 60, "has reserved bits set"},
        {4096 * 1000 + 1, "has both an offset and the flag for ones"},
        {4096 + 512, "is not cluster aligned"},
        {4096 * 1000ull, "lies outside the file"},
        {0, "lies inside another table"}, /* the L1 table, wherever that is */
    };
    struct img_error err = IMG_ERROR_INIT;
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        char message[256];
        struct img *img = create(1 << 20, "cluster_size=4096");
        done(img_bitmap_add(img, "a", 0, &err), &err);
        done(img_bitmap_add(img, "b", 0, &err), &err);
        uint64_t entry = lies[i].entry ? lies[i].entry : state_of(img)->header.l1_offset;
        img = patched(img, state_of(img)->bitmaps[0].table_offset, 8, entry);
        snprintf(message, sizeof message,
                 "Could not read bitmap_table table from image for bitmap 'a': entry 0 %s: %#llx",
                 lies[i].says, (unsigned long long)entry);
        refused(img_bitmap_clear(img, "a", &err), EINVAL, &err, message);
        refused(img_bitmap_remove(img, "a", &err), EINVAL, &err, message);
        refused(img_bitmap_merge(img, "b", NULL, "a", &err), EINVAL, &err, message);
        /* in use: nobody believes the table, and what it names is not given back */
        img = patched(img, state_of(img)->ext.bitmap_directory_offset + 12, 4, IMG_BITMAP_IN_USE);
        refused(img_bitmap_clear(img, "a", &err), EINVAL, &err,
                "Bitmap 'a' is inconsistent and cannot be used");
        done(img_bitmap_remove(img, "a", &err), &err);
        img_close(img);
        expect_sound();
    }
}

static void what_qemu_refuses_too(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = create(64 << 20, "cluster_size=512"), *other;
    char message[256];
    done(img_bitmap_add(img, "a", 512, &err), &err);
    /* a table longer than the disk needs */
    img = patched(img, state_of(img)->ext.bitmap_directory_offset + 8, 4, 33);
    refused(img_bitmap_clear(img, "a", &err), EINVAL, &err,
            "Could not read bitmap 'a' from image: it has 33 clusters where the disk needs 32");
    img_close(img);
    img = create(1 << 20, NULL);
    done(img_bitmap_add(img, "a", 0, &err), &err);
    other = create_at(test_path("other"), 2 << 20, NULL);
    done(img_bitmap_add(other, "b", 0, &err), &err);
    refused(img_bitmap_merge(img, "a", other, "b", &err), EINVAL, &err,
            "Bitmaps are of different sizes (destination size is 1048576, source size is 2097152) "
            "and can't be merged");
    img_close(other);
    img_close(img);
    img = create(0, NULL);
    snprintf(message, sizeof message,
             "Can't make bitmap 'a' persistent in '%s': The disk is empty: it has no bits", path);
    refused(img_bitmap_add(img, "a", 0, &err), EINVAL, &err, message);
    img_close(img);
}

/* ---- failures ------------------------------------------------------------------------------ */

static unsigned left;

static bool cancelled(void *opaque)
{
    (void)opaque;
    return left == 0 || left-- == 0;
}

static struct img *three_bitmaps(void)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img = create(8 << 20, "cluster_size=512");
    struct bitmap_bits shape;
    done(img_bitmap_add(img, "a", 512, &err), &err);
    bits_init(&shape, state_of(img), "a", 512);
    struct pattern p = make_pattern(&shape);
    store(img, &p);
    free(p.bytes);
    done(img_bitmap_add(img, "b", 1024, &err), &err);
    done(img_bitmap_merge(img, "b", NULL, "a", &err), &err);
    done(img_bitmap_add(img, "c", 4096, &err), &err);
    return img;
}

/* Wherever a write fails, nothing was done, or all. */
static void fails_anywhere(const char *name, const struct img_bitmap_action *actions, size_t count)
{
    struct img_error err = IMG_ERROR_INIT;
    img_close(three_bitmaps());
    for (unsigned n = 0, complete = 0; !complete; n++) {
        struct img_open_options o = {
            .format = "qcow2", .flags = IMG_OPEN_WRITE, .cancelled = cancelled};
        struct img *img = NULL;
        left = UINT32_MAX;
        done(img_open(&img, path, &o, &err), &err);
        assert_int_equal(state_of(img)->bitmap_count, 3);
        left = n;
        size_t failed;
        int ret = img_bitmap_change(img, name, actions, count, &failed, &err);
        complete = ret == 0;
        assert_true(complete || ret == -ECANCELED);
        assert_int_equal(failed, count);
        img_error_clear(&err);
        img_close(img);
        expect_sound();
        assert_true(n < 1000);
        assert_true(n > 3 || !complete);
    }
}

static void a_failure_leaves_the_old_image(void **state)
{
    (void)state;
    const struct img_bitmap_action merge_all[] = {
        {.kind = IMG_BITMAP_MERGE, .source_name = "a"},
        {.kind = IMG_BITMAP_DISABLE},
        {.kind = IMG_BITMAP_MERGE, .source_name = "b"},
    };
    const struct img_bitmap_action remove[] = {{.kind = IMG_BITMAP_REMOVE}};
    const struct img_bitmap_action replace[] = {{.kind = IMG_BITMAP_REMOVE},
                                                {.kind = IMG_BITMAP_ADD},
                                                {.kind = IMG_BITMAP_MERGE, .source_name = "b"}};
    fails_anywhere("c", merge_all, 3);
    fails_anywhere("a", remove, 1);
    fails_anywhere("a", replace, 3);
}

static int remove_files(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_are_what_single_bits_say),
        cmocka_unit_test(what_is_stored_is_read),
        cmocka_unit_test(what_is_kept_stays_where_it_is),
        cmocka_unit_test(merging_sets_what_the_other_has),
        cmocka_unit_test(all_actions_or_none),
        cmocka_unit_test(limits),
        cmocka_unit_test(bad_granularities),
        cmocka_unit_test(a_table_that_lies_is_not_followed),
        cmocka_unit_test(what_qemu_refuses_too),
        cmocka_unit_test(a_failure_leaves_the_old_image),
    };
    const char *given = getenv("SEED");
    seed = given ? strtoull(given, NULL, 0) : 1;
    printf("seed %llu\n", (unsigned long long)seed);
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    return cmocka_run_group_tests(tests, NULL, remove_files);
}
