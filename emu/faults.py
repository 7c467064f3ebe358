"""Whose doing it is when something goes wrong.

A `GuestFault` is the guest's doing: the machine turns it into an exception inside the guest. A `HostError` is the
user's: bad input, told in one sentence with the place and the remedy. Anything else that escapes is our own fault.

In Linux: arch/x86/kvm/x86.c, kvm_inject_gp() and its callers.
"""

from emu import abi

EXCEPTIONS = {
    abi.DE_VECTOR: "#DE, divide error",
    abi.DB_VECTOR: "#DB, debug",
    abi.BP_VECTOR: "#BP, breakpoint",
    abi.OF_VECTOR: "#OF, overflow",
    abi.UD_VECTOR: "#UD, invalid opcode",
    abi.DF_VECTOR: "#DF, double fault",
    abi.TS_VECTOR: "#TS, invalid TSS",
    abi.NP_VECTOR: "#NP, segment not present",
    abi.SS_VECTOR: "#SS, stack fault",
    abi.GP_VECTOR: "#GP, general protection",
    abi.PF_VECTOR: "#PF, page fault",
    abi.AC_VECTOR: "#AC, alignment check",
}


def exception(vector: int) -> str:
    """`#PF, page fault`, or `vector 64`."""
    return EXCEPTIONS.get(vector, f"vector {vector}")


class GuestFault(Exception):
    """An exception that the architecture owes to the guest.

    `vector` is 0 to 31; `error` is the error code pushed, or None where the vector has none; `address` is CR2, for #PF.
    """

    def __init__(self, vector: int, error: int | None = None, address: int | None = None) -> None:
        super().__init__(vector, error, address)
        self.vector = vector
        self.error = error
        self.address = address


def general_protection(error: int = 0) -> GuestFault:
    """#GP with its error code: what an unknown MSR, a reserved bit or a privileged instruction earns."""
    return GuestFault(abi.GP_VECTOR, error)


class HostError(Exception):
    """The user's input cannot be used. `where` is the place, `remedy` what to do; both may be empty.

    `detail` is text of several lines to be shown before the sentence, such as a compiler's own output; mostly empty.
    """

    def __init__(self, message: str, where: str = "", remedy: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy
        self.detail = detail

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}; {self.remedy}" if self.remedy else text

    @property
    def sentence(self) -> str:
        """All of it on one line, whatever line breaks a name in it has."""
        return " ".join(str(self).split())


def escaped(text: str, keep: str = "") -> str:
    """The text with nothing in it that gives orders to a terminal; the characters in `keep` stay as they are."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
