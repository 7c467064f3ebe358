// emu run readers/low_byte32
// low_byte.c as 32-bit code: a load of 64 bits becomes two.

#include "low_byte.c"
