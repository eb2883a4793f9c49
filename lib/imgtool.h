/*
 * imgtool.h - read and write virtual-machine disk images (qcow2, raw)
 *
 * The one public header of libimgtool.
 *
 * Conventions
 *   - Offsets, lengths and sizes are bytes.
 *   - Functions return 0 on success or a negative errno value. The last parameter, a struct
 * img_error, then holds one phrase that says what was wrong; it may be NULL.
 *   - The library prints nothing, never exits and has no global state.
 *   - Strings are as the image or the caller gave them: bytes, usually UTF-8, without control
 *     characters filtered. A program that prints them decides how.
 *   - Every number that comes out of an image has been checked against a named limit before use; a
 *     damaged or hostile image gives an error, never a crash.
 *
 * "The specification" below is QEMU's docs/interop/qcow2.rst.
 */
#ifndef IMGTOOL_H
#define IMGTOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define IMG_API __attribute__((visibility("default")))
#else
#define IMG_API
#endif

/* ---- errors ------------------------------------------------------------------------------- */

/*
 * An error: errno-like code and what went wrong in one phrase, without a newline at its end. Start
 * from IMG_ERROR_INIT; a function that fails replaces what was there. Release with img_error_clear,
 * which leaves the struct ready for use again.
 */
struct img_error {
    int code;      /* positive errno value, 0 when there is no error */
    char *message; /* owned; NULL when there is no error */
    char *hint;    /* owned; a sentence on what to do about it, or NULL */
    char *context; /* owned; details: a field's value, which image named the file; or NULL */
};

#define IMG_ERROR_INIT                                                                             \
    {                                                                                              \
        0, NULL, NULL, NULL                                                                        \
    }

/* The message of an error, never NULL. Borrowed: valid until the error is changed or cleared. */
IMG_API const char *img_error_message(const struct img_error *err);

/* Frees what an error holds. Safe on an error that was never set, and on NULL. */
IMG_API void img_error_clear(struct img_error *err);

/* The library's version, such as "0.1.0". */
IMG_API const char *img_version(void);

/*
 * Reads a size in bytes: a decimal number, with a fraction if one of the suffixes b, k, M, G, T, P,
 * E (powers of 1024, either case) follows, or a hexadecimal one after 0x. -EINVAL when TEXT is
 * none, -ERANGE when it is negative or does not fit.
 */
IMG_API int img_parse_size(const char *text, uint64_t *size);

/*
 * How far a long job is, told now and then: DONE of TOTAL bytes over the whole job; TOTAL may be a
 * guess that changes on the way. PHASE is a word for what is being done, such as "copy": a
 * constant, the same in every version. The first call has DONE = 0, and the last one, if the job
 * succeeds, DONE = TOTAL. Never called by two threads at once.
 */
typedef void (*img_progress)(void *opaque, const char *phase, uint64_t done, uint64_t total);

/* ---- opening ------------------------------------------------------------------------------ */

/* An open image with its whole backing chain. Opaque. */
struct img;

enum img_open_flags {
    /* Do not open the backing file; ranges that it holds are reported as IMG_EXTENT_UNALLOCATED. */
    IMG_OPEN_NO_BACKING = 1 << 0,
    /* Only metadata is wanted: neither a backing file nor an external data file is opened, and an
     * encrypted image opens without its key. Such a handle cannot be mapped or read. */
    IMG_OPEN_NO_DATA = 1 << 1,
    /* Share the image with a program that is writing it. */
    IMG_OPEN_FORCE_SHARE = 1 << 2,
    /* The file name is a list of options ("driver=qcow2,file.filename=a.qcow2"), as QEMU's
     * command line takes it. */
    IMG_OPEN_IMAGE_OPTS = 1 << 3,
    /* Where no format is stated, look at the first bytes alone, as QEMU does: an ISO image or a
     * fixed-size VHD then counts as raw. */
    IMG_OPEN_PROBE_LIKE_QEMU = 1 << 4,
    /* For img_check alone: IMG_OPEN_NO_DATA, and damage that img_check reports (tables outside the
     * file or on top of each other, broken snapshots and bitmaps) does not keep the image from
     * being opened. */
    IMG_OPEN_CHECK = 1 << 5,
    /* The image itself, not what lies below it, is opened to be changed, and locked for that: no
     * other program may write it, or read its metadata, meanwhile. An image that is marked corrupt
     * is refused, but for img_repair. Not with IMG_OPEN_FORCE_SHARE or a snapshot. */
    IMG_OPEN_WRITE = 1 << 6,
    /* No other program may write the image meanwhile, even if it is a raw disk. */
    IMG_OPEN_STILL = 1 << 7,
    /* The files are used past the host's cache, as QEMU's cache.direct=on has it: -EINVAL where a
     * file system cannot, and a raw disk whose length is odd is seen in whole sectors. */
    IMG_OPEN_DIRECT = 1 << 8,
};

enum img_warning {
    IMG_WARN_NO_BACKING_FORMAT, /* a backing file was opened as what it looks like */
    IMG_WARN_BITMAPS_STALE,     /* bitmaps are ignored: the disk was written without them */
    IMG_WARN_REPAIRED,          /* the image was in use when its writer died, and was repaired; the
                                   message has a line for each finding, in QEMU's words */
    IMG_WARN_PROBED_RAW,        /* what looks like no image was opened as raw to be written; the
                                 * message is its name */
    IMG_WARN_CHAIN_ENDS,        /* a chain could not be followed further */
};

struct img_open_options {
    const char *format;   /* "qcow2", "raw"; NULL: find out by looking at the file */
    const char *snapshot; /* read this internal snapshot's disk (its ID or name); NULL: the disk.
                             Only img_open looks at it and at the next two. */
    const char *snapshot_id, *snapshot_name; /* instead: the snapshot that has this ID, this name,
                                                or both */
    unsigned flags;                          /* enum img_open_flags, or-ed */
    /* Called for things that are not errors but that a user should hear of. May be NULL. Only
     * called from within the function that was given these options. */
    void (*warn)(void *opaque, enum img_warning warning, const char *message);
    void *opaque;
    /* Asked now and then while an image that was opened with IMG_OPEN_WRITE is changed, until it is
     * closed: when it is true, the change fails with -ECANCELED, as if the disk had failed. May be
     * NULL. */
    bool (*cancelled)(void *opaque);
    /* Told how far img_check, img_repair and the calls that change snapshots are (phases "check",
     * "repair", "snapshot"; bytes of tables), until the image is closed. May be NULL. */
    img_progress progress;
};

/*
 * Opens the image FILENAME, with every layer of its backing chain; read-only, unless the flags say
 * otherwise.
 *
 * FILENAME is a path, "file:PATH", or "json:{...}" as QEMU writes it, with "driver" and "file"
 * members. Backing file names inside images are resolved against the folder of the image that holds
 * them (the specification, "Header": backing_file_offset); "file:" and "json:" names against the
 * current folder, as in QEMU; an external data file is looked for there, too, and then beside the
 * image. OPTIONS may be NULL. On success *IMG is owned by
 * the caller: img_close.
 *
 * Errors: -ENOENT and the like from the host, -EINVAL for a damaged image, -ENOTSUP for a format or
 * a feature that cannot be read, -ELOOP for a chain that never ends.
 *
 * Thread safety: different handles are independent of each other. One handle may be mapped, read
 * and asked anything from several threads at once; img_close must come after the last of these.
 */
IMG_API int img_open(struct img **img, const char *filename, const struct img_open_options *options,
                     struct img_error *err);

/*
 * Closes a handle; NULL is fine. What was written is brought to disk as by img_flush, but nobody
 * hears of it when that fails: call img_flush first.
 */
IMG_API void img_close(struct img *img);

/* Virtual size: a multiple of 512, or for a raw file its length rounded up to the next. */
IMG_API uint64_t img_size(const struct img *img);

/* Number of layers: 1 for an image without a backing file. */
IMG_API unsigned img_depth(const struct img *img);

/* File name and format name of layer DEPTH (0 is the image itself). Borrowed: valid until
 * img_close; NULL when there is no such layer. */
IMG_API const char *img_layer_filename(const struct img *img, unsigned depth);
IMG_API const char *img_layer_format(const struct img *img, unsigned depth);

/* ---- reading ------------------------------------------------------------------------------ */

/*
 * Reads LENGTH bytes of the guest's disk at OFFSET into BUF. Every byte is delivered or the call
 * fails; on failure BUF is undefined. A range past the virtual size is -EINVAL.
 * Safe from several threads at once.
 */
IMG_API int img_read(struct img *img, void *buf, size_t length, uint64_t offset,
                     struct img_error *err);

enum img_extent_kind {
    IMG_EXTENT_UNALLOCATED, /* in no layer (or: not in this one, with IMG_OPEN_NO_BACKING); zeroes
                             */
    IMG_EXTENT_ZERO,        /* reads as zeroes, said so by a layer */
    IMG_EXTENT_DATA,        /* plain bytes in a host file */
    IMG_EXTENT_COMPRESSED,  /* compressed clusters */
    IMG_EXTENT_ENCRYPTED,   /* encrypted clusters */
};

/*
 * A range of the guest's disk that is stored in one way. What `qemu-img map` prints follows from
 * it: present is kind != UNALLOCATED, zero is reads_zero, data is DATA, COMPRESSED or ENCRYPTED.
 */
struct img_extent {
    uint64_t start, length;
    enum img_extent_kind kind;
    unsigned depth;  /* the layer that decides: 0 is the image itself */
    bool reads_zero; /* ZERO, UNALLOCATED, or DATA that lies in a hole of the host file */
    bool has_offset; /* the range has a place of its own in a host file */
    uint64_t offset; /* that place; meaningless without has_offset */
    const char
        *filename; /* the host file; borrowed, valid until img_close; NULL without has_offset */
};

