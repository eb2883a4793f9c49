/*
 * Two address spaces that must not be mixed: the guest's disk, and the host file. One-field
 * structs, so that passing one for the other does not compile.
 */
#ifndef LIB_ADDR_H
#define LIB_ADDR_H

#include <stdint.h>

typedef struct {
    uint64_t v;
} guest_off;

typedef struct {
    uint64_t v;
} host_off;

static inline guest_off guest(uint64_t v)
{
    return (guest_off){v};
}

static inline host_off host(uint64_t v)
{
    return (host_off){v};
}

#endif
