/* imgtool bench: how long a number of requests to an image takes. */
#include "commands.h"
#include "interrupt.h"
#include "source.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bench_request {
    struct tool *tool;
    struct img_open_options open;
    struct img_bench_options bench;
    const char *filename;
    bool native, direct; /* asked for */
};

static int measure(struct bench_request *r, struct img *img)
{
    struct img_error err = IMG_ERROR_INIT;
    const struct img_bench_options *b = &r->bench;
    double seconds;
    printf("Sending %" PRIu64 " %s requests, %zu bytes each, %u in parallel "
           "(starting at offset %" PRIu64 ", step size %" PRIu64 ")\n",
           b->count, b->write ? "write" : "read", b->size, b->depth, b->offset,
           b->step ? b->step : b->size);
    if (b->flush_interval)
        printf("Sending flush every %" PRIu64 " requests\n", b->flush_interval);
    fflush(stdout);
    if (img_bench(img, b, &seconds, &err) < 0 || (b->write && img_flush(img, &err) < 0)) {
        img_close(img);
        interrupt_die();
        return tool_report(r->tool, &err);
    }
    printf("Run completed in %3.3f seconds.\n", seconds);
    img_close(img);
    return 0;
}

static int run(struct bench_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    if (r->bench.write)
        tool_change_options(r->tool, &r->open);
    else
        interrupt_watch();
    r->bench.cancelled = interrupt_wanted;
    if (img_open(&img, r->filename, &r->open, &err) < 0) {
        interrupt_die();
        return tool_report(r->tool, &err);
    }
    return measure(r, img);
}

static int finish(struct bench_request *r, int argc, char **argv)
{
    const struct img_bench_options *b = &r->bench;
    if (optind != argc - 1)
        return tool_usage_error(r->tool, "Expecting one image file name");
    r->filename = argv[optind];
    if (!b->write && b->flush_interval)
        return tool_error(r->tool, "--flush-interval is only available in write tests");
    if (b->flush_interval && b->flush_interval < b->depth)
        return tool_error(r->tool, "Flush interval can't be smaller than depth");
    if (source_check(r->tool, &r->open))
        return 1;
    if (r->native && !r->direct) /* a rule of Linux, which threads need not mind */
        return tool_error(r->tool,
                          "Could not open '%s': aio=native was specified, but it requires "
                          "cache.direct=on, which was not specified.",
                          r->filename);
    return run(r);
}

static int take_cache(struct bench_request *r, const char *mode)
{
    if (!tool_is_cache_mode(mode))
        return tool_error(r->tool, "Invalid cache mode");
    r->direct = !strcmp(mode, "none") || !strcmp(mode, "directsync");
    r->bench.flush_each = !strcmp(mode, "writethrough") || !strcmp(mode, "directsync");
    return 0;
}

static int take_aio(struct bench_request *r, const char *name)
{
    r->native = !strcmp(name, "native");
    if (r->native || !strcmp(name, "threads") || !strcmp(name, "io_uring"))
        return 0; /* there are threads, whatever is asked for */
    return tool_error(r->tool, "Invalid aio option: %s", name);
}

/* An option that has a number. */
static int take_number(struct bench_request *r, int c, const char *value)
{
    struct img_bench_options *b = &r->bench;
    uint64_t n = 0;
    int failed = 0;
    switch (c) {
    case 'c':
        return tool_number(r->tool, "request count", value, 1, INT_MAX, &b->count);
    case 'd':
        failed = tool_number(r->tool, "queue depth", value, 1, INT_MAX, &n);
        b->depth = (unsigned)n;
        break;
    case 'o':
        return tool_size(r->tool, "offset", value, &b->offset);
    case 's':
        failed = tool_size_between(r->tool, "buffer size", value, 1, INT_MAX, &n);
        b->size = (size_t)n;
        break;
    case 'S':
        return tool_size_between(r->tool, "step size", value, 0, INT_MAX, &b->step);
    }
    return failed;
}

enum { PATTERN = SOURCE_OWN, FLUSH_INTERVAL, NO_DRAIN };

/* Any option of bench's own; 1: it is wrong. */
static int take(struct bench_request *r, int c, const char *value)
{
    uint64_t n = 0;
    int failed = 0;
    switch (c) {
    case 'i':
        return take_aio(r, value);
    case 't':
        return take_cache(r, value);
    case 'w':
        r->bench.write = true;
        return 0;
    case 'n':
        r->native = true;
        return 0;
    case 'q': /* as qemu-img has it, of no effect */
        return 0;
    case PATTERN:
        failed = tool_number(r->tool, "pattern byte", value, 0, 0xff, &n);
        r->bench.pattern = (uint8_t)n;
        return failed;
    case FLUSH_INTERVAL:
        return tool_number(r->tool, "flush interval", value, 0, INT_MAX, &r->bench.flush_interval);
    case NO_DRAIN:
        r->bench.no_drain = true;
        return 0;
    default:
        return take_number(r, c, value);
    }
}

int cmd_bench(struct tool *tool, int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, 0, 'h'},
        {"format", required_argument, 0, 'f'},
        {"image-opts", no_argument, 0, SOURCE_IMAGE_OPTS},
        {"force-share", no_argument, 0, 'U'},
        {"object", required_argument, 0, SOURCE_OBJECT},
        {"quiet", no_argument, 0, 'q'},
        {"cache", required_argument, 0, 't'},
        {"count", required_argument, 0, 'c'},
        {"depth", required_argument, 0, 'd'},
        {"offset", required_argument, 0, 'o'},
        {"buffer-size", required_argument, 0, 's'},
        {"step-size", required_argument, 0, 'S'},
        {"aio", required_argument, 0, 'i'},
        {"native", no_argument, 0, 'n'},
        {"write", no_argument, 0, 'w'},
        {"pattern", required_argument, 0, PATTERN},
        {"flush-interval", required_argument, 0, FLUSH_INTERVAL},
        {"no-drain", no_argument, 0, NO_DRAIN},
        {0, 0, 0, 0},
    };
    struct bench_request r = {.tool = tool, .bench = {.count = 75000, .depth = 64, .size = 4096}};
    int c, code;
    while ((c = source_getopt(tool, &r.open, argc, argv, SOURCE_SHORT "c:d:ni:o:qs:S:t:w", options,
                              &code)) != -1) {
        if (c == TOOL_STOP)
            return code;
        if (take(&r, c, optarg))
            return 1;
    }
    return finish(&r, argc, argv);
}