/*
 * Calls FN for each extent of [OFFSET, OFFSET + LENGTH), in order, as long as they can be:
 * neighbours that continue each other are one. LENGTH past the end is cut. When FN returns other
 * than 0, the walk stops and returns that value. The extents before an error have been delivered
 * when it returns. Safe from several threads at once.
 */
IMG_API int img_map(struct img *img, uint64_t offset, uint64_t length,
                    int (*fn)(void *opaque, const struct img_extent *extent), void *opaque,
                    struct img_error *err);

/* ---- comparing ---------------------------------------------------------------------------- */

enum img_compare_flags {
    /* Sizes and the way in which each range is stored have to be the same, too: of the raw file or
     * the cluster that a range is in, whether it is data, zeroes or nothing, compressed, and
     * whether it has a place in a file; as qemu-img compare -s has it. */
    IMG_COMPARE_STRICT = 1 << 0,
    /* All differences, not only the first. Not with IMG_COMPARE_STRICT. */
    IMG_COMPARE_ALL = 1 << 1,
};

enum img_difference_kind {
    IMG_DIFFERENCE_DATA,   /* bytes differ; past the end of the shorter disk, some are not zero */
    IMG_DIFFERENCE_STATUS, /* strict: it is not stored in the same way */
    IMG_DIFFERENCE_SIZE,   /* strict: the disks have different sizes */
};

/*
 * A range in which two disks differ: whole sectors of 512 bytes, each of which has a byte that
 * differs. With IMG_COMPARE_ALL neighbours are one range; else it is the first sector.
 */
struct img_difference {
    enum img_difference_kind kind;
    uint64_t start, length;
};

struct img_compare_options {
    unsigned flags;   /* enum img_compare_flags, or-ed */
    unsigned threads; /* 0: one for each processor */
    /* Told each difference, in order; other than 0 ends the comparison. Called from any thread, one
     * at a time. May be NULL. */
    int (*difference)(void *opaque, const struct img_difference *difference);
    img_progress progress; /* the phase is "compare"; from any thread, one at a time; may be NULL */
    bool (*cancelled)(void *opaque); /* asked now and then; true: -ECANCELED; may be NULL */
    void *opaque;
};

enum img_compare_step { IMG_COMPARE_MAPPING, IMG_COMPARE_READING };

struct img_comparison {
    bool differ;
    uint64_t differing; /* bytes, in the ranges that were told */
    uint64_t read;      /* bytes that had to be looked at, of both images */
    /* When the call fails for what is in an image: doing what, to which one (0 or 1), and where. */
    enum img_compare_step step;
    unsigned image;
    uint64_t offset;
};

/*
 * Compares what the guest reads of two disks; a shorter one is taken to go on with zeroes. Nothing
 * is read where both are known to be zero, or are the same bytes of the same file: so that an
 * overlay is compared with its own base at the cost of what the overlay holds. OPTIONS may be NULL.
 *
 * That they differ is no error. Errors: those of img_map and img_read; differences that come before
 * the error have been told. Memory: two buffers of 128 KiB for each thread, or of a cluster where
 * that is compressed and larger. Safe from several threads at once.
 */
IMG_API int img_compare(struct img *a, struct img *b, const struct img_compare_options *options,
                        struct img_comparison *result, struct img_error *err);

/* ---- describing --------------------------------------------------------------------------- */

struct img_snapshot_info {
    char *id, *name;
    uint64_t vm_state_size;
    uint64_t disk_size; /* the virtual size when it was taken */
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_nsec;
    bool has_icount;
    uint64_t icount;
};

enum img_bitmap_flags { IMG_BITMAP_IN_USE = 1, IMG_BITMAP_AUTO = 2 };

struct img_bitmap_info {
    char *name;
    unsigned flags;       /* enum img_bitmap_flags */
    uint32_t granularity; /* bytes a bit stands for */
};

struct img_luks_slot {
    bool active;
    uint32_t iterations, stripes; /* only for an active slot */
    uint64_t key_offset;
};

#define IMG_LUKS_SLOTS 8

struct img_encryption_info {
    bool luks; /* false: the old AES of crypt_method 1, of which nothing else is known */
    char cipher_alg[40], cipher_mode[40], ivgen_alg[40], ivgen_hash_alg[40], hash_alg[40], uuid[41];
    uint64_t payload_offset;
    uint32_t master_key_iterations;
    struct img_luks_slot slots[IMG_LUKS_SLOTS];
};

/* What only a qcow2 image has. */
struct img_qcow2_info {
    unsigned version;             /* 2 (compat 0.10) or 3 (compat 1.1) */
    const char *compression_type; /* "zlib", "zstd" */
    bool lazy_refcounts, corrupt, extended_l2;
    unsigned refcount_bits;
    char *data_file; /* external data file's name, or NULL */
    bool has_data_file, data_file_raw;
    struct img_bitmap_info *bitmaps;
    size_t bitmap_count;
    uint64_t l1_entries;
};

/* One layer, described. */
struct img_info {
    char *filename;
    const char *format;
    uint64_t virtual_size;
    bool has_actual_size;
    uint64_t actual_size;  /* bytes that the host file system has allocated */
    uint64_t cluster_size; /* 0: the format has none */
    bool encrypted;
    struct img_encryption_info encryption; /* valid when encrypted */
    bool has_dirty, dirty;                 /* has_dirty: the format knows the notion */
    char *backing_filename;                /* as the image names it; NULL: none */
    char *full_backing_filename;           /* resolved; NULL: could not be */
    char *backing_format;                  /* NULL: the image names none */
    struct img_snapshot_info *snapshots;
    size_t snapshot_count;
    bool is_qcow2;
    struct img_qcow2_info qcow2; /* valid when is_qcow2 */
    /* the host file below */
    char *file_name;
    const char *file_protocol; /* "file", "host_device" */
    uint64_t file_length;      /* rounded up to 512, as QEMU reports it */
    bool has_extent_size_hint; /* the file has a preferred allocation unit (XFS) */
    uint32_t extent_size_hint;
};

/* Describes layer DEPTH of an open image. Owned by the caller: img_info_free. */
IMG_API int img_describe(struct img *img, unsigned depth, struct img_info **info,
                         struct img_error *err);
IMG_API void img_info_free(struct img_info *info);

/* The layers of a chain, top first. */
struct img_chain_info {
    struct img_info **layers;
    size_t count;
};

/*
 * Describes FILENAME and every layer below it, each opened by itself and closed again, so that
 * no number of layers runs out of files. When a layer cannot be opened, or is one that was seen
 * before, the call fails, and CHAIN still holds every layer above it. Always release with
 * img_chain_info_free.
 */
IMG_API int img_chain_info(struct img_chain_info *chain, const char *filename,
                           const struct img_open_options *options, struct img_error *err);
IMG_API void img_chain_info_free(struct img_chain_info *chain);

/* ---- what a guest keeps on its disk ------------------------------------------------------- */

enum img_volume_kind {
    IMG_VOLUME_DISK,
    IMG_VOLUME_PARTITION,
    IMG_VOLUME_GROUP,     /* of LVM; its size is that of all its extents */
    IMG_VOLUME_LOGICAL,   /* of LVM */
    IMG_VOLUME_ARRAY,     /* of Linux's software RAID (superblocks of versions 0.90 and 1) */
    IMG_VOLUME_SUBVOLUME, /* of Btrfs, but the one that mounting shows */
};

enum img_content {
    IMG_CONTENT_UNKNOWN, /* nothing, or nothing that libblkid knows */
    IMG_CONTENT_FILESYSTEM,
    IMG_CONTENT_SWAP,
    IMG_CONTENT_LVM,  /* a physical volume */
    IMG_CONTENT_LUKS, /* encrypted */
    IMG_CONTENT_RAID, /* a member of a set */
    IMG_CONTENT_OTHER,
    IMG_CONTENT_AMBIGUOUS, /* several that exclude each other: remains of an older one */
};

/* The disk, a partition, an array, a volume of LVM or Btrfs. Strings are NULL where there is
 * nothing to say, and hold what the guest wrote. */
struct img_volume {
    enum img_volume_kind kind;
    char *name;      /* what Linux calls it on its first disk: "/dev/sda1", "/dev/GROUP/VOLUME",
                        "/dev/md127"; a subvolume: "btrfsvol:/dev/sda1/PATH" */
    unsigned number; /* of a partition; the level of an array */
    size_t parent;  /* the volume that it is a part of, or the first of them; of the disk: itself */
    size_t group;   /* the group or array that it is a member of; 0, the disk: of none */
    uint64_t start; /* where on the disk; of an array or a logical volume: its first byte there */
    uint64_t size;  /* of a subvolume 0 */
    /* the disk's partition table: */
    char *table, *table_id; /* "dos", "gpt", "sun", ...; libblkid's words */
    /* a partition's entry in it: */
    char *part_type;              /* "0x83", or a GUID */
    char *part_uuid, *part_label; /* the first also of a logical volume and an array */
    uint64_t part_flags;
    /* what is inside: */
    enum img_content content;
    char *type; /* "ext4", "xfs", "swap", "LVM2_member", "crypto_LUKS", ...; libblkid's words */
    char *version, *uuid, *label;
    /* What it says itself that it has: a file system as statvfs answers, a physical volume in its
     * extents. 0: not known (other than ext, XFS, Btrfs, FAT). */
    uint64_t content_size;
};

struct img_filesystems {
    unsigned sector_size;       /* by which the partition table counts */
    struct img_volume *volumes; /* the disk first; a parent before what lies in it */
    size_t count;
    char *problem; /* why some may be missing, in one sentence; NULL: none are */
};

