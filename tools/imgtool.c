/* The command table, and finding the command that is wanted. */
#include "commands.h"
#include "progress.h"
#include "mount/table.h"
#include "tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define OPEN_OPTIONS                                                                               \
    "  -h, --help\n"                                                                               \
    "     print this help and exit\n"                                                              \
    "  -f, --format FMT\n"                                                                         \
    "     the format of FILENAME, instead of looking at it\n"                                      \
    "  --image-opts\n"                                                                             \
    "     FILENAME is a list of options (driver=qcow2,file.filename=...), not a file name\n"       \
    "  -U, --force-share\n"                                                                        \
    "     open the image although another program is writing it\n"

#define FILE_OPTIONS                                                                               \
    OPEN_OPTIONS                                                                                   \
    "  --output human|json\n"                                                                      \
    "     output format (default human)\n"

const struct command commands[] = {
    {"advise", "Say what should be different about an image, why, and how to change it",
     "[-f FMT | --image-opts] [-U] [--output human|json] [--strict]\n"
     "        [--use general|database|sequential|overlay] FILENAME\n\nArguments:\n" FILE_OPTIONS
     "  --strict\n     exit with 4 if anything was advised\n"
     "  --use general|database|sequential|overlay\n"
     "     what the disk is used for (default general)\n",
     cmd_advise},
    {"advise-cache", "Say which caches QEMU should have for an image",
     "[-f FMT | --image-opts] [-b] [-U] [--qemu-version V] [--budget SIZE]\n"
     "        [--output human|json|qemu|blockdev|libvirt] FILENAME...\n\nArguments:\n" OPEN_OPTIONS
     "  --output human|json|qemu|blockdev|libvirt\n     output format (default human)\n"
     "     json: an object for one FILENAME, a list of them for several; with --backing-chain\n"
     "     each is {\"filename\", \"layers\": [...], \"total-cache-size\"}\n"
     "     qemu, blockdev: a -drive or -blockdev argument, quoted for the shell\n"
     "     libvirt: a <disk> element\n"
     "  -b, --backing-chain\n     every layer of the backing chain, top first, and their total\n"
     "  --qemu-version V\n     the rules of that QEMU, 2.2 or later (3.1, 4, 10.0.2; default "
     "newest)\n"
     "  --budget SIZE\n     share so much memory out among all images, where it maps most\n",
     cmd_advise_cache},
    {"amend", "Update format-specific options of the image",
     "[-f FMT | --image-opts] [-t CACHE] [--force] [-p] [-q]\n"
     "        [--object OBJDEF] -o OPTIONS FILENAME\n\nArguments:\n"
     "  -h, --help\n     print this help and exit\n"
     "  -q, --quiet\n     show no progress\n" PROGRESS_HELP
     "  -f, --format FMT\n     the format of FILENAME, instead of looking at it\n"
     "  --image-opts\n     FILENAME is a list of options (driver=qcow2,file.filename=...), not a "
     "file name\n"
     "  -o, --options OPTIONS\n     NAME=VALUE,... of the format; '-o help' lists them\n"
     "  -t, --cache CACHE\n     taken as qemu-img does, of no effect\n"
     "  --force\n     taken as qemu-img does, of no effect: it is about keys of encrypted images\n",
     cmd_amend},
    {"bench", "Run a simple image benchmark",
     "[-f FMT | --image-opts] [-t CACHE] [-c COUNT] [-d DEPTH] [-o OFFSET]\n"
     "        [-s BUFFER_SIZE] [-S STEP_SIZE] [-i AIO] [-n] [-q] [-U]\n"
     "        [-w [--pattern PATTERN] [--flush-interval INTERVAL [--no-drain]]] FILENAME\n\n"
     "Arguments:\n" OPEN_OPTIONS
     "  -c, --count COUNT\n     how many requests to send (default 75000)\n"
     "  -d, --depth DEPTH\n     how many of them at a time, each on a thread (default 64)\n"
     "  -o, --offset OFFSET\n     where the first one begins (default 0)\n"
     "  -s, --buffer-size BUFFER_SIZE\n     the size of each (default 4096)\n"
     "  -S, --step-size STEP_SIZE\n     from one to the next (default BUFFER_SIZE)\n"
     "  -w, --write\n     write, instead of reading: what is on the disk is lost\n"
     "  --pattern PATTERN\n     the byte to write (default 0)\n"
     "  --flush-interval INTERVAL\n     flush after so many requests\n"
     "  --no-drain\n     flush while requests are on their way\n"
     "  -t, --cache CACHE\n     writethrough, directsync: flush after each write; else of no "
     "effect\n"
     "  -i, --aio AIO, -n, --native, -q, --quiet\n     taken as qemu-img does, of no effect\n",
     cmd_bench},
    {"bitmap", "Perform modifications of the persistent bitmap in the image",
     "(--merge SOURCE | --add | --remove | --clear | --enable | --disable)...\n"
     "        [-b SOURCE_FILE [-F SOURCE_FMT]] [-g GRANULARITY] [-f FMT | --image-opts]\n"
     "        [--object OBJDEF] FILENAME BITMAP\n\nArguments:\n"
     "  -h, --help\n     print this help and exit\n"
     "  -f, --format FMT\n     the format of FILENAME, instead of looking at it\n"
     "  --image-opts\n"
     "     FILENAME is a list of options (driver=qcow2,file.filename=...), not a file name\n"
     "  --add\n     make BITMAP, empty, and enable it\n"
     "  -g, --granularity GRANULARITY\n     bytes that a bit of the new BITMAP stands for\n"
     "  --remove\n     remove BITMAP\n"
     "  --clear\n     clear all bits of BITMAP\n"
     "  --enable, --disable\n     whether writes to the disk set bits from now on\n"
     "  --merge SOURCE\n     set the bits for all that the bitmap SOURCE has set\n"
     "  -b, --source-file SOURCE_FILE\n     the image that has SOURCE (default FILENAME)\n"
     "  -F, --source-format SOURCE_FMT\n     the format of SOURCE_FILE\n"
     "\nSeveral actions are done in their order; when one is refused, none is.\n",
     cmd_bitmap},
    {"check", "Check basic image integrity",
     "[-f FMT | --image-opts] [-U] [-p] [-q] [--list] [--output human|json]\n"
     "        [-r leaks|all [--dry-run | --undo FILE]] FILENAME\n\nArguments:\n" FILE_OPTIONS
     "  -q, --quiet\n     print no summary\n" PROGRESS_HELP
     "  --list\n     name each finding with its kind and offsets, on standard output\n"
     "  -r, --repair leaks|all\n     repair leaked clusters, or all that has one safe answer\n"
     "  --dry-run\n     with -r: list what would change, and change nothing\n"
     "  --undo FILE\n     with -r: save what is overwritten to the new FILE first; 'undo' puts it "
     "back\n"
     "  -T, --cache CACHE_MODE\n     taken as qemu-img does, of no effect\n"
     "\nExit codes: 0 no errors, 1 not completed, 2 errors, 3 leaked clusters only, 63 not "
     "possible\n"
     "with this format\n",
     cmd_check},
    {"commit", "Commit the changes of an image into its backing file",
     "[-f FMT | --image-opts] [-t CACHE] [-b BASE] [-d] [-r RATE] [-p] [-q]\n"
     "        [--siblings DIR]... [--force] [--object OBJDEF] FILENAME\n\nArguments:\n"
     "  -h, --help\n     print this help and exit\n"
     "  -q, --quiet\n     print nothing but errors\n" PROGRESS_HELP
     "  -f, --format FMT\n     the format of FILENAME, instead of looking at it\n"
     "  --image-opts\n"
     "     FILENAME is a list of options (driver=qcow2,file.filename=...), not a file name\n"
     "  -t, --cache CACHE\n     taken as qemu-img does, of no effect\n"
     "  -b, --base BASE\n     the layer to commit into (default the next one); FILENAME is kept "
     "then\n"
     "  -d, --drop\n     do not empty FILENAME in the end\n"
     "  -r, --rate-limit RATE\n     bytes a second at most\n"
     "  --siblings DIR\n     where else to look for images that need the base as it is, besides "
     "the\n"
     "     folders of the chain's files\n"
     "  --force\n     commit although there are such images; they are of no use then\n"
     "  FILENAME\n     reads the same at every instant; interrupted, the command is run again\n",
     cmd_commit},
    {"compare", "Check if two images have the same content",
     "[-f FMT] [-F FMT | --image-opts] [-U] [-T CACHE] [-s] [-p] [-q]\n"
     "        [--object OBJDEF] [--list [--output human|json]] FILENAME1 FILENAME2\n\nArguments:\n"
     "  -h, --help\n     print this help and exit\n"
     "  -q, --quiet\n     print nothing but errors\n" PROGRESS_HELP
     "  -f, --a-format FMT\n     the format of FILENAME1\n"
     "  -F, --b-format FMT\n     the format of FILENAME2\n"
     "  --image-opts\n     both are lists of options (driver=qcow2,file.filename=...), not file "
     "names\n"
     "  -U, --force-share\n     open the images although another program is writing them\n"
     "  -T, --cache CACHE\n     none, directsync: read past the host's cache; else of no effect\n"
     "  -s, --strict\n     sizes, and the way in which each range is stored, have to be the same, "
     "too\n"
     "  --list\n     list all that differs, in whole sectors of 512 bytes, neighbours joined\n"
     "  --output human|json\n     output format of --list (default human)\n"
     "\nExit codes: 0 the same, 1 they differ, 2 an image could not be opened, 3 its map could "
     "not\n"
     "be read, 4 its data could not be read\n",
     cmd_compare},
    {"convert", "Copy the disk of an image, or of several, to another",
     "[-f FMT | --image-opts] [-O FMT] [-o OPTIONS] [-c] [-B BACKING -F FMT] [-l SNAPSHOT]\n"
     "        [-S SIZE] [-n [--target-is-zero] [--target-image-opts]] [--bitmaps\n"
     "        [--skip-broken-bitmaps]] [--salvage] [-m N] [-r RATE] [-t CACHE] [-T CACHE] [-C] "
     "[-W]\n"
     "        [-U] [-p] [-q] [--object OBJDEF] FILENAME... TARGET\n\nArguments:\n" OPEN_OPTIONS
     "  -O, --output-format FMT\n     the format of TARGET (default raw)\n"
     "  -o, --options OPTIONS\n     NAME=VALUE,... of the new image; '-o help' lists them. And, "
     "with -c,\n"
     "     compression_level=N: zlib 1 to 12 (9 without libdeflate), zstd 1 to 22\n"
     "  -c\n     compress\n"
     "  -B, --backing BACKING; -F, --backing-format FMT\n     a file below TARGET, as TARGET will "
     "name it, and its format: only "
     "what\n     FILENAME itself holds is copied\n"
     "  -l, --snapshot SNAPSHOT\n     the disk of an internal snapshot, by ID or name\n"
     "  -S, --sparse-size SIZE\n     so many zeroes in a row are left out (default 4k); 0: none "
     "are\n"
     "  -n\n     TARGET exists: its disk is written\n"
     "  --target-is-zero\n     with -n: TARGET's disk reads as zeroes\n"
     "  --target-image-opts\n     with -n: TARGET is a list of options\n"
     "  --bitmaps\n     copy persistent bitmaps, too\n"
     "  --skip-broken-bitmaps\n     with --bitmaps: leave out those that are inconsistent\n"
     "  --salvage\n     what cannot be read becomes zeroes\n"
     "  --reflink auto|always|never\n"
     "     share data with FILENAME instead of copying it, where both lie on one file system that "
     "can\n     (XFS, btrfs; default auto)\n"
     "  --verify\n     read TARGET back from its disk, and compare\n"
     "  --resume\n     go on where the same command was interrupted; and keep what is copied,\n    "
     " should "
     "this one be\n"
     "  --adopt\n     copy nothing: the raw FILENAME becomes the data file of the new qcow2 "
     "TARGET\n"
     "  -m, --parallel N\n     threads (1 to 16; default: one for each processor)\n"
     "  -r, --rate RATE\n     bytes a second at most\n" PROGRESS_HELP
     "  -q, --quiet\n     no warnings, no progress\n"
     "  -t CACHE\n     unsafe, as is the default: a new TARGET need not be on disk when the "
     "command "
     "ends,\n     unless it replaces a file; with any other (none, writeback...) it is;\n     "
     "none, directsync: written past the host's cache\n"
     "  -T, --source-cache CACHE\n     none, directsync: read past the host's cache; else of no "
     "effect\n"
     "  -C, --copy-range-offloading, -W, --oob-writes\n     taken as qemu-img does, of no effect\n"
     "  FILENAME...\n     the disks of several are put one behind the other\n"
     "  TARGET\n     what stands there is replaced once the new image is complete\n"
     "\nAs TARGET, '-' is standard output, without -c; as FILENAME, it is standard input, a qcow2\n"
     "image whose tables come before its data, as they do in one that convert has made.\n",
     cmd_convert},
    {"create", "Create and format new image file",
     "[-f FMT] [-o OPTIONS] [-b BACKING [-F FMT]] [-u] [-p] [-q] FILENAME [SIZE]\n\nArguments:\n"
     "  -h, --help\n     print this help and exit\n"
     "  -q, --quiet\n     print nothing but errors\n" PROGRESS_HELP
     "  -f, --format FMT\n     the format of the new image (default raw)\n"
     "  -o, --options OPTIONS\n     NAME=VALUE,... of the format; '-o help' lists them\n"
     "  -b, --backing BACKING\n     a file below the new image, as the image will name it\n"
     "  -F, --backing-format FMT\n     the format of BACKING\n"
     "  -u, --backing-unsafe\n     do not look at BACKING, which need not exist\n"
     "  FILENAME\n     what stands there is replaced once the new image is complete\n"
     "  SIZE\n     in bytes, or with a suffix (k, M, G, T, P, E: powers of 1024); with BACKING, "
     "its\n"
     "     size is the default\n",
     cmd_create},
    {"dd", "Convert and copy a file with optional format conversion",
     "[-f FMT | --image-opts] [-O FMT] [-U] [--object OBJDEF] [bs=BLOCK_SIZE] [count=BLOCKS]\n"
     "        [skip=BLOCKS] if=INPUT of=OUTPUT\n\nArguments:\n" OPEN_OPTIONS
     "  -O, --output-format FMT\n     the format of OUTPUT (default raw)\n"
     "  bs=BLOCK_SIZE\n     the size of a block (default 512)\n"
     "  count=BLOCKS\n     where to stop: counted from the start of INPUT\n"
     "  skip=BLOCKS\n     how many blocks of INPUT to leave out at its start\n"
     "  if=INPUT\n     the image whose disk is copied\n"
     "  of=OUTPUT\n     what stands there is replaced once the new image is complete\n",
     cmd_dd},
    {"filesystems", "List the partitions and file systems of a guest's disk",
     "[-f FMT | --image-opts] [-U] [-l SNAPSHOT] [--sector-size 512|4096]\n"
     "        [--output human|json] FILENAME\n\nArguments:\n" FILE_OPTIONS
     "  -l, --snapshot SNAPSHOT\n     the disk of an internal snapshot, by ID or name\n"
     "  --sector-size 512|4096\n"
     "     how large a sector is to the guest, instead of what fits its partition table\n",
     cmd_filesystems},
    {"info", "Display information about image",
     "[-f FMT | --image-opts] [-b] [-U] [--output human|json] FILENAME\n\nArguments:\n" FILE_OPTIONS
     "  -b, --backing-chain\n     describe every layer of the backing chain, top first\n",
     cmd_info},
    {"map", "Dump image metadata",
     "[-f FMT | --image-opts] [-U] [--output human|json] [-s OFFSET] [-l LENGTH]\n"
     "        [--snapshot SNAPSHOT] FILENAME\n\nArguments:\n" FILE_OPTIONS
     "  -s, --start-offset OFFSET\n     begin there\n"
     "  -l, --max-length LENGTH\n     at most so many bytes\n"
     "  --snapshot SNAPSHOT\n     the disk of an internal snapshot, by ID or name\n",
     cmd_map},
    {"measure", "Calculate the file size required for a new image",
     "[-O FMT] [-o OPTIONS] [--output human|json] [--object OBJDEF]\n"
     "        (--size N | [-f FMT | --image-opts] [-U] [-l SNAPSHOT] FILENAME)\n"
     "        --for=commit|rebase [-b NEW_BASE [-F FMT]] FILENAME\n\n"
     "Arguments:\n" FILE_OPTIONS "  -O, --target-format FMT\n"
     "     the format of the new image (default raw)\n"
     "  -o, --options OPTIONS\n     NAME=VALUE,... of the new image, as 'create' has them\n"
     "  -l, --snapshot SNAPSHOT\n     the disk of an internal snapshot, by ID or name\n"
     "  --size N\n     the size of the new disk, which is empty, instead of FILENAME's\n"
     "  FILENAME\n     what is to be copied into the new image\n"
     "  --for commit|rebase\n     instead: by how much the backing file grows when FILENAME is "
     "committed,\n     or FILENAME when it is based on NEW_BASE\n"
     "  -b, --backing NEW_BASE\n     of rebase\n"
     "  -F, --backing-format FMT\n     the format of NEW_BASE\n",
     cmd_measure},
    {"plan", "Say how to shorten a backing chain, what that copies, and what forbids it",
     "--merge --depth N [-f FMT | --image-opts] [-U] [--top] [--output human|json] FILENAME\n"
     "        [DIR...]\n\nArguments:\n" FILE_OPTIONS
     "  --merge\n     plan commits of layers into the ones below them\n"
     "  --depth N\n     how many layers shall remain, FILENAME among them\n"
     "  --top\n     FILENAME itself may be committed too: its disk is then its base's file\n"
     "  DIR\n     where to look for images that need the layers, besides the layers' own folders\n"
     "\nExit codes: 0 there is a plan, 1 there is none\n",
     cmd_plan},
    {"rebase", "Change the backing file of the image",
     "[-u] [-b BACKING [-F FMT]] [-f FMT | --image-opts] [-U] [-t CACHE] [-T CACHE]\n"
     "        [-c] [-p] [-q] [--dry-run [--output human|json]] [--compare] [--force]\n"
     "        [--fix-format] [--object OBJDEF] FILENAME\n\nArguments:\n"
     "  -h, --help\n     print this help and exit\n"
     "  -q, --quiet\n     print nothing but errors\n" PROGRESS_HELP
     "  -f, --format FMT\n     the format of FILENAME, instead of looking at it\n"
     "  --image-opts\n"
     "     FILENAME is a list of options (driver=qcow2,file.filename=...), not a file name\n"
     "  -b, --backing BACKING\n"
     "     as the image will name it; relative to the image's folder. \"\": none\n"
     "  -F, --backing-format FMT\n     its format, which the image states\n"
     "  -u, --backing-unsafe\n     change the name alone; what the disk reads as may change\n"
     "  -U, --force-share\n     read BACKING although another program is writing it\n"
     "  -c, --compress\n     store compressed what is copied into the image\n"
     "  -t, --cache CACHE; -T, --backing-cache CACHE\n     taken as qemu-img does, of no effect\n"
     "  --dry-run\n     say how much would be read and copied; change nothing\n"
     "  --output human|json\n     how to say it (default human)\n"
     "  --compare\n     with -u: first make sure that the disk will read the same\n"
     "  --force\n     with -u: name a BACKING that is missing, leads back to FILENAME, is smaller "
     "or\n"
     "     of another format; without: although internal snapshots will read other data;\n"
     "     with --fix-format: take for raw what looks like nothing else\n"
     "  --fix-format\n     with -u: state the formats of backing files that FILENAME, and the "
     "images\n     below it, do not state; all of them or none\n"
     "  FILENAME\n     reads the same at every instant; interrupted, the command is run again\n",
     cmd_rebase},
    {"relocate", "Make images name their backing files where these are now",
     "--from OLD --to NEW [--relative | --absolute] [--dry-run] [-p] [-q]\n"
     "        [--output human|json] FILENAME...\n\nArguments:\n"
     "  -h, --help\n     print this help and exit\n"
     "  -q, --quiet\n     print nothing but errors\n" PROGRESS_HELP
     "  --from OLD\n     the folder that files have moved from, or a file; need not exist\n"
     "  --to NEW\n     where they are now\n"
     "  --relative\n     new names are relative to the image's folder (default: as the old ones "
     "were)\n"
     "  --absolute\n     new names are absolute\n"
     "  --dry-run\n     check all of it and list what would change, and change nothing\n"
     "  --output human|json\n     output format (default human)\n"
     "  FILENAME\n     an image, as it lies now; all that are below it are looked at, too\n"
     "\nAll images change, or none; after an interruption the same command finishes it.\n",
     cmd_relocate},
    {"resize", "Resize the image to the new size",
     "[-f FMT | --image-opts] [--preallocation PREALLOC] [--shrink]\n"
     "        [--object OBJECTDEF] [-p] [-q] FILENAME [+-]SIZE\n\nArguments:\n"
     "  -h, --help\n     print this help and exit\n"
     "  -q, --quiet\n     print nothing but errors\n" PROGRESS_HELP
     "  -f, --format FMT\n     the format of FILENAME, instead of looking at it\n"
     "  --image-opts\n"
     "     FILENAME is a list of options (driver=qcow2,file.filename=...), not a file name\n"
     "  --shrink\n     the new size may be smaller: what lies behind it is lost\n"
     "  --preallocation off|metadata|falloc|full\n"
     "     what the new part of the disk gets at once (default off)\n"
     "  FILENAME\n     stays the old image, whatever happens, until it is the new one\n"
     "  [+-]SIZE\n     the new size, or how much to add or to take away; in bytes, or with a\n"
     "     suffix (k, M, G, T, P, E: powers of 1024)\n",
     cmd_resize},
    {"snapshot", "List or manipulate snapshots within image",
     "[-f FMT | --image-opts] [-U] [-p] [-q] [-l | -a|-c|-d SNAPSHOT] FILENAME\n\n"
     "Arguments:\n" OPEN_OPTIONS
     "  -q, --quiet\n     print nothing but lists and errors\n" PROGRESS_HELP
     "  -l, --list\n     list the snapshots (the default)\n"
     "  -c, --create SNAPSHOT\n     take a snapshot of the disk and name it\n"
     "  -a, --apply SNAPSHOT\n     go back to a snapshot, by ID or name; what the disk holds is "
     "lost\n"
     "  -d, --delete SNAPSHOT\n     delete the first snapshot of that name\n",
     cmd_snapshot},
    {"tree", "Show which images are based on which",
     "[--output human|json|dot] [--dependents FILE] DIR...\n\nArguments:\n"
     "  -h, --help\n     print this help and exit\n"
     "  --output human|json|dot\n     output format (default human); dot is graphviz's\n"
     "  --dependents FILE\n     list the images under DIR that need FILE\n"
     "  DIR\n     a folder, with all that are in it, or an image\n"
     "\nExit codes: 0 done (--dependents: nobody needs FILE), 1 something could not be read,\n"
     "5 somebody needs FILE\n",
     cmd_tree},
    {"undo", "Put back what a repair of an image has overwritten",
     "[-q] UNDO_FILE FILENAME\n\nArguments:\n"
     "  -h, --help\n     print this help and exit\n"
     "  -q, --quiet\n     print nothing but errors\n"
     "  UNDO_FILE\n     made by 'check -r ... --undo UNDO_FILE'\n"
     "  FILENAME\n     the image that was repaired, not changed since\n",
     cmd_undo},
#define ENTRY(name, function, summary, usage) {name, summary, usage, cmd_guest},
    GUEST_COMMANDS(ENTRY)
#undef ENTRY
        {NULL, NULL, NULL, NULL},
};

