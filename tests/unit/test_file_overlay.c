/* A file as it would be: what is read through it, and in which order its changes are done. */
#include "faulty_disk.h"
#include "lib/file_overlay.h"

#include <stdio.h>

enum { SECTOR = 512, SIZE = 40 * SECTOR + 100, MAX_LOG = 64 };

/* A file that lists what is done to it: "3=1,1", the first bytes of sectors 3 and 4, and "flush".
 */
struct log {
    struct file file;
    struct file *below;
    char text[MAX_LOG * 16];
};

static int log_pwrite(struct file *f, const void *buf, size_t len, host_off off)
{
    struct log *l = (struct log *)f;
    char *at = l->text + strlen(l->text);
    at += sprintf(at, "%zu", (size_t)off.v / SECTOR);
    for (size_t i = 0; i < len; i += SECTOR)
        at += sprintf(at, "%c%u", i ? ',' : '=', ((const uint8_t *)buf)[i]);
    strcpy(at, " ");
    return l->below->ops->pwrite(l->below, buf, len, off);
}

static int log_flush(struct file *f)
{
    strcat(((struct log *)f)->text, "flush ");
    return 0;
}

static const struct file_ops log_ops = {.pwrite = log_pwrite, .flush = log_flush};

struct scene {
    struct disk disk;
    struct disk_faults faults;
    struct file *below, *overlay;
    struct log log;
    uint8_t expected[SIZE * 2];
    size_t size;
};

static void begin(struct scene *s, size_t memory)
{
    *s = (struct scene){.size = SIZE};
    for (size_t i = 0; i < SIZE; i++)
        s->expected[i] = (uint8_t)(i * 7 + i / SECTOR);
    s->disk = disk_new(s->expected, SIZE, &s->faults);
    s->below = disk_open(&s->disk, "below");
    assert_int_equal(overlay_open(&s->overlay, s->below, memory, NULL), 0);
    s->log = (struct log){.file = {.ops = &log_ops, .name = "log"}, .below = s->below};
}

static void end(struct scene *s)
{
    file_close(s->overlay);
    file_close(s->below);
    free(s->disk.data);
}

static void put(struct scene *s, uint64_t off, size_t len, uint8_t byte)
{
    uint8_t buf[8 * SECTOR];
    memset(buf, byte, len);
    assert_int_equal(file_write(s->overlay, buf, len, host(off), NULL), 0);
    memset(s->expected + off, byte, len);
    s->size = off + len > s->size ? off + len : s->size;
}

static void expect_contents(struct scene *s)
{
    uint8_t buf[SIZE * 2];
    uint64_t size;
    size_t got;
    assert_int_equal(file_size(s->overlay, &size, NULL), 0);
    assert_int_equal(size, s->size);
    for (size_t off = 0; off < s->size; off += 333) {
        assert_int_equal(file_read_upto(s->overlay, buf, 1000, host(off), &got, NULL), 0);
        assert_int_equal(got, s->size - off < 1000 ? s->size - off : 1000);
        assert_memory_equal(buf, s->expected + off, got);
    }
    assert_int_equal(s->disk.size, SIZE); /* and below nothing has changed */
}

/* In memory, half of it in a file, all of it in a file. */
static void what_is_written_is_read(void **state)
{
    static const size_t memory[] = {1 << 20, 64 * SECTOR, 0};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct scene s;
        begin(&s, memory[i]);
        expect_contents(&s);
        put(&s, 3 * SECTOR, SECTOR, 1);
        put(&s, 5 * SECTOR + 7, 3 * SECTOR, 2); /* parts of sectors */
        put(&s, 6 * SECTOR, 9, 3);
        expect_contents(&s);
        put(&s, 39 * SECTOR, 2 * SECTOR, 4); /* over the end */
        expect_contents(&s);
        put(&s, 60 * SECTOR + 5, SECTOR, 5); /* behind it: zeroes between */
        expect_contents(&s);
        for (unsigned k = 0; k < 60; k += 2)
            put(&s, k * SECTOR, SECTOR, (uint8_t)k);
        expect_contents(&s);
        end(&s);
    }
}

