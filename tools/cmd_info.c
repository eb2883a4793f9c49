/* imgtool info: what an image, or every layer of its chain, says of itself. */
#include "commands.h"
#include "output.h"
#include "snapshot_list.h"
#include "source.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- JSON: QAPI's BlockGraphInfo, members in QEMU's order ---- */

static void json_snapshots(struct json *j, const struct img_info *info)
{
    if (!info->snapshot_count)
        return;
    json_open(j, "snapshots", '[');
    for (size_t i = 0; i < info->snapshot_count; i++) {
        const struct img_snapshot_info *s = &info->snapshots[i];
        json_open(j, NULL, '{');
        if (s->has_icount)
            json_number(j, "icount", s->icount);
        json_number(j, "vm-clock-nsec", s->vm_clock_nsec % 1000000000);
        json_string(j, "name", s->name);
        json_number(j, "date-sec", s->date_sec);
        json_number(j, "date-nsec", s->date_nsec);
        json_number(j, "vm-clock-sec", s->vm_clock_nsec / 1000000000);
        json_string(j, "id", s->id);
        json_number(j, "vm-state-size", s->vm_state_size);
        json_close(j, '}');
    }
    json_close(j, ']');
}

static void json_bitmaps(struct json *j, const struct img_qcow2_info *q)
{
    if (!q->bitmap_count)
        return;
    json_open(j, "bitmaps", '[');
    for (size_t i = 0; i < q->bitmap_count; i++) {
        json_open(j, NULL, '{');
        json_open(j, "flags", '[');
        if (q->bitmaps[i].flags & IMG_BITMAP_IN_USE)
            json_string(j, NULL, "in-use");
        if (q->bitmaps[i].flags & IMG_BITMAP_AUTO)
            json_string(j, NULL, "auto");
        json_close(j, ']');
        json_string(j, "name", q->bitmaps[i].name);
        json_number(j, "granularity", q->bitmaps[i].granularity);
        json_close(j, '}');
    }
    json_close(j, ']');
}

static void json_luks(struct json *j, const struct img_encryption_info *e)
{
    json_string(j, "ivgen-alg", e->ivgen_alg);
    json_bool(j, "detached-header", false);
    json_string(j, "hash-alg", e->hash_alg);
    json_string(j, "cipher-alg", e->cipher_alg);
    json_string(j, "uuid", e->uuid);
    if (*e->ivgen_hash_alg)
        json_string(j, "ivgen-hash-alg", e->ivgen_hash_alg);
    json_string(j, "format", "luks");
    json_string(j, "cipher-mode", e->cipher_mode);
    json_open(j, "slots", '[');
    for (unsigned i = 0; i < IMG_LUKS_SLOTS; i++) {
        const struct img_luks_slot *s = &e->slots[i];
        json_open(j, NULL, '{');
        json_bool(j, "active", s->active);
        if (s->active)
            json_number(j, "iters", s->iterations);
        json_number(j, "key-offset", s->key_offset);
        if (s->active)
            json_number(j, "stripes", s->stripes);
        json_close(j, '}');
    }
    json_close(j, ']');
    json_number(j, "payload-offset", e->payload_offset);
    json_number(j, "master-key-iters", e->master_key_iterations);
}

static void json_encrypt(struct json *j, const struct img_info *info)
{
    if (!info->encrypted)
        return;
    json_open(j, "encrypt", '{');
    if (info->encryption.luks)
        json_luks(j, &info->encryption);
    else
        json_string(j, "format", "aes");
    json_close(j, '}');
}