struct img_filesystems_options {
    unsigned sector_size; /* 512, 4096; 0: whichever makes sense of the partition table */
};

/*
 * Which partitions and file systems the disk of IMG has, of whatever layer or snapshot it is made.
 * OPTIONS may be NULL. Owned by the caller: img_filesystems_free. No privilege and no device is
 * needed, and nothing is mounted.
 *
 * What is on the disk is hostile: libblkid looks at it in a child process that can read the disk,
 * and do nothing else whatsoever (seccomp). That process is given 16 MiB of memory and 0.8 seconds
 * of processor time, in which the reads of IMG count; when they do not suffice, what was found
 * until then is the answer, and PROBLEM is set. Memory here: 12 MiB at most, whatever the disk's
 * size.
 *
 * Errors: -ENOTSUP when the library was built without libblkid and libseccomp, or the image is
 * encrypted; -ENOSYS and the like when the kernel (before 5.9) or a container does not allow the
 * child to be locked up; those of img_read. Forks; safe from several threads at once. A program
 * that waits for any child at all (wait) may see this one.
 */
IMG_API int img_filesystems(struct img_filesystems **out, struct img *img,
                            const struct img_filesystems_options *options, struct img_error *err);
IMG_API void img_filesystems_free(struct img_filesystems *filesystems);

/* "unknown", "filesystem", "swap", "lvm", "luks", "raid", "other", "ambiguous"; and "disk",
 * "partition", "volume-group", "logical-volume", "raid-array", "subvolume". These names do not
 * change. */
IMG_API const char *img_content_name(enum img_content content);
IMG_API const char *img_volume_kind_name(enum img_volume_kind kind);

/* ---- who is based on whom ----------------------------------------------------------------- */

#define IMG_TREE_NONE SIZE_MAX

enum img_tree_state {
    IMG_TREE_IMAGE,      /* its header was read */
    IMG_TREE_MISSING,    /* an image names it, and it does not exist */
    IMG_TREE_UNREADABLE, /* it could not be read, or its name may not be followed: ERROR says why */
};

enum img_tree_finding {
    IMG_TREE_FORK = 1 << 0,      /* more than one image is based on it */
    IMG_TREE_ORPHAN = 1 << 1,    /* nothing names it, and it names something that is missing */
    IMG_TREE_LOOP = 1 << 2,      /* it is below itself */
    IMG_TREE_NO_BASE = 1 << 3,   /* its backing file is missing */
    IMG_TREE_NO_DATA = 1 << 4,   /* its external data file is missing */
    IMG_TREE_NO_FORMAT = 1 << 5, /* it does not state its backing file's format */
    IMG_TREE_HIDES = 1 << 6,     /* its disk ends before its base's does */
    IMG_TREE_BROKEN = 1 << 7, /* it cannot be opened: something at it or below it cannot be had */
    IMG_TREE_MANY_BASES =
        1 << 8, /* its relative name leads elsewhere from another of its folders */
};

enum img_tree_kind {
    IMG_TREE_BACKING,   /* the backing file */
    IMG_TREE_DATA_FILE, /* the external data file */
    /* What the backing file's json: name puts in the place of what lies below the backing file, or
     * of its data file. */
    IMG_TREE_OVERRIDE,
};

/* A name in an image, and what it leads to. */
struct img_tree_reference {
    enum img_tree_kind kind;
    char *name;    /* as the image has it */
    char *format;  /* as the image states it; NULL: it does not */
    size_t target; /* which of the tree's images */
    bool cut;      /* what TARGET names as its backing file does not count: the name says so */
};

/* A file in one format; or a name that leads nowhere. */
struct img_tree_image {
    char *filename;     /* one name of it: under the folders, or as it was resolved */
    char **other_names; /* further names under the folders: hard and symbolic links */
    size_t other_name_count;
    enum img_tree_state state;
    char *error;        /* IMG_TREE_UNREADABLE: why; else NULL */
    const char *format; /* NULL: not known */
    bool outside;       /* it lies outside the folders: an image names it */
    uint64_t virtual_size;
    struct img_tree_reference *references; /* the one that leads to BASE is first */
    size_t reference_count;
    size_t base;      /* what it is based on, or IMG_TREE_NONE */
    size_t *overlays; /* the images that have it as their BASE */
    size_t overlay_count;
    unsigned findings; /* enum img_tree_finding, or-ed */
    uint64_t hidden;   /* with IMG_TREE_HIDES: how many bytes of the base's disk lie past its end */
};

/* Something in the folders that could not be looked at: an image may be hidden in it. */
struct img_tree_problem {
    char *filename, *error;
};

struct img_tree {
    struct img_tree_image *images; /* sorted by FILENAME */
    size_t count;
    struct img_tree_problem *problems;
    size_t problem_count;
    uint64_t files_seen; /* regular files under the folders, images or not */
};

enum img_tree_flags {
    IMG_TREE_FLAT = 1 << 0, /* the folders alone, not the folders in them */
};

/*
 * Finds every image under FOLDERS (one of them may be a single image, too), and what each is based
 * on. An image is a file whose first bytes say so; raw disks and files elsewhere appear only when
 * an image names them. Names resolve as img_open resolves them. A file with several names is one
 * image, and a relative name in it counts from the folder of each; so that where
 * IMG_TREE_MANY_BASES is found, BASE is the first that can be had.
 *
 * Symbolic links are followed, each folder is walked once, /proc and /sys are not. Only headers are
 * read, without regard to other programs' locks; that an image is damaged elsewhere is not seen.
 * Memory: about 500 bytes an image and its names, and 16 bytes a folder; files that are no images
 * take none.
 *
 * A folder of FOLDERS that cannot be read is an error; what cannot be read inside one is reported
 * in the tree. Owned by the caller: img_tree_free. An unchanging tree may be asked from several
 * threads at once.
 */
IMG_API int img_tree_read(struct img_tree **tree, const char *const *folders, size_t count,
                          unsigned flags, struct img_error *err);
IMG_API void img_tree_free(struct img_tree *tree);

/* "fork", "orphan", "loop", "missing-base", "missing-data-file", "no-backing-format",
 * "hides-base", "broken", "many-bases"; NULL where there is no such bit. These names do not change.
 * So for "image", "missing", "unreadable", and for "backing", "data-file", "override". */
IMG_API const char *img_tree_finding_name(enum img_tree_finding finding);
IMG_API const char *img_tree_state_name(enum img_tree_state state);
IMG_API const char *img_tree_kind_name(enum img_tree_kind kind);

/* An image that cannot be read whole without a certain file. */
struct img_tree_dependent {
    size_t image;
    bool direct;             /* it names the file itself */
    enum img_tree_kind kind; /* direct: as what */
    size_t through;          /* else: the image that it needs and that needs the file */
};

struct img_tree_dependents {
    struct img_tree_dependent *items; /* in the order of the tree's images */
    size_t count;
    /* Images and folders of the tree that could not be read, so that they may need the file too. */
    size_t unknown;
};

/*
 * Who needs the file FILENAME, whatever name they know it by: the images that have it below them,
 * anywhere in their chain, as a backing file or as a data file. A file that does not exist is
 * looked for by its name; -ENOENT when nobody names it. Always release with
 * img_tree_dependents_free.
 */
IMG_API int img_tree_find_dependents(struct img_tree_dependents *dependents,
                                     const struct img_tree *tree, const char *filename,
                                     struct img_error *err);
IMG_API void img_tree_dependents_free(struct img_tree_dependents *dependents);

/* ---- planning ----------------------------------------------------------------------------- */

enum img_plan_kind {
    IMG_PLAN_DEPENDENT, /* another image needs the layer below as it is */
    IMG_PLAN_TOP,       /* the image itself: see IMG_PLAN_MERGE_TOP */
    IMG_PLAN_SNAPSHOTS, /* internal snapshots of the layer read from those below it */
    IMG_PLAN_SIZE,      /* the layer below is longer, and its end would come back into view; or it
                         * is shorter and cannot grow */
    IMG_PLAN_TARGET,    /* the layer below cannot be written */
};

/* Why a layer cannot be committed. */
struct img_plan_obstacle {
    enum img_plan_kind kind;
    char *what;     /* for people */
    char *filename; /* IMG_PLAN_DEPENDENT: of the image that needs the layer below; else NULL */
};

struct img_plan_layer {
    char *filename;
    const char *format;
    uint64_t virtual_size;
    uint64_t data_bytes; /* of the disk, that this layer holds itself; 0 for the lowest */
    uint64_t zero_bytes; /* that it says are zero */
    struct img_plan_obstacle *obstacles; /* to committing it into the next one */
    size_t obstacle_count;
    bool needed; /* it must stay after its commit: another image has it as its backing file */
};

/* Layers FIRST to LAST are committed into the next one, LAST + 1, at once. */
struct img_plan_step {
    unsigned first, last, into;
    uint64_t bytes;       /* to copy: what the layers hold of FIRST's disk */
    char **commands;      /* for a shell */
    size_t command_count; /* what then refers to the layers, and which may go */
};

struct img_merge_plan {
    struct img_plan_layer *layers; /* 0 is the image itself */
    unsigned depth;
    unsigned wanted;             /* how many layers shall remain */
    unsigned least;              /* how few can */
    bool reachable;              /* LEAST <= WANTED: there are steps */
    struct img_plan_step *steps; /* in the order in which they are to be taken */
    size_t step_count;
    uint64_t bytes;                    /* of all steps */
    struct img_tree_problem *problems; /* what could not be read: it may need a layer, too */
    size_t problem_count;
};

enum img_plan_flags {
    /* The image itself may be committed; its disk then has its base's name. */
    IMG_PLAN_MERGE_TOP = 1 << 0,
};

