/* Repairs: what was found before is fixed or not, and nothing else happens. */
#include "subjects.h"

static const struct subject repair_subjects[] = {
    {0},
};
SUBJECT_GROUP(repair)