static int print_version(const struct tool *tool)
{
    if (tool->as_qemu) /* scripts read a version of qemu-img's here */
        printf("qemu-img version 10.0.0 (imgtool %s)\n", img_version());
    else
        printf("imgtool version %s\n", img_version());
    return 0;
}

static int print_help(const struct tool *tool)
{
    printf("imgtool %s: disk images of virtual machines.  Usage:\n\n"
           "  %s [standard options] COMMAND [--help | command options]\n\n"
           "Standard options:\n  -h, --help\n     display this help and exit\n"
           "  -V, --version\n     display version info and exit\n\n"
           "Recognized commands (run %s COMMAND --help for command-specific help):\n\n",
           img_version(), tool->program, tool->program);
    for (const struct command *c = commands; c->name; c++)
        printf("  %s - %s\n", c->name, c->summary);
    printf("\nSupported image formats:\n\n  qcow2 raw\n");
    return 0;
}

/* How many letters must be added, dropped or changed to make A of B. */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[64], columns = (unsigned)strlen(b);
    if (columns >= 64 || strlen(a) >= 64)
        return 64;
    for (unsigned i = 0; i <= columns; i++)
        row[i] = i;
    for (unsigned i = 1; *a; i++, a++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned k = 1; k <= columns; k++) {
            unsigned best = diagonal + (*a != b[k - 1]);
            diagonal = row[k];
            best = row[k] + 1 < best ? row[k] + 1 : best;
            row[k] = row[k - 1] + 1 < best ? row[k - 1] + 1 : best;
        }
    }
    return row[columns];
}