struct img_plan_options {
    unsigned depth;             /* at least 1 */
    const char *const *folders; /* where else to look for images that need the layers */
    size_t folder_count;
    unsigned flags;                      /* enum img_plan_flags, or-ed */
    const struct img_open_options *open; /* how to open the image; NULL: as img_open does */
};

/*
 * Which layers of FILENAME's chain to commit so that OPTIONS->depth remain, at the least number of
 * bytes copied. Nothing is changed. Other images that need a layer are looked for in the folders of
 * all layers, and in all that is under OPTIONS->folders.
 *
 * A commit changes what the layer below reads as; so it is not allowed when any other image needs
 * that layer. That the depth cannot be reached is no error: REACHABLE then is false, there are no
 * steps, and the layers' obstacles say why. Owned by the caller: img_merge_plan_free.
 *
 * Errors are those of img_open and img_tree_read; -EINVAL for a depth of 0, -E2BIG for a chain of
 * more than 1,000 layers. Memory: 8 bytes for each pair of layers, and what img_tree_read takes.
 */
IMG_API int img_plan_merge(struct img_merge_plan **plan, const char *filename,
                           const struct img_plan_options *options, struct img_error *err);
IMG_API void img_merge_plan_free(struct img_merge_plan *plan);

/* "dependent", "top", "snapshots", "size", "target". */
IMG_API const char *img_plan_kind_name(enum img_plan_kind kind);

/* ---- checking ----------------------------------------------------------------------------- */

enum img_finding_kind {
    IMG_FINDING_LEAK,              /* a cluster's refcount is too high: space is lost */
    IMG_FINDING_REFCOUNT_TOO_LOW,  /* a cluster in use may be given to somebody else */
    IMG_FINDING_REFCOUNT_OVERFLOW, /* more references than a refcount can hold */
    IMG_FINDING_REFCOUNT_BLOCK,    /* the refcount table names a block that cannot be one */
    IMG_FINDING_COPIED_FLAG,       /* the flag that promises refcount 1 is wrong */
    IMG_FINDING_OUTSIDE,           /* something is said to lie outside the file */
    IMG_FINDING_UNALIGNED,
    IMG_FINDING_RESERVED_BITS,
    IMG_FINDING_INVALID_ENTRY, /* an L2 entry that contradicts itself or the header */
    IMG_FINDING_OVERLAP,       /* metadata that something else uses too, with a refcount to match */
    IMG_FINDING_SHARED_TABLE,  /* one L2 table for several parts of the same disk */
    IMG_FINDING_SNAPSHOT,
    IMG_FINDING_BITMAP,
    IMG_FINDING_ENCRYPTION,
    IMG_FINDING_UNREADABLE, /* a part of the check could not be done */
};

enum img_severity {
    IMG_SEVERITY_LEAK,       /* harmless but for the space */
    IMG_SEVERITY_CORRUPTION, /* data is wrong, or the next write may destroy some */
    IMG_SEVERITY_UNCHECKED,  /* the check could not look at something */
    IMG_SEVERITY_NOTE,       /* not counted: what is behind other findings */
    IMG_SEVERITY_REPAIRED,   /* was wrong, and is repaired; or how that is done (img_repair) */
};

/* One thing that is wrong. */
struct img_finding {
    enum img_finding_kind kind;
    enum img_severity severity;
    const char *what; /* a line of text, in QEMU's words where it has some; may hold names out of
                       * the image; borrowed: valid during the call */
    uint64_t host_offset; /* of the cluster, or of the entry that is wrong */
    bool has_guest_offset;
    uint64_t guest_offset; /* what part of the active disk it concerns */
    bool unseen_by_qemu;   /* `qemu-img check` does not find this */
};

/*
 * The sums, as `qemu-img check` counts them; what QEMU does not look at counts as corruptions too.
 * A thing is counted once: where QEMU's own finding names it, there is no second one.
 */
struct img_check {
    uint64_t corruptions, leaks, check_errors;
    uint64_t unseen_by_qemu; /* how many of the corruptions QEMU does not find */
    uint64_t told, untold;   /* findings that were handed to the function, and those only counted */
    uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
    uint64_t image_end_offset;               /* behind the last cluster in use */
    uint64_t corruptions_fixed, leaks_fixed; /* by img_repair; those are not in the sums above */
};

/*
 * Looks for damage in the metadata of IMG, which was opened with IMG_OPEN_CHECK; its backing file
 * and the contents of its data clusters are not looked at. FN (may be NULL) is called for each
 * finding, in the order of QEMU, up to a limit far above what a person reads. Nothing is changed.
 *
 * Damage is no error: the call fails with -ENOTSUP where the format has nothing to check, and where
 * the check could not be finished. Memory: about a byte for each cluster of the host file, two in
 * an image with more than 250 snapshots. Not to be called from two threads at once.
 */
IMG_API int img_check(struct img *img, struct img_check *result,
                      void (*fn)(void *opaque, const struct img_finding *finding), void *opaque,
                      struct img_error *err);

/* "leak", "refcount-too-low", "outside-file" and so on; "leak", "corruption", "unchecked", "note",
 * "repaired". These names do not change. */
IMG_API const char *img_finding_kind_name(enum img_finding_kind kind);
IMG_API const char *img_severity_name(enum img_severity severity);

/* ---- QEMU's metadata caches --------------------------------------------------------------- */

/*
 * QEMU keeps L2 tables and refcount blocks of every qcow2 layer in two caches. Where the L2 cache
 * maps less than the guest uses, random I/O reads tables again and again. What to set follows from
 * a few facts, of an image that exists (img_cache_survey) or of one that is yet to be created.
 */
struct img_cache_facts {
    uint64_t virtual_size;
    uint64_t cluster_size; /* 0: the format has no such tables, and no cache */
    bool extended_l2;
    unsigned refcount_bits; /* 1..64, a power of two; 0: the usual 16 */
    size_t snapshots;       /* internal ones */
    uint64_t file_length;   /* 0: no file yet. Only matters with snapshots. */
    uint64_t l2_allocated;  /* bytes of L2 tables that exist today; no rule needs it */
};

/* Whose rules apply; all 0: the newest. */
struct img_qemu_version {
    unsigned major, minor, micro;
};

/* "4", "3.1", "10.0.2"; "newest". -EINVAL for what is no version, or one before 2.2, which has no
 * cache to set. */
IMG_API int img_qemu_version_parse(struct img_qemu_version *version, const char *text,
                                   struct img_error *err);

/* Does this QEMU know the option l2-cache-entry-size (since 2.12)? */
IMG_API bool img_qemu_has_l2_entry_size(const struct img_qemu_version *version);

enum img_cache_verdict {
    IMG_CACHE_KEEP_DEFAULT,
    IMG_CACHE_SET,
    IMG_CACHE_NOT_APPLICABLE,
};

/* Why. */
enum img_cache_reason {
    IMG_CACHE_COVERED,   /* the default maps the whole disk */
    IMG_CACHE_TOO_SMALL, /* the default maps a part of it */
    IMG_CACHE_REFCOUNTS, /* the L2 cache would do, the refcount cache is small for the snapshots */
    IMG_CACHE_SHARED,    /* this is what a budget allows */
    IMG_CACHE_NO_TABLES, /* not a qcow2 image */
};

struct img_cache_sizes {
    uint64_t l2_cache_size, l2_entry_size, refcount_cache_size;
    uint64_t coverage; /* bytes of the disk that the L2 cache maps */
    bool covers_disk;
};

struct img_cache_advice {
    enum img_cache_verdict verdict;
    enum img_cache_reason reason;
    struct img_cache_sizes advised;
    struct img_cache_sizes taken; /* by QEMU when nothing is set */
    /* This QEMU would cut l2-cache-size down to less (3.1 to 4.1.0 round the disk's need down);
     * give cache-size, the sum, together with refcount-cache-size instead. */
    bool l2_by_sum;
};

/*
 * What to set for an image of these facts. The L2 cache is the one that maps the whole disk, in
 * whole clusters; the refcount cache is QEMU's minimum of 4 clusters, and with internal snapshots
 * what covers the file's refcount blocks. Pure: no I/O. -EINVAL for facts that no qcow2 image can
 * have.
 */
IMG_API int img_advise_cache(struct img_cache_advice *advice, const struct img_cache_facts *facts,
                             const struct img_qemu_version *version, struct img_error *err);

/*
 * Shares BUDGET bytes out among COUNT images, so that together they map as much as can be: each
 * gets what QEMU takes at least, then L2 cache goes where a byte maps most. Images in which it maps
 * the same get the same part of what they lack. -ENOSPC when the least is more than BUDGET; *LEAST
 * (may be NULL) is that sum in any case. ADVICE has room for COUNT.
 */
IMG_API int img_share_cache(struct img_cache_advice *advice, const struct img_cache_facts *facts,
                            size_t count, uint64_t budget, const struct img_qemu_version *version,
                            uint64_t *least, struct img_error *err);

/* A layer and what there is to know for its caches. */
struct img_cache_layer {
    struct img_info *info;
    struct img_cache_facts facts;
};

struct img_cache_survey {
    struct img_cache_layer *layers; /* top first */
    size_t count;
};

/*
 * Describes FILENAME and, with WHOLE_CHAIN, every layer below it, as img_chain_info does, with the
 * L2 tables counted. Always release SURVEY with img_cache_survey_free; when a layer fails, it still
 * holds those above.
 */
IMG_API int img_cache_survey(struct img_cache_survey *survey, const char *filename,
                             const struct img_open_options *options, bool whole_chain,
                             struct img_error *err);
IMG_API void img_cache_survey_free(struct img_cache_survey *survey);

/* ---- advising ----------------------------------------------------------------------------- */