/* For who does not look at holes. */
static void what_grows_is_a_hole_but_for_what_is_written(void **state)
{
    struct scene s;
    struct file_extent e;
    (void)state;
    begin(&s, 1 << 20);
    put(&s, 60 * SECTOR, SECTOR, 1);
    put(&s, 70 * SECTOR, SECTOR, 1);
    const struct {
        unsigned at, length;
        bool data;
    } expected[] = {{41, 19, false}, {60, 1, true}, {61, 9, false}, {70, 1, true}};
    for (size_t i = 0; i < 4; i++) {
        uint64_t at = expected[i].at * SECTOR;
        assert_int_equal(s.overlay->ops->extent(s.overlay, host(at), &e), 0);
        assert_int_equal(e.data, expected[i].data);
        assert_int_equal(e.length, expected[i].length * SECTOR);
    }
    assert_int_equal(s.overlay->ops->extent(s.overlay, host(SECTOR), &e), 0);
    assert_true(e.data && e.length == SIZE - SECTOR);
    end(&s);
}

static void changes_are_done_in_stages(void **state)
{
    struct scene s;
    struct overlay_progress p;
    (void)state;
    begin(&s, 1 << 20);
    put(&s, 9 * SECTOR, SECTOR, 1);
    put(&s, 4 * SECTOR, 2 * SECTOR, 2);
    assert_int_equal(overlay_stage(s.overlay), 0);
    assert_int_equal(file_flush(s.overlay, NULL), 0);
    assert_int_equal(file_flush(s.overlay, NULL), 0); /* nothing was written since */
    assert_int_equal(overlay_stage(s.overlay), 1);
    put(&s, 0, SECTOR, 3);
    put(&s, 5 * SECTOR, SECTOR, 4); /* what was written last counts */
    assert_int_equal(file_flush(s.overlay, NULL), 0);
    put(&s, 41 * SECTOR, SECTOR, 0);
    expect_contents(&s);
    assert_int_equal(overlay_replay(s.overlay, &s.log.file, UINT32_MAX, &p, NULL), 0);
    assert_string_equal(s.log.text, "4=2,2 9=1 flush 0=3 5=4 flush 41=0 flush ");
    assert_true(p.inside && !p.begun);
    assert_int_equal(s.disk.size, s.size);
    assert_memory_equal(s.disk.data, s.expected, s.size);
    end(&s);
}

/* What a stage wrote is done in its turn, whatever a later one writes there. */
static void each_stage_is_done_as_it_was(void **state)
{
    static const size_t memory[] = {1 << 20, 0};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct scene s;
        struct overlay_progress p;
        begin(&s, memory[i]);
        put(&s, 41 * SECTOR, SECTOR, 1);
        put(&s, 0, SECTOR, 1);
        put(&s, 9 * SECTOR, SECTOR, 1);
        assert_int_equal(file_flush(s.overlay, NULL), 0);
        put(&s, 0, SECTOR, 2);
        put(&s, 9 * SECTOR, SECTOR, 1); /* the same again */
        assert_int_equal(file_flush(s.overlay, NULL), 0);
        put(&s, 41 * SECTOR, SECTOR, 3);
        put(&s, 7 * SECTOR, SECTOR, 4);
        put(&s, 7 * SECTOR, SECTOR, 5); /* within a stage, the last counts */
        expect_contents(&s);
        assert_int_equal(overlay_replay(s.overlay, &s.log.file, UINT32_MAX, &p, NULL), 0);
        assert_string_equal(s.log.text, "0=1 9=1 41=1 flush 0=2 flush 7=5 41=3 flush ");
        assert_memory_equal(s.disk.data, s.expected, s.size);
        end(&s);
    }
}

/* There and back: both ways are done. */
static void a_stage_can_bring_back_what_was(void **state)
{
    struct scene s;
    struct overlay_progress p;
    uint8_t old[SECTOR];
    (void)state;
    begin(&s, 1 << 20);
    memcpy(old, s.expected + 3 * SECTOR, SECTOR);
    put(&s, 3 * SECTOR, SECTOR, 1);
    assert_int_equal(file_flush(s.overlay, NULL), 0);
    assert_int_equal(file_write(s.overlay, old, SECTOR, host(3 * SECTOR), NULL), 0);
    assert_int_equal(overlay_replay(s.overlay, &s.log.file, UINT32_MAX, &p, NULL), 0);
    assert_string_equal(s.log.text, "3=1 flush 3=3 flush ");
    assert_memory_equal(s.disk.data + 3 * SECTOR, old, SECTOR);
    end(&s);
}

