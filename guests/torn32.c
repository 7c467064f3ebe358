// emu run torn32 --vcpus 2 --quantum 10us
// torn.c as 32-bit code: the u64 is loaded in two halves, and an update may fall between them.

#include "torn.c"