/* What a disk is used for: the same image can be right for one use and wrong for another. */
enum img_use {
    IMG_USE_GENERAL,
    IMG_USE_DATABASE,   /* small random writes, many of them synchronous */
    IMG_USE_SEQUENTIAL, /* long reads and writes: media, backups, logs */
    IMG_USE_OVERLAY,    /* many layers or snapshots over a common base */
};

enum img_advice_state {
    IMG_ADVICE_OK,
    IMG_ADVICE_ADVISED,        /* something should be changed */
    IMG_ADVICE_NOT_APPLICABLE, /* for this format, or on this host, there is no such question */
    IMG_ADVICE_UNKNOWN,        /* this host or this user could not find out; FOUND says why */
};

/* The outcome of one check. */
struct img_advice {
    const char *check; /* its name, which does not change: "cluster-size", "backing-path", ... */
    enum img_advice_state state;
    char *found; /* what the check saw */
    char *why;   /* why it matters */
    char *fix; /* a command line for a shell, file names quoted; NULL: none needed, or none known */
};

struct img_advice_report {
    char *filename;
    const char *format;
    struct img_advice *items; /* every check, always in the same order */
    size_t count;
    size_t advised; /* how many of them have the state IMG_ADVICE_ADVISED */
};

struct img_advise_options {
    enum img_use use;
    const struct img_open_options *open; /* how to open the image; NULL: as img_open does */
    const char *program;                 /* what the commands call; NULL: "imgtool" */
};

/*
 * Looks at the image FILENAME and at the host it lies on, and says what should be different and
 * which command makes it so. Nothing is changed. OPTIONS may be NULL. Owned by the caller:
 * img_advice_report_free.
 *
 * What this host, its file systems or this user cannot tell ends as IMG_ADVICE_UNKNOWN; so does a
 * backing chain that cannot be followed to its end. Errors are those of img_open for the image
 * itself.
 */
IMG_API int img_advise(struct img_advice_report **report, const char *filename,
                       const struct img_advise_options *options, struct img_error *err);
IMG_API void img_advice_report_free(struct img_advice_report *report);

/* "ok", "advised", "not-applicable", "unknown". */
IMG_API const char *img_advice_state_name(enum img_advice_state state);

/* ---- creating ----------------------------------------------------------------------------- */

#define IMG_SIZE_UNKNOWN UINT64_MAX

enum img_create_flags {
    /* Do not look at the backing file, which need not exist: its format and the size must be given.
     */
    IMG_CREATE_UNSAFE_BACKING = 1 << 0,
};

struct img_create_options {
    const char *format;       /* NULL: "raw" */
    uint64_t size;            /* IMG_SIZE_UNKNOWN: the backing file's, or one that OPTIONS give */
    const char *backing_file; /* NULL: none, unless OPTIONS name one; as the image will name it: */
    const char *backing_format; /* relative to the image's folder */
    /* "NAME=VALUE,..."; a comma in a value is doubled. img_create_help lists the names. May be
     * NULL. */
    const char *options;
    unsigned flags; /* enum img_create_flags, or-ed */
    /* Told once, after the options have been read and before anything is written, what they come
     * to: "size=1048576 ...". May be NULL. */
    void (*announce)(void *opaque, const char *summary);
    /* Asked now and then; when it is true, the call fails with -ECANCELED. May be NULL. */
    bool (*cancelled)(void *opaque);
    img_progress progress; /* phases "preallocate", "create". May be NULL. */
    void *opaque;
};

/*
 * Creates the image FILENAME, a path or "file:PATH".
 *
 * The file, and an external data file (option data_file) with it, appear under their names when
 * they are complete and on disk; a file that was there is then replaced, and keeps its mode. When
 * the call fails, nothing has changed. A block device is written in place instead. A file that
 * another program holds locked as QEMU locks images is not replaced (-EAGAIN).
 *
 * Where an image and its data file replace others, FILENAME means the old image with the old data
 * or the new one with the new data at every instant, whatever interrupts the call. Interrupted
 * between the two, the new image's data file is called ".imgtool-..." and has to stay; so says the
 * error when it is a failure of the host. (Where files cannot have two names, on FAT for one, the
 * image is refused for an instant, as its data file is not called that any more.) A data file that
 * is a block device has no such promise: what an old image reads there changes at once.
 *
 * Errors: -EINVAL for an option, -EFBIG for a size that the format or the host cannot hold, -ENOSPC
 * when the file system has less space than preallocation needs or the header no room for replacing
 * two files, -ECANCELED, and those of the host.
 */
IMG_API int img_create(const char *filename, const struct img_create_options *options,
                       struct img_error *err);

/*
 * The options of a new image of FORMAT, a line each; with FILENAME, those of the host file too.
 * *TEXT is owned by the caller: free().
 */
IMG_API int img_create_help(char **text, const char *format, const char *filename,
                            struct img_error *err);

/* ---- measuring ---------------------------------------------------------------------------- */

struct img_measure_options {
    const char *format; /* of the new image; NULL: "raw" */
    /* The new image's options, as in img_create_options; a backing file is not looked at, but that
     * there is one counts. May be NULL. */
    const char *options;
    uint64_t size; /* of the new disk, when there is no source; else of no effect */
};

/* Lengths of the new image's file, without an external data file's. */
struct img_measurement {
    uint64_t required;        /* at most so much, after the source was copied into it */
    uint64_t fully_allocated; /* when all of its disk has been written */
    bool has_bitmaps;         /* the source could have bitmaps, and the new image could hold them */
    uint64_t bitmaps;         /* which take so much more */
};

/*
 * How large a new image would be, before it is made: an empty one, or, unless SOURCE is NULL, one
 * that SOURCE's disk is copied into. The numbers are those of `qemu-img measure`: metadata is
 * counted as if all of the disk were written, and a backing file as if it shared nothing with the
 * source. Only the source's mapping is read, not its data.
 *
 * Errors: -EINVAL for an option or a damaged source, -EFBIG for a disk that the format cannot hold,
 * -ENOTSUP for a format that cannot be measured. Safe from several threads at once.
 */
IMG_API int img_measure(struct img_measurement *out, struct img *source,
                        const struct img_measure_options *options, struct img_error *err);

struct img_growth {
    uint64_t data;   /* bytes that would be copied */
    uint64_t growth; /* at most so much longer, or of a raw file so much more allocated, it gets */
};

/*
 * What would become of the base when IMG is committed into it: the data that IMG holds itself is
 * written there. Clusters that the base has already are overwritten, unless it has internal
 * snapshots, which might use them, too. A longer refcount or L1 table is not counted.
 */
IMG_API int img_measure_commit(struct img_growth *out, struct img *img, struct img_error *err);

/*
 * What would become of IMG itself when it is based on NEW_BASE instead: where that differs from the
 * old base, and IMG holds nothing, it gets data of its own. Reads what img_compare reads.
 */
IMG_API int img_measure_rebase(struct img_growth *out, struct img *img, struct img *new_base,
                               struct img_error *err);

/* ---- converting --------------------------------------------------------------------------- */

enum img_convert_flags {
    IMG_CONVERT_COMPRESS = 1 << 0,
    /* The target exists, as an image of OPTIONS->format, and its disk is written. Without this, a
     * new image takes the name of the target. */
    IMG_CONVERT_EXISTING = 1 << 1,
    IMG_CONVERT_TARGET_IS_ZERO = 1 << 2, /* EXISTING: its disk reads as zeroes */
    IMG_CONVERT_TARGET_OPTS = 1 << 3,    /* EXISTING: TARGET is a list of options */
    /* Sectors that cannot be read become zeroes, with a warning for each; so do clusters that the
     * image's tables do not lead to, with one for all in a row that share a reason. */
    IMG_CONVERT_SALVAGE = 1 << 4,
    /* Persistent bitmaps of the source are copied; those that are inconsistent are an error, or
     * left out with a warning. */
    IMG_CONVERT_BITMAPS = 1 << 5,
    IMG_CONVERT_SKIP_BROKEN_BITMAPS = 1 << 6,
    /* Zeroes are written as data, too: all of the target is allocated. */
    IMG_CONVERT_DENSE = 1 << 7,
    /* The call returns when the host has all of the target, which may still be in its memory; but
     * a file that is replaced, is so only by one that is on disk. */
    IMG_CONVERT_UNFLUSHED = 1 << 8,
    /* The target is TARGET_FD, a pipe or a file that is written once from front to end; TARGET is
     * its name in messages. Nothing is compressed then, and zeroes are left out only where the
     * source's map says so, since tables come before the data. */
    IMG_CONVERT_TO_STREAM = 1 << 9,
    /* The only source is SOURCE_FD, which is read once from front to end: a qcow2 image whose
     * tables come first and whose data lies in the disk's order, as in one that img_convert has
     * made. Its name is for messages. */
    IMG_CONVERT_FROM_STREAM = 1 << 10,
    /* The target is read back, from its disk where the host can be made to, and compared: -EIO
     * where it differs, and a new one gets no name then. */
    IMG_CONVERT_VERIFY = 1 << 11,
    /* A raw image, the only source, becomes the external data file of a new qcow2 image, without
     * being copied or changed. */
    IMG_CONVERT_ADOPT = 1 << 12,
    /*
     * When the call does not succeed, whatever ends it (a crash, too), what was copied is kept
     * beside the target, as ".NAME.imgtool-partial", with a log, ".NAME.imgtool-resume"; a later
     * call with this flag, the same target, sources and options goes on from there, and what it
     * makes has the same bytes as if nothing had happened. -ESTALE: a source (its size, time of
     * change, inode or first 64 KiB, of any layer) or an option is another now; the message says
     * which, and nothing has changed. About once a second the target is flushed. The target must
     * be a new file.
     */
    IMG_CONVERT_RESUME = 1 << 13,
    /* A warning when what an interrupted call has kept is there, without IMG_CONVERT_RESUME. */
    IMG_CONVERT_SAY_KEPT = 1 << 14,
    /* The target is written past the host's cache. For the sources: IMG_OPEN_DIRECT. */
    IMG_CONVERT_DIRECT = 1 << 15,
};

