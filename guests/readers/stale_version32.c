// emu run readers/stale_version32
// stale_version.c as 32-bit code: a load of 64 bits becomes two.

#include "stale_version.c"