struct told {
    char text[400];
    unsigned versions;
};

/* "3+2=1,1:4,4": sectors, and the first byte of each version of each. */
static int tell(void *opaque, host_off off, size_t len, const uint8_t *new, struct img_error *err)
{
    struct told *t = opaque;
    size_t sectors = (len + SECTOR - 1) / SECTOR;
    char *at = t->text + strlen(t->text);
    (void)err;
    at += sprintf(at, "%zu+%zu", (size_t)off.v / SECTOR, sectors);
    for (size_t i = 0; i < sectors * t->versions; i++)
        at += sprintf(at, "%c%u", i % t->versions ? ',' : i ? ':' : '=', new[i * SECTOR]);
    strcpy(at, " ");
    return 0;
}

static void what_changes_is_told_once_with_all_its_versions(void **state)
{
    static const size_t memory[] = {1 << 20, 0};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct scene s;
        uint8_t old[SECTOR];
        begin(&s, memory[i]);
        memcpy(old, s.expected + 6 * SECTOR, SECTOR);
        put(&s, 9 * SECTOR, 2 * SECTOR, 1);
        put(&s, 3 * SECTOR, SECTOR, 1);
        assert_int_equal(file_write(s.overlay, old, SECTOR, host(6 * SECTOR), NULL), 0);
        file_flush(s.overlay, NULL);
        put(&s, 10 * SECTOR, SECTOR, 2);
        put(&s, 45 * SECTOR, 100, 6);
        file_flush(s.overlay, NULL);
        put(&s, 10 * SECTOR, 2 * SECTOR, 3);
        struct told told = {.versions = overlay_versions(s.overlay)};
        assert_int_equal(told.versions, 3);
        assert_int_equal(overlay_each_change(s.overlay, tell, &told, NULL), 0);
        assert_string_equal(told.text, "3+1=1,1,1 9+3=1,1,1:1,2,3:3,3,3 45+1=6,6,6 ");
        end(&s);
    }
}

static void what_stays_the_same_is_not_written(void **state)
{
    struct scene s;
    struct overlay_progress p;
    uint8_t sector[SECTOR];
    (void)state;
    begin(&s, 1 << 20);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(file_read(s.overlay, sector, SECTOR, host(i * SECTOR), NULL), 0);
        sector[0] ^= i == 2;
        assert_int_equal(file_write(s.overlay, sector, SECTOR, host(i * SECTOR), NULL), 0);
    }
    assert_int_equal(overlay_replay(s.overlay, &s.log.file, 0, &p, NULL), 0);
    assert_string_equal(s.log.text, "2=3 flush ");
    assert_true(p.inside && p.begun);
    end(&s);
}

static bool stop(void *opaque)
{
    return --*(int *)opaque < 0;
}

/* Until the stage that cannot be taken back, each write can be the last. */
static void it_can_be_stopped_until_it_counts(void **state)
{
    (void)state;
    for (int n = 0; n < 8; n++) {
        struct scene s;
        struct overlay_progress p;
        int left = n;
        struct cancel cancel = {stop, &left};
        begin(&s, 1 << 20);
        put(&s, 50 * SECTOR, SECTOR, 1); /* behind the end */
        put(&s, 7 * SECTOR, SECTOR, 1);
        file_flush(s.overlay, NULL);
        put(&s, 0, SECTOR, 1);
        s.log.file.cancel = &cancel;
        int ret = overlay_replay(s.overlay, &s.log.file, 1, &p, NULL);
        assert_ptr_equal(s.log.file.cancel, &cancel);
        assert_int_equal(ret, n < 3 ? -ECANCELED : 0);
        assert_int_equal(p.begun, n >= 3);
        assert_int_equal(p.inside, n >= 1);
        end(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(what_grows_is_a_hole_but_for_what_is_written),
        cmocka_unit_test(changes_are_done_in_stages),
        cmocka_unit_test(each_stage_is_done_as_it_was),
        cmocka_unit_test(a_stage_can_bring_back_what_was),
        cmocka_unit_test(what_changes_is_told_once_with_all_its_versions),
        cmocka_unit_test(what_stays_the_same_is_not_written),
        cmocka_unit_test(it_can_be_stopped_until_it_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
