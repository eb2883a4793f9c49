/*
 * The images that runs start on: small, so that thousands of their states can be looked at, and
 * together with everything that a qcow2 image can have. QEMU's own programs make them. Each script
 * makes image.qcow2, which is a raw image where the name begins with "raw disk".
 */
#include "subjects.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CREATE(options, size) "$QEMU_IMG create -q -f qcow2 -o " options " image.qcow2 " size "\n"
#define IO(commands)          "$QEMU_IO -f qcow2 " commands " image.qcow2 >>io.log\n"
#define RAW(commands)         "$QEMU_IO -f raw " commands " image.qcow2 >>io.log\n"
#define SNAPSHOT(name)        "$QEMU_IMG snapshot -c " name " image.qcow2\n"
#define BITMAP(options)       "$QEMU_IMG bitmap " options "\n"
#define UNDO(what)            "$IMGTOOL check -q -r " what " --undo undo image.qcow2 2>>io.log\n"
#define BASE(size)                                                                                 \
    "$QEMU_IMG create -q -f raw base.raw " size "\n"                                               \
    "$QEMU_IO -f raw -c 'write -P 0xb1 0 40k' -c 'write -P 0xb2 60k 40k' base.raw >>io.log\n"

/* Images whose repair takes several rounds, before they are damaged. */
#define ROUNDS_4K                                                                                  \
    CREATE("cluster_size=4k", "256k")                                                              \
    IO("-c 'write -P 1 0 30k' -c 'write -P 3 80k 8k'")                                             \
    SNAPSHOT("one") IO("-c 'write -P 4 4k 6k'")
#define ROUNDS_512                                                                                 \
    CREATE("cluster_size=512", "200k")                                                             \
    IO("-c 'write -P 1 0 30k' -c 'write -P 3 80k 8k'")                                             \
    SNAPSHOT("one") IO("-c 'write -P 4 4k 6k'")
#define ROUNDS_1_BIT                                                                               \
    CREATE("cluster_size=1k,refcount_bits=1", "100k")                                              \
    IO("-c 'write -P 1 0 30k' -c 'write -P 3 80k 8k' -c 'write -P 4 4k 6k'")
#define ENTRY_WHERE_IT_GROWS ROUNDS_4K RAW("-c 'write -P 1 0x401d 1' -c 'write -P 0x50 0x401e 1'")
#define ENTRY_AND_FLAGS                                                                            \
    ROUNDS_512 RAW("-c 'write -P 0x80 0x8c8 1' -c 'write -P 0xc6 0x8ce 1' "                        \
                   "-c 'write -P 0x80 0xa9d0 1'")
/* The second round changes a table, in its place, that the first one has moved; an entry goes on
 * leading behind the end. */
#define TABLE_TWICE                                                                                \
    ROUNDS_4K RAW("-c 'write -P 0x9b 0x1006 1' -c 'write -P 0x80 0x11000 1' "                      \
                  "-c 'write -P 1 0x11005 1' -c 'write -P 0xd0 0x11006 1' "                        \
                  "-c 'write -P 0 0x11008 1'")
#define ENTRIES_TO_REFCOUNTS                                                                       \
    ROUNDS_1_BIT RAW("-c 'write -P 0 0x1070 1' -c 'write -P 4 0x10b6 1' -c 'write -P 0 0x10c8 1'")