/* Whether data is shared with the source's files, where both lie on one file system that can (XFS,
 * btrfs), instead of being copied. */
enum img_reflink {
    IMG_REFLINK_AUTO,
    IMG_REFLINK_NEVER,
    IMG_REFLINK_ALWAYS, /* -ENOTSUP where it cannot be; parts that do not lie right are copied */
};

/* How long stretches of a block device are made to read as zeroes: the cheapest way it has. */
enum img_zeroing {
    IMG_ZEROING_WRITE,  /* they are written out */
    IMG_ZEROING_DEVICE, /* it writes them itself */
    IMG_ZEROING_UNMAP,  /* it unmaps them, and so gives their space back */
};

struct img_convert_options {
    const char *const *sources; /* their disks, one behind the other, are the target's */
    size_t source_count;
    const struct img_open_options *open; /* how to open the sources; NULL: as img_open does */
    const char *format;                  /* of the target; NULL: "raw" */
    const char *options; /* of a new target: as for img_create, and compression_level=N */
    /* Of a new target, as it will name it. The source then gives only what it holds itself, not
     * what lies below it. */
    const char *backing_file, *backing_format;
    unsigned flags;       /* enum img_convert_flags, or-ed */
    uint64_t sparse_size; /* so many zeroes in a row are left out; 0: 4096 */
    enum img_reflink reflink;
    unsigned threads;         /* 0: one for each processor */
    uint64_t rate;            /* bytes a second at most; 0: as fast as it goes */
    int source_fd, target_fd; /* of streams; borrowed */
    void (*warn)(void *opaque, const char *message);
    /* Before the copy, if the disk goes to a block device: how zeroes are made there. May be NULL.
     */
    void (*zeroing)(void *opaque, const char *device, enum img_zeroing how);
    img_progress
        progress; /* phases "preallocate", "copy", "verify"; from any thread. May be NULL. */
    /* Asked now and then, from any thread; when it is true, the call fails with -ECANCELED. May be
     * NULL. */
    bool (*cancelled)(void *opaque);
    void *opaque;
};

/*
 * Makes the image TARGET, a path or "file:PATH", with the disk of the source. A new file appears
 * under its name when it is complete and on disk (see IMG_CONVERT_UNFLUSHED); what was there is
 * then replaced, an external data file too, as img_create does it. When the call fails, nothing has
 * changed, but for a block device or, with IMG_CONVERT_EXISTING, an image, which are written in
 * place.
 *
 * The same source and options give the same bytes, whatever the number of threads. Memory: at most
 * 64 MiB, whatever the sizes of the disks and the options are. Where THREADS would need more (large
 * clusters, high levels of compression), there are fewer.
 *
 * Errors are those of img_open, img_create and img_write.
 */
IMG_API int img_convert(const char *target, const struct img_convert_options *options,
                        struct img_error *err);

struct img_dd_options {
    const char *format;  /* of the target; NULL: "raw" */
    uint64_t block_size; /* 0: 512 */
    bool has_count;
    uint64_t count; /* blocks of the source from its start on, the skipped ones among them */
    uint64_t skip;  /* blocks at the start of the source that are left out */
    const struct img_open_options *open; /* how to open the source; NULL: as img_open does */
    img_progress progress;               /* as img_convert has it */
    bool (*cancelled)(void *opaque);
    void *opaque;
};

/*
 * Makes the image TARGET with a part of the disk of SOURCE, as `qemu-img dd` does; what is not a
 * whole sector at its end is filled up with zeroes. Otherwise it is img_convert. *BEYOND (may be
 * NULL): the blocks to skip reach past the end of that part, and the new disk is empty.
 */
IMG_API int img_dd(const char *target, const char *source, const struct img_dd_options *options,
                   bool *beyond, struct img_error *err);

/* ---- measuring speed ---------------------------------------------------------------------- */

struct img_bench_options {
    uint64_t count;  /* requests */
    unsigned depth;  /* in flight at a time, each on a thread of its own; at most 1,024 */
    size_t size;     /* bytes of a request */
    uint64_t offset; /* of the first */
    uint64_t step; /* from each to the next; 0: SIZE. Behind the end of the disk, from its start. */
    bool write;    /* what was on the disk is lost; the image is open for writing */
    uint8_t pattern;                 /* what is written */
    uint64_t flush_interval;         /* img_flush so often, counted in requests; 0: never */
    bool no_drain;                   /* a flush does not wait for requests in flight */
    bool flush_each;                 /* every write is followed by a flush */
    bool (*cancelled)(void *opaque); /* true: -ECANCELED; may be NULL */
    void *opaque;
};

/*
 * Sends requests to an image, as `qemu-img bench` does, and tells how many SECONDS it took. Writes
 * are sent from all threads and done one at a time. Errors: those of the first request that failed;
 * -EIO for one that reaches past the end of the disk. Memory: SIZE bytes for each thread.
 */
IMG_API int img_bench(struct img *img, const struct img_bench_options *options, double *seconds,
                      struct img_error *err);

/* ---- changing ----------------------------------------------------------------------------- */

/*
 * What follows changes an image that was opened with IMG_OPEN_WRITE. A handle that is written is
 * for one thread at a time, reading included. When a call fails, the image is as it was before, as
 * far as the caller can tell; a change that was made is on disk when the call returns, unless the
 * function says otherwise.
 */

/*
 * Guest writes: LENGTH bytes from OFFSET on, any numbers that lie inside img_size. In a chain only
 * the image itself is written, never what lies below it.
 *
 * What was written is seen at once by reads through the same handle; it is on disk after img_flush.
 * If the machine fails before that, each sector of 512 bytes is what it was after one of the
 * writes, or what it was before them; the image is never corrupt, but may hold clusters that nobody
 * uses (`check` calls them leaks). Changes of the mapping wait in memory, 16 MiB of them at most.
 *
 * Errors: -EINVAL for a range outside the disk or an image that was not opened with IMG_OPEN_WRITE,
 * or was opened for its metadata; for a part of a cluster whose rest is in a backing file that was
 * not opened; for a damaged image, before anything was written. -ENOTSUP for an encrypted image.
 * -ENOSPC, -EIO and the like from the host: what that call had written until then stays. After a
 * flush that failed every further change fails with -EIO: open the image again to see what it has.
 *
 * Persistent bitmaps of the image that record writes (flag "auto") are kept up: they are marked "in
 * use" on disk before the first write, and hold all of the writes when the image is closed. Until
 * then, and for good when that fails, no program will trust them (the specification, "Bitmaps").
 */
IMG_API int img_write(struct img *img, const void *buf, size_t length, uint64_t offset,
                      struct img_error *err);

enum img_zero_flags {
    IMG_ZERO_UNMAP = 1 << 0, /* the space on the host need not be kept */
};

/* Makes a range read as zeroes, without writing them where the format can say it in its tables. */
IMG_API int img_write_zeroes(struct img *img, uint64_t offset, uint64_t length, unsigned flags,
                             struct img_error *err);

/*
 * Says that nobody needs what is in a range. Of a qcow2 image, the clusters that lie in it whole
 * read as zeroes from then on, and their space is given back; in version 2 (the specification has
 * no zero clusters there) nothing happens over a backing file. Of a raw image, all of the range
 * reads as zeroes.
 */
IMG_API int img_discard(struct img *img, uint64_t offset, uint64_t length, struct img_error *err);

/* Brings all that was written to disk. */
IMG_API int img_flush(struct img *img, struct img_error *err);

/*
 * Internal snapshots. img_describe lists them; the specification, "Snapshots". The names need not
 * differ; IDs are given by the library, as QEMU does: one more than the largest there is. Each call
 * needs space for the tables that change, as they cannot be overwritten: at most all L2 tables of
 * the disk once more, which is given back in the end. Memory: about 2 bytes for each cluster of the
 * file.
 *
 * Errors: -ENOTSUP for a format without snapshots and for an image with an external data file;
 * -EINVAL when a cluster would have more references than its refcount can hold, and for damaged
 * tables; -EFBIG at the format's limits.
 */

/* Takes a snapshot of the disk as it is. Of NAME, 255 bytes are kept, as in QEMU. */
IMG_API int img_snapshot_create(struct img *img, const char *name, struct img_error *err);

/*
 * Makes the disk what it was when the snapshot with this ID, or else with this name, was taken; its
 * size, too. What the disk held is lost. -ENOENT when there is none, -EBUSY while the image has
 * dirty bitmaps.
 */
IMG_API int img_snapshot_apply(struct img *img, const char *id_or_name, struct img_error *err);

/*
 * Makes the snapshot that IMG was opened to read (img_open_options.snapshot) into a qcow2 image
 * that QEMU and its like can open, which know no internal snapshots: VIEW, which needs a second new
 * file, BYTES. Both names are absolute; both files are small, and copy nothing. They are good for
 * reading, as long as the image stays as it is. The library itself does not open VIEW.
 *
 * Errors: -ENOTSUP for a format without snapshots, -EINVAL when the names are too long.
 */
IMG_API int img_view_snapshot(struct img *img, const char *bytes, const char *view,
                              struct img_error *err);

/* Deletes the first snapshot of this name. -ENOENT when there is none. */
IMG_API int img_snapshot_delete(struct img *img, const char *name, struct img_error *err);

struct img_amend_options {
    /* "NAME=VALUE,..."; a comma in a value is doubled. img_amend_help lists the names. */
    const char *options;
    bool force;            /* as QEMU has it, for the keys of encrypted images; of no effect */
    img_progress progress; /* phase "amend": bytes of tables. May be NULL. */
    void *opaque;
};

