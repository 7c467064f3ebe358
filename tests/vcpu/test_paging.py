"""Rights as the guest's own page tables give them, and addresses that are none."""

import pytest

from emu import abi, exits
from emu.ram import Ram
from emu.vcpu.engine import Engine
from tests.assemble import assemble
from tests.vcpu.board import CODE, DATA, LONG0, LONG3, READ_ONLY, SPAN, TABLES, Board, Flavour

# A page of data at an address of its own, behind an entry of its own at each of the four levels.
PAGE = 1 << 39
LEVELS = {"top": TABLES + 8, "pointers": TABLES + 0x8000, "directory": TABLES + 0x9000, "page": TABLES + 0xA000}
ALL_RIGHTS = abi.PTE_PRESENT | abi.PTE_WRITABLE | abi.PTE_USER
PRESENT, WRITE, USER, FETCH = 1, 2, 4, 16  # bits of the error code
LOAD, STORE, JUMP = "mov eax, [rbx]", "mov [rbx], eax", "jmp rbx"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Ram(2 * SPAN))


def board(engine: Engine, source: str, flavour: Flavour = LONG0, address: int = PAGE) -> Board:
    """RBX holds `address`; the page at PAGE begins with HLT."""
    one = Board(engine, flavour, assemble(source + "\nhlt"))
    one.vcpu.set_general("rbx", address)
    for entry, target in zip(LEVELS.values(), (TABLES + 0x8000, TABLES + 0x9000, TABLES + 0xA000, DATA), strict=True):
        one.ram.store(entry, 8, target | ALL_RIGHTS)
    one.ram.store(DATA, 1, 0xF4)
    return one


def change(one: Board, level: str, *, clear: int = 0, add: int = 0) -> None:
    one.ram.store(LEVELS[level], 8, one.ram.load(LEVELS[level], 8) & ~clear | add)


def fault(one: Board) -> exits.Fault | None:
    """The fault that comes before the program gets to a HLT, which itself is #GP at CPL 3."""
    exit_ = one.vcpu.enter(20)
    if type(exit_) is exits.Hlt:
        return None
    assert type(exit_) is exits.Fault, exit_
    at_hlt = one.flavour.cpl == 3 and exit_.vector == abi.GP_VECTOR and one.vcpu.retired == 1
    return None if at_hlt else exit_


@pytest.mark.parametrize(("wp", "error"), [(True, PRESENT | WRITE), (False, None)])
def test_write_protection_binds_cpl_0_where_cr0_wp_is_set(engine: Engine, wp: bool, error: int | None) -> None:
    clear = "" if wp else "mov rax, cr0\nbtr rax, 16\nmov cr0, rax\n"
    found = fault(board(engine, clear + STORE, address=READ_ONLY))
    assert (found and found[1:]) == (error and (abi.PF_VECTOR, error, READ_ONLY))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("flavour", "source", "clear", "add", "error"),
    [
        (LONG0, LOAD, abi.PTE_PRESENT, 0, 0),
        (LONG3, STORE, abi.PTE_PRESENT, 0, USER | WRITE),
        (LONG0, STORE, abi.PTE_WRITABLE, 0, PRESENT | WRITE),
        (LONG3, STORE, abi.PTE_WRITABLE, 0, PRESENT | USER | WRITE),
        (LONG0, LOAD, abi.PTE_WRITABLE, 0, None),
        (LONG3, LOAD, abi.PTE_USER, 0, PRESENT | USER),
        (LONG3, JUMP, abi.PTE_USER, 0, PRESENT | USER | FETCH),
        (LONG0, STORE, abi.PTE_USER, 0, None),
        (LONG0, JUMP, 0, abi.PTE_NX, PRESENT | FETCH),
        (LONG0, LOAD, 0, abi.PTE_NX, None),
        (LONG0, JUMP, 0, 0, None),
    ],
)
def test_right_must_be_given_at_every_level(
    engine: Engine, level: str, flavour: Flavour, source: str, clear: int, add: int, error: int | None
) -> None:
    one = board(engine, source, flavour)
    change(one, level, clear=clear, add=add)
    found = fault(one)
    assert (found and found[1:]) == (None if error is None else (abi.PF_VECTOR, error, PAGE))


def test_supervisor_may_use_and_execute_a_page_of_the_user(engine: Engine) -> None:
    # Neither SMEP nor SMAP is offered.
    assert [fault(board(engine, source)) for source in (LOAD, STORE, JUMP)] == [None] * 3


def test_accessed_and_dirty_are_noted_in_the_guests_own_tables(engine: Engine) -> None:
    for source, dirty in ((LOAD, 0), (STORE, abi.PTE_DIRTY)):
        one = board(engine, source)
        assert fault(one) is None
        noted = [one.ram.load(entry, 8) & (abi.PTE_ACCESSED | abi.PTE_DIRTY) for entry in LEVELS.values()]
        assert noted == [abi.PTE_ACCESSED] * 3 + [abi.PTE_ACCESSED | dirty]


def test_changed_right_holds_after_invlpg(engine: Engine) -> None:
    one = board(engine, f"{STORE}\nmov rax, {LEVELS['page']}\nbtr qword ptr [rax], 1\ninvlpg [rbx]\n{STORE}")
    found = fault(one)
    assert found is not None and found[1:] == (abi.PF_VECTOR, PRESENT | WRITE, PAGE)


NOT_CANONICAL = (1 << 47, (1 << 48) - 8, 1 << 63, (1 << 64) - (1 << 47) - 8)


@pytest.mark.parametrize("address", NOT_CANONICAL, ids=hex)
@pytest.mark.parametrize("source", [LOAD, STORE, "lock inc dword ptr [rbx]", "mov rax, [rbx + 8 * rcx]"])
@pytest.mark.parametrize("flavour", [LONG0, LONG3], ids=lambda one: one.name)
def test_access_to_an_address_that_is_not_canonical_raises_gp(
    engine: Engine, flavour: Flavour, source: str, address: int
) -> None:
    one = board(engine, "nop\n" + source, flavour, address)
    assert one.vcpu.enter(20) == exits.Fault(CODE + 1, abi.GP_VECTOR, 0, None)


@pytest.mark.parametrize("address", NOT_CANONICAL, ids=hex)
@pytest.mark.parametrize("source", ["jmp rbx", "call rbx", "push rbx\nret"])
def test_jump_to_an_address_that_is_not_canonical_raises_gp(engine: Engine, source: str, address: int) -> None:
    exit_ = board(engine, source, address=address).vcpu.enter(20)
    assert type(exit_) is exits.Fault and (exit_.vector, exit_.error) == (abi.GP_VECTOR, 0)


@pytest.mark.parametrize("address", [(1 << 47) - 8, (1 << 64) - (1 << 47)], ids=hex)
def test_last_canonical_addresses_are_page_faults(engine: Engine, address: int) -> None:
    assert board(engine, LOAD, address=address).vcpu.enter(20) == exits.Fault(CODE, abi.PF_VECTOR, 0, address)
