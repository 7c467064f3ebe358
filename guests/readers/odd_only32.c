// emu run readers/odd_only32
// odd_only.c as 32-bit code: a load of 64 bits becomes two.

#include "odd_only.c"
