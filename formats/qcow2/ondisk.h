/*
 * The bytes of a qcow2 file, as the specification (QEMU, docs/interop/qcow2.rst) lays them out, and
 * the limits within which its numbers are believed. Only byte arrays; bytes.h reads them.
 */
#ifndef QCOW2_ONDISK_H
#define QCOW2_ONDISK_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define QCOW2_MAGIC 0x514649fbu /* "QFI\xfb" */

/* "Header" */
struct ondisk_header {
    uint8_t magic[4];
    uint8_t version[4];
    uint8_t backing_file_offset[8];
    uint8_t backing_file_size[4];
    uint8_t cluster_bits[4];
    uint8_t size[8];
    uint8_t crypt_method[4];
    uint8_t l1_size[4];
    uint8_t l1_table_offset[8];
    uint8_t refcount_table_offset[8];
    uint8_t refcount_table_clusters[4];
    uint8_t nb_snapshots[4];
    uint8_t snapshots_offset[8];
    /* version 3 and later */
    uint8_t incompatible_features[8];
    uint8_t compatible_features[8];
    uint8_t autoclear_features[8];
    uint8_t refcount_order[4];
    uint8_t header_length[4];
    /* only when header_length reaches this far */
    uint8_t compression_type;
    uint8_t padding[7];
};

static_assert(sizeof(struct ondisk_header) == 112, "header");
static_assert(offsetof(struct ondisk_header, incompatible_features) == 72, "v2 header");
static_assert(offsetof(struct ondisk_header, compression_type) == 104, "v3 header");

enum {
    HEADER_V2_LENGTH = 72,
    HEADER_V3_LENGTH = 104,
};

enum { /* incompatible_features */
       INCOMPAT_DIRTY = 1 << 0,
       INCOMPAT_CORRUPT = 1 << 1,
       INCOMPAT_DATA_FILE = 1 << 2,
       INCOMPAT_COMPRESSION = 1 << 3,
       INCOMPAT_EXTENDED_L2 = 1 << 4,
       INCOMPAT_KNOWN = (1 << 5) - 1,
};

enum { COMPAT_LAZY_REFCOUNTS = 1 << 0 };

enum { /* autoclear_features */
       AUTOCLEAR_BITMAPS = 1 << 0,
       AUTOCLEAR_DATA_FILE_RAW = 1 << 1,
};

enum { CRYPT_NONE, CRYPT_AES, CRYPT_LUKS };
enum { COMPRESSION_ZLIB, COMPRESSION_ZSTD };

/* "Header extensions" */
struct ondisk_extension {
    uint8_t type[4];
    uint8_t length[4];
};

#define EXT_END            0x00000000u
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_FEATURE_NAMES  0x6803f857u
#define EXT_BITMAPS        0x23852875u
#define EXT_CRYPTO         0x0537be77u
#define EXT_DATA_FILE      0x44415441u

/* "Feature name table" */
struct ondisk_feature_name {
    uint8_t type; /* 0 incompatible, 1 compatible, 2 autoclear */
    uint8_t bit;
    char name[46];
};

static_assert(sizeof(struct ondisk_feature_name) == 48, "feature name");

/* "Bitmaps extension" */
struct ondisk_bitmaps {
    uint8_t nb_bitmaps[4];
    uint8_t reserved[4];
    uint8_t directory_size[8];
    uint8_t directory_offset[8];
};

static_assert(sizeof(struct ondisk_bitmaps) == 24, "bitmaps extension");

/* "Full disk encryption header pointer" */
struct ondisk_crypto {
    uint8_t offset[8];
    uint8_t length[8];
};

/* "Bitmap directory" */
struct ondisk_bitmap {
    uint8_t table_offset[8];
    uint8_t table_size[4];
    uint8_t flags[4];
    uint8_t type;
    uint8_t granularity_bits;
    uint8_t name_size[2];
    uint8_t extra_data_size[4];
};

static_assert(sizeof(struct ondisk_bitmap) == 24, "bitmap directory entry");

