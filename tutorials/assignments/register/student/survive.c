// Given: it is replaced when your work is judged.

#include "trap.h"

void survive(void);

// From here on wrmsr_safe() survives a #GP, and says so.
void survive(void)
{
    trap_init();
}