static const struct recipe {
    const char *name, *script;
} recipes[] = {
    {"raw disk",
     "$QEMU_IMG create -q -f raw image.qcow2 128k\n" RAW("-c 'write -P 1 0 30k' -c 'write -P 3 70k "
                                                         "20k'")},
    /* tables of 64 entries, several refcount blocks, tables shared with two snapshots */
    {"512-byte clusters, 2 snapshots",
     CREATE("cluster_size=512",
            "160k") IO("-c 'write -P 1 0 60k' -c 'write -c -P 2 60k 4k' -c 'write -P 3 100k 5k'")
         SNAPSHOT("first") IO("-c 'write -P 4 2k 3k' -c 'write -z 20k 2k' -c 'write -P 5 90k 2k'")
             SNAPSHOT("second") IO("-c 'write -P 6 3k 3k' -c 'discard 30k 4k'")},
    {"64 KiB clusters, snapshot, bitmap",
     CREATE("cluster_size=64k", "1M") IO("-c 'write -P 1 0 130k' -c 'write -P 2 700k 64k'")
         SNAPSHOT("first") BITMAP("--add image.qcow2 changed") IO("-c 'write -P 3 64k 10k'")},
    {"version 2, snapshots",
     CREATE("compat=0.10,cluster_size=4k", "512k")
         IO("-c 'write -P 1 0 30k' -c 'write -c -P 2 40k 4k' -c 'write -P 3 300k 8k'")
             SNAPSHOT("first") SNAPSHOT("second") IO("-c 'write -P 4 4k 4k'")},
    {"version 2, no snapshots",
     CREATE("compat=0.10,cluster_size=4k", "512k")
         IO("-c 'write -P 1 0 30k' -c 'write -c -P 2 40k 4k' -c 'write -P 3 300k 8k'")},
    {"extended L2, backing file, snapshot",
     BASE("256k")
         CREATE("cluster_size=16k,extended_l2=on,backing_file=base.raw,backing_fmt=raw", "256k")
             IO("-c 'write -P 1 0 20k' -c 'write -P 2 33k 1k' -c 'write -z 70k 3k'")
                 SNAPSHOT("first") IO("-c 'write -P 3 1k 2k' -c 'write -z 34k 1k'")},
    {"backing file, compressed clusters",
     BASE("128k") CREATE("cluster_size=4k,backing_file=base.raw,backing_fmt=raw", "128k")
         IO("-c 'write -P 1 8k 6k' -c 'write -c -P 2 20k 4k' -c 'write -c -P 7 24k 4k' "
            "-c 'write -z 64k 8k'")},
    {"long backing name, 1 KiB clusters",
     BASE("128k") "long=$(printf './%.0s' $(seq 200))base.raw\n" CREATE(
         "cluster_size=1k,backing_file=$long,backing_fmt=raw", "128k") IO("-c 'write -P 1 8k 6k'")},
    {"1-bit refcounts", CREATE("cluster_size=1k,refcount_bits=1", "128k")
                            IO("-c 'write -P 1 0 30k' -c 'write -P 3 80k 7k' -c 'discard 10k 3k'")},
    {"64-bit refcounts, snapshot", CREATE("cluster_size=1k,refcount_bits=64", "128k")
                                       IO("-c 'write -P 1 0 30k' -c 'write -P 3 80k 7k'")
                                           SNAPSHOT("first") IO("-c 'write -P 4 2k 3k'")},
    {"512-byte clusters, 64-bit refcounts", CREATE("cluster_size=512,refcount_bits=64", "320k")},
    {"three bitmaps",
     CREATE("cluster_size=1k", "256k") IO("-c 'write -P 1 0 40k'")
         BITMAP("--add -g 512 image.qcow2 one") BITMAP("--add -g 1k image.qcow2 two")
             IO("-c 'write -P 2 10k 9k'") BITMAP("--add --disable -g 4k image.qcow2 three")
                 IO("-c 'write -P 3 200k 3k'")},
    {"external data file",
     "$QEMU_IMG create -q -f qcow2 -o cluster_size=4k,data_file=data.raw image.qcow2 256k\n" IO(
         "-c 'write -P 1 0 30k' -c 'write -P 3 100k 8k' -c 'write -z 12k 4k'")},
    {"zero clusters, snapshot",
     CREATE("cluster_size=4k", "256k") IO("-c 'write -z 0 60k' -c 'write -P 3 100k 8k'")
         SNAPSHOT("first") IO("-c 'write -P 4 4k 5k' -c 'write -z 200k 20k'")},
    {"zero clusters with places, snapshot",
     CREATE("cluster_size=4k", "256k") IO("-c 'write -P 1 0 60k' -c 'write -P 3 100k 8k'")
         SNAPSHOT("first") IO("-c 'write -P 4 8k 4k' -c 'write -z 0 20k' -c 'write -z 100k 4k'")},
    {"zero clusters over a backing file, snapshot",
     BASE("128k") CREATE("cluster_size=1k,backing_file=base.raw,backing_fmt=raw", "128k")
         IO("-c 'write -P 1 8k 6k' -c 'write -z 0 4k' -c 'write -z 64k 8k'") SNAPSHOT("first")
             IO("-c 'write -P 2 1k 1k' -c 'write -z 9k 2k'")},
    {"data file longer than its disk",
     "$QEMU_IMG create -q -f qcow2 -o cluster_size=4k,data_file=data.raw image.qcow2 101k\n" IO(
         "-c 'write -P 1 0 30k' -c 'write -P 3 90k 11k'") "$QEMU_IMG resize -q -f raw data.raw "
                                                          "200k\n"
                                                          "$QEMU_IO -f raw -c 'write -P 4 101k "
                                                          "99k' data.raw >>io.log\n"},
    {"raw data file",
     "$QEMU_IMG create -q -f qcow2 -o cluster_size=4k,data_file=data.raw,data_file_raw=on "
     "image.qcow2 256k\n" IO("-c 'write -P 1 0 30k' -c 'write -P 3 100k 8k'")},
    {"unknown autoclear bit",
     CREATE("cluster_size=4k", "256k") IO("-c 'write -P 1 0 30k' -c 'write -P 3 100k 8k'")
         RAW("-c 'write -P 4 95 1'")},
    /* the refcount table names blocks for 2 MiB, which the next clusters go beyond */
    {"short refcount table",
     CREATE("cluster_size=512,refcount_bits=64", "2200k") IO("-c 'write -P 1 0 1890k'")},
    {"no file", ""},
    {"plain, 4 KiB clusters",
     CREATE("cluster_size=4k", "256k") IO("-c 'write -P 1 0 30k' -c 'write -P 3 100k 8k'")},
    {"lazy refcounts", CREATE("cluster_size=4k,lazy_refcounts=on", "256k")
                           IO("-c 'write -P 1 0 30k' -c 'write -P 3 100k 8k'")},
    /* refcounts of 1 for what lies behind the image's old end, in two refcount blocks */
    {"leaks in two refcount blocks",
     CREATE("cluster_size=512", "160k")
         IO("-c 'write -P 1 0 110k'") "truncate -s 190k image.qcow2\n"
                                      "block() { od -An -tu8 --endian=big -j $((512 + $1 * 8)) -N "
                                      "8 image.qcow2; }\n"
                                      "for i in 0 1; do printf '\\0\\1\\0\\1\\0\\1\\0\\1' | dd "
                                      "of=image.qcow2 bs=1 conv=notrunc "
                                      "status=none seek=$(($(block $i) + 500 - $i * 280)); done\n"},
    /* a writer that died: clusters in use with the refcount 0, and the dirty bit */
    {"stale refcounts, dirty",
     CREATE("cluster_size=4k,lazy_refcounts=on", "256k") IO(
         "-c 'write -P 1 0 30k' -c 'write -P 3 100k 8k'") "head -c 12 /dev/zero | dd "
                                                          "of=image.qcow2 bs=1 conv=notrunc "
                                                          "status=none seek=$((8192 + 14))\n"
                                                          "printf '\\1' | dd of=image.qcow2 bs=1 "
                                                          "conv=notrunc status=none seek=79\n"},
    /* as if the last snapshot had been made without clearing the flags */
    {"flags as before the snapshot",
     CREATE("cluster_size=4k", "4M")
         IO("-c 'write -P 1 0 30k' -c 'write -P 2 3M 9k'") "cp image.qcow2 flags\n" SNAPSHOT(
             "first") "for at in $((0x3000)) $((0x4000)); do dd if=flags of=image.qcow2 bs=1 "
                      "skip=$at seek=$at "
                      "count=32 conv=notrunc status=none; done\nrm flags\n"},
    /* damaged: with these clusters, the refcount block lies at 0x2000, the L1 table at 0x3000 */
    {"leaks",
     CREATE("cluster_size=4k", "256k")
         IO("-c 'write -P 1 0 30k' -c 'write -P 3 100k 8k'") "n=$(($(stat -c %s image.qcow2) / "
                                                             "4096))\n"
                                                             "$QEMU_IMG resize -q -f raw "
                                                             "image.qcow2 $(((n + 8) * 4096))\n"
                                                             "for i in 0 1 2 5 7; do " RAW(
                                                                 "-c \"write -P 1 $((0x2001 + 2 * "
                                                                 "(n + i))) 1\"") "done\n"},
    {"leaks of clusters in use",
     CREATE("cluster_size=4k", "256k") IO("-c 'write -P 1 0 30k' -c 'write -P 3 100k 8k'")
         RAW("-c 'write -P 2 0x200b 1' -c 'write -P 0 0x4000 1' -c 'write -P 2 0x200f 1' "
             "-c 'write -P 0 0x4010 1'")},
    {"many leaks, 512-byte clusters",
     CREATE("cluster_size=512", "160k") IO("-c 'write -P 1 0 150k'") SNAPSHOT("first")
         IO("-c 'write -P 2 0 100k'") "# the snapshot is forgotten, with all that it alone "
                                      "has\n" RAW("-c 'write -P 0 60 12'")},
    {"refcounts too low",
     CREATE("cluster_size=4k", "256k") IO("-c 'write -P 1 0 30k' -c 'write -P 3 100k 8k'")
         RAW("-c 'write -P 0 0x200b 1' -c 'write -P 0 0x200f 5'")},
    /* moved tables, and refcounts that went down in place */
    {"repaired, with its undo file",
     CREATE("cluster_size=4k", "256k") IO("-c 'write -P 1 0 30k' -c 'write -P 3 100k 8k'")
         RAW("-c 'write -P 0 0x200b 1' -c 'write -P 0 0x200f 5'") UNDO("all")},
    /* tables moved into clusters that a snapshot has left */
    {"repaired into free clusters, with its undo file",
     CREATE("cluster_size=4k", "256k") IO("-c 'write -P 1 0 30k' -c 'write -P 3 100k 8k'")
         SNAPSHOT("first")
             IO("-c 'write -P 4 0 24k'") "$QEMU_IMG snapshot -d first image.qcow2\n" RAW(
                 "-c 'write -P 0 0x2017 1' -c 'write -P 0 0x2019 1'") UNDO("all")},
    {"leaks repaired, with their undo file",
     CREATE("cluster_size=4k", "256k") IO("-c 'write -P 1 0 30k' -c 'write -P 3 100k 8k'")
         RAW("-c 'write -P 2 0x200b 1' -c 'write -P 2 0x200f 1'") UNDO("leaks")},
    /* the same with an entry that refers to what lies behind the end, where the file grows */
    {"leaks of clusters in use, an entry behind the end",
     CREATE("cluster_size=4k", "256k") IO("-c 'write -P 1 0 30k' -c 'write -P 3 100k 8k'")
         RAW("-c 'write -P 2 0x200b 1' -c 'write -P 0 0x4000 1' -c 'write -P 2 0x200f 1' "
             "-c 'write -P 0 0x4010 1' -c 'write -P 0x80 0x40a0 1' -c 'write -P 0x10 0x40a5 1' -c "
             "'write -P 1 0x40a7 1'")},
    {"wrong flags, snapshot",
     CREATE("cluster_size=4k", "256k") IO("-c 'write -P 1 0 30k'") SNAPSHOT("first")
         IO("-c 'write -P 3 4k 8k'") RAW("-c 'write -P 2 0x2001 1' -c 'write -P 1 0x200b 3'")},
    {"no refcounts", CREATE("cluster_size=4k", "256k") IO("-c 'write -P 1 0 30k'")
                         RAW("-c 'write -P 0 0x1000 8k'")},
    {"in rounds: an entry leads where the file grows", ENTRY_WHERE_IT_GROWS},
    {"in rounds: an entry leads where the file grows, and flags", ENTRY_AND_FLAGS},
    {"in rounds: an entry leads to refcounts of one bit", ENTRIES_TO_REFCOUNTS},
    {"in rounds: the refcount table as an L2 table", ROUNDS_1_BIT RAW("-c 'write -P 4 0xc06 1'")},
    {"in rounds: a snapshot's L2 table where the file grows",
     ROUNDS_4K RAW("-c 'write -P 1 0xf005 1' -c 'write -P 0x60 0xf006 1'")},
    {"in rounds: a table changes in both", TABLE_TWICE},
    {"repaired in rounds, a table in both, with its undo file",
     TABLE_TWICE "$IMGTOOL check -q -r all --undo undo image.qcow2 2>>io.log || [ $? -eq 2 ]\n"},
    {"repaired in rounds, with its undo file", ENTRY_WHERE_IT_GROWS UNDO("all")},
    {"repaired in rounds, flags too, with its undo file", ENTRY_AND_FLAGS UNDO("all")},
    {"repaired in rounds, refcounts of one bit, with its undo file",
     ENTRIES_TO_REFCOUNTS UNDO("all")},
    {"a device with an old image",
     BASE("128k") CREATE("cluster_size=4k", "256k")
         IO("-c 'write -P 1 0 120k'") "$QEMU_IMG resize -q -f raw image.qcow2 300k\n"},
};

static const struct recipe *find(const char *name)
{
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        if (!strcmp(recipes[i].name, name))
            return &recipes[i];
    fprintf(stderr, "crash: no image is called '%s'\n", name);
    exit(1);
}

void scene_make(struct scene *s, const char *name)
{
    const struct recipe *r = find(name);
    *s = (struct scene){.format = strncmp(name, "raw disk", 8) ? "qcow2" : "raw"};
    if (!run_script("rm -f image.qcow2 data.raw base.raw undo io.log\n") ||
        !run_script(r->script) || (*r->script && !read_work_file(&s->disks[0], "image.qcow2"))) {
        fprintf(stderr, "crash: cannot make the image '%s'\n", name);
        exit(1);
    }
    s->files = read_work_file(&s->disks[1], "data.raw") ? 2 : 1;
    read_work_file(&s->base, "base.raw");
    read_work_file(&s->undo, "undo");
}