static void json_qcow2(struct json *j, const struct img_info *info)
{
    const struct img_qcow2_info *q = &info->qcow2;
    bool v3 = q->version > 2;
    json_open(j, "format-specific", '{');
    json_string(j, "type", "qcow2");
    json_open(j, "data", '{');
    json_string(j, "compat", v3 ? "1.1" : "0.10");
    json_string(j, "compression-type", q->compression_type);
    if (v3)
        json_bool(j, "lazy-refcounts", q->lazy_refcounts);
    json_bitmaps(j, q);
    json_number(j, "refcount-bits", q->refcount_bits);
    if (q->data_file)
        json_string(j, "data-file", q->data_file);
    json_encrypt(j, info);
    if (q->has_data_file)
        json_bool(j, "data-file-raw", q->data_file_raw);
    if (v3) {
        json_bool(j, "corrupt", q->corrupt);
        json_bool(j, "extended-l2", q->extended_l2);
    }
    json_close(j, '}');
    json_close(j, '}');
}

/* The host file, which QEMU shows as a node of its own below the image. */
static void json_children(struct json *j, const struct img_info *info)
{
    json_open(j, "children", '[');
    json_open(j, NULL, '{');
    json_string(j, "name", "file");
    json_open(j, "info", '{');
    json_open(j, "children", '[');
    json_close(j, ']');
    json_number(j, "virtual-size", info->file_length);
    json_string(j, "filename", info->file_name);
    json_string(j, "format", info->file_protocol);
    if (info->has_actual_size)
        json_number(j, "actual-size", info->actual_size);
    json_open(j, "format-specific", '{');
    json_string(j, "type", "file");
    json_open(j, "data", '{');
    if (info->has_extent_size_hint)
        json_number(j, "extent-size-hint", info->extent_size_hint);
    json_close(j, '}');
    json_close(j, '}');
    json_bool(j, "dirty-flag", false);
    json_close(j, '}');
    json_close(j, '}');
    json_close(j, ']');
}

static void json_info(struct json *j, const struct img_info *info)
{
    json_open(j, NULL, '{');
    json_children(j, info);
    if (info->backing_format)
        json_string(j, "backing-filename-format", info->backing_format);
    json_snapshots(j, info);
    json_number(j, "virtual-size", info->virtual_size);
    json_string(j, "filename", info->filename);
    if (info->cluster_size)
        json_number(j, "cluster-size", info->cluster_size);
    json_string(j, "format", info->format);
    if (info->has_actual_size)
        json_number(j, "actual-size", info->actual_size);
    if (info->is_qcow2)
        json_qcow2(j, info);
    else if (info->has_extent_size_hint) {
        json_open(j, "format-specific", '{');
        json_string(j, "type", "file");
        json_open(j, "data", '{');
        json_number(j, "extent-size-hint", info->extent_size_hint);
        json_close(j, '}');
        json_close(j, '}');
    }
    if (info->full_backing_filename)
        json_string(j, "full-backing-filename", info->full_backing_filename);
    if (info->encrypted)
        json_bool(j, "encrypted", true);
    if (info->backing_filename)
        json_string(j, "backing-filename", info->backing_filename);
    json_bool(j, "dirty-flag", info->dirty);
    json_close(j, '}');
}

/* ---- text ---- */

static const char *yes(bool b)
{
    return b ? "true" : "false";
}

static void text_luks(FILE *out, const struct img_encryption_info *e)
{
    fprintf(out, "        ivgen alg: %s\n        detached header: false\n        hash alg: %s\n",
            e->ivgen_alg, e->hash_alg);
    fprintf(out, "        cipher alg: %s\n        uuid: %s\n", e->cipher_alg, e->uuid);
    if (*e->ivgen_hash_alg)
        fprintf(out, "        ivgen hash alg: %s\n", e->ivgen_hash_alg);
    fprintf(out, "        format: luks\n        cipher mode: %s\n        slots:\n", e->cipher_mode);
    for (unsigned i = 0; i < IMG_LUKS_SLOTS; i++) {
        const struct img_luks_slot *s = &e->slots[i];
        fprintf(out, "            [%u]:\n                active: %s\n", i, yes(s->active));
        if (s->active)
            fprintf(out, "                iters: %" PRIu32 "\n", s->iterations);
        fprintf(out, "                key offset: %" PRIu64 "\n", s->key_offset);
        if (s->active)
            fprintf(out, "                stripes: %" PRIu32 "\n", s->stripes);
    }
    fprintf(out, "        payload offset: %" PRIu64 "\n        master key iters: %" PRIu32 "\n",
            e->payload_offset, e->master_key_iterations);
}

