// emu run handoff_lost --vcpus 2 --task busy
// handoff.c without the second look: a wake-up that comes between two instructions is lost.

#define LOOKS_AGAIN 0
#include "handoff.c"
