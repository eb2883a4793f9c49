#include "lib/extents.h"

static bool continues(const struct img_extent *prev, const struct img_extent *next)
{
    return prev->length && prev->kind == next->kind && prev->depth == next->depth &&
           prev->reads_zero == next->reads_zero && prev->has_offset == next->has_offset &&
           prev->filename == next->filename &&
           (!prev->has_offset || prev->offset + prev->length == next->offset);
}

int extent_join(struct extent_joiner *j, const struct img_extent *next)
{
    if (continues(&j->pending, next)) {
        j->pending.length += next->length;
        return 0;
    }
    int ret = extent_join_finish(j);
    j->pending = *next;
    return ret;
}

int extent_join_finish(struct extent_joiner *j)
{
    int ret = j->pending.length ? j->fn(j->opaque, &j->pending) : 0;
    j->pending.length = 0;
    return ret;
}
