// emu run readers/halves32
// halves.c as 32-bit code: a load of 64 bits becomes two.

#include "halves.c"
