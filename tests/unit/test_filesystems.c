/* What the child that looks at a disk can do, and what its parent believes. */
#include "lib/ops/filesystems.h"
#include "lib/image.h"
#include "lib/ops/filesystems_child.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { SIZE = 8 << 20, PART = 1 << 20, PART_SIZE = 1 << 20 };

static bool on_valgrind(void)
{
    const char *preloaded = getenv("LD_PRELOAD");
    return preloaded && strstr(preloaded, "vgpreload"); /* it knows no seccomp */
}

/* A disk with one partition, and swap space in it. */
static uint8_t *make_disk(void)
{
    uint8_t *disk = calloc(1, SIZE), *entry = disk + 446, *swap = disk + PART;
    const uint8_t partition[16] = {0, 0, 0, 0, 0x82, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0};
    memcpy(entry, partition, sizeof partition);
    memcpy(disk + 510, "\x55\xaa", 2);
    swap[1024] = 1;                    /* version */
    swap[1028] = PART_SIZE / 4096 - 1; /* last page */
    memcpy(swap + 1024 + 28, "label", 6);
    memcpy(swap + 4086, "SWAPSPACE2", 10);
    return disk;
}

/* ---- the sandbox ---- */

struct watch {
    const uint8_t *disk;
    unsigned reads, seen;
    int fail;
};

/* The one child that this process has. */
static int find_child(void)
{
    int pid = 0;
    FILE *f = fopen("/proc/thread-self/children", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%d", &pid), 1);
    fclose(f);
    return pid;
}

static void expect_locked_up(int pid)
{
    char path[64], line[256], link[64] = "";
    bool filtered = false, no_new = false;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        filtered |= !strcmp(line, "Seccomp:\t2\n");
        no_new |= !strcmp(line, "NoNewPrivs:\t1\n");
    }
    fclose(f);
    assert_true(filtered);
    assert_true(no_new);
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    unsigned open_files = 0;
    for (struct dirent *e; (e = readdir(dir));)
        open_files += e->d_name[0] != '.';
    closedir(dir);
    assert_int_equal(open_files, 1);
    snprintf(path, sizeof path, "/proc/%d/fd/0", pid);
    assert_true(readlink(path, link, sizeof link - 1) > 0);
    assert_string_equal(link, "/memfd:imgtool-disk (deleted)");
}

static int watched_read(void *opaque, void *buf, size_t len, uint64_t off, struct img_error *err)
{
    struct watch *w = opaque;
    w->reads++;
    if (w->fail)
        return img_fail(err, EIO, "no luck");
    expect_locked_up(find_child());
    w->seen++;
    memcpy(buf, w->disk + off, len);
    return 0;
}

static void test_child_has_a_filter_and_one_descriptor(void **state)
{
    (void)state;
    uint8_t *disk = make_disk();
    struct watch w = {.disk = disk};
    struct probe_job job = {SIZE, 0, watched_read, &w, 16 << 20, 1000000000};
    struct probe_report *report = NULL;
    struct img_error err = IMG_ERROR_INIT;
    unsigned trouble = 0;
    if (probe_run(&report, &trouble, &job, &err) < 0)
        fail_msg("%s", img_error_message(&err));
    assert_true(w.seen > 1);
    assert_int_equal(trouble, 0);
    assert_int_equal(report->outcome, PROBE_DONE);
    assert_int_equal(report->count, 2);
    assert_string_equal(report->records[1].type, "swap");
    probe_report_free(report);
    free(disk);
}

#ifdef HAVE_BLKID

/* What each call says that a process locked up may not do; 0: it did it. */
enum { CALLS = 11 };