static void text_bitmaps(FILE *out, const struct img_qcow2_info *q)
{
    if (q->bitmap_count)
        fputs("    bitmaps:\n", out);
    for (size_t i = 0; i < q->bitmap_count; i++) {
        const struct img_bitmap_info *b = &q->bitmaps[i];
        unsigned n = 0;
        fprintf(out, "        [%zu]:\n            flags:\n", i);
        if (b->flags & IMG_BITMAP_IN_USE)
            fprintf(out, "                [%u]: in-use\n", n++);
        if (b->flags & IMG_BITMAP_AUTO)
            fprintf(out, "                [%u]: auto\n", n);
        fprintf(out, "            name: %s\n            granularity: %" PRIu32 "\n", b->name,
                b->granularity);
    }
}

static void text_qcow2(FILE *out, const struct img_info *info)
{
    const struct img_qcow2_info *q = &info->qcow2;
    bool v3 = q->version > 2;
    fprintf(out, "Format specific information:\n    compat: %s\n    compression type: %s\n",
            v3 ? "1.1" : "0.10", q->compression_type);
    if (v3)
        fprintf(out, "    lazy refcounts: %s\n", yes(q->lazy_refcounts));
    text_bitmaps(out, q);
    fprintf(out, "    refcount bits: %u\n", q->refcount_bits);
    if (q->data_file)
        fprintf(out, "    data file: %s\n", q->data_file);
    if (info->encrypted) {
        fputs("    encrypt:\n", out);
        if (info->encryption.luks)
            text_luks(out, &info->encryption);
        else
            fputs("        format: aes\n", out);
    }
    if (q->has_data_file)
        fprintf(out, "    data file raw: %s\n", yes(q->data_file_raw));
    if (v3)
        fprintf(out, "    corrupt: %s\n    extended l2: %s\n", yes(q->corrupt),
                yes(q->extended_l2));
}

static void text_backing(FILE *out, const struct img_info *info)
{
    if (!info->backing_filename)
        return;
    fprintf(out, "backing file: %s", info->backing_filename);
    if (!info->full_backing_filename)
        fputs(" (cannot determine actual path)", out);
    else if (strcmp(info->backing_filename, info->full_backing_filename))
        fprintf(out, " (actual path: %s)", info->full_backing_filename);
    fputc('\n', out);
    if (info->backing_format)
        fprintf(out, "backing file format: %s\n", info->backing_format);
}

static void text_info(FILE *out, const struct img_info *info)
{
    char size[32], disk[32] = "unavailable";
    if (info->has_actual_size)
        human_size(info->actual_size, disk);
    fprintf(out, "image: %s\nfile format: %s\n", info->filename, info->format);
    fprintf(out, "virtual size: %s (%" PRIu64 " bytes)\ndisk size: %s\n",
            human_size(info->virtual_size, size), info->virtual_size, disk);
    if (info->encrypted)
        fputs("encrypted: yes\n", out);
    if (info->cluster_size)
        fprintf(out, "cluster_size: %" PRIu64 "\n", info->cluster_size);
    if (info->dirty)
        fputs("cleanly shut down: no\n", out);
    text_backing(out, info);
    print_snapshots(out, info);
    if (info->is_qcow2)
        text_qcow2(out, info);
    else if (info->has_extent_size_hint)
        fprintf(out, "Format specific information:\n    extent size hint: %" PRIu32 "\n",
                info->extent_size_hint);
    fprintf(out, "Child node '/file':\n    filename: %s\n    protocol type: %s\n", info->file_name,
            info->file_protocol);
    fprintf(out, "    file length: %s (%" PRIu64 " bytes)\n    disk size: %s\n",
            human_size(info->file_length, size), info->file_length, disk);
    if (info->has_extent_size_hint)
        fprintf(out, "    Format specific information:\n        extent size hint: %" PRIu32 "\n",
                info->extent_size_hint);
}

