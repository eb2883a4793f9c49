/* imgtool snapshot: an image's internal snapshots: list, take, go back to, delete. */
#include "commands.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"
#include "snapshot_list.h"
#include "source.h"

struct snapshot_request {
    struct tool *tool;
    struct img_open_options open;
    const char *filename;
    int action;       /* 'l', 'c', 'a', 'd'; 0: none was named */
    const char *name; /* for all but 'l' */
    bool quiet;
    struct progress progress;
};

/* ---- list ---- */

static int print_list(const struct snapshot_request *r, const struct img_info *info)
{
    struct output o;
    FILE *out = output_start(&o);
    if (out && !info->qcow2.has_data_file) /* there, QEMU has no snapshots */
        print_snapshots(out, info);
    if (!out || output_finish(&o, true))
        return tool_error(r->tool, "Could not write the output");
    return 0;
}

static int list(struct snapshot_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    struct img_info *info;
    if (img_open(&img, r->filename, &r->open, &err) < 0)
        return tool_report(r->tool, &err);
    int ret = img_describe(img, 0, &info, &err);
    img_close(img);
    if (ret < 0)
        return tool_report(r->tool, &err);
    int code = print_list(r, info);
    img_info_free(info);
    return code;
}

/* ---- change ---- */

static int change_image(const struct snapshot_request *r, struct img *img, struct img_error *err)
{
    switch (r->action) {
    case 'c':
        return img_snapshot_create(img, r->name, err);
    case 'a':
        return img_snapshot_apply(img, r->name, err);
    default:
        return img_snapshot_delete(img, r->name, err);
    }
}

static int change(struct snapshot_request *r)
{
    struct img_error err = IMG_ERROR_INIT;
    struct img *img;
    tool_change_options(r->tool, &r->open);
    if (progress_start(r->tool, &r->progress, r->quiet))
        return 1;
    r->tool->progress = &r->progress;
    int ret = img_open(&img, r->filename, &r->open, &err);
    if (!ret) {
        ret = change_image(r, img, &err);
        img_close(img);
    }
    progress_end(&r->progress, ret);
    r->tool->progress = NULL;
    if (ret < 0)
        interrupt_die();
    return ret < 0 ? tool_report(r->tool, &err) : 0;
}

/* ---- the command ---- */

static int take_action(struct snapshot_request *r, int action)
{
    if (r->action)
        return tool_usage_error(r->tool, "Cannot mix '-l', '-a', '-c', '-d'");
    r->action = action;
    r->name = optarg;
    return 0;
}

int cmd_snapshot(struct tool *tool, int argc, char **argv)
{
    static const struct option options[] = {
        {"help", no_argument, 0, 'h'},
        {"quiet", no_argument, 0, 'q'},
        PROGRESS_OPTION,
        {"object", required_argument, 0, SOURCE_OBJECT},
        {"format", required_argument, 0, 'f'},
        {"image-opts", no_argument, 0, SOURCE_IMAGE_OPTS},
        {"force-share", no_argument, 0, 'U'},
        {"list", no_argument, 0, 'l'},
        {"apply", required_argument, 0, 'a'},
        {"create", required_argument, 0, 'c'},
        {"delete", required_argument, 0, 'd'},
        {0, 0, 0, 0},
    };
    struct snapshot_request r = {.tool = tool};
    int c, code;
    while ((c = source_getopt(tool, &r.open, argc, argv, "hf:Uqpla:c:d:", options, &code)) != -1) {
        if (c == TOOL_STOP)
            return code;
        if (c == 'p' ? progress_option(tool, &r.progress, optarg) : c != 'q' && take_action(&r, c))
            return 1;
        r.quiet |= c == 'q';
    }
    if (source_filename(tool, &r.open, argc, argv, &r.filename))
        return 1;
    return r.name ? change(&r) : list(&r);
}
