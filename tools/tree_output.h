/* The forms in which `imgtool tree` shows a tree. */
#ifndef TOOLS_TREE_OUTPUT_H
#define TOOLS_TREE_OUTPUT_H

#include <imgtool.h>
#include <stdio.h>

/* tree_draw.c: for people. 0, or -1: out of memory. */
int tree_draw(FILE *out, const struct img_tree *tree);

/* tree_report.c */
void tree_json(FILE *out, const struct img_tree *tree);
/* For graphviz: an arrow leads from an image to what it needs. */
void tree_dot(FILE *out, const struct img_tree *tree);

#endif
