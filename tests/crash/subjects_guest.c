/* Guest writes: each sector is the old one or the new one. */
#include "subjects.h"

const struct subject guest_subjects[] = {
    {0},
};