/*
 * Changes options of IMG, which was opened with IMG_OPEN_WRITE: of a qcow2 image the compatibility
 * level (compat), lazy_refcounts, refcount_bits, data_file, data_file_raw (only off) and size.
 *
 * Up to three steps, in the order of QEMU: what makes the image newer, and the rest; the size; what
 * makes it older. Each is done wholly or not at all, at every instant, and when one fails, those
 * before it are done. compat=0.10 gives zero clusters that hide a backing file's data space of
 * their own, and drops bitmaps, which that level does not have.
 *
 * Errors: -EINVAL for an option, -ENOTSUP for what cannot be changed, -ENOSPC, -ECANCELED, and
 * those of the host.
 */
IMG_API int img_amend(struct img *img, const struct img_amend_options *options,
                      struct img_error *err);

/* The options that can be changed, a line each. *TEXT is owned by the caller: free(). */
IMG_API int img_amend_help(char **text, const char *format, struct img_error *err);

/* What can be done to a persistent bitmap: a record of which parts of the disk were written. */
enum img_bitmap_action_kind {
    IMG_BITMAP_ADD,     /* a new one, empty and enabled */
    IMG_BITMAP_REMOVE,  /* the only thing to do with one that is in use (IMG_BITMAP_IN_USE) */
    IMG_BITMAP_CLEAR,   /* all its bits */
    IMG_BITMAP_ENABLE,  /* from now on writes set bits */
    IMG_BITMAP_DISABLE, /* and do not */
    IMG_BITMAP_MERGE,   /* sets the bits for all that another bitmap has set */
};

struct img_bitmap_action {
    enum img_bitmap_action_kind kind;
    /* ADD: bytes that a bit stands for, a power of two, 512 to 2 GiB. 0: the image's cluster size,
     * but 4 KiB at least and 64 KiB at most. */
    uint64_t granularity;
    /* MERGE: the name of a bitmap in SOURCE, or, when that is NULL, in the image itself. Both disks
     * have the same size, the granularities need not be the same. */
    const char *source_name;
    struct img *source;
};

/*
 * Does COUNT actions, in their order, to the bitmap NAME of IMG, which was opened with
 * IMG_OPEN_WRITE: all of them, or none. It makes no difference whether the bitmap is enabled.
 *
 * The rules are those of the specification ("Bitmaps extension", "Bitmaps") and of QEMU: version 3
 * images only, at most 65535 bitmaps with names of at most 1023 bytes, at most 512 MiB of bits
 * each. Bitmaps that are no longer valid as a whole (IMG_WARN_BITMAPS_STALE) do not exist; what
 * changes an image drops them.
 *
 * *FAILED (may be NULL) is the index of the action that was refused, or COUNT when it was none of
 * them: the image could not be changed. Errors: -ENOENT, -EEXIST, -EINVAL, -ENOTSUP, -ENOSPC and
 * those of the host. Not to be called while another thread uses IMG; SOURCE is only read.
 */
IMG_API int img_bitmap_change(struct img *img, const char *name,
                              const struct img_bitmap_action *actions, size_t count, size_t *failed,
                              struct img_error *err);

/* One action alone. */
IMG_API int img_bitmap_add(struct img *img, const char *name, uint64_t granularity,
                           struct img_error *err);
IMG_API int img_bitmap_remove(struct img *img, const char *name, struct img_error *err);
IMG_API int img_bitmap_clear(struct img *img, const char *name, struct img_error *err);
IMG_API int img_bitmap_enable(struct img *img, const char *name, struct img_error *err);
IMG_API int img_bitmap_disable(struct img *img, const char *name, struct img_error *err);
IMG_API int img_bitmap_merge(struct img *img, const char *name, struct img *source,
                             const char *source_name, struct img_error *err);

/* ---- moving ------------------------------------------------------------------------------- */

enum img_name_style {
    IMG_NAMES_KEEP,     /* a relative name stays one, an absolute one, too */
    IMG_NAMES_RELATIVE, /* relative to the image's folder; data files' names stay as they are */
    IMG_NAMES_ABSOLUTE,
};

/* A name in an image that changes. Borrowed: valid during the call. */
struct img_name_change {
    const char *filename; /* of the image */
    const char *what;     /* "backing-file", "backing-format", "data-file"; these do not change */
    const char *from;     /* NULL: it had none */
    const char *to;
};

/* What was found and done. */
struct img_name_changes {
    size_t images;  /* that were looked at */
    size_t changed; /* of which have new names now, or would have (dry_run) */
    size_t names;
    bool finished; /* an interrupted change was found and finished first; with dry_run: would be */
};

struct img_relocate_options {
    const char *from, *to; /* folders, or a file each; paths, FROM need not exist */
    enum img_name_style style;
    bool dry_run; /* check all of it, and change nothing */
    /* Told each name that changes, before any does. May be NULL. */
    void (*change)(void *opaque, const struct img_name_change *change);
    /* Told of a name that is not under FROM and leads nowhere, so that what is below it is not
     * looked at; and what img_open_options.warn is. May be NULL. */
    void (*warn)(void *opaque, enum img_warning warning, const char *message);
    /* Asked now and then before the first image is changed; when it is true, the call fails with
     * -ECANCELED. May be NULL. */
    bool (*cancelled)(void *opaque);
    img_progress progress; /* phases "compare", "relocate". May be NULL. */
    void *opaque;
};

/*
 * Files have moved from OPTIONS->from to OPTIONS->to: in the COUNT images FILES, as they lie now,
 * and in all that is below them, names that lead under the old place are made to lead under the
 * new one; backing files' names, also "file:" and "json:" ones, and external data files'. A
 * relative name that leads nowhere is also looked at from where its image was before.
 *
 * Nothing is changed unless every new name opens and every image that has to change can be locked
 * for writing. Where the old file is still there, too, both have to have the same format, size and
 * bytes (-EINVAL); two names of one file are not read.
 *
 * All images change, or none: the changes are first written to a journal,
 * ".NAME.imgtool-journal" beside the first image that changes, which is removed when they are on
 * disk. After a crash in between every image has its old names or its new ones and can be read (but
 * for one of small clusters whose header has no room for both: it may have to wait for that call);
 * the next call that meets one of them, with whatever options, first makes the changes that are
 * missing. It refuses to (-EINVAL) when one of them was changed since. When the host fails in the
 * middle, what was changed is changed back. Images in use by another program are refused
 * (-EAGAIN).
 *
 * RESULT may be NULL. Memory: about 2 KiB and an open file for each image.
 */
IMG_API int img_relocate(const char *const *files, size_t count,
                         const struct img_relocate_options *options,
                         struct img_name_changes *result, struct img_error *err);

struct img_fix_formats_options {
    const struct img_open_options *open; /* how to open FILENAME; NULL: as img_open does */
    /* A file that only counts as raw because nothing else matches is raw, whatever it looks like.
     */
    bool trust_raw;
    bool dry_run;
    /* As in struct img_relocate_options; "backing-format" alone changes. */
    void (*change)(void *opaque, const struct img_name_change *change);
    void (*warn)(void *opaque, enum img_warning warning, const char *message);
    bool (*cancelled)(void *opaque);
    void *opaque;
};

/*
 * States the format of the backing file in FILENAME and in every image below it that does not:
 * what the file looks like. All of these images change, or none, as with img_relocate.
 *
 * A format is written where the first bytes of the file say it and, for one that can be read here,
 * its header can be read. A file that nothing matches would be read as raw: that is written only
 * where it looks like nothing else further on, either, and something speaks for a disk: a partition
 * table, a boot sector or a file system, or that it is exactly as long as the disk that is based on
 * it. Else the call fails with -ENOTSUP, unless TRUST_RAW. It also fails where a file cannot be
 * had; OPTIONS and RESULT may be NULL.
 */
IMG_API int img_fix_backing_formats(const char *filename,
                                    const struct img_fix_formats_options *options,
                                    struct img_name_changes *result, struct img_error *err);

/* ---- repairing ---------------------------------------------------------------------------- */

enum img_repair_what {
    IMG_REPAIR_LEAKS = 1 << 0,  /* refcounts that are too high */
    IMG_REPAIR_ERRORS = 1 << 1, /* all else that has one safe answer */
    IMG_REPAIR_ALL = IMG_REPAIR_LEAKS | IMG_REPAIR_ERRORS,
};

/* One number in the file that a repair changes. */
struct img_change {
    const char *what;     /* "refcount", "l2-entry", "l2-bitmap", "l1-entry", "snapshot-l1",
                             "refcount-table", "header", "file-length"; these names do not
                             change */
    const char *field;    /* of a header: its name in the specification; else NULL */
    uint64_t host_offset; /* where it lies; of a refcount, the cluster that it counts */
    bool has_guest_offset;
    uint64_t guest_offset; /* what part of the active disk it concerns */
    uint64_t from, to;
};

struct img_repair_options {
    unsigned what; /* enum img_repair_what, or-ed */
    bool dry_run;  /* change nothing */
    /* A file that does not exist: it will hold every sector that is about to be overwritten, on
     * disk before the first of them is. See img_undo. May be NULL. */
    const char *undo_file;
    /* Told what was found, and what is repaired. May be NULL. */
    void (*finding)(void *opaque, const struct img_finding *finding);
    /* Told every number that changes, once all of them are known. May be NULL. */
    void (*change)(void *opaque, const struct img_change *change);
    void *opaque;
};