static void try_all(int said[CALLS], pid_t parent)
{
    static char name[] = "/bin/true", *const none[] = {NULL};
    long page = sysconf(_SC_PAGESIZE);
    const long calls[CALLS][7] = {
        {SYS_openat, AT_FDCWD, (long)name, O_RDONLY},
        {SYS_socket, AF_UNIX, SOCK_STREAM, 0},
        {SYS_write, 0, (long)name, 1},
        {SYS_pwrite64, 0, (long)name, 1, 0},
        {SYS_dup, 0},
        {SYS_execve, (long)name, (long)none, (long)none},
        {SYS_clone, SIGCHLD},
        {SYS_kill, parent, 0},
        {SYS_ptrace, 0},
        {SYS_mmap, 0, page, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0},
        {SYS_mmap, 0, page, PROT_READ, MAP_PRIVATE, 0, 0},
    };
    for (size_t i = 0; i < CALLS; i++) {
        const long *c = calls[i];
        said[i] = syscall(c[0], c[1], c[2], c[3], c[4], c[5], c[6]) < 0 ? errno : 0;
    }
}

static void run_locked_up(int said[CALLS], int socket, pid_t parent)
{
    int memfd = memfd_create("disk", MFD_CLOEXEC);
    struct probe_job job = {.size = SIZE, .memory = 16 << 20, .time = 1000000000};
    if (memfd >= 0 && ftruncate(memfd, SIZE) == 0 && !probe_lock_up(memfd, socket, &job, parent))
        try_all(said, parent);
    for (;;)
        syscall(SYS_exit_group, 0);
}

static void test_other_calls_fail(void **state)
{
    (void)state;
    int ends[2], status = 0,
                 *said = mmap(NULL, CALLS * sizeof *said, PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(said, MAP_FAILED);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    pid_t self = getpid(), child = fork();
    assert_true(child >= 0);
    if (child == 0)
        run_locked_up(said, ends[1], self);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    for (size_t i = 0; i < CALLS; i++)
        if (said[i] != EPERM)
            fail_msg("call %zu of the list: %s", i, said[i] ? strerror(said[i]) : "was done");
    munmap(said, CALLS * sizeof *said);
    close(ends[0]);
    close(ends[1]);
}

#endif

static void test_disk_that_cannot_be_read(void **state)
{
    (void)state;
    struct watch w = {.fail = 1};
    struct probe_job job = {SIZE, 0, watched_read, &w, 16 << 20, 1000000000};
    struct probe_report *report = NULL;
    struct img_error err = IMG_ERROR_INIT;
    unsigned trouble = 0;
    assert_int_equal(probe_run(&report, &trouble, &job, &err), -EIO);
    assert_string_equal(img_error_message(&err), "no luck");
    assert_int_equal(w.reads, 1);
    img_error_clear(&err);
}

static void test_time_is_bounded(void **state)
{
    (void)state;
    uint8_t *disk = make_disk();
    struct watch w = {.disk = disk};
    struct probe_job job = {SIZE, 0, watched_read, &w, 16 << 20, 1};
    struct probe_report *report = NULL;
    struct img_error err = IMG_ERROR_INIT;
    unsigned trouble = 0;
    assert_int_equal(probe_run(&report, &trouble, &job, &err), 0);
    assert_int_equal(trouble, PROBE_TOO_LONG);
    probe_report_free(report);
    free(disk);
}

static void test_whole(void **state)
{
    (void)state;
    uint8_t *disk = make_disk();
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    struct img_filesystems *f;
    assert_int_equal(img_open_memory(&img, disk, SIZE, "raw", 0, &err), 0);
    if (img_filesystems(&f, img, NULL, &err) < 0)
        fail_msg("%s", img_error_message(&err));
    assert_null(f->problem);
    assert_int_equal(f->sector_size, 512);
    assert_int_equal(f->count, 2);
    const struct img_volume *v = &f->volumes[1];
    assert_string_equal(f->volumes[0].table, "dos");
    assert_string_equal(v->name, "/dev/sda1");
    assert_string_equal(v->part_type, "0x82");
    assert_string_equal(v->label, "label");
    assert_int_equal(v->content, IMG_CONTENT_SWAP);
    assert_int_equal(v->start, PART);
    assert_int_equal(v->size, PART_SIZE);
    img_filesystems_free(f);
    struct img_filesystems_options odd = {.sector_size = 1000};
    assert_int_equal(img_filesystems(&f, img, &odd, &err), -EINVAL);
    img_error_clear(&err);
    img_close(img);
    free(disk);
}

/* ---- what the parent believes ---- */

static struct probe_report *lie(void)
{
    struct probe_report *report = calloc(1, sizeof *report);
    report->sector_size = 512;
    report->count = 2;
    report->records[0] = (struct probe_record){.kind = IMG_VOLUME_DISK, .size = SIZE};
    report->records[1] = (struct probe_record){
        .kind = IMG_VOLUME_PARTITION, .number = 1, .start = PART, .size = PART_SIZE};
    return report;
}

static void refused(struct probe_report *report)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img_filesystems *f = NULL;
    assert_int_equal(probe_decode(&f, report, SIZE, &err), -EPROTO);
    assert_null(f);
    img_error_clear(&err);
    free(report);
}

