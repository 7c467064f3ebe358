// emu run readers/seqlock32
// seqlock.c as 32-bit code: a load of 64 bits becomes two.

#include "seqlock.c"
