/*
 * "Cluster mapping" of the specification.
 *
 * In an image with an external data file, offset 0 is a valid place, told from unallocated by the
 * COPIED flag alone.
 */
#include "formats/qcow2/entry.h"
#include "formats/qcow2/ondisk.h"
#include "lib/checked.h"

static const char *decode_compressed(const struct qcow2_geometry *g, uint64_t entry,
                                     struct qcow2_mapping *out)
{
    unsigned offset_bits = 62 - (g->cluster_bits - 8);
    uint64_t sectors = (entry & ~(ENTRY_COPIED | ENTRY_COMPRESSED)) >> offset_bits;
    if (g->external_data)
        return "Compressed cluster entry found in image with external data file";
    out->type = MAP_COMPRESSED;
    out->host = entry & ((1ull << offset_bits) - 1);
    out->host_length = (uint32_t)((sectors + 1) * 512 - (out->host & 511));
    out->subclusters = g->extended_l2 ? SUBCLUSTERS : 1;
    return 0;
}

/* How many bits of WORD from bit SUB on are equal to that one. */
static unsigned run(uint32_t word, unsigned sub)
{
    uint32_t shifted = word >> sub;
    uint32_t differs = shifted & 1 ? ~shifted : shifted;
    unsigned n = differs ? (unsigned)__builtin_ctz(differs) : SUBCLUSTERS;
    return n < SUBCLUSTERS - sub ? n : SUBCLUSTERS - sub;
}

static const char *decode_subcluster(uint64_t bitmap, unsigned sub, bool has_place,
                                     struct qcow2_mapping *out)
{
    uint32_t allocated = (uint32_t)bitmap, zero = (uint32_t)(bitmap >> 32);
    if (allocated & zero)
        return "Subcluster both allocated and zero";
    if (allocated && !has_place)
        return "Subcluster allocated in an unallocated cluster";
    unsigned a = run(allocated, sub), z = run(zero, sub);
    out->subclusters = a < z ? a : z;
    if (allocated >> sub & 1)
        out->type = MAP_NORMAL;
    else if (zero >> sub & 1)
        out->type = has_place ? MAP_ZERO_ALLOC : MAP_ZERO_PLAIN;
    else
        out->type = has_place ? MAP_UNALLOCATED_ALLOC : MAP_UNALLOCATED;
    return 0;
}

const char *qcow2_decode_entry(const struct qcow2_geometry *g, uint64_t entry, uint64_t bitmap,
                               unsigned sub, struct qcow2_mapping *out)
{
    if (entry & ENTRY_COMPRESSED)
        return decode_compressed(g, entry, out);
    out->host = entry & L2_OFFSET_MASK;
    out->host_length = 0;
    out->subclusters = 1;
    bool has_place = out->host || (g->external_data && (entry & ENTRY_COPIED));
    if (entry & L2_RESERVED_MASK)
        return "Reserved bits set in L2 entry";
    if (!is_aligned(out->host, g->cluster_size))
        return "Cluster allocation offset unaligned";
    if (g->extended_l2) {
        if (entry & ENTRY_ZERO)
            return "Reserved bits set in extended L2 entry";
        return decode_subcluster(bitmap, sub, has_place, out);
    }
    if (entry & ENTRY_ZERO) {
        if (g->version < 3)
            return "Zero cluster entry found in pre-v3 image";
        out->type = out->host ? MAP_ZERO_ALLOC : MAP_ZERO_PLAIN;
        return 0;
    }
    out->type = has_place ? MAP_NORMAL : MAP_UNALLOCATED;
    return 0;
}