#define REFUSED(field, value)                                                                      \
    do {                                                                                           \
        struct probe_report *report = lie();                                                       \
        report->field = value;                                                                     \
        refused(report);                                                                           \
    } while (0)

static void test_lies_are_refused(void **state)
{
    (void)state;
    REFUSED(count, PROBE_RECORDS_MAX + 1);
    REFUSED(count, UINT32_MAX);
    REFUSED(sector_size, 0);
    REFUSED(records[0].kind, IMG_VOLUME_PARTITION);
    REFUSED(records[1].kind, IMG_VOLUME_DISK);
    REFUSED(records[1].kind, IMG_VOLUME_SUBVOLUME + 1);
    REFUSED(records[1].kind, IMG_VOLUME_LOGICAL); /* without a name */
    REFUSED(records[1].kind, IMG_VOLUME_SUBVOLUME);
    REFUSED(records[1].group, 2);
    REFUSED(records[1].content_size, UINT64_MAX);
    REFUSED(records[1].content, IMG_CONTENT_AMBIGUOUS + 1);
    REFUSED(records[1].number, UINT32_MAX);
    REFUSED(records[1].parent, 1);
    REFUSED(records[1].parent, UINT32_MAX);
    REFUSED(records[1].start, SIZE + 1);
    REFUSED(records[1].start, UINT64_MAX);
    REFUSED(records[1].size, SIZE - PART + 1);
    REFUSED(records[1].size, UINT64_MAX);
}

static void test_strings_without_an_end(void **state)
{
    (void)state;
    struct img_error err = IMG_ERROR_INIT;
    struct img_filesystems *f = NULL;
    struct probe_report *report = lie();
    struct probe_record *r = &report->records[1];
    memset(r->name, 'x', sizeof *r - ((size_t)((char *)r->name - (char *)r)));
    assert_int_equal(probe_decode(&f, report, SIZE, &err), 0);
    assert_int_equal(strlen(f->volumes[1].label), PROBE_LABEL - 1);
    assert_int_equal(strlen(f->volumes[1].type), PROBE_ID - 1);
    assert_string_equal(f->volumes[1].name, "/dev/sda1");
    img_filesystems_free(f);
    free(report);
}

int main(void)
{
    const struct CMUnitTest decoding[] = {
        cmocka_unit_test(test_lies_are_refused),
        cmocka_unit_test(test_strings_without_an_end),
    };
    const struct CMUnitTest looking[] = {
        cmocka_unit_test(test_child_has_a_filter_and_one_descriptor),
#ifdef HAVE_BLKID
        cmocka_unit_test(test_other_calls_fail),
#endif
        cmocka_unit_test(test_disk_that_cannot_be_read),
        cmocka_unit_test(test_time_is_bounded),
        cmocka_unit_test(test_whole),
    };
    int failed = cmocka_run_group_tests(decoding, NULL, NULL);
    bool skip = on_valgrind();
#ifndef HAVE_BLKID
    skip = true;
#endif
    return skip ? failed : failed + cmocka_run_group_tests(looking, NULL, NULL);
}
