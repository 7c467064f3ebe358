// emu run readers/no_enable32
// no_enable.c as 32-bit code: a load of 64 bits becomes two.

#include "no_enable.c"
