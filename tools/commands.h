/* The entry of each command, for the table in imgtool.c. */
#ifndef TOOLS_COMMANDS_H
#define TOOLS_COMMANDS_H

struct tool;

int cmd_advise(struct tool *tool, int argc, char **argv);
int cmd_advise_cache(struct tool *tool, int argc, char **argv);
int cmd_amend(struct tool *tool, int argc, char **argv);
int cmd_bench(struct tool *tool, int argc, char **argv);
int cmd_bitmap(struct tool *tool, int argc, char **argv);
int cmd_check(struct tool *tool, int argc, char **argv);
int cmd_convert(struct tool *tool, int argc, char **argv);
int cmd_commit(struct tool *tool, int argc, char **argv);
int cmd_compare(struct tool *tool, int argc, char **argv);
int cmd_create(struct tool *tool, int argc, char **argv);
int cmd_filesystems(struct tool *tool, int argc, char **argv);
int cmd_dd(struct tool *tool, int argc, char **argv);
int cmd_guest(struct tool *tool, int argc, char **argv);
int cmd_info(struct tool *tool, int argc, char **argv);
int cmd_undo(struct tool *tool, int argc, char **argv);
int cmd_map(struct tool *tool, int argc, char **argv);
int cmd_relocate(struct tool *tool, int argc, char **argv);
int cmd_measure(struct tool *tool, int argc, char **argv);
int cmd_rebase(struct tool *tool, int argc, char **argv);
int cmd_resize(struct tool *tool, int argc, char **argv);
int cmd_snapshot(struct tool *tool, int argc, char **argv);
int cmd_plan(struct tool *tool, int argc, char **argv);
int cmd_tree(struct tool *tool, int argc, char **argv);

#endif
