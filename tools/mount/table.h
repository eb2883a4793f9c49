/*
 * The commands that need libguestfs, for both tables: imgtool lists them and hands them on, and
 * imgtool-mount does them. ENTRY(name, function, summary, usage)
 */
#ifndef TOOLS_MOUNT_TABLE_H
#define TOOLS_MOUNT_TABLE_H

#define GUEST_COMMON                                                                               \
    "  -h, --help\n"                                                                               \
    "     print this help and exit\n"                                                              \
    "  -f, --format FMT\n"                                                                         \
    "     the format of FILENAME, instead of looking at it\n"                                      \
    "  -l, --snapshot SNAPSHOT\n"                                                                  \
    "     the disk of an internal snapshot, by ID or name\n"                                       \
    "  --key FD|FILE\n"                                                                            \
    "     where the key of an encrypted disk is read: an open file's number, or a file; a "        \
    "newline\n"                                                                                    \
    "     at its end does not count\n"

#define GUEST_MOUNTS                                                                               \
    "  -i, --inspect\n"                                                                            \
    "     find the operating system and mount what its fstab says (the default)\n"                 \
    "  -m, --mount DEV[:DIR]\n"                                                                    \
    "     mount the device DEV (such as /dev/sda1) on the guest's folder DIR (default /) "         \
    "instead\n"

#define GUEST_FILES GUEST_COMMON GUEST_MOUNTS

#define GUEST_COMMANDS(ENTRY)                                                                      \
    ENTRY("mount", cmd_mount, "Mount a guest's file systems on a folder",                          \
          "[--rw] [-i | -m DEV[:DIR]...] [-f FMT] [-l SNAPSHOT] [--key FD|FILE]\n"                 \
          "        [--foreground] FILENAME DIR\n"                                                  \
          "  imgtool mount --list [--output human|json]\n"                                         \
          "  imgtool mount --doctor\n\nArguments:\n" GUEST_FILES                                   \
          "  --rw\n     let the guest's files be changed (default read-only)\n"                    \
          "  --foreground\n     stay until it is unmounted\n"                                      \
          "  --list\n     list what is mounted, by whom, and what was left behind\n"               \
          "  --output human|json\n     output format of --list (default human)\n"                  \
          "  --doctor\n     check that mounting works here, and say how long a start takes\n")     \
    ENTRY("umount", cmd_umount, "Unmount a guest's file systems, and wait until all is on disk",   \
          "DIR\n  imgtool umount --check FILENAME\n\nArguments:\n"                                 \
          "  -h, --help\n     print this help and exit\n"                                          \
          "  --check\n     say whether FILENAME was unmounted and nothing was lost\n"              \
          "  DIR\n     where it is mounted\n"                                                      \
          "\nExit codes: 0 all is on disk, 1 it is not, or nobody knows\n")                        \
    ENTRY("ls", cmd_ls, "List files of a guest",                                                   \
          "[-l] [-R] [-i | -m DEV[:DIR]...] [-f FMT] [--snapshot SNAPSHOT]\n"                      \
          "        [--key FD|FILE] FILENAME PATH\n\nArguments:\n"                                  \
          "  -h, --help\n     print this help and exit\n"                                          \
          "  -l, --long\n     with mode, owner, size and time\n"                                   \
          "  -R, --recursive\n     folders in folders, too\n"                                      \
          "  -f, --format FMT\n     the format of FILENAME, instead of looking at it\n"            \
          "  --snapshot SNAPSHOT\n     the disk of an internal snapshot, by ID or name\n"          \
          "  --key FD|FILE\n     where the key of an encrypted disk is read: an open file's "      \
          "number, or a file\n" GUEST_MOUNTS)                                                      \
    ENTRY("cat", cmd_cat, "Print a file of a guest",                                               \
          "[-i | -m DEV[:DIR]...] [-f FMT] [-l SNAPSHOT] [--key FD|FILE] FILENAME PATH\n\n"        \
          "Arguments:\n" GUEST_FILES)                                                              \
    ENTRY("copy-out", cmd_copy_out, "Copy files and folders out of a guest",                       \
          "[-i | -m DEV[:DIR]...] [-f FMT] [-l SNAPSHOT] [--key FD|FILE]\n"                        \
          "        FILENAME PATH... DIR\n\nArguments:\n" GUEST_FILES)                              \
    ENTRY("copy-in", cmd_copy_in, "Copy files and folders into a guest",                           \
          "[-i | -m DEV[:DIR]...] [-f FMT] [--key FD|FILE] FILENAME PATH... DIR\n\n"               \
          "Arguments:\n"                                                                           \
          "  -h, --help\n     print this help and exit\n"                                          \
          "  -f, --format FMT\n     the format of FILENAME, instead of looking at it\n"            \
          "  --key FD|FILE\n     where the key of an encrypted disk is read: an open file's "      \
          "number, or a file\n" GUEST_MOUNTS "  DIR\n     the guest's folder\n")                   \
    ENTRY("tar-out", cmd_tar_out, "Write a folder of a guest as a tar archive",                    \
          "[-i | -m DEV[:DIR]...] [-f FMT] [-l SNAPSHOT] [--key FD|FILE]\n"                        \
          "        FILENAME PATH [ARCHIVE]\n\nArguments:\n" GUEST_FILES                            \
          "  ARCHIVE\n     the new file, or -, the default: standard output\n")                    \
    ENTRY("inspect", cmd_inspect, "Say which operating systems a guest's disk has",                \
          "[-f FMT] [-l SNAPSHOT] [--key FD|FILE] [--packages] [--output human|json]\n"            \
          "        FILENAME\n\nArguments:\n" GUEST_COMMON                                          \
          "  --packages\n     list the installed packages, too\n"                                  \
          "  --output human|json\n     output format (default human)\n")                           \
    ENTRY("df", cmd_df, "Say how full a guest's file systems are",                                 \
          "[-f FMT] [-l SNAPSHOT] [--key FD|FILE] [--output human|json]\n"                         \
          "        FILENAME\n\nArguments:\n" GUEST_COMMON                                          \
          "  --output human|json\n     output format (default human)\n")

#endif
