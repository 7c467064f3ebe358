// emu run readers/no_cpuid32
// no_cpuid.c as 32-bit code: a load of 64 bits becomes two.

#include "no_cpuid.c"
