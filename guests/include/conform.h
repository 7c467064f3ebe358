// Judging from inside: a table of cases, each tried, each with what must come of it. 64-bit code only.
//
// A conformance guest says the same on the emulator and on real KVM, line by line. It prints a line for each case that
// went otherwise, and at the end how many there were and how many went as they must. What a host may do in more than one
// way is a case that accepts each, and says so.

#ifndef CONFORM_H
#define CONFORM_H

#include "apic.h"
#include "steal.h"
#include "trap.h"

static uint32_t cases, passed;

// One case: `good` says whether it went as it must; two numbers that help to see why it did not.
static void judge(const char *name, bool good, uint64_t found, uint64_t wanted)
{
    cases++;
    passed += good;
    if (good)
        return;
    put_text("  ");
    put_text(name);
    put_text(": found ");
    put_hex(found);
    put_text(", must be ");
    put_hex(wanted);
    put_char('\n');
}

static void judge_equal(const char *name, uint64_t found, uint64_t wanted)
{
    judge(name, found == wanted, found, wanted);
}

static int verdict(const char *guest)
{
    put_text(guest);
    put_text(": ");
    put_dec(passed);
    put_text(" of ");
    put_dec(cases);
    put_char('\n');
    return cases && passed == cases ? EXIT_PASS : EXIT_FAIL;
}

#endif
