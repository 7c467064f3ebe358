// emu run readers/version_late32
// version_late.c as 32-bit code: a load of 64 bits becomes two.

#include "version_late.c"