/*
 * Repairs what img_check finds in IMG, which was opened with IMG_OPEN_CHECK and, unless it is a dry
 * run, IMG_OPEN_WRITE. What is repaired is what qemu-img check -r repairs, and flags that QEMU does
 * not look at; where more than one answer could be right, damage is left and counted. No guest data
 * that could be read becomes unreadable.
 *
 * RESULT has what is left in its sums, as img_check finds it afterwards, and what was repaired
 * beside them. A second repair finds nothing to do: what is changed is looked at again, as it would
 * be, until nothing else follows from it, and only then is the file changed. What changes is held
 * in memory up to 16 MiB, beyond that in an unnamed file in TMPDIR.
 *
 * The file is the old image until one sector makes it the new one; where only refcounts go down,
 * the sectors are overwritten in place, and each of them by itself makes the image better. (Where
 * repairs follow from repairs, some sectors that make it better may follow that one.) Nothing is
 * written when there is nothing to repair. What leaks no longer keeps its bytes until somebody
 * needs the space. When the call fails, the undo file stays as soon as a byte has changed that it
 * knows.
 *
 * Errors are those of img_check; -EIO when leaks alone cannot be repaired because the refcounts
 * themselves are damaged, or when no end of repairs is in sight: then nothing is changed; -EEXIST
 * when the undo file is there already.
 */
IMG_API int img_repair(struct img *img, const struct img_repair_options *options,
                       struct img_check *result, struct img_error *err);

struct img_undo_options {
    /* Asked now and then before the first byte is put back; when it is true, the call fails with
     * -ECANCELED. May be NULL. */
    bool (*cancelled)(void *opaque);
    void *opaque;
};

/* What img_undo did. */
struct img_undone {
    uint64_t sectors;  /* of 512 bytes, put back */
    uint64_t already;  /* that held their old bytes anyway */
    uint64_t old_size; /* the file's length, now as it was */
};

/*
 * Puts back what a repair has overwritten: every sector that UNDO_FILE holds, and the length of
 * the file IMAGE, whatever its format. Nothing is changed (-EINVAL) when UNDO_FILE is damaged, or
 * when the image is not the one that was repaired or was changed since. May be called again after
 * it was interrupted. Takes a writer's lock. OPTIONS may be NULL.
 */
IMG_API int img_undo(const char *undo_file, const char *image,
                     const struct img_undo_options *options, struct img_undone *result,
                     struct img_error *err);
enum img_preallocation {
    IMG_PREALLOCATION_OFF,
    IMG_PREALLOCATION_METADATA, /* the new part of the disk has a place, which takes no space yet */
    IMG_PREALLOCATION_FALLOC,   /* and space that is reserved for it */
    IMG_PREALLOCATION_FULL,     /* and that is written */
};

enum img_resize_flags {
    IMG_RESIZE_SHRINK = 1 << 0, /* the new size may be smaller: what lies behind it is lost */
};

struct img_resize_options {
    enum img_preallocation preallocation; /* of the part by which the disk grows */
    unsigned flags;                       /* enum img_resize_flags, or-ed */
    img_progress progress;                /* phases "preallocate", "resize". May be NULL. */
    void *opaque;
};

/*
 * Gives the disk of IMG the size SIZE in bytes, for qcow2 a multiple of 512. OPTIONS may be NULL.
 * What is new reads as zeroes, whatever a longer backing file has there; but where an external data
 * file is a raw disk by itself (data_file_raw), what it has already. Internal snapshots keep their
 * size. Bitmaps take the disk's new size; what is new is clean in them.
 *
 * On failure, and in any crash, the image is the old one or the new one. The host file is shortened
 * only after that, and what fails then is no error.
 *
 * Errors: -EINVAL for a size that cannot be, or one that is smaller without IMG_RESIZE_SHRINK,
 * -EFBIG, -ENOSPC when the file system has less space than preallocation needs, -ENOTSUP (a device,
 * a version 2 image with snapshots, an inconsistent bitmap), -ECANCELED, and those of the host.
 */
IMG_API int img_resize(struct img *img, uint64_t size, const struct img_resize_options *options,
                       struct img_error *err);

/* ---- chains ------------------------------------------------------------------------------- */

enum img_rebase_flags {
    /* Change the name only: nothing is read or compared, and the old backing file need not exist.
     */
    IMG_REBASE_UNSAFE = 1 << 0,
    /* Clusters that are copied are stored compressed; where the image has some subclusters of one,
     * together with these. */
    IMG_REBASE_COMPRESS = 1 << 1,
    /* Change nothing, say in the result what would be done. */
    IMG_REBASE_DRY_RUN = 1 << 2,
    /* With UNSAFE: the new backing file may be one that cannot be right. Without: internal
     * snapshots may read other data afterwards. */
    IMG_REBASE_FORCE = 1 << 3,
    /* With UNSAFE: make sure first that the disk will read the same, which it need not with FORCE
     * alone. */
    IMG_REBASE_COMPARE = 1 << 4,
};

struct img_rebase_options {
    const char *backing_file; /* as the image will name it: relative to the image's folder. "" or
                                 NULL: the image stands alone */
    const char *backing_format;
    unsigned flags; /* enum img_rebase_flags, or-ed */
    /* How to open the image. Its IMG_OPEN_FORCE_SHARE is about the new backing file. NULL: as
     * img_open does. */
    const struct img_open_options *open;
    img_progress progress; /* phase "compare", before it "snapshots". May be NULL. */
    /* Asked now and then, from several threads; when it is true, the call fails with -ECANCELED.
     * May be NULL. */
    bool (*cancelled)(void *opaque);
    void *opaque;
};

/* What img_rebase did; of a dry run, what it would do. Bytes of the disk. */
struct img_rebase_result {
    uint64_t shared_bytes; /* known to read the same without being read */
    uint64_t read_bytes;   /* read, of both backing files together */
    uint64_t copied_bytes; /* into the image, as data; of a dry run, the most that can be */
    uint64_t zeroed_bytes; /* said to be zero in the image; likewise */
    uint64_t growth_bytes; /* of a dry run: by how much the file can grow at most */
};

/*
 * Gives the image FILENAME another backing file. What its disk reads as stays the same: where the
 * image itself holds nothing and the old and the new backing file differ, it gets what the old one
 * has. Where both chains lead to the same bytes of the same file, nothing is read. A dry run
 * reads nothing but what internal snapshots need. RESULT may be NULL.
 *
 * At every instant, the image reads as before; its header changes last. After a crash or a failure
 * the call can be repeated, and what has been copied is not copied again; clusters that leak are
 * freed before anything is copied. The image is locked as a writer does, files below it as a reader
 * does. Memory: 3 MiB for each processor, what opening both chains takes, and that of img_check.
 *
 * Errors: those of img_open for either chain; -EINVAL when the backing file's format is not given,
 * or (IMG_REBASE_UNSAFE) when the new backing file cannot hold the chain together: it is missing,
 * leads back to the image, looks like another format, is smaller than what it replaces; or
 * (IMG_REBASE_COMPARE) reads otherwise. -EBUSY, where both are compared and without
 * IMG_REBASE_FORCE, when an internal snapshot of the image reads from the old backing file where
 * the new one differs: nothing can be copied into it. -ENOSPC where the header has no room for the
 * name; -ENOTSUP for a format without backing files or, with IMG_REBASE_COMPRESS, without
 * compression.
 */
IMG_API int img_rebase(const char *filename, const struct img_rebase_options *options,
                       struct img_rebase_result *result, struct img_error *err);

enum img_commit_flags {
    /* Keep what the image holds. Otherwise it is emptied in the end, unless BASE was given. */
    IMG_COMMIT_KEEP = 1 << 0,
    /* Even if other images need the base as it is. */
    IMG_COMMIT_FORCE = 1 << 1,
};

struct img_commit_options {
    /* The layer to commit into, by the name that an image of the chain has for it. NULL: the one
     * below the image. */
    const char *base;
    unsigned flags;                      /* enum img_commit_flags, or-ed */
    uint64_t rate;                       /* bytes a second at most; 0: no limit */
    const char *const *siblings;         /* folders in which to look for images that need the */
    size_t sibling_count;                /* base, besides those of the chain's files */
    const struct img_open_options *open; /* how to open the image; NULL: as img_open does */
    img_progress progress;               /* phase "copy". May be NULL. */
    /* Asked now and then, from several threads; when it is true, the call fails with -ECANCELED.
     * May be NULL. */
    bool (*cancelled)(void *opaque);
    void *opaque;
};

/* What img_commit did. Bytes of the disk. */
struct img_commit_result {
    uint64_t copied_bytes; /* written to the base as data */
    uint64_t zeroed_bytes; /* said to be zero in the base */
    bool grown;            /* the base has the image's size now */
    bool emptied;          /* the image holds nothing any more */
};

/*
 * Writes what the image FILENAME, and all layers between it and the base, hold into the base, so
 * that the base reads as the image does; a shorter base is grown. Then the image is emptied, unless
 * it is to keep what it has. Layers between are left as they are; over a changed base they mean
 * nothing any more.
 *
 * The base is locked, and opened, as a writer does, and what it held is lost: an image that has it
 * below and is not part of the chain would read garbage, as would the image's own internal
 * snapshots. So such images are looked for in the folders of the chain's files and in all that is
 * under OPTIONS->siblings; when there are any, nothing is changed and the call fails with -EBUSY,
 * unless IMG_COMMIT_FORCE.
 *
 * At every instant, the image reads as before; it is emptied only when the base is on disk. After a
 * crash or a failure the call can be repeated, and has then the same outcome; clusters of the base
 * that leak are freed before it is written, unless its L2 tables are longer than 8 MiB and than
 * what the layers above it take on the host: then that is left to img_repair. RESULT may be NULL.
 * Memory: 2 MiB for each processor, what opening the chain takes, and that of img_check.
 */
IMG_API int img_commit(const char *filename, const struct img_commit_options *options,
                       struct img_commit_result *result, struct img_error *err);

#ifdef __cplusplus
}
#endif
#endif
