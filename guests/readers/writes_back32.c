// emu run readers/writes_back32
// writes_back.c as 32-bit code: a load of 64 bits becomes two.

#include "writes_back.c"