/* ---- the command ---- */

static void make_printable(char **s)
{
    char *safe = *s ? printable(*s) : NULL;
    if (safe) {
        free(*s);
        *s = safe;
    }
}

/* Text has no escapes of its own; JSON has. */
static void make_all_printable(struct img_info *info)
{
    make_printable(&info->filename);
    make_printable(&info->backing_filename);
    make_printable(&info->full_backing_filename);
    make_printable(&info->backing_format);
    make_printable(&info->file_name);
    make_printable(&info->qcow2.data_file);
    for (size_t i = 0; i < info->qcow2.bitmap_count; i++)
        make_printable(&info->qcow2.bitmaps[i].name);
}

static void print_layers(FILE *out, const struct img_chain_info *chain, bool list, bool json)
{
    struct json j = {.out = out};
    if (json && list)
        json_open(&j, NULL, '[');
    for (size_t i = 0; i < chain->count; i++) {
        if (json) {
            json_info(&j, chain->layers[i]);
        } else {
            if (i)
                fputc('\n', out);
            make_all_printable(chain->layers[i]);
            text_info(out, chain->layers[i]);
        }
    }
    if (json && list)
        json_close(&j, ']');
}

/* The image alone, in the shape of a chain of one. */
static int describe_one(struct img_chain_info *chain, const char *filename,
                        struct img_open_options *options, struct img_error *err)
{
    struct img *img;
    options->flags |= IMG_OPEN_NO_DATA;
    int ret = img_open(&img, filename, options, err);
    if (ret < 0)
        return ret;
    chain->layers = calloc(1, sizeof *chain->layers);
    ret = chain->layers ? img_describe(img, 0, &chain->layers[0], err) : -1;
    chain->count = ret == 0;
    img_close(img);
    return ret;
}

struct info_request {
    struct img_open_options open;
    bool json, whole_chain;
};

static int run(struct tool *tool, const char *filename, struct info_request *r)
{
    struct img_chain_info chain = {0};
    struct img_error err = IMG_ERROR_INIT;
    struct output o;
    int ret = r->whole_chain ? img_chain_info(&chain, filename, &r->open, &err)
                             : describe_one(&chain, filename, &r->open, &err);
    /* qemu-img shows nothing of a chain that breaks; imgtool shows what could be reached */
    bool show = ret == 0 || (chain.count && !tool->as_qemu);
    FILE *out = show ? output_start(&o) : NULL;
    int failed = show && !out;
    if (out) {
        print_layers(out, &chain, r->whole_chain, r->json);
        failed = output_finish(&o, true);
    }
    img_chain_info_free(&chain);
    if (ret < 0)
        return tool_report(tool, &err);
    return failed ? tool_error(tool, "Could not write the output") : 0;
}

int cmd_info(struct tool *tool, int argc, char **argv)
{
    static const struct option options[] = {
        SOURCE_LONG,
        {"backing-chain", no_argument, 0, 'b'},
        {0, 0, 0, 0},
    };
    struct info_request r = {0};
    const char *filename;
    int c, code;
    while ((c = source_getopt(tool, &r.open, argc, argv, SOURCE_SHORT "b", options, &code)) != -1) {
        if (c == TOOL_STOP)
            return code;
        if (c == 'b')
            r.whole_chain = true;
        else if (c == SOURCE_OUTPUT && tool_output_format(tool, optarg, &r.json))
            return 1;
    }
    if (source_filename(tool, &r.open, argc, argv, &filename))
        return 1;
    return run(tool, filename, &r);
}
