/* One refcount inside a refcount block: 1 << ORDER bits, the smallest ones packed from bit 0 up. */
#ifndef QCOW2_REFWORD_H
#define QCOW2_REFWORD_H

#include "lib/bytes.h"

static inline uint64_t refword_max(unsigned order)
{
    return order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1;
}

static inline uint64_t refword_get(const uint8_t *data, uint64_t index, unsigned order)
{
    switch (order) {
    case 6:
        return load_be64(data + index * 8);
    case 5:
        return load_be32(data + index * 4);
    case 4:
        return load_be16(data + index * 2);
    case 3:
        return data[index];
    default:
        return data[index << order >> 3] >> ((index << order) & 7) & refword_max(order);
    }
}

/* VALUE is at most refword_max(ORDER). */
static inline void refword_set(uint8_t *data, uint64_t index, unsigned order, uint64_t value)
{
    uint8_t *byte = data + (index << order >> 3);
    unsigned shift = (unsigned)((index << order) & 7);
    switch (order) {
    case 6:
        store_be64(data + index * 8, value);
        break;
    case 5:
        store_be32(data + index * 4, (uint32_t)value);
        break;
    case 4:
        store_be16(data + index * 2, (uint16_t)value);
        break;
    case 3:
        data[index] = (uint8_t)value;
        break;
    default:
        *byte = (uint8_t)((*byte & ~(refword_max(order) << shift)) | value << shift);
    }
}

#endif
