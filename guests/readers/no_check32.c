// emu run readers/no_check32
// no_check.c as 32-bit code: a load of 64 bits becomes two.

#include "no_check.c"
