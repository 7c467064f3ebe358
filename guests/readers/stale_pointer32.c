// emu run readers/stale_pointer32
// stale_pointer.c as 32-bit code: a load of 64 bits becomes two.

#include "stale_pointer.c"
