/*
 * Gathering what cache_rules.c needs, layer by layer. No data, and of the tables only the L1 table,
 * which is counted in pieces: the size of the disk costs no memory.
 */
#include "lib/image.h"

#include <stdlib.h>

static int gather(struct img_cache_layer *out, struct layer *l, struct img_error *err)
{
    struct img_cache_facts *f = &out->facts;
    const struct img_info *info = out->info;
    f->virtual_size = l->size;
    if (!l->driver->tables)
        return 0;
    struct layer_tables tables;
    int ret = l->driver->tables(l, &tables, err);
    if (ret < 0)
        return img_prefix(err, ret, "Could not read '%s': ", l->filename);
    f->cluster_size = l->cluster_size;
    f->extended_l2 = tables.extended_l2;
    f->refcount_bits = info->is_qcow2 ? info->qcow2.refcount_bits : 0;
    f->snapshots = info->snapshot_count;
    f->file_length = info->file_length;
    f->l2_allocated = tables.l2_bytes;
    return 0;
}

static int add(void *opaque, struct layer *l, struct img_error *err)
{
    struct img_cache_survey *survey = opaque;
    if (l->data_file_given)
        return img_fail(
            err, ENOTSUP,
            "'%s' has its data file given by an option, which what is advised would lack",
            l->filename);
    struct img_cache_layer *layers = realloc(survey->layers, (survey->count + 1) * sizeof *layers);
    if (!layers)
        return img_fail_nomem(err);
    survey->layers = layers;
    struct img_cache_layer *out = &layers[survey->count];
    *out = (struct img_cache_layer){0};
    int ret = layer_describe(&out->info, l, err);
    if (ret < 0)
        return ret;
    ret = gather(out, l, err);
    if (ret < 0)
        img_info_free(out->info);
    else
        survey->count++;
    return ret;
}

int img_cache_survey(struct img_cache_survey *survey, const char *filename,
                     const struct img_open_options *options, bool whole_chain,
                     struct img_error *err)
{
    *survey = (struct img_cache_survey){0};
    return each_layer(filename, options, whole_chain ? WALK_USED : WALK_TOP, add, survey, err);
}

void img_cache_survey_free(struct img_cache_survey *survey)
{
    for (size_t i = 0; i < survey->count; i++)
        img_info_free(survey->layers[i].info);
    free(survey->layers);
    *survey = (struct img_cache_survey){0};
}
