/* Makes an internal snapshot an image of its own: viewsnapshot IMAGE SNAPSHOT BYTES VIEW */
#include <imgtool.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    struct img_error err = IMG_ERROR_INIT;
    struct img_open_options options = {.snapshot = argv[2]};
    struct img *img;
    if (img_open(&img, argv[1], &options, &err) < 0 ||
        img_view_snapshot(img, argv[3], argv[4], &err) < 0) {
        fprintf(stderr, "%s\n", img_error_message(&err));
        return 1;
    }
    img_close(img);
    return 0;
}