static int unknown_command(const struct tool *tool, const char *name)
{
    const struct command *nearest = NULL;
    unsigned least = 4;
    for (const struct command *c = commands; c->name; c++) {
        unsigned d = distance(name, c->name);
        if (d < least) {
            least = d;
            nearest = c;
        }
    }
    if (nearest && !tool->as_qemu)
        return tool_usage_error(tool, "Command not found: %s (did you mean '%s'?)", name,
                                nearest->name);
    return tool_usage_error(tool, "Command not found: %s", name);
}

/* A chain may have more layers than a shell's limit on open files; the hard limit is ours to use.
 */
static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int run_command(struct tool *tool, int argc, char **argv)
{
    for (const struct command *c = commands; c->name; c++) {
        if (strcmp(c->name, argv[0]))
            continue;
        tool->command = c->name;
        optind = 0; /* getopt starts anew */
        raise_file_limit();
        return c->run(tool, argc, argv);
    }
    return unknown_command(tool, argv[0]);
}

static int help_on(struct tool *tool, int argc, char **argv)
{
    char *help[] = {argc ? argv[0] : NULL, (char[]){"--help"}, NULL};
    return argc ? run_command(tool, 2, help) : print_help(tool);
}

int main(int argc, char **argv)
{
    const char *slash = argv[0] ? strrchr(argv[0], '/') : NULL;
    struct tool tool = {.program = slash ? slash + 1 : argv[0] ? argv[0] : "imgtool"};
    tool.as_qemu = !strcmp(tool.program, "qemu-img");
    static const struct option options[] = {
        {"help", no_argument, 0, 'h'},
        {"version", no_argument, 0, 'V'},
        {"trace", required_argument, 0, 'T'},
        {0, 0, 0, 0},
    };
    int c;
    argv[0] = (char *)(uintptr_t)tool.program;
    while ((c = getopt_long(argc, argv, "+hVT:", options, NULL)) != -1) {
        switch (c) {
        case 'h':
            return print_help(&tool);
        case 'V':
            return print_version(&tool);
        case 'T': /* QEMU's own trace events: there are none here */
            break;
        default:
            fprintf(stderr, "Try '%s --help' for more info\n", tool.program);
            return 1;
        }
    }
    argc -= optind;
    argv += optind;
    if (!argc)
        return tool_usage_error(&tool, "Not enough arguments");
    if (!strcmp(argv[0], "help") && !tool.as_qemu)
        return help_on(&tool, argc - 1, argv + 1);
    return run_command(&tool, argc, argv);
}
