// A store of the host, as Python lays it out in emu/vcpu/native/__init__.py, and both C files share it.
//
// In Linux: nothing like it.

#ifndef PLAY_H
#define PLAY_H

#include <stdint.h>

#define EVEN 1 // the store publishes `steal`
#define ODD 2  // no value is current from here on

struct play { // before the visible access of this number
    uint32_t at;
    uint16_t offset; // in the area
    uint8_t size;
    uint8_t flags;
    uint64_t value;
    uint64_t steal; // with EVEN: what is current from here on
};

#endif
