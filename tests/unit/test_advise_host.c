/* Advice on the machine, from facts made by hand, and the parsers, from sample texts. */
#include "advise_facts.h"

#include <linux/fiemap.h>
#include <sys/stat.h>
#include <unistd.h>

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
        .type = "nfs4",
        .point = "/srv/vm images",
        .source = "nas:/export",
        .options = "rw,relatime,rw,vers=4.2,rsize=1048576,wsize=1048576,namlen=255,hard,proto=tcp"};
    expect(advise_nfs_options, &m, IMG_ADVICE_OK, "hard, rsize=1048576, wsize=1048576", NULL);
    m.x.host.mount.options = "rw,rw,vers=4.2,rsize=8192,wsize=8192,hard";
    expect(
        advise_nfs_options, &m, IMG_ADVICE_ADVISED, "hard, rsize=8192, wsize=8192",
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
        &m,
        "36 35 0:52 / /srv/vm\\040images rw,noatime master:1 shared:7 - nfs4 nas:/x rw,vers=4.2\n",
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
    static const char *const bad[] = {"",
                                      "x",
                                      "36",
                                      "36 35 0:52",
                                      "36 35 0:52 / /mnt rw",
                                      "\n",
                                      "36 35 0:52 / /mnt rw - ",
                                      "36 35 0:52 - nfs4 nas:/x rw",
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
    assert_int_equal(l.fragments, 1); /* the hole is no jump */
    assert_true(advise_layout_add(&l, MIB(6), 0, MIB(1), FIEMAP_EXTENT_DELALLOC));
    assert_int_equal(l.count, 3);
    assert_int_equal(l.fragments, 1);
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

static void jumps_are_fragments(void **state)
{
    (void)state;
    struct advise_layout l = {0};
    assert_true(advise_layout_add(&l, 0, MIB(100), MIB(1), 0));
    assert_true(advise_layout_add(&l, MIB(1), MIB(50), MIB(1), 0));
    assert_true(advise_layout_add(&l, MIB(2), MIB(51), MIB(1), FIEMAP_EXTENT_UNWRITTEN));
    assert_true(advise_layout_add(&l, MIB(3), MIB(9), MIB(1), 0));
    assert_int_equal(l.fragments, 3);
    assert_int_equal(l.fragment_bytes, MIB(4));
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
        {"a.qcow2", "a.qcow2"},     {"", "''"},           {"/a b/c", "'/a b/c'"},
        {"it's", "'it'\\''s'"},     {"$(rm)", "'$(rm)'"}, {"a\nb'c\\", "$'a\\012b\\'c\\\\'"},
        {"\xc3\xa9", "'\xc3\xa9'"}, {"~x", "'~x'"},
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
        cmocka_unit_test(nocow),
        cmocka_unit_test(nfs_options),
        cmocka_unit_test(io_scheduler),
        cmocka_unit_test(scheduler_texts),
        cmocka_unit_test(mount_lines),
        cmocka_unit_test(mount_by_id),
        cmocka_unit_test(mount_options),
        cmocka_unit_test(disks_below),
        cmocka_unit_test(layout_of_extents),
        cmocka_unit_test(jumps_are_fragments),
        cmocka_unit_test(layout_is_bounded),
        cmocka_unit_test(quoting),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
