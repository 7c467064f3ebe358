// emu run readers/no_zeroing32
// no_zeroing.c as 32-bit code: a load of 64 bits becomes two.

#include "no_zeroing.c"
