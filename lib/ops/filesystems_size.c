/*
 * How large a file system says that it is, as statvfs has it of a mounted one: libblkid says it in
 * later versions only. Runs in the child.
 */
#ifdef HAVE_BLKID

#include "lib/bytes.h"
#include "lib/checked.h"
#include "lib/ops/filesystems_search.h"

#include <string.h>

/* COUNT blocks; 0 where no such file system can be. */
static uint64_t blocks(uint64_t count, uint64_t size)
{
    uint64_t bytes;
    return __builtin_mul_overflow(count, size, &bytes) || bytes > INT64_MAX ? 0 : bytes;
}

/* What its tables take does not count, and is in the superblock since e2fsprogs 1.43. */
static uint64_t size_of_ext(const uint8_t *super)
{
    enum { INCOMPAT_64BIT = 0x80, RO_COMPAT_BIGALLOC = 0x200 };
    uint64_t count = probe_little(super + 4, 4), overhead = probe_little(super + 0x248, 4);
    uint64_t block_log = probe_little(super + 24, 4), cluster_log = probe_little(super + 28, 4);
    if (probe_little(super + 0x60, 4) & INCOMPAT_64BIT)
        count |= probe_little(super + 0x150, 4) << 32;
    if (block_log > 6 || !overhead)
        return 0;
    if (probe_little(super + 0x64, 4) & RO_COMPAT_BIGALLOC) {
        if (cluster_log < block_log || cluster_log > 20)
            return 0;
        overhead <<= cluster_log - block_log;
    }
    return overhead < count ? blocks(count - overhead, 1024U << block_log) : 0;
}

/* A log of its own does not count. */
static uint64_t size_of_xfs(const uint8_t *super)
{
    uint64_t count = load_be64(super + 8), log = load_be64(super + 48) ? load_be32(super + 96) : 0;
    return log < count ? blocks(count - log, load_be32(super + 4)) : 0;
}

/* Clusters: those that there is room for, as far as the table goes. */
static uint64_t size_of_fat(const uint8_t *boot)
{
    uint64_t sector = probe_little(boot + 11, 2), cluster = boot[13];
    uint64_t tables = boot[16], entries = probe_little(boot + 17, 2);
    uint64_t total = probe_little(boot + 19, 2), length = probe_little(boot + 22, 2);
    bool is_32 = !length;
    if (is_32)
        length = probe_little(boot + 36, 4);
    if (!total)
        total = probe_little(boot + 32, 4);
    if (sector < 512 || sector > 4096 || !cluster)
        return 0;
    uint64_t before = probe_little(boot + 14, 2) + tables * length + entries * 32 / sector;
    if (before >= total)
        return 0;
    uint64_t count = (total - before) / cluster, bits = is_32 ? 32 : count > 0xff4 ? 16 : 12;
    uint64_t described = length * sector * 8 / bits;
    return described < 2 ? 0 : blocks(min_u64(count, described - 2), cluster * sector);
}

static uint64_t size_of_btrfs(const uint8_t *super)
{
    return blocks(probe_little(super + 0x70, 8), 1);
}

uint64_t probe_content_size(const struct search *s, const struct probe_record *r)
{
    static const struct {
        const char *type;
        uint64_t at;
        uint64_t (*size)(const uint8_t *super);
    } known[] = {
        {"ext2", 1024, size_of_ext}, {"ext3", 1024, size_of_ext},     {"ext4", 1024, size_of_ext},
        {"xfs", 0, size_of_xfs},     {"btrfs", 65536, size_of_btrfs}, {"vfat", 0, size_of_fat},
    };
    uint8_t super[1024];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(r->type, known[i].type))
            return probe_read(s, super, sizeof super, r->start, known[i].at) ? known[i].size(super)
                                                                             : 0;
    return 0;
}

#endif
