/*
 * writer: changes an image through libimgtool as a text file says.
 *
 *   writer [-f FMT] [-d DUMP] IMAGE SCRIPT
 *
 * A line of SCRIPT is one of
 *
 *   write PATTERN OFFSET LENGTH   bytes of value PATTERN
 *   zero OFFSET LENGTH [unmap]
 *   discard OFFSET LENGTH
 *   flush
 *   reopen
 *   snapshot NAME, apply NAME, delete NAME
 *   resize SIZE
 *   same OFFSET LENGTH PATTERN    read it back through the same handle; an error if it is not so
 *
 *   -d DUMP   at the end, before the image is closed, the whole disk as it is read goes here
 */
#include <imgtool.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *image, *format;
static struct img *img;
static struct img_error err = IMG_ERROR_INIT;

static void fail(const char *what)
{
    fprintf(stderr, "writer: %s: %s\n", what, img_error_message(&err));
    exit(1);
}

static void open_image(void)
{
    struct img_open_options o = {.format = format, .flags = IMG_OPEN_WRITE};
    if (img_open(&img, image, &o, &err) < 0)
        fail("open");
}

static void close_image(void)
{
    if (img_flush(img, &err) < 0)
        fail("flush at the end");
    img_close(img);
}

static void *bytes(int pattern, size_t length)
{
    void *buf = malloc(length + 1);
    if (!buf)
        abort();
    return memset(buf, pattern, length);
}

static int expect_same(uint64_t offset, size_t length, int pattern)
{
    void *want = bytes(pattern, length), *got = bytes(~pattern, length);
    int ret = img_read(img, got, length, offset, &err);
    if (!ret && memcmp(want, got, length)) {
        fprintf(stderr, "writer: %zu bytes at %" PRIu64 " are not %d\n", length, offset, pattern);
        exit(1);
    }
    free(want);
    free(got);
    return ret;
}

/* False: LINE is none of those that change more than the guest's data. */
static int run_change(const char *line, int *ret)
{
    struct img_resize_options shrink = {.flags = IMG_RESIZE_SHRINK};
    uint64_t size;
    char name[32];
    if (sscanf(line, "snapshot %31s", name) == 1)
        *ret = img_snapshot_create(img, name, &err);
    else if (sscanf(line, "apply %31s", name) == 1)
        *ret = img_snapshot_apply(img, name, &err);
    else if (sscanf(line, "delete %31s", name) == 1)
        *ret = img_snapshot_delete(img, name, &err);
    else if (sscanf(line, "resize %" SCNu64, &size) == 1)
        *ret = img_resize(img, size, &shrink, &err);
    else
        return 0;
    return 1;
}

static int run_line(const char *line)
{
    int ret;
    uint64_t offset, length;
    int pattern;
    char word[16] = "";
    if (sscanf(line, "write %d %" SCNu64 " %" SCNu64, &pattern, &offset, &length) == 3) {
        void *buf = bytes(pattern, length);
        ret = img_write(img, buf, length, offset, &err);
        free(buf);
        return ret;
    }
    if (sscanf(line, "zero %" SCNu64 " %" SCNu64 " %15s", &offset, &length, word) >= 2)
        return img_write_zeroes(img, offset, length, *word ? IMG_ZERO_UNMAP : 0, &err);
    if (sscanf(line, "discard %" SCNu64 " %" SCNu64, &offset, &length) == 2)
        return img_discard(img, offset, length, &err);
    if (sscanf(line, "same %" SCNu64 " %" SCNu64 " %d", &offset, &length, &pattern) == 3)
        return expect_same(offset, length, pattern);
    if (run_change(line, &ret))
        return ret;
    if (!strcmp(line, "flush\n"))
        return img_flush(img, &err);
    if (!strcmp(line, "reopen\n")) {
        close_image();
        open_image();
        return 0;
    }
    fprintf(stderr, "writer: what is this? %s", line);
    exit(2);
}

static void dump(const char *name)
{
    static char buf[1 << 20];
    FILE *f = fopen(name, "wb");
    uint64_t size = img_size(img);
    for (uint64_t at = 0; f && at < size;) {
        size_t n = size - at < sizeof buf ? (size_t)(size - at) : sizeof buf;
        if (img_read(img, buf, n, at, &err) < 0)
            fail("read");
        fwrite(buf, 1, n, f);
        at += n;
    }
    if (!f || fclose(f)) {
        perror(name);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    const char *dump_name = NULL;
    char line[200];
    int c;
    while ((c = getopt(argc, argv, "f:d:")) != -1) {
        if (c == 'f')
            format = optarg;
        else if (c == 'd')
            dump_name = optarg;
        else
            return 2;
    }
    FILE *script = optind == argc - 2 ? fopen(argv[optind + 1], "r") : NULL;
    if (!script) {
        fprintf(stderr, "usage: writer [-f FMT] [-d DUMP] IMAGE SCRIPT\n");
        return 2;
    }
    image = argv[optind];
    open_image();
    while (fgets(line, sizeof line, script))
        if (run_line(line) < 0)
            fail(line);
    fclose(script);
    if (dump_name)
        dump(dump_name);
    close_image();
    return 0;
}
