/* The commands of imgtool-mount. */
#ifndef TOOLS_MOUNT_COMMANDS_H
#define TOOLS_MOUNT_COMMANDS_H

struct tool;

int cmd_mount(struct tool *tool, int argc, char **argv);
int cmd_umount(struct tool *tool, int argc, char **argv);
int cmd_ls(struct tool *tool, int argc, char **argv);
int cmd_cat(struct tool *tool, int argc, char **argv);
int cmd_copy_out(struct tool *tool, int argc, char **argv);
int cmd_copy_in(struct tool *tool, int argc, char **argv);
int cmd_tar_out(struct tool *tool, int argc, char **argv);
int cmd_inspect(struct tool *tool, int argc, char **argv);
int cmd_df(struct tool *tool, int argc, char **argv);

/* doctor.c: says what mounting needs and whether it is here. 1: something is missing. */
int doctor(struct tool *tool);

/* Complain, and return 1, when the appliance, or mounting here, misses something. */
int doctor_appliance(struct tool *tool);
int doctor_fuse(struct tool *tool);

#endif
