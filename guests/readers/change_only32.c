// emu run readers/change_only32
// change_only.c as 32-bit code: a load of 64 bits becomes two.

#include "change_only.c"