enum { BITMAP_TYPE_DIRTY = 1 };

/* "Bitmap table" */
#define BITMAP_OFFSET_MASK   0x00fffffffffffe00ull
#define BITMAP_RESERVED_MASK 0xff000000000001feull
#define BITMAP_ALL_ONES      1ull

/* "Snapshots" */
struct ondisk_snapshot {
    uint8_t l1_table_offset[8];
    uint8_t l1_size[4];
    uint8_t id_size[2];
    uint8_t name_size[2];
    uint8_t date_sec[4];
    uint8_t date_nsec[4];
    uint8_t vm_clock_nsec[8];
    uint8_t vm_state_size[4];
    uint8_t extra_data_size[4];
};

struct ondisk_snapshot_extra {
    uint8_t vm_state_size[8];
    uint8_t disk_size[8];
    uint8_t icount[8];
};

static_assert(sizeof(struct ondisk_snapshot) == 40, "snapshot table entry");
static_assert(sizeof(struct ondisk_snapshot_extra) == 24, "snapshot extra data");

/* "L1 table", "L2 table", "Standard cluster descriptor", "Compressed clusters descriptor" */
#define L1_OFFSET_MASK   0x00fffffffffffe00ull
#define L1_RESERVED_MASK 0x7f000000000001ffull
#define L2_OFFSET_MASK   0x00fffffffffffe00ull
#define L2_RESERVED_MASK 0x3f000000000001feull
#define ENTRY_COPIED     (1ull << 63)
#define ENTRY_COMPRESSED (1ull << 62)
#define ENTRY_ZERO       1ull

/* "Refcount table" */
#define REFTABLE_OFFSET_MASK   0xfffffffffffffe00ull
#define REFTABLE_RESERVED_MASK 0x1ffull

/* LUKS on-disk format 1, the partition header */
struct ondisk_luks_slot {
    uint8_t active[4];
    uint8_t iterations[4];
    uint8_t salt[32];
    uint8_t key_offset_sectors[4];
    uint8_t stripes[4];
};

struct ondisk_luks {
    uint8_t magic[6];
    uint8_t version[2];
    char cipher_name[32];
    char cipher_mode[32];
    char hash_spec[32];
    uint8_t payload_offset_sectors[4];
    uint8_t key_bytes[4];
    uint8_t master_digest[20];
    uint8_t master_salt[32];
    uint8_t master_iterations[4];
    char uuid[40];
    struct ondisk_luks_slot slots[8];
};

static_assert(sizeof(struct ondisk_luks) == 592, "LUKS header");

#define LUKS_SLOT_ACTIVE 0x00ac71f3u

/* Limits. QEMU's own, but where it says otherwise. */
enum {
    MIN_CLUSTER_BITS = 9,
    MAX_CLUSTER_BITS = 21,
    MAX_REFCOUNT_ORDER = 6,
    MAX_BACKING_NAME = 1023,
    MAX_BACKING_FORMAT = 15,
    MAX_DATA_FILE_NAME = 4095, /* a host path */
    MAX_L1_BYTES = 32 << 20,
    MAX_REFTABLE_BYTES = 8 << 20,
    MAX_SNAPSHOTS = 65536,
    MAX_SNAPSHOT_EXTRA = 1024,
    MAX_SNAPSHOT_NAME = 255, /* of a new one; there may be longer ones */
    MAX_SNAPSHOT_TABLE_BYTES = 64 << 20,
    MAX_BITMAPS = 65535,
    MAX_BITMAP_DIRECTORY_BYTES = 67107840,
    MAX_BITMAP_TABLE_ENTRIES = 0x8000000,
    MAX_BITMAP_BYTES = 512 << 20,
    MIN_BITMAP_GRANULARITY_BITS = 9,
    MAX_BITMAP_GRANULARITY_BITS = 31,
    MAX_BITMAP_NAME = 1023,
    SUBCLUSTERS = 32,
};

#endif
