// emu run readers/gives_up32
// gives_up.c as 32-bit code: a load of 64 bits becomes two.

#include "gives_up.c"
