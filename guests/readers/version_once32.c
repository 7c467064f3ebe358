// emu run readers/version_once32
// version_once.c as 32-bit code: a load of 64 bits becomes two.

#include "version_once.c"
